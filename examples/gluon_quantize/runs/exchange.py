# SPDX-License-Identifier: MIT
"""Two folders change places in one step, where the system can do that."""

import ctypes
import errno
import os
import pathlib
import sys

AT_FDCWD, RENAME_EXCHANGE = -100, 2
# a kernel, a C library or a file system that does not know it
UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def exchange(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether two paths of one file system have changed places (renameat2, RENAME_EXCHANGE), in a single step.

    False where the system cannot; OSError where it can and one of them is not there, for instance.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    paths = [os.fsencode(str(path)) for path in (one, other)]
    if rename(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in UNKNOWN:
        return False
    raise OSError(code, os.strerror(code), str(one))
