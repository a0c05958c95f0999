# SPDX-License-Identifier: MIT
"""Quantization for Gluon CNNs: formats, operators, layers, conversion, importers.

The names below load on first use: ``import quantize.spec`` must not load MXNet.
"""

import importlib
import importlib.util
import sys
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


class _AfterMXNet:
    """Loads the native operators when MXNet is imported: exported networks name them, wherever they are read."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> Any:
        """MXNet's own spec, whose module loads the operators at its end; None for any other module."""
        if name != "mxnet":
            return None
        sys.meta_path.remove(cls)
        spec = importlib.util.find_spec("mxnet")
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                _load_operators()
            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _load_operators() -> None:
    importlib.import_module("quantize.ops.native").why_not()


if "mxnet" in sys.modules:
    _load_operators()
else:
    sys.meta_path.insert(0, _AfterMXNet)  # type: ignore[arg-type]
