# SPDX-License-Identifier: MIT
"""Files are written whole or not at all, and read with errors that say which file."""

import contextlib
import errno
import hashlib
import math
import os
import pathlib
import re
import secrets
import stat
from types import ModuleType
from typing import Any, BinaryIO, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple, Type, Union

import numpy as np

from quantize.errors import DataError, QuantizeError
from quantize.limits import claim, limit

fcntl: Optional[ModuleType]
try:
    import fcntl
except ImportError:  # no Unix
    fcntl = None

PathLike = Union[str, "os.PathLike[str]"]
Content = Union[str, bytes]

CHUNK = 2 ** 24  # bytes
SHOWN = 40  # letters of a file's name that are in its temporary one
# what the shell hands over for <(command) and for standard input: pipes that somebody writes to
GIVEN = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")


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
    keeps its mode; a link in its place is replaced, and what it points to stays as it is. What a process that was
    killed left of the same file goes. DataError when the file cannot be written.
    """
    path = pathlib.Path(path)
    temporary, handle = None, -1
    try:
        _sweep(path)
        temporary, handle = _temporary(path)  # libraries have errors of their own for folders that are not there
        yield temporary
        os.replace(str(temporary), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            os.close(handle)


def mxnet_name(path: PathLike, error: Type[QuantizeError] = DataError) -> str:
    """A file's name as MXNet opens it, which takes UTF-8 alone; `error` for a name of other bytes."""
    name = str(path)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise error(f"{name!r}: MXNet cannot open files whose names are no UTF-8 here; take another name, or set a "
                    "locale of UTF-8 (LC_ALL=C.UTF-8)") from None
    return name


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


def _temporary(path: pathlib.Path) -> Tuple[pathlib.Path, int]:
    """(A new, empty file beside `path`, with its mode or that of new files; the handle by which it is ours)."""
    if not path.name:
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    before = None
    with contextlib.suppress(FileNotFoundError):
        before = os.lstat(str(path))
    while True:
        temporary = path.with_name(f"{path.name[:SHOWN]}.{secrets.token_hex(8)}.tmp")
        handle = os.open(str(temporary), os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0), 0o666)
        _lock(handle, wait=True)
        if _is_at(handle, temporary):
            break
        os.close(handle)  # somebody took it for a leftover before it was locked
    if before is not None and stat.S_ISREG(before.st_mode):
        os.fchmod(handle, stat.S_IMODE(before.st_mode))
    return temporary, handle


def _sweep(path: pathlib.Path) -> None:
    """Remove what killed processes left half written of a file: what is called so, and nobody holds."""
    left = re.compile(re.escape(path.name[:SHOWN]) + r"\.[0-9a-f]{16}\.tmp")
    for name in os.listdir(str(path.parent)):
        if left.fullmatch(name):
            with contextlib.suppress(OSError):
                handle = os.open(str(path.parent / name), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
                try:
                    own = os.fstat(handle).st_uid == os.getuid()
                    if own and _lock(handle, wait=False) and _is_at(handle, path.parent / name):
                        os.unlink(str(path.parent / name))
                finally:
                    os.close(handle)


def _lock(handle: int, wait: bool) -> bool:
    """Whether a file is ours now; a system or a file system without locks says no."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _is_at(handle: int, path: pathlib.Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(str(path)))
    except FileNotFoundError:
        return False


# ---- reading


@contextlib.contextmanager
def opened(path: PathLike, error: Type[QuantizeError] = DataError) -> Iterator[BinaryIO]:
    """Context with a file to read from; `error` for what cannot be read, and for what is no file.

    A device has no end, and a named pipe may never begin: neither is waited for. Pipes that the shell hands over
    (``<(command)``, ``/dev/stdin``) are read.
    """
    try:
        handle = os.open(str(path), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as problem:
        missing = isinstance(problem, FileNotFoundError)
        raise error(f"{path}: cannot be read: {'no such file' if missing else problem.strerror}") from None
    except ValueError as problem:  # a name with a zero byte, or half of a pair
        raise error(f"{str(path)!r}: cannot be read: {problem}") from None
    try:
        kind = os.fstat(handle).st_mode
        if stat.S_ISDIR(kind):
            raise error(f"{path}: cannot be read: {os.strerror(errno.EISDIR)}")
        if stat.S_ISFIFO(kind) and str(path).startswith(GIVEN):
            os.set_blocking(handle, True)
        elif not stat.S_ISREG(kind):
            raise error(f"{path}: cannot be read: it is a device or a pipe, not a file")
        with os.fdopen(handle, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(handle)


def check_within(folder: PathLike, paths: Iterable[PathLike], error: Type[QuantizeError] = DataError) -> None:
    """`error` for the first path that links lead out of a folder: who made the folder has chosen where they lead.

    The folder may itself be reached by a link, and links to other places in it are followed.
    """
    root = os.path.realpath(str(folder))
    for path in paths:
        if os.path.commonpath([root, os.path.realpath(str(path))]) != root:
            raise error(f"{path}: is a link, or lies behind one, that leads out of {folder}; put what it points to in "
                        "its place")


def links_in(folder: PathLike) -> Iterator[str]:
    """Every link in a folder and in the folders in it; none is followed."""
    for place, folders, names in os.walk(str(folder)):
        yield from (path for name in sorted(folders + names) for path in [os.path.join(place, name)]
                    if os.path.islink(path))


def read_text(path: PathLike) -> str:
    """The text of a UTF-8 file; DataError when it cannot be read, or is larger than `quantize.limits` allows."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file (byte {error.start} is no UTF-8)") from None


def read_bytes(path: PathLike) -> bytes:
    """The content of a file; DataError when it cannot be read, or is larger than `quantize.limits` allows."""
    with opened(path) as stream:
        claim(os.fstat(stream.fileno()).st_size, str(path))
        chunks: List[bytes] = []
        most = limit()  # pipes have no size
        try:
            while sum(len(chunk) for chunk in chunks) <= most:
                chunks.append(stream.read(CHUNK))
                if not chunks[-1]:
                    break
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    content = b"".join(chunks)
    claim(len(content), str(path))
    return content


def size_and_digest(path: PathLike) -> Dict[str, Any]:
    """Size and SHA-256 of a file, read piece by piece: ``{"bytes": int, "sha256": str}``."""
    digest, size = hashlib.sha256(), 0
    with opened(path) as stream:
        for chunk in iter(lambda: stream.read(CHUNK), b""):
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": digest.hexdigest()}
