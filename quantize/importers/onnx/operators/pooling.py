# SPDX-License-Identifier: MIT
"""ONNX pooling.

A pooling of kernel k, stride s and pads (b, e) in ceil mode drops windows that start in the end padding. Then
``out = min(ceil((H+b+e-k)/s), floor((H+b-1)/s)) + 1 = floor((H+b+E-k)/s) + 1`` with ``E = min(e+s-1, k-1)``:
ceil mode is floor mode with another end pad, whatever H is. So no size is baked into the block.
"""

from typing import Tuple

from mxnet.gluon import nn

from quantize.importers.graph_block import LayerSpec, Step
from quantize.importers.onnx.graph import Stage
from quantize.importers.onnx.operators.padding import explicit_pads, pad_stage, padded_like_same
from quantize.importers.refused import Refused, check_windows


def _windows(node):
    """Kernel, strides, declared pads, and the pads for which floor mode gives the same windows."""
    kernel = node.numbers("kernel_shape", 2, ())
    strides = node.numbers("strides", 2, (1, 1))
    check_windows(kernel, strides)
    if node.numbers("dilations", 2, (1, 1)) != (1, 1):
        raise Refused("dilations other than 1")
    pads = explicit_pads(node, kernel, strides, (1, 1))
    if pads is None:
        node.only("ceil_mode", 0, 1)
        return kernel, strides, None, None
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
    if any(name and name in node.graph.uses for name in node.outputs[1:]):
        raise Refused("its output Indices is read")
    kernel, strides, pads, full = _windows(node)
    if pads is None:
        steps, padded = padded_like_same(node, kernel, strides, (1, 1), mode="edge")
        return steps + node.chain(LayerSpec(nn.MaxPool2D, dict(pool_size=kernel, strides=strides)), start=padded)
    options = _gluon_options(kernel, strides, pads, full)
    if options is not None:
        return node.chain(LayerSpec(nn.MaxPool2D, options))
    # Repeating the edge cannot change a maximum: each window that reaches the padding also holds the edge element
    # that was repeated. A constant such as the lowest float would leak into whoever measures the padded tensor.
    return node.chain(pad_stage(full, mode="edge"), LayerSpec(nn.MaxPool2D, dict(pool_size=kernel, strides=strides)))


def _average_pool(node) -> list:
    include = bool(node.only("count_include_pad", 0, 1))
    kernel, strides, pads, full = _windows(node)
    if pads is None:
        return _average_on_open_size(node, kernel, strides, include)
    options = _gluon_options(kernel, strides, pads, full)
    if options is not None:
        return node.chain(LayerSpec(nn.AvgPool2D, dict(options, count_include_pad=include)))
    layer = LayerSpec(nn.AvgPool2D, dict(pool_size=kernel, strides=strides))
    if include and full == pads:
        return node.chain(pad_stage(full), layer)
    return _weighted_average(node, kernel, strides, pads if include else (0, 0, 0, 0), full)


# MXNet's `slice` ends the process where it cuts channels that oneDNN holds in blocks of 8
ONE_PLANE: Tuple[Stage, ...] = (("slice_axis", dict(axis=1, begin=0, end=1)), ("slice", dict(begin=(0,), end=(1,))),
                                ("ones_like", {}))


def _weighted_average(node, kernel, strides, counted, full) -> list:
    """The mean over all of a padded window, divided by the share of it that counts."""
    extra = tuple(all_ - some for all_, some in zip(full, counted))
    share_pool = ("Pooling", dict(kernel=kernel, stride=strides, pool_type="avg"))
    mean, share = node.part("mean") + ":out", node.part("share") + ":out"
    layer = LayerSpec(nn.AvgPool2D, dict(pool_size=kernel, strides=strides))
    steps = node.chain(pad_stage(full), layer, output=mean)
    # One image and one channel are enough: the share depends on the position only.
    steps += node.chain(*ONE_PLANE, pad_stage(counted, value=1.0), pad_stage(extra), share_pool, output=share)
    return steps + [Step(node.part("div"), (mean, share), (node.outputs[0],), "broadcast_div")]


