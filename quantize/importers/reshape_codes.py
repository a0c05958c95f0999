# SPDX-License-Identifier: MIT
"""What MXNet's reshape makes of a shape, by its documentation; MXNet itself does not check that the sizes fit."""

from math import prod
from typing import Any, Dict, Sequence


def size_after(before: Sequence[int], attrs: Dict[str, Any]) -> int:
    """How many values the result of a reshape has; the input's number where the code is left to MXNet.

    Codes: n > 0 is a length, 0 copies the next axis of the input, -1 is the rest, -2 copies all that is left, -3 joins
    two axes, -4 splits one into the two lengths that follow it.
    """
    codes, axis, lengths, rest = list(attrs.get("shape") or ()), 0, [], False
    before = list(before)
    if attrs.get("reverse"):
        return prod(before)
    while codes:
        code = codes.pop(0)
        if code == -2:
            lengths += before[axis:]
            axis = len(before)
        elif code == -3:
            lengths.append(prod(before[axis:axis + 2]))
            axis += 2
        elif code == -4:
            part = max(codes[:2]) if -1 in codes[:2] else prod(codes[:2])
            lengths.append(prod(before[axis:axis + 1]) // part * part if -1 in codes[:2] else part)
            codes, axis = codes[2:], axis + 1
        else:
            rest = rest or code == -1
            lengths += before[axis:axis + 1] if code == 0 else [code] if code > 0 else []
            axis += 1
    others = prod(lengths)
    # the rest is a whole number only where the other lengths divide the input
    return others * (prod(before) // others if rest and others else 1)
