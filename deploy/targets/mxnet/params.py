# SPDX-License-Identifier: MIT
"""`.params` files of float32 as `mx.nd.save` writes them, without MXNet, which would allocate whatever a file says.

The format is told in `quantize.params_file`.
"""

import struct
from math import prod
from typing import Any, Dict, List, Mapping, Tuple

import numpy as np

from quantize.errors import DeployError
from quantize.files import PathLike, read_bytes

MAGIC, DENSE = 0x112, 0xF993FAC9
CPU, FLOAT32 = 1, 0
MOST_AXES = 32
ARGUMENT, AUXILIARY = "arg:", "aux:"


def render(parameters: Mapping[str, np.ndarray], auxiliary: Mapping[str, np.ndarray]) -> bytes:
    """The contents of a file with arrays of float32, in order; `auxiliary`: those that MXNet calls states."""
    named = [(ARGUMENT + name, array) for name, array in parameters.items()]
    named += [(AUXILIARY + name, array) for name, array in auxiliary.items()]
    parts: List[bytes] = [struct.pack("<QQQ", MAGIC, 0, len(named))]
    for _, array in named:
        parts += [struct.pack("<Iii", DENSE, 0, array.ndim), struct.pack(f"<{array.ndim}q", *array.shape),
                  struct.pack("<iii", CPU, 0, FLOAT32), np.ascontiguousarray(array, "<f4").tobytes()]
    parts.append(struct.pack("<Q", len(named)))
    for name, _ in named:
        encoded = name.encode("utf-8")
        parts += [struct.pack("<Q", len(encoded)), encoded]
    return b"".join(parts)


def read(path: PathLike) -> Dict[str, np.ndarray]:
    """The arrays of a file that `render` made, of both kinds; DeployError for any other."""
    data, at, arrays, names = read_bytes(path), 0, [], []

    def numbers(layout: str) -> Tuple[Any, ...]:
        nonlocal at
        found = struct.unpack_from(layout, data, at)
        at += struct.calcsize(layout)
        return found
    try:
        magic, _, count = numbers("<QQQ")
        for _ in range(count):
            kind, storage, axes = numbers("<Iii")
            shape = numbers(f"<{axes}q") if 0 < axes <= MOST_AXES else ()
            if (magic, kind, storage, numbers("<iii")) != (MAGIC, DENSE, 0, (CPU, 0, FLOAT32)) or min(
                    shape, default=0) <= 0:
                raise ValueError
            arrays.append(np.frombuffer(data, "<f4", prod(shape), at).reshape(shape))
            at += 4 * prod(shape)
        for _ in range(numbers("<Q")[0]):
            length, = numbers("<Q")
            names.append(data[at:at + length].decode("utf-8")[len(ARGUMENT):])
            at += length
        if len(names) != count or at != len(data):
            raise ValueError
    except (struct.error, ValueError, OverflowError):
        raise DeployError(f"{path}: is not what this program writes; deploy the network again") from None
    return dict(zip(names, arrays))
