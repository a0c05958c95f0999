# SPDX-License-Identifier: MIT
"""Fake-quantize operators: one entry point, `fake_quantize`, over interchangeable back ends.

Names load on first use, so that `quantize.ops.build` runs without importing MXNet.
"""

import importlib
from typing import Any

_HOMES = {"online_qparams": "composed"}
__all__ = ["BACKENDS", "backend", "choose", "dorefa", "fake_quantize", "integer_codes", "lsq", "lsq_plus",
           "multiply_add", "online_fake_quantize", "online_qparams", "pact", "quantize_gradient", "sign",
           "tracking_fake_quantize"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"quantize.ops.{_HOMES.get(name, 'entry')}"), name)
