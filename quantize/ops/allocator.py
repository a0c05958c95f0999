# SPDX-License-Identifier: MIT
"""Memory settings for large tensors on the CPU.

MXNet allocates every tensor with malloc, and glibc gets every large block from the kernel anew, so that each operator
pays a page fault for each page. Keeping freed memory makes large elementwise operators several times faster; the price
is that the process does not give memory back.
"""

import ctypes
import logging
import os

logger = logging.getLogger(__name__)

KEEP = "QUANTIZE_KEEP_ALLOCATOR"
# from glibc's malloc.h: keep freed memory, never map blocks singly, grow in large steps, one arena for all threads
_SETTINGS = ((-1, 2 ** 31 - 1), (-4, 0), (-2, 256 * 2 ** 20), (-8, 1))


def tune() -> bool:
    """Set glibc's malloc for large tensors, unless the environment variable QUANTIZE_KEEP_ALLOCATOR is set.

    Returns whether it was done; where the C library is not glibc nothing happens.
    """
    if os.environ.get(KEEP):
        logger.info("allocator left alone (%s is set)", KEEP)
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    # musl, macOS and Windows have no mallopt
    except (OSError, AttributeError):
        return False
    done = all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) for name, value in _SETTINGS)
    logger.info("allocator set to keep freed memory, for speed (set %s=1 to leave it alone)", KEEP)
    return done
