# SPDX-License-Identifier: MIT
"""ONNX operators that cut tensors, join them, or add to their edges."""

from __future__ import annotations

import numpy as np

from quantize.importers.graph_block import Step
from quantize.importers.onnx.evaluate import attribute
from quantize.importers.onnx.graph import Stage
from quantize.importers.onnx.operators.elementwise import common_rank, operand
from quantize.importers.onnx.operators.shapes import integers
from quantize.importers.onnx.shape_rules import of_one_image
from quantize.importers.onnx.sizes import is_open
from quantize.importers.refused import Refused

_FAR = 2 ** 31 - 2  # ONNX writes "to the end" as INT32_MAX, INT64_MAX or their negatives
_FEW = 32  # a gather of up to so many places becomes slices, which every engine has


def _concat(node) -> list:
    count, rank = len(node.inputs), common_rank(node)
    axis = node.take("axis", 1)
    names, steps = [], []
    dynamic = next((index for index in range(count) if not node.is_constant(index)), None)
    for index in range(count):
        name = operand(node, index)
        alone = node.is_constant(index) and node.sizes(index)[:1] == (1,)
        if alone and rank and axis % rank and is_open((node.sizes(dynamic) or (1,))[0]):
            # a constant has no images: it is the same for each of them
            spread = node.helper("broadcast_like", name, node.value(dynamic), lhs_axes=(0,), rhs_axes=(0,))
            steps.append(spread)
            name = spread.outputs[0]
        names.append(name)
    if count == 1:
        return node.alias()
    return [*steps, node.joined("concat", *names, dim=axis)]


