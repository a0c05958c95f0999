# SPDX-License-Identifier: MIT
"""A quantized network is one file: architecture, numbers, formats, modes, and where it came from.

    save_quantized(net, "net.qnet", provenance={"command": "my script", "seed": 7})
    net = load_quantized("net.qnet")           # in any process: the same outputs, bit for bit

The names below load on first use: facts can be read without MXNet. The format is documented in ``docs/checkpoints.md``.
"""

import importlib
from typing import Any

_HOMES = {"Facts": "facts", "read_facts": "facts", "load_quantized": "file", "save_quantized": "file"}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"quantize.storage.{_HOMES[name]}"), name)
