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


def _concat(proto, facts):
    """onnx takes a negative axis from opset 11 on only; exporters wrote them earlier."""
    shapes, axis = [facts.shape(name) for name in proto.input], attribute(proto, "axis", 1)
    if axis >= 0 or None in shapes or len({len(shape) for shape in shapes}) != 1:
        return None
    if any(is_open(shape[axis]) for shape in shapes):
        return None
    total = sum(int(shape[axis]) for shape in shapes)
    axis %= len(shapes[0])
    return (*shapes[0][:axis], total, *shapes[0][axis + 1:])


def _tile(proto, facts):
    before, repeats = facts.shape(proto.input[0]), facts.value(proto.input[1])
    return None if before is None or repeats is None else tuple(
        length * int(times) for length, times in zip(before, repeats))


def _resize(proto, facts):
    before = facts.shape(proto.input[0])
    values = [facts.value(name) if name else None for name in proto.input]
    sizes = values[3] if len(values) > 3 else None
    stretched = attribute(proto, "keep_aspect_ratio_policy", b"stretch") == b"stretch"
    if before is None or attribute(proto, "axes") or not stretched:
        return None
    if sizes is not None and sizes.size:
        return before[:1] + tuple(sizes[1:])
    scales = values[2 if len(proto.input) > 2 else 1] if len(values) > 1 else attribute(proto, "scales")
    if scales is None or any(float(scale) % 1 for scale in scales):
        return None
    return tuple(length * int(scale) for length, scale in zip(before, scales))


def of_one_image(places: np.ndarray, size: Length, fixed: Optional[int]) -> bool:
    """Whether a Gather of all values of a batch gives them a shape and no more, in a file traced with one image.

    PyTorch writes so what it calls as_strided, behind its adaptive pooling of channels that lie last.
    """
    if fixed != 1 or places.ndim < 2 or places.shape[0] != 1 or not is_open(size):
        return False
    return size == BATCH * places.size and bool((places.ravel() == np.arange(places.size)).all())


def _gather(proto, facts):
    before, places = facts.shape(proto.input[0]), facts.value(proto.input[1])
    if before is None or places is None or len(before) != 1 or not of_one_image(places, before[0], facts.fixed):
        return None
    return (BATCH, *places.shape[1:])


def _same(proto, facts):
    """Functions of newer operator sets, of which onnx infers nothing."""
    return facts.shape(proto.input[0])


_KEEPING = ("GroupNormalization", "LayerNormalization", "MeanVarianceNormalization", "Mish", "HardSwish", "Gelu",
            "Celu", "Swish", "PRelu")
RULES = {"Reshape": _reshape, "Flatten": _flatten, "Expand": _expand, "Concat": _concat, "Gather": _gather,
         "Tile": _tile, "Resize": _resize,
         "Upsample": _resize, **dict.fromkeys(_KEEPING, _same)}
