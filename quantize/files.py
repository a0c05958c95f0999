# SPDX-License-Identifier: MIT
"""Files are written whole or not at all, and read with errors that say which file."""

import contextlib
import errno
import math
import os
import pathlib
import secrets
import stat
from typing import Any, Iterator, List, Mapping, Union

import numpy as np

from quantize.errors import DataError
from quantize.limits import claim, limit

PathLike = Union[str, "os.PathLike[str]"]
Content = Union[str, bytes]

CHUNK = 2 ** 24  # bytes


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

    For libraries that write files themselves. The temporary file has a name that nobody can foresee, and is made by
    this process or not at all: nothing is written through a link that somebody has planted. A file that was there
    keeps its mode; a link in its place is replaced, and what it points to stays as it is. DataError when the file
    cannot be written.
    """
    path = pathlib.Path(path)
    temporary = None
    try:
        temporary = _temporary(path)  # libraries have errors of their own for folders that are not there
        yield temporary
        os.replace(str(temporary), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        if temporary is not None and temporary.exists():
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


def _temporary(path: pathlib.Path) -> pathlib.Path:
    """A new, empty file beside `path`, with its mode, or the mode that new files have."""
    if not path.name:
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    before = None
    with contextlib.suppress(FileNotFoundError):
        before = os.lstat(str(path))
    temporary = path.with_name(f"{path.name[:40]}.{secrets.token_hex(8)}.tmp")
    handle = os.open(str(temporary), os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        if before is not None and stat.S_ISREG(before.st_mode):
            os.fchmod(handle, stat.S_IMODE(before.st_mode))
    finally:
        os.close(handle)
    return temporary


def read_text(path: PathLike) -> str:
    """The text of a UTF-8 file; DataError when it cannot be read, or is larger than `quantize.limits` allows."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file (byte {error.start} is no UTF-8)") from None


def read_bytes(path: PathLike) -> bytes:
    """The content of a file; DataError when it cannot be read, or is larger than `quantize.limits` allows."""
    try:
        with open(str(path), "rb") as stream:
            claim(os.fstat(stream.fileno()).st_size, str(path))
            chunks: List[bytes] = []
            most = limit()  # devices and pipes have no size
            while sum(len(chunk) for chunk in chunks) <= most:
                chunks.append(stream.read(CHUNK))
                if not chunks[-1]:
                    break
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # a name with a zero byte
        raise DataError(f"{str(path)!r}: cannot be read: {error}") from None
    content = b"".join(chunks)
    claim(len(content), str(path))
    return content
