# SPDX-License-Identifier: MIT
"""A file that one process at a time holds; the system lets go of it when that process ends, however it ends."""

import contextlib
import fcntl
import logging
import os
import pathlib
from typing import Iterator

from quantize.errors import DataError

logger = logging.getLogger(__name__)

TRIES = 100


@contextlib.contextmanager
def locked(path: pathlib.Path, what: str) -> Iterator[None]:
    """Context in which this process holds the lock file, which says the process's number; it is removed at the end.

    A file that a killed process left is nobody's, and is taken over.

    Parameters
    ----------
    what : str
        What is locked, for the message.

    Raises
    ------
    DataError
        Where another process holds it.
    """
    try:
        handle = _taken(path, what)
    except OSError as error:
        raise DataError(f"{what}: cannot be written: {error.strerror or error}") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # while it is held: nobody can take it in between
        handle.close()


def _taken(path, what):
    for _ in range(TRIES):
        handle = open(str(path), "a+", encoding="ascii")  # noqa: SIM115 (it stays open while it is held)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{what}: process {_owner(handle)} writes there (it holds {path}); wait for it, or take "
                            "another folder") from None
        except OSError as error:  # a file system without locks
            logger.warning("%s: files cannot be locked here (%s): take care that no other process writes there", path,
                           error)
            return handle
        if _is_at(handle, path):
            _sign(handle, path)
            return handle
        handle.close()  # its owner removed it before we had it
    raise DataError(f"{what}: other processes keep taking {path}")


def _sign(handle, path):
    """Write this process's number into its lock file; on a full disk the file goes again, and is nobody's."""
    try:
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        with contextlib.suppress(OSError):
            handle.close()  # which tries to write once more
        raise


def _owner(handle):
    with handle:
        handle.seek(0)
        return handle.read(20).strip() or "another one"


def _is_at(handle, path):
    """Whether the open file is still the one at the path."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), os.stat(str(path)))
    except FileNotFoundError:
        return False
