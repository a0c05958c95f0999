# SPDX-License-Identifier: MIT
"""Files are written whole or not at all, and read with errors that say which file."""

import contextlib
import math
import os
import pathlib
from typing import Any, Iterator, Mapping, Union

import numpy as np

from quantize.errors import DataError

PathLike = Union[str, "os.PathLike[str]"]
Content = Union[str, bytes]


def write_together(contents: Mapping[PathLike, Content]) -> None:
    """Write several files that are of no use without each other, in order: all, or none where one cannot be."""
    written = []
    try:
        for path, content in contents.items():
            write_whole(path, content)
            written.append(pathlib.Path(path))
    except DataError:
        for path in written:
            path.unlink()
        raise


def write_whole(path: PathLike, content: Content) -> None:
    """Write a file: to a temporary name in the same folder, then into its place; DataError when it cannot be.

    Parameters
    ----------
    content : str or bytes
        Text is written as UTF-8.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_file(path: PathLike) -> Iterator[pathlib.Path]:
    """Context with a temporary file; what was written there is in its place when the context ends well.

    For libraries that write files themselves. DataError when the file cannot be written.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()  # libraries have errors of their own for folders that are not there
        yield temporary
        os.replace(str(temporary), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        if temporary.exists():
            temporary.unlink()


def check_params_size(path: PathLike, arrays: Mapping[str, Any]) -> None:
    """DataError for a `.params` file (`mx.nd.save`, `save_parameters`) that is shorter than what was written to it.

    MXNet does not notice that the last page of a file did not fit on the disk.

    Parameters
    ----------
    arrays : mapping
        Name -> array, or anything with `shape` and `dtype`; dense ones.
    """
    # file: magic, reserved, count; array: magic, storage, dimensions, sizes, device (2), type, values; names
    size = 8 * 3 + 8
    for name, array in arrays.items():
        values = math.prod(array.shape) * np.dtype(array.dtype).itemsize
        size += 4 * 3 + 8 * len(array.shape) + 4 * 3 + values + 8 + len(name.encode("utf-8"))
    written = os.stat(path).st_size
    if written != size:
        raise DataError(f"{path}: cannot be written: only {written} of {size} bytes are on the disk, which is full")


def read_text(path: PathLike) -> str:
    """The text of a UTF-8 file; DataError when it cannot be read."""
    try:
        return pathlib.Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file (byte {error.start} is no UTF-8)") from None
