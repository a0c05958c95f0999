# SPDX-License-Identifier: MIT
"""`.params` files as `mx.nd.save` writes them, without MXNet; the format is told in `quantize.params_file`."""

import struct
from typing import List, Mapping

import numpy as np

MAGIC, DENSE = 0x112, 0xF993FAC9
CPU, FLOAT32 = 1, 0


def render(parameters: Mapping[str, np.ndarray], prefix: str = "arg:") -> bytes:
    """The contents of a file with arrays of float32, in order."""
    parts: List[bytes] = [struct.pack("<QQQ", MAGIC, 0, len(parameters))]
    for array in parameters.values():
        parts += [struct.pack("<Iii", DENSE, 0, array.ndim), struct.pack(f"<{array.ndim}q", *array.shape),
                  struct.pack("<iii", CPU, 0, FLOAT32), np.ascontiguousarray(array, "<f4").tobytes()]
    parts.append(struct.pack("<Q", len(parameters)))
    for name in parameters:
        encoded = (prefix + name).encode("utf-8")
        parts += [struct.pack("<Q", len(encoded)), encoded]
    return b"".join(parts)
