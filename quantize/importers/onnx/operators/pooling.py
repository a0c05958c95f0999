# SPDX-License-Identifier: MIT
"""ONNX pooling, and the padding it shares with convolutions.

A pooling of kernel k, stride s and pads (b, e) in ceil mode drops windows that start in the end padding. Then
``out = min(ceil((H+b+e-k)/s), floor((H+b-1)/s)) + 1 = floor((H+b+E-k)/s) + 1`` with ``E = min(e+s-1, k-1)``:
ceil mode is floor mode with another end pad, whatever H is. So no size is baked into the block.
"""

import math

from mxnet.gluon import nn

from quantize.importers.graph_block import LayerSpec, Step
from quantize.importers.refused import Refused, check_windows


def pad_stage(pads, mode="constant", value=0.0):
    """The F.pad stage that pads height and width by (top, left, bottom, right)."""
    top, left, bottom, right = pads
    return "pad", dict(mode=mode, pad_width=(0, 0, 0, 0, top, bottom, left, right), constant_value=value)


def explicit_pads(node, kernel, strides, dilations) -> tuple:
    """(top, left, bottom, right) from `pads` or `auto_pad`; for one axis (left, right)."""
    axes = len(kernel)
    auto = node.only("auto_pad", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    pads = node.numbers("pads", 2 * axes, (0, 0) * axes)
    if min(pads) < 0:
        raise Refused(f"pads={list(pads)} (supported: not negative)")
    if auto == "NOTSET":
        return pads
    if auto == "VALID":
        return (0, 0) * axes
    totals = [_same_total(node, 2 + axis, kernel[axis], strides[axis], dilations[axis]) for axis in range(axes)]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return tuple(small + large if auto == "SAME_UPPER" else large + small)


def _same_total(node, axis, kernel, stride, dilation) -> int:
    """Padding of one axis of the input for which the output has ceil(size / stride) elements."""
    reach = (kernel - 1) * dilation + 1
    if stride == 1:
        return reach - 1
    shape = node.shape()
    size = shape[axis] if shape and len(shape) > axis else None
    if size is None:
        raise Refused(f"auto_pad=SAME with stride {stride} on a size that the file leaves open")
    return max((math.ceil(size / stride) - 1) * stride + reach - size, 0)


def _windows(node):
    """Kernel, strides, declared pads, and the pads for which floor mode gives the same windows."""
    kernel = node.numbers("kernel_shape", 2, ())
    strides = node.numbers("strides", 2, (1, 1))
    check_windows(kernel, strides)
    if node.numbers("dilations", 2, (1, 1)) != (1, 1):
        raise Refused("dilations other than 1")
    pads = explicit_pads(node, kernel, strides, (1, 1))
    if any(pad >= size for pad, size in zip(pads, kernel * 2)):
        raise Refused(f"pads={list(pads)} (supported: smaller than the kernel {list(kernel)})")
    full = pads
    if node.only("ceil_mode", 0, 1):
        full = pads[:2] + tuple(min(pads[2 + axis] + strides[axis] - 1, kernel[axis] - 1) for axis in (0, 1))
    return kernel, strides, pads, full


def _gluon_options(kernel, strides, pads, full):
    """Options with which a Gluon pooling layer pads by itself, or None when it cannot."""
    if pads[:2] != pads[2:]:
        return None
    ceil_end = tuple(pads[axis] + strides[axis] - 1 for axis in (0, 1))
    if full[2:] == pads[2:]:
        return dict(pool_size=kernel, strides=strides, padding=pads[:2])
    if full[2:] == ceil_end:
        return dict(pool_size=kernel, strides=strides, padding=pads[:2], ceil_mode=True)
    return None


def _max_pool(node) -> list:
    node.only("storage_order", 0)
    kernel, strides, pads, full = _windows(node)
    options = _gluon_options(kernel, strides, pads, full)
    if options is not None:
        return node.chain(LayerSpec(nn.MaxPool2D, options))
    # Repeating the edge cannot change a maximum: each window that reaches the padding also holds the edge element
    # that was repeated. A constant such as the lowest float would leak into whoever measures the padded tensor.
    return node.chain(pad_stage(full, mode="edge"), LayerSpec(nn.MaxPool2D, dict(pool_size=kernel, strides=strides)))


def _average_pool(node) -> list:
    include = bool(node.only("count_include_pad", 0, 1))
    kernel, strides, pads, full = _windows(node)
    options = _gluon_options(kernel, strides, pads, full)
    if options is not None:
        return node.chain(LayerSpec(nn.AvgPool2D, dict(options, count_include_pad=include)))
    layer = LayerSpec(nn.AvgPool2D, dict(pool_size=kernel, strides=strides))
    if include and full == pads:
        return node.chain(pad_stage(full), layer)
    return _weighted_average(node, kernel, strides, pads if include else (0, 0, 0, 0), full)


def _weighted_average(node, kernel, strides, counted, full) -> list:
    """The mean over all of a padded window, divided by the share of it that counts."""
    extra = tuple(all_ - some for all_, some in zip(full, counted))
    share_pool = ("Pooling", dict(kernel=kernel, stride=strides, pool_type="avg"))
    mean, share = node.part("mean") + ":out", node.part("share") + ":out"
    layer = LayerSpec(nn.AvgPool2D, dict(pool_size=kernel, strides=strides))
    steps = node.chain(pad_stage(full), layer, output=mean)
    # One image and one channel are enough: the share depends on the position only.
    steps += node.chain(
        ("slice", dict(begin=(0, 0), end=(1, 1))), ("ones_like", {}), pad_stage(counted, value=1.0),
        pad_stage(extra), share_pool, output=share)
    return steps + [Step(node.part("div"), (mean, share), (node.outputs[0],), "broadcast_div")]


def _global(kind):
    def plan(node) -> list:
        return node.chain(LayerSpec(kind))
    return plan


OPERATORS = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global(nn.GlobalAvgPool2D),
    "GlobalMaxPool": _global(nn.GlobalMaxPool2D),
}
