# SPDX-License-Identifier: MIT
"""Quantization for Gluon CNNs: formats, operators, layers, conversion, importers.

The names below load on first use: ``import quantize.spec`` must not load MXNet.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
_HOMES = {
    "QParams": "spec", "QuantSpec": "spec", "PerTensor": "spec", "PerChannel": "spec", "PerGroup": "spec",
    "QuantizeError": "errors", "convert_model": "convert", "merge_bn": "convert", "convert_to_relu6": "convert",
    "qparams_init": "initialize", "save_quantized": "storage", "load_quantized": "storage", "read_facts": "storage",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"quantize.{_HOMES[name]}"), name)
