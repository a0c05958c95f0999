# SPDX-License-Identifier: MIT
"""Shapes where onnx's own inference gives up on open sizes: node type -> function(node, facts) -> shape or None."""

from typing import Optional, Sequence, Tuple

import numpy as np

from quantize.importers.onnx.evaluate import attribute
from quantize.importers.onnx.reshapes import BATCH, reshaped
from quantize.importers.onnx.sizes import Length, OpenSize, is_open, whole


def _reshape(proto, facts):
    target = facts.value(proto.input[1]) if len(proto.input) > 1 else attribute(proto, "shape")
    before = facts.shape(proto.input[0])
    if before is None or target is None:
        return None
    return reshaped(before, list(np.asarray(target, object)), bool(attribute(proto, "allowzero", 0)), facts.fixed)


def _flatten(proto, facts):
    before, axis = facts.shape(proto.input[0]), attribute(proto, "axis", 1)
    return None if before is None else (whole(before[:axis]), whole(before[axis:]))


def _expand(proto, facts):
    before, target = facts.shape(proto.input[0]), facts.value(proto.input[1])
    return None if before is None or target is None else expanded(before, list(target), facts.fixed)


def expanded(before: Sequence[Length], target: Sequence[Length], fixed: Optional[int]) -> Tuple[Length, ...]:
    """The shape of a tensor that is repeated to fit `target`, NumPy's rules; a fixed batch in `target` is the batch.

    OpenSize where an open length might be 1, or another than the file says.
    """
    rank = max(len(before), len(target))
    before = [1] * (rank - len(before)) + list(before)
    target = [1] * (rank - len(target)) + list(target)
    for old, new in zip(before, target):
        if is_open(old) and new not in (1, old) and not (old == BATCH and new == fixed):
            raise OpenSize(f"{old} as {new}")
    return tuple(old if is_open(old) or new == 1 else new for old, new in zip(before, target))


def _tile(proto, facts):
    before, repeats = facts.shape(proto.input[0]), facts.value(proto.input[1])
    return None if before is None or repeats is None else tuple(
        length * int(times) for length, times in zip(before, repeats))


def _resize(proto, facts):
    before = facts.shape(proto.input[0])
    values = [facts.value(name) if name else None for name in proto.input]
    sizes = values[3] if len(values) > 3 else None
    if before is None or attribute(proto, "axes") or attribute(proto, "keep_aspect_ratio_policy"):
        return None
    if sizes is not None and sizes.size:
        return before[:1] + tuple(sizes[1:])
    scales = values[2 if len(proto.input) > 2 else 1] if len(values) > 1 else attribute(proto, "scales")
    if scales is None or any(float(scale) % 1 for scale in scales):
        return None
    return tuple(length * int(scale) for length, scale in zip(before, scales))


RULES = {"Reshape": _reshape, "Flatten": _flatten, "Expand": _expand, "Tile": _tile, "Resize": _resize,
         "Upsample": _resize}
