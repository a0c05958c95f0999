# SPDX-License-Identifier: MIT
"""The engines that networks can be written for, one package each."""

import importlib
import logging
import pkgutil

LOG = logging.getLogger(__name__)


def load() -> None:
    """Import every target, which enters itself in `deploy.target.TARGETS`; those whose libraries are missing do not."""
    # found by their folders, so that a new target needs an entry nowhere
    for module in pkgutil.iter_modules(__path__):
        try:
            importlib.import_module(f"deploy.targets.{module.name}")
        except ModuleNotFoundError as error:
            if (error.name or "deploy").split(".")[0] in ("deploy", "quantize"):
                raise
            # a phone that only runs one engine's files has not got what others need
            LOG.info("target %s is not there: %s", module.name, error)
