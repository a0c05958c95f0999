# SPDX-License-Identifier: MIT
"""Convolutions, of images and of sequences, and transposed convolutions of images."""

from typing import Any

from mxnet.gluon import nn

from quantize.importers.graph_block import LayerSpec, Step
from quantize.importers.onnx.operators.padding import explicit_pads, pad_stage, padded_like_same
from quantize.importers.onnx.sizes import known
from quantize.importers.refused import Refused, check_windows

_CONVOLUTIONS = {3: nn.Conv1D, 4: nn.Conv2D}


def _weights(node, dimensions=(4,)) -> dict:
    """Weight (of so many dimensions) and optional bias of a (transposed) convolution."""
    weight, bias = node.weight(1), node.weight(2)
    if weight.ndim not in dimensions:
        supported = " or ".join(map(str, dimensions))
        raise Refused(f"a weight of {weight.ndim} dimensions (supported: {supported})")
    if not weight.size:
        raise Refused(f"a weight of shape {weight.shape}")
    arrays = {"weight": weight}
    if bias is not None:
        arrays["bias"] = bias
    return arrays


def _windows(node, weight):
    """Kernel, strides, dilations and groups, in range and fitting the weight."""
    axes = weight.ndim - 2
    kernel = node.numbers("kernel_shape", axes, weight.shape[2:])
    strides, dilations = (node.numbers(key, axes, (1,) * axes) for key in ("strides", "dilations"))
    groups = node.take("group", 1)
    check_windows(kernel, strides, dilations, groups)
    if kernel != weight.shape[2:] or weight.shape[0] % groups:
        raise Refused(f"kernel_shape={kernel} or group={groups} does not fit the weight {weight.shape}")
    return kernel, strides, dilations, groups


def _check_bias(arrays, channels):
    bias = arrays.get("bias")
    if bias is not None and bias.shape != (channels,):
        raise Refused(f"a bias of shape {bias.shape} for {channels} channels")


def _conv(node) -> list:
    arrays = _weights(node, tuple(_CONVOLUTIONS))
    weight = arrays["weight"]
    kernel, strides, dilations, groups = _windows(node, weight)
    _check_bias(arrays, weight.shape[0])
    node.check_size(1, weight.shape[1] * groups)
    pads = explicit_pads(node, kernel, strides, dilations)
    kind, axes = _CONVOLUTIONS[weight.ndim], weight.ndim - 2
    options = dict(channels=weight.shape[0], in_channels=weight.shape[1] * groups, kernel_size=kernel, strides=strides,
                   dilation=dilations, groups=groups, use_bias="bias" in arrays)
    if pads is None:
        steps, padded = padded_like_same(node, kernel, strides, dilations)
        return steps + node.chain(LayerSpec(kind, options, arrays), start=padded)
    before, after = pads[:axes], pads[axes:]
    symmetric = before == after
    layer = LayerSpec(kind, dict(options, padding=before if symmetric else (0,) * axes), arrays)
    if symmetric:
        return node.chain(layer)
    if axes == 2:
        return node.chain(pad_stage(pads), layer)
    # MXNet pads four axes or more
    return node.chain(("expand_dims", dict(axis=2)), pad_stage((0, *before, 0, *after)), ("squeeze", dict(axis=2)),
                      layer)


def _conv_transpose(node) -> list:
    arrays = _weights(node)
    weight = arrays["weight"]
    kernel, strides, dilations, groups = _windows(node, weight)
    channels = weight.shape[1] * groups
    _check_bias(arrays, channels)
    extra = node.numbers("output_padding", 2, (0, 0))
    if min(extra) < 0 or any(more >= max(step, gap) for more, step, gap in zip(extra, strides, dilations)):
        raise Refused(f"output_padding={list(extra)} (supported: less than the stride)")
    node.check_size(1, weight.shape[0])
    pads = _transposed_pads(node, kernel, strides, dilations, extra)
    options = dict(channels=channels, in_channels=weight.shape[0], kernel_size=kernel, strides=strides,
                   dilation=dilations, groups=groups, use_bias="bias" in arrays)
    top, left, bottom, right = pads
    if (top, left) == (bottom, right) and all(more < step for more, step in zip(extra, strides)):
        return node.chain(LayerSpec(nn.Conv2DTranspose, dict(options, padding=(top, left), output_padding=extra),
                                    arrays))
    return _cropped(node, options, arrays, (top, left), (bottom - extra[0], right - extra[1]))


def _cropped(node, options, arrays, begin, end) -> list:
    """The whole transposed convolution without `begin` and `end` rows and columns; a negative end adds some.

    Padding of a transposed convolution is what is cut off its output; what is added holds the bias alone.
    """
    crop = ("slice", dict(begin=(None, None, *begin), end=(None, None, *(-max(size, 0) or None for size in end))))
    added = (0, 0, max(-end[0], 0), max(-end[1], 0))
    if not any(added):
        return node.chain(LayerSpec(nn.Conv2DTranspose, options, arrays), crop)
    layer = LayerSpec(nn.Conv2DTranspose, dict(options, use_bias=False), {"weight": arrays["weight"]})
    if "bias" not in arrays:
        return node.chain(layer, pad_stage(added), crop)
    steps = node.chain(layer, pad_stage(added), crop, output=node.part("free") + ":out")
    bias = node.stored(f"{node.name}_bias_of_channels", arrays["bias"].reshape(1, -1, 1, 1))
    last = steps[-1].outputs[0]
    return steps + [Step(node.part("bias"), (last, bias), (node.outputs[0],), "broadcast_add")]


def _transposed_pads(node, kernel, strides, dilations, extra):
    """(top, left, bottom, right) of a transposed convolution, from `pads`, `auto_pad` or `output_shape`."""
    auto = node.only("auto_pad", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    pads = node.numbers("pads", 4, (0, 0, 0, 0))
    wanted = node.take("output_shape")
    if min(pads) < 0:
        raise Refused(f"pads={list(pads)} (supported: not negative)")
    if wanted is None and not auto.startswith("SAME"):
        return pads if auto == "NOTSET" else (0, 0, 0, 0)
    reach = [(size - 1) * gap + 1 for size, gap in zip(kernel, dilations)]
    if wanted is None:  # (size - 1) * stride + reach + extra, cut to size * stride, whatever the size is
        totals = [max(far + more - step, 0) for far, more, step in zip(reach, extra, strides)]
    else:
        sizes: Any = known(node.sizes()) or (None,) * 4
        wanted = list(wanted)[-2:]
        if len(wanted) != 2 or None in sizes[2:]:
            raise Refused(f"output_shape={wanted} of an input of open size")
        totals = [(size - 1) * step + far + more - want for size, step, far, more, want in zip(
            sizes[2:], strides, reach, extra, wanted)]
    # the larger half of an odd number in front, but for SAME_UPPER; a whole smaller than wanted is filled at its end
    front = [max(total, 0) // 2 if auto == "SAME_UPPER" else -(-max(total, 0) // 2) for total in totals]
    return (*front, *(total - first for total, first in zip(totals, front)))


OPERATORS = {"Conv": _conv, "ConvTranspose": _conv_transpose}