def _split(node) -> list:
    axis, count = node.axis(node.take("axis", 0)), len(node.outputs)
    sizes = integers(node, 1, "split")
    node.take("num_outputs")
    length = None if node.sizes() is None else node.shape()[axis]
    if sizes is None:
        if length is None and count > 1:
            raise Refused(f"into {count} parts along an axis of open size")
        part = -(-(length or 1) // count)
        sizes = [part] * (count - 1) + [(length or 1) - part * (count - 1)]
    if len(sizes) != count or min(sizes) < 1 or (length is not None and sum(sizes) != length):
        raise Refused(f"split={sizes} of {length} elements into {count} outputs")
    if count == 1:
        return node.alias()
    if len(set(sizes)) == 1:
        return [Step(node.name, (node.value(),), tuple(
            name or node.part("unread") for name in node.outputs), "SliceChannel",
            dict(num_outputs=count, axis=axis, squeeze_axis=False))]
    steps, begin = [], 0
    for size, name in zip(sizes, node.outputs):
        steps.append(Step(node.part("slice"), (node.value(),), (name or node.part("unread"),), "slice_axis",
                          dict(axis=axis, begin=begin, end=begin + size)))
        begin += size
    return steps


def _inside(bound: int, size: int, open_below: bool):
    """None for a bound beyond the axis, which ONNX clamps and MXNet does not always."""
    beyond = bound < -size if open_below else bound >= size
    return None if beyond else bound


def _slice(node) -> list:
    starts, ends = (_bounds(node, index, key) for index, key in ((1, "starts"), (2, "ends")))
    axes, steps = integers(node, 3, "axes"), integers(node, 4, "") or [1] * len(starts)
    axes = [node.axis(axis) for axis in (range(len(starts)) if axes is None else axes)]
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise Refused(f"{len(starts)} starts, {len(ends)} ends, {len(axes)} axes and {len(steps)} steps")
    if not axes:
        return node.alias()
    rank = max(axes) + 1
    begin, end, step = [None] * rank, [None] * rank, [1] * rank
    sizes = node.sizes() or [None] * rank
    for axis, first, last, stride in zip(axes, starts, ends, steps):
        if stride == 0:
            raise Refused("a step of 0")
        begin[axis], end[axis] = _range(first, last, stride, sizes[axis])
        step[axis] = stride
    if (begin, end, step) == ([None] * rank, [None] * rank, [1] * rank):
        return node.alias()
    return node.chain(("slice", dict(begin=tuple(begin), end=tuple(end), step=tuple(step))))


def _bounds(node, index, key) -> list:
    value = node.known(index)
    value = node.take(key) if value is None else value
    if value is None:
        raise Refused(f"no {key}")
    return list(np.atleast_1d(np.asarray(value, object)))


def _range(first, last, stride, size):
    """(begin, end) as MXNet wants them, None for the axis' own ends."""
    if is_open(last) and last == size and stride > 0:
        last = _FAR + 1
    if is_open(first) or is_open(last):
        raise Refused("bounds that depend on a size that the file leaves open")
    first, last = int(first), int(last)
    length = _FAR if size is None or is_open(size) else size
    if length != _FAR and not len(range(*slice(first, None if stride < 0 and last < -length else last, stride)
                                        .indices(length))):
        raise Refused(f"elements {first} to {last} of {length}: nothing is left")
    if stride > 0:
        first = None if first >= _FAR else _inside(first, length, open_below=True)
    return (_inside(first, length, open_below=stride > 0) if first is not None else None,
            _inside(last, length, open_below=stride < 0))


def _gather(node) -> list:
    if node.is_constant(0) and not node.is_constant(1):
        raise Refused("places that are computed from images")
    axis, places = node.axis(node.take("axis", 0)), node.constant(1)
    if node.sizes() is not None and node.rank() == 1 and of_one_image(places, node.sizes()[0], node.graph.fixed):
        return node.chain(("reshape", dict(shape=(-1, *places.shape[1:]))))
    size = None if node.sizes() is None else node.shape()[axis]
    if size is not None and ((places < -size) | (places >= size)).any():
        raise Refused(f"places {places.ravel().tolist()[:8]} of {size} elements")
    if not places.size:
        raise Refused("no places")
    wanted = [int(place) % size if size else int(place) for place in places.ravel()]
    if places.ndim == 0:
        if node.sizes() is not None and node.rank() == 1:
            raise Refused("makes a tensor without axes, which MXNet does not have")
        return node.chain(_element(axis, wanted[0]), ("squeeze", dict(axis=(axis,))))
    if size and wanted == list(range(size)) and places.ndim == 1:
        return node.alias()
    if places.ndim == 1 and len(wanted) <= _FEW:
        return _gather_by_slices(node, axis, wanted)
    if not size:
        raise Refused("along an axis of open size")
    kept = node.stored(f"{node.inputs[1]}_of_{node.name}", np.asarray(wanted, "float32").reshape(places.shape))
    return [node.joined("take", node.value(), kept, axis=axis, mode="clip")]


def _element(axis, place):
    return "slice_axis", dict(axis=axis, begin=place, end=None if place == -1 else place + 1)


def _gather_by_slices(node, axis, wanted) -> list:
    """One slice for each run of neighbours, joined."""
    runs: list[list[int | None]] = []
    for place in wanted:
        if runs and place >= 0 and runs[-1][1] == place:
            runs[-1][1] = place + 1
        else:
            runs.append([place, None if place == -1 else place + 1])
    if len(runs) == 1:
        return node.chain(("slice_axis", dict(axis=axis, begin=runs[0][0], end=runs[0][1])))
    steps = [node.helper("slice_axis", node.value(), axis=axis, begin=begin, end=end) for begin, end in runs]
    return [*steps, node.joined("concat", *(step.outputs[0] for step in steps), dim=axis)]


def _pad(node) -> list:
    mode = node.only("mode", "constant", "reflect", "edge", "wrap")
    pads, value = integers(node, 1, "pads"), node.constant(2)
    value = node.take("value", 0.0) if value is None else float(np.reshape(value, ()))
    axes = integers(node, 3, "")
    if pads is None or len(pads) % 2 or (axes is not None and len(axes) != len(pads) // 2):
        raise Refused(f"pads={pads}")
    half = len(pads) // 2
    # Without axes the pads are for all dimensions, so their number is the rank.
    rank = half if axes is None else node.rank()
    begin, end = [0] * rank, [0] * rank
    for axis, before, after in zip(range(rank) if axes is None else axes, pads, pads[half:]):
        begin[axis % rank], end[axis % rank] = before, after
    if node.sizes() is not None and node.rank() != rank:
        raise Refused(f"pads={pads} of an input of {node.rank()} axes")
    if begin[0] or end[0] or not 2 <= rank <= 5 or (rank == 5 and (begin[1] or end[1] or mode == "wrap")):
        raise Refused(f"pads={begin + end} (supported: none in the batch, 2 to 4 axes, or the last three of 5)")
    if mode == "constant" and value == -np.inf and _only_for_maxima(node, begin, end):
        # the edge repeated changes no maximum, and engines cannot store an infinity
        mode, value = "edge", 0.0
    return _pad_axes(node, begin, end, mode, value)


def _only_for_maxima(node, begin, end) -> bool:
    """Whether only MaxPools read the output, each of whose windows holds an element of the image."""
    if len(begin) != 4 or begin[1] or end[1] or min(begin + end) < 0:
        return False
    for reader in node.graph.uses.get(node.outputs[0], []):
        if reader is None or reader.op_type != "MaxPool" or any(attribute(reader, "pads", ())):
            return False
        kernel = attribute(reader, "kernel_shape", ())
        if len(kernel) != 2 or any(pad >= size for pads in (begin[2:], end[2:]) for pad, size in zip(pads, kernel)):
            return False
    return True


def _pad_axes(node, begin, end, mode, value) -> list:
    """First what negative pads cut off, then what is added."""
    stages: list[Stage] = []
    rank = len(begin)
    if min(begin + end) < 0:
        stages.append(("slice", dict(begin=tuple(-low if low < 0 else None for low in begin),
                                     end=tuple(high if high < 0 else None for high in end))))
    widths = [(max(low, 0), max(high, 0)) for low, high in zip(begin, end)]
    if any(map(any, widths)):
        if mode == "wrap":
            return _wrapped(node, stages, widths)
        # F.pad leaves the first two axes of four or five alone: axes of length 1 stand before those that grow
        ones = 5 - rank if widths[1] != (0, 0) and rank == 4 else max(4 - rank, 0)
        widths = [(0, 0)] * (1 + ones) + widths[1:]
        stages += [("expand_dims", dict(axis=1))] * ones
        stages.append(("pad", dict(mode=mode, constant_value=value,
                                   pad_width=tuple(number for pair in widths for number in pair))))
        stages += [("squeeze", dict(axis=tuple(range(1, 1 + ones))))] if ones else []
    return node.chain(*stages) if stages else node.alias()


def _wrapped(node, stages, widths) -> list:
    """Each axis continued by its own other end."""
    steps = node.chain(*stages, output=node.part("cut") + ":out") if stages else []
    result = steps[-1].outputs[0] if steps else node.value()
    for axis, (before, after) in enumerate(widths):
        parts = [result]
        if before:
            steps.append(node.helper("slice_axis", result, axis=axis, begin=-before, end=None))
            parts.insert(0, steps[-1].outputs[0])
        if after:
            steps.append(node.helper("slice_axis", result, axis=axis, begin=0, end=after))
            parts.append(steps[-1].outputs[0])
        if len(parts) > 1:
            steps.append(node.helper("concat", *parts, dim=axis))
            result = steps[-1].outputs[0]
    return steps + node.alias(result)


OPERATORS = {"Concat": _concat, "Split": _split, "Slice": _slice, "Gather": _gather, "Pad": _pad}
