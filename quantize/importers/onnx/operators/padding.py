# SPDX-License-Identifier: MIT
"""The padding that convolutions and poolings share: given, or such that the output has ceil(size / stride) elements."""

from __future__ import annotations

import math
from typing import Any, Sequence

from quantize.importers.graph_block import Step
from quantize.importers.onnx.graph import Node, Stage
from quantize.importers.onnx.reshapes import shown
from quantize.importers.refused import Refused


def pad_stage(pads: Sequence[int], mode: str = "constant", value: float = 0.0) -> Stage:
    """The F.pad stage that pads height and width by (top, left, bottom, right)."""
    top, left, bottom, right = pads
    return "pad", dict(mode=mode, pad_width=(0, 0, 0, 0, top, bottom, left, right), constant_value=value)


def explicit_pads(node: Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
                  ) -> tuple[int, ...] | None:
    """(top, left, bottom, right) from `pads` or `auto_pad`; for one axis (left, right).

    None for a SAME that depends on the image's size, where the file leaves that open.
    """
    axes = len(kernel)
    node.same = node.only("auto_pad", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    pads = node.numbers("pads", 2 * axes, (0, 0) * axes)
    if min(pads) < 0:
        raise Refused(f"pads={list(pads)} (supported: not negative)")
    if node.same == "NOTSET":
        return pads
    if node.same == "VALID":
        return (0, 0) * axes
    totals: list[Any] = [_same_total(node, 2 + axis, kernel[axis], strides[axis], dilations[axis])
                         for axis in range(axes)]
    if None in totals:
        if axes != 2:
            raise Refused(f"auto_pad=SAME with stride {strides[0]} on a size that the file leaves open")
        return None
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return tuple(small + large if node.same == "SAME_UPPER" else large + small)


def _same_total(node, axis, kernel, stride, dilation):
    """Padding of one axis for which the output has ceil(size / stride) elements; None: its size is open."""
    reach = (kernel - 1) * dilation + 1
    if stride == 1 or reach == 1:
        return reach - 1
    shape = node.shape()
    size = shape[axis] if shape and len(shape) > axis else None
    return None if size is None else max((math.ceil(size / stride) - 1) * stride + reach - size, 0)


def padded_like_same(node: Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
                     mode: str = "constant", value: str | None = None) -> tuple[list[Step], str]:
    """Steps that pad an image of open size for SAME, and their result.

    The padded size is ``(ceil(size / stride) - 1) * stride + reach``. A tensor of that size is made of every stride-th
    element, repeated; the image, padded by more than enough, is cut in its middle to the size of that tensor.
    SAME_UPPER has the larger half of an odd padding at the end, and so one more element there before it is cut.
    """
    reach = [(size - 1) * gap + 1 for size, gap in zip(kernel, dilations)]
    if any(far < step for far, step in zip(reach, strides)):
        raise Refused(f"auto_pad={node.same} with a kernel {shown(kernel)} smaller than its stride {shown(strides)} on "
                      "a size that the file leaves open")
    x = node.value() if value is None else value
    picked = node.helper("slice", x, begin=(None,) * 4, end=(None,) * 4, step=(1, 1, *strides))
    high = node.helper("repeat", picked.outputs[0], repeats=strides[0], axis=2)
    wide = node.helper("repeat", high.outputs[0], repeats=strides[1], axis=3)
    longer = node.helper("pad", wide.outputs[0], **pad_stage((0, 0, *reach))[1])
    size = node.helper("slice", longer.outputs[0], begin=(None, None, *strides), end=(None,) * 4)
    top, left = reach
    more = 1 if node.same == "SAME_UPPER" else 0
    padded = node.helper("pad", x, **pad_stage((top, left, top + more, left + more), mode)[1])
    cut = node.helper("Crop", padded.outputs[0], size.outputs[0], num_args=2, center_crop=True)
    return [picked, high, wide, longer, size, padded, cut], cut.outputs[0]
