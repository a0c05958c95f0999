# SPDX-License-Identifier: MIT
"""The shape that a Reshape makes, decided before anything runs, and MXNet's codes for it.

MXNet's own reshape checks no sizes: one that does not fit reads memory behind the tensor. So what can be known here is
checked here, and `quantize.importers.graph_block` checks the rest when images come.

A file that was traced with a fixed batch of B images holds B in its target shapes. The first entry of such a target
then counts images (or parts of images): it is made a multiple of the open batch axis.
"""

from __future__ import annotations

from typing import Any, Iterable, Sequence

from quantize.importers.onnx.sizes import Length, OpenSize, Size, is_open, whole
from quantize.importers.refused import Refused

BATCH = Size(1, ("batch",))


def reshaped(before: Sequence[Length], target: Sequence[Length], allow_zero: bool, fixed: int | None
             ) -> tuple[Length, ...]:
    """The shape that a tensor of shape `before` takes.

    Parameters
    ----------
    before, target : sequence of int or Size
        In `target` 0 copies the input's length unless `allow_zero`, and -1 is what is left.
    fixed : int or None
        The batch size that the file fixes for its input.

    Raises
    ------
    Refused
        A target that does not hold as many values as the input.
    """
    if not allow_zero and any(length == 0 and axis >= len(before) for axis, length in enumerate(target)):
        raise Refused(f"shape={shown(target)} copies an axis that the input {shown(before)} does not have")
    after = [before[axis] if length == 0 and not allow_zero else length for axis, length in enumerate(target)]
    unbaked = _with_open_batch(before, after, fixed)
    if unbaked is not None:
        try:
            return _solved(before, unbaked)
        except Refused:
            pass  # the first entry counts something else
    try:
        return _solved(before, after)
    except Refused:
        if fixed is None or not any(map(_of_batch, before)):
            raise
        # a target that mixes the images of a batch fits that batch alone: others are refused when they come
        return _solved(_with_batch_of(fixed, before), _with_batch_of(fixed, after))


def _with_open_batch(before, after, fixed):
    """The target with the entry that begins where the batch does as a multiple of it; None where that is no number."""
    batch, held = fixed or 1, [axis for axis, length in enumerate(before) if _of_batch(length)]
    if not held or any(map(_of_batch, after)):
        return None
    lead = whole(before[:held[0]])
    axis = next((axis for axis in range(len(after)) if whole(after[:axis]) == lead), None)
    if axis is None or is_open(after[axis]) or after[axis] < 1 or after[axis] % batch:
        return None
    if fixed is None and after[axis] != 1:
        return None
    return after[:axis] + [BATCH * (after[axis] // batch)] + after[axis + 1:]


def _with_batch_of(fixed, lengths) -> list[Any]:
    return [length // BATCH * fixed if _of_batch(length) else length for length in lengths]


def _of_batch(length) -> bool:
    return is_open(length) and BATCH.symbols[0] in length.symbols


def _solved(before, after):
    """`after` with its -1 replaced; Refused where the number of values differs for certain."""
    total: Any = whole(before)
    others = whole(length for length in after if length != -1)
    certain = not is_open(total) or set(total.symbols) <= {BATCH.symbols[0]}
    try:
        rest = _exactly(total, others)
        if -1 in after:
            return tuple(rest if length == -1 else length for length in after)
        if rest == 1:
            return tuple(after)
        fits = is_open(rest)  # whether it fits depends on the images: checked when they come
    except OpenSize:
        fits = not certain
        if fits:
            return tuple(Size(1, (f"rest of {shown(before)}",)) if length == -1 else length for length in after)
    if not fits or certain:
        raise Refused(f"shape={shown(after)} does not hold the values of an input of shape {shown(before)}")
    return tuple(after)


def _exactly(total, others) -> Length:
    """total / others; OpenSize where that is no whole number for certain."""
    if is_open(total):
        return total // others
    if is_open(others) or not others or total % others:
        raise OpenSize(f"{total} / {others}")
    return total // others


def codes(before: Sequence[Length] | None, after: Sequence[Length]) -> tuple[int, ...]:
    """MXNet's `shape` for a reshape between known shapes: 0 copies, -1 is the rest, -3 joins, -4 splits.

    Raises
    ------
    Refused
        Several lengths are open in a way that no code says.
    """
    before, after = list(before or ()), list(after)
    result: list[int] = []
    while after:
        if before and before[0] == after[0]:
            result.append(0)
            before, after = before[1:], after[1:]
        elif sum(map(is_open, after)) <= 1:
            return tuple(result + [-1 if isinstance(length, Size) else int(length) for length in after])
        elif len(before) > 1 and before[0] * before[1] == after[0]:
            result.append(-3)
            before, after = before[2:], after[1:]
        elif before and len(after) > 1 and after[0] * after[1] == before[0]:
            result += [-4] + [-1 if isinstance(length, Size) else int(length) for length in after[:2]]
            before, after = before[1:], after[2:]
        else:
            raise Refused(f"shape={shown(after)} of an input of shape {shown(before)} leaves several sizes open")
    return tuple(result)


def shown(lengths: Iterable[Any]) -> str:
    """A shape as text."""
    return "(" + ", ".join(str(length) for length in lengths) + ")"