def _average_on_open_size(node, kernel, strides, include) -> list:
    """The mean over a window that SAME pads, by the padding's share where padding does not count."""
    layer = LayerSpec(nn.AvgPool2D, dict(pool_size=kernel, strides=strides))
    steps, padded = padded_like_same(node, kernel, strides, (1, 1))
    if include:
        return steps + node.chain(layer, start=padded)
    mean, share = node.part("mean") + ":out", node.part("share") + ":out"
    steps += node.chain(layer, start=padded, output=mean)
    one = node.chain(*ONE_PLANE, output=node.part("one") + ":out")
    more, ones = padded_like_same(node, kernel, strides, (1, 1), value=one[-1].outputs[0])
    pool = node.chain(("Pooling", dict(kernel=kernel, stride=strides, pool_type="avg")), start=ones, output=share)
    pool = [step._replace(name=node.part("share")) for step in pool]
    return steps + one + more + pool + [Step(node.part("div"), (mean, share), (node.outputs[0],), "broadcast_div")]


def _lp_pool(node) -> list:
    """(sum of |x|^p)^(1 / p) over windows."""
    power = node.only("p", 2, 1, 3)
    kernel, strides, pads, full = _windows(node)
    if pads is None:
        raise Refused("auto_pad=SAME on a size that the file leaves open")
    # MXNet's sum of first powers keeps the signs
    return node.chain(("abs", {}), pad_stage(full), ("Pooling", dict(
        kernel=kernel, stride=strides, pool_type="lp", p_value=power)))


def _global(kind, reduction):
    def plan(node) -> list:
        if node.sizes() is not None and node.rank() != 4:
            return node.chain((reduction, dict(axis=tuple(range(2, node.rank())), keepdims=True)))
        return node.chain(LayerSpec(kind))
    return plan


def _of_volumes(node, kind) -> list:
    """A pooling of (N, C, D, H, W) without pads, as PyTorch writes the sums over channels of its LocalResponseNorm."""
    kernel, strides = node.numbers("kernel_shape", 3, ()), node.numbers("strides", 3, (1, 1, 1))
    check_windows(kernel, strides)
    for key, length, only in (("dilations", 3, 1), ("pads", 6, 0)):
        if set(node.numbers(key, length, (only,) * length)) != {only}:
            raise Refused(f"{key} of a pooling of three axes")
    node.only("auto_pad", "NOTSET", "VALID")
    node.only("ceil_mode", 0)
    node.take("count_include_pad")  # of no pads
    return node.chain(("Pooling", dict(kernel=kernel, stride=strides, pool_type=kind)))


def _of_other_ranks(plan, kind=None):
    """A pooling of images that also pools volumes, and sequences (N, C, W) as images of one row."""
    def either(node) -> list:
        if kind and len(node.take_again("kernel_shape", (0, 0))) == 3:
            return _of_volumes(node, kind)
        if len(node.take_again("kernel_shape", (0, 0))) != 1:
            return plan(node)
        for key, ahead in (("kernel_shape", [1]), ("strides", [1]), ("dilations", [1])):
            if key in node.attributes:
                node.put(key, ahead + list(node.take(key)))
        if "pads" in node.attributes:
            before, after = node.numbers("pads", 2, (0, 0))
            node.put("pads", [0, before, 0, after])
        row = node.helper("expand_dims", node.value(), axis=2)
        sizes, result = node.sizes(), node.outputs[0]
        node.inputs[0], node.outputs[0] = row.outputs[0], node.part("row") + ":out"
        node.graph.define(node.inputs[0])
        node.graph.facts.shapes[node.inputs[0]] = None if sizes is None else (*sizes[:2], 1, *sizes[2:])
        steps = plan(node)
        squeezed = Step(node.part("squeeze"), (node.outputs[0],), (result,), "squeeze", dict(axis=2))
        node.outputs[0] = result
        return [row, *steps, squeezed]
    return either


OPERATORS = {
    "MaxPool": _of_other_ranks(_max_pool),
    "AveragePool": _of_other_ranks(_average_pool, "avg"),
    "LpPool": _of_other_ranks(_lp_pool),
    "GlobalAveragePool": _global(nn.GlobalAvgPool2D, "mean"),
    "GlobalMaxPool": _global(nn.GlobalMaxPool2D, "max"),
}
