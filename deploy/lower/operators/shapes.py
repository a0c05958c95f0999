# SPDX-License-Identifier: MIT
"""Operators that move, cut, join or repeat elements, or do nothing at inference."""

from deploy.ir import Concat, Crop, Padding, Permute, Pooling, Reshape, Rounding, Slice
from deploy.lower.call import Call
from deploy.lower.draft import Unsupported
from deploy.lower.operators.pooling import resize
from deploy.lower.operators.rearranging import taken


def _identity(call: Call) -> str:
    """Nothing; or where an output is quantized, its grid."""
    grid = call.output_grid()
    return call.blob() if grid is None else call.emit(Rounding, call.blob(), grid=grid)


def _dropout(call: Call) -> str:
    call.only("mode", "training")
    return call.blob()


def _cast(call: Call) -> str:
    call.only("dtype", "float32")
    return call.blob()


def _reshape(call: Call) -> str:
    """For one image every form of reshaping is the same: another shape, the same order."""
    if call.shape == call.in_shape():
        return call.blob()
    return call.emit(Reshape, call.blob(), shape=call.shape)


def _permute(call: Call, axes) -> str:
    """`axes` count the batch axis."""
    axes = [axis % len(axes) for axis in axes]
    if axes[0] != 0:
        raise Unsupported("moves the batch axis")
    order = tuple(axis - 1 for axis in axes[1:])
    return call.blob() if order == tuple(sorted(order)) else call.emit(Permute, call.blob(), order=order)


def _transpose(call: Call) -> str:
    rank = len(call.in_shape()) + 1
    return _permute(call, call.get("axes", tuple(reversed(range(rank)))))


def _swap_axes(call: Call) -> str:
    axes = list(range(len(call.in_shape()) + 1))
    one, two = call.get("dim1", 0), call.get("dim2", 0)
    axes[one], axes[two] = axes[two], axes[one]
    return _permute(call, axes)


def _concat(call: Call) -> str:
    return call.emit(Concat, call.blobs(), axis=call.axis(call.get("dim", 1)))


def _split(call: Call):
    axis, count = call.axis(call.get("axis", 1)), len(call.shapes)
    if count == 1:
        return _reshape(call)
    size = call.in_shape()[axis] // count
    if not call.get("squeeze_axis", False):
        return call.emit_many(Slice, call.blob(), axis=axis, sizes=(size,) * count)
    kept = [call.in_shape()[:axis] + (1,) + call.in_shape()[axis + 1:]] * count
    blobs = call.emit_many(Slice, call.blob(), kept, "slice", axis=axis, sizes=(size,) * count)
    return tuple(call.emit(Reshape, blob, part=str(number), shape=call.shape) for number, blob in enumerate(blobs))


def _crop(call: Call, bounds) -> str:
    """The part of the input within (begin, end, step) of each axis."""
    if not bounds:
        raise Unsupported("it cuts along the batch axis alone")
    blob, shape, bounds = call.blob(), call.in_shape(), list(bounds)
    for axis, (first, last, step) in enumerate(bounds):
        if step < 0 or (step > 1 and (axis == 0 or len(shape) != 3)):
            places = range(first, last, step)
            blob = taken(call, blob, shape, axis, places, f"places_{axis}")
            shape = shape[:axis] + (len(places),) + shape[axis + 1:]
            bounds[axis] = (0, len(places), 1)
    begin, end, steps = (tuple(numbers) for numbers in zip(*bounds))
    size = tuple(high - low for low, high in zip(begin, end))
    skips = any(step > 1 and length > 1 for step, length in zip(steps, size))
    if size != shape:
        blob = call.emit(Crop, blob, size, "crop" if skips else "", begin=begin, end=end)
    # every second element is the pooling of windows of one element
    return call.emit(Pooling, blob, stride=steps[1:]) if skips else blob


def _slice(call: Call) -> str:
    shape = (1,) + call.in_shape()
    given = [tuple(call.get(key, ())) for key in ("begin", "end", "step")]
    given = [values + (None,) * (len(shape) - len(values)) for values in given]
    bounds = [slice(*ends).indices(size) for ends, size in zip(zip(*given), shape)]
    if bounds[0] != (0, 1, 1):
        raise Unsupported("cuts the batch axis")
    return _crop(call, bounds[1:])


def _reverse(call: Call) -> str:
    axes = call.attrs["axis"]
    axes = {call.axis(axis) for axis in (axes if isinstance(axes, tuple) else (axes,))}
    return _crop(call, [(size - 1, -1, -1) if axis in axes else (0, size, 1)
                        for axis, size in enumerate(call.in_shape())])


def _slice_axis(call: Call) -> str:
    if call.attrs["axis"] == 0 and call.get("begin", 0) == 0 and call.get("end") is None:
        return call.blob()  # a copy of all images, as `quantize.onednn` takes it
    axis = call.axis(call.attrs["axis"])
    bounds = [(0, size, 1) for size in call.in_shape()]
    bounds[axis] = slice(call.get("begin", 0), call.get("end")).indices(call.in_shape()[axis])
    return _crop(call, bounds)


def _slice_like(call: Call) -> str:
    return _crop(call, [(0, size, 1) for size in call.shape])


def _pad(call: Call) -> str:
    widths = call.attrs["pad_width"]
    mode, shape = call.attrs["mode"], call.in_shape()
    fields = dict(mode=mode, value=float(call.get("constant_value", 0)) if mode == "constant" else 0.0)
    top, bottom, left, right = widths[-4:]
    fields["pads"] = (top, left, bottom, right)
    if len(shape) == 3:
        return call.emit(Padding, call.blob(), **fields)
    if len(shape) != 4 or shape[0] != 1:
        raise Unsupported(f"padding of a tensor of shape {shape} (supported: images)")
    # MXNet pads channels as the depth of a volume with one channel
    image = call.emit(Reshape, call.blob(), shape[1:], "image", shape=shape[1:])
    image = call.emit(Padding, image, call.shape[1:], "pad", channels=tuple(widths[4:6]), **fields)
    return call.emit(Reshape, image, shape=call.shape)


def _repeat(call: Call) -> str:
    if call.get("axis") is None or call.axis(call.attrs["axis"]) == 0 or len(call.in_shape()) != 3:
        raise Unsupported(f"repeats elements of a tensor of shape {call.in_shape()} along axis {call.get('axis')} "
                          "(supported: height and width of images)")
    return resize(call, call.blob(), "nearest")


OPERATORS = dict(
    {op: _identity for op in ("_copy", "BlockGrad")},
    **{op: _reshape for op in ("Reshape", "Flatten", "expand_dims", "squeeze", "reshape_like")},
    Dropout=_dropout, Cast=_cast, transpose=_transpose, SwapAxis=_swap_axes, Concat=_concat, SliceChannel=_split,
    slice=_slice, reverse=_reverse, slice_axis=_slice_axis, slice_like=_slice_like, Pad=_pad, repeat=_repeat)
