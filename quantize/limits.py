# SPDX-License-Identifier: MIT
"""How much memory the contents of a file may want: files from strangers say sizes that nobody has.

``memory_limit`` is the context that ``--max-memory`` of the commands opens; ``claim`` raises where a file wants more.
"""

import contextlib
import os
from typing import Iterator, List, Optional, Type

from quantize.errors import ConfigError, DataError, QuantizeError

GIGABYTE = 2 ** 30
USUAL = 8 * GIGABYTE
MOST_SHARDS = 10 ** 6  # of the images of one calibration

_STATED: List[int] = []  # limits of the open contexts; of the process, since images are decoded in threads


def default_limit() -> int:
    """8 GiB, or half of what the machine has where that is less."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return USUAL
    return min(USUAL, whole // 2) if whole > 0 else USUAL


def limit() -> int:
    """Bytes that one file's contents may take."""
    return _STATED[-1] if _STATED else default_limit()


@contextlib.contextmanager
def memory_limit(size: Optional[int]) -> Iterator[None]:
    """Context in which files may take so many bytes; None leaves it as it is."""
    if size is not None and size < 1:
        raise ConfigError(f"the memory limit must be at least 1 byte, got {size}")
    _STATED.append(size or limit())
    try:
        yield
    finally:
        _STATED.pop()


def claim(size: float, what: str, error: Type[QuantizeError] = DataError) -> None:
    """Raise `error` where `what` would take more bytes than are allowed."""
    if size > limit():
        raise error(f"{what}: would take {amount(size)} of memory, more than the limit of {amount(limit())}; if the "
                    "file can be trusted, raise it with --max-memory")


def amount(size: float) -> str:
    """A number of bytes in words."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TB"
