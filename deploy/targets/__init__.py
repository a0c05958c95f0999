# SPDX-License-Identifier: MIT
"""The engines that networks can be written for, one package each."""

import importlib
import pkgutil


def load() -> None:
    """Import every target, which enters itself in `deploy.target.TARGETS`."""
    # found by their folders, so that a new target needs an entry nowhere
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"deploy.targets.{module.name}")
