# SPDX-License-Identifier: MIT
"""Where blobs lie in the one block of memory that a network computes in."""

from typing import Dict, List, Mapping, Sequence, Tuple

ALIGN = 4  # bytes: an int32 may begin there


def places(sizes: Mapping[str, int],
           steps: Sequence[Tuple[Sequence[str], Sequence[str]]]) -> Tuple[Dict[str, int], int]:
    """(Buffer -> first byte, bytes of the whole block); buffers share bytes while never needed at the same time.

    Parameters
    ----------
    sizes : mapping
        Buffer -> bytes.
    steps : sequence of (read, written)
        In the order of computing.
    """
    first: Dict[str, int] = {}
    last: Dict[str, int] = {}
    for number, (read, written) in enumerate(steps):
        for name in (*read, *written):
            first.setdefault(name, number)
            last[name] = number
    placed: Dict[str, int] = {}
    # large ones first: small ones fit into gaps
    for name in sorted((name for name in sizes if name in first), key=lambda item: (-sizes[item], item)):
        others = sorted((placed[other], placed[other] + sizes[other]) for other in placed
                        if first[other] <= last[name] and first[name] <= last[other])
        placed[name] = _gap(others, sizes[name])
    end = max((start + sizes[name] for name, start in placed.items()), default=0)
    return placed, -(-end // ALIGN) * ALIGN


def _gap(taken: List[Tuple[int, int]], size: int) -> int:
    """The first place of some size between those that are taken, in order."""
    start = 0
    for begin, end in taken:
        if begin - start >= size:
            break
        start = max(start, -(-end // ALIGN) * ALIGN)
    return start
