# SPDX-License-Identifier: MIT
"""MXNet's `.params` files, looked at before MXNet sees them.

MXNet allocates what a file says before it reads it: one flipped bit in a size takes all memory there is. Here the whole
structure is walked first, and every size compared with the length of the file. The format, little endian
(the page Security has it too)::

    u64 0x112, u64 0, u64 count of arrays
    for each array
        u32 0xF993FAC9 (or ...CA: with NumPy's shapes), i32 storage (0 dense), i32 axes, i64 size of each axis
        i32 device type, i32 device number, i32 element type, then the elements in C order
    u64 count of names (0, or that of arrays)
    for each name: u64 length, UTF-8

Files of MXNet before 1.0 have u32 0xF993FAC8 without the storage, or instead of it the number of axes and u32 sizes.
"""

import os
import struct
from math import prod
from typing import Any, BinaryIO, List, Tuple

from quantize.errors import ModelFileError
from quantize.files import PathLike, mxnet_name, opened
from quantize.limits import claim

MAGIC = 0x112
OLD, DENSE, NUMPY = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
SIZES = {0: 4, 1: 8, 2: 2, 3: 1, 4: 4, 5: 1, 6: 8, 7: 1, 12: 2}  # element type -> bytes
MOST_AXES = 32
MOST_ARRAYS = 10 ** 6
LONGEST_NAME = 4096


def read_params(path: PathLike) -> Any:
    """What `mx.nd.load` gives for a file that is whole: a dict of name -> NDArray, or a list where there are no names.

    Raises
    ------
    ModelFileError
        For a file that is missing, cut off, of another format, or wants more memory than is allowed.
    """
    check_params(path)
    import mxnet as mx
    try:
        return mx.nd.load(str(path))
    except Exception as error:  # a plain one for an array without a value
        said = str(error).strip().splitlines()
        raise _broken(path, said[-1] if said else type(error).__name__) from None


def check_params(path: PathLike) -> None:
    """ModelFileError unless everything that a file says of itself fits its length."""
    mxnet_name(path, ModelFileError)
    if not os.path.isfile(str(path)):
        raise ModelFileError(f"{path}: no such parameter file")
    with opened(path, ModelFileError) as stream:
        try:
            _walk(_Reader(stream, str(path)))
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from None


def _broken(path: PathLike, why: str) -> ModelFileError:
    return ModelFileError(f"{path}: not a complete MXNet parameter file (truncated, or of another format): {why}; "
                          "fetch or write it again")


class _Reader:
    """Numbers from a file of known length."""

    def __init__(self, stream: BinaryIO, path: str):
        self.stream, self.path = stream, path
        self.size = os.fstat(stream.fileno()).st_size
        self.at = 0

    def fail(self, why: str) -> ModelFileError:
        """The error, with the place."""
        return _broken(self.path, f"{why} at byte {self.at}")

    def numbers(self, layout: str) -> Tuple[int, ...]:
        """The next numbers, by the letters of `struct`."""
        size = struct.calcsize("<" + layout)
        data = self.bytes(size)
        return struct.unpack("<" + layout, data)

    def bytes(self, size: int) -> bytes:
        """The next bytes."""
        self.require(size)
        self.at += size
        return self.stream.read(size)

    def skip(self, size: int) -> None:
        """Go on behind so many bytes."""
        self.require(size)
        self.at += size
        self.stream.seek(self.at)

    def require(self, size: int) -> None:
        """That so many bytes are left."""
        if size > self.size - self.at:
            raise self.fail(f"{size} bytes should follow, {self.size - self.at} are left")


def _walk(reader: _Reader) -> None:
    """Everything in the file, in order."""
    claim(reader.size * 2, reader.path, ModelFileError)  # the file's arrays, and once more as they are set
    magic, reserved, count = reader.numbers("QQQ")
    if magic != MAGIC or reserved:
        raise reader.fail("its first bytes are not MXNet's")
    if count > min(MOST_ARRAYS, reader.size):
        raise reader.fail(f"{count} arrays")
    for _ in range(count):
        _array(reader)
    (named,) = reader.numbers("Q")
    if named not in (0, count):
        raise reader.fail(f"{named} names for {count} arrays")
    names: List[str] = [_name(reader) for _ in range(named)]
    if len(set(names)) != len(names):
        raise reader.fail("a name comes twice")
    if reader.at != reader.size:
        raise reader.fail(f"{reader.size - reader.at} bytes behind the end")


def _array(reader: _Reader) -> None:
    """One array."""
    (magic,) = reader.numbers("I")
    if magic in (DENSE, NUMPY):
        (storage,) = reader.numbers("i")
        if storage != 0:
            raise reader.fail(f"a sparse array (storage {storage}), which no network here has,")
    if magic in (OLD, DENSE, NUMPY):
        (axes,) = reader.numbers("i")
        shape = _shape(reader, axes, "q")
    else:
        axes = magic
        shape = _shape(reader, axes, "I")
    if axes == (-1 if magic == NUMPY else 0):  # an array without a value ends here
        return
    reader.numbers("ii")  # the device it was on
    (kind,) = reader.numbers("i")
    if kind not in SIZES:
        raise reader.fail(f"the element type {kind}")
    reader.skip(prod(shape) * SIZES[kind])


def _shape(reader: _Reader, axes: int, letter: str) -> Tuple[int, ...]:
    if not -1 <= axes <= MOST_AXES:
        raise reader.fail(f"an array of {axes} axes")
    shape = reader.numbers(letter * axes) if axes > 0 else ()
    if any(size < 0 for size in shape):
        raise reader.fail(f"an array of shape {shape}")
    return shape


def _name(reader: _Reader) -> str:
    (length,) = reader.numbers("Q")
    if length > LONGEST_NAME:
        raise reader.fail(f"a name of {length} bytes")
    try:
        return reader.bytes(length).decode("utf-8")
    except UnicodeDecodeError:
        raise reader.fail("a name that is no UTF-8") from None


