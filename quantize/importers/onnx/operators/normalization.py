# SPDX-License-Identifier: MIT
"""Normalisations by statistics of the image itself."""

from __future__ import annotations

import numpy as np
from mxnet.gluon import nn

from quantize.importers.graph_block import LayerSpec
from quantize.importers.refused import Refused


def _local_response(node) -> list:
    """x / (bias + alpha / n * sum of squares of the n channels around)^beta."""
    size = node.take("size")
    alpha, beta, bias = node.take("alpha", 1e-4), node.take("beta", 0.75), node.take("bias", 1.0)
    if size < 1:
        raise Refused(f"size={size} (supported: at least 1)")
    if size % 2:
        return node.chain(("LRN", dict(nsize=size, alpha=alpha, beta=beta, knorm=bias)))
    # An even window has one channel more behind than in front; channels are the depth of a volume for F.pad.
    before, after = (size - 1) // 2, size // 2
    x = node.value()
    mean = node.chain(
        ("square", {}), ("expand_dims", dict(axis=1)),
        ("pad", dict(mode="constant", pad_width=(0, 0, 0, 0, before, after, 0, 0, 0, 0), constant_value=0.0)),
        ("Pooling", dict(kernel=(size, 1, 1), stride=(1, 1, 1), pool_type="avg")), ("squeeze", dict(axis=1)),
        ("_mul_scalar", dict(scalar=alpha)), ("_plus_scalar", dict(scalar=bias)),
        ("_power_scalar", dict(scalar=beta)), output=node.part("divisor") + ":out")
    return [*mean, node.joined("elemwise_div", x, mean[-1].outputs[0])]


def _vectors(node, count):
    """Scale and bias of `count` values."""
    scale, bias = node.weight(1), node.weight(2)
    if scale.shape != (count,) or (bias is not None and bias.shape != (count,)):
        raise Refused(f"a scale of shape {scale.shape} for {count} values")
    return scale, np.zeros_like(scale) if bias is None else bias


def _instance_norm(node) -> list:
    scale, bias = _vectors(node, node.weight(1).size)
    node.take("consumed_inputs")
    node.check_size(1, scale.size)
    return node.chain(LayerSpec(nn.InstanceNorm, dict(
        axis=1, epsilon=node.take("epsilon", 1e-5), scale=True, in_channels=scale.size), dict(gamma=scale, beta=bias)))


def _group_norm(node) -> list:
    """Wu & He, arXiv:1803.08494: one scale for each group before opset 21, for each channel since."""
    groups, epsilon = node.take("num_groups"), node.take("epsilon", 1e-5)
    node.take("stash_type")
    channels = (node.shape() or (None, None))[1]
    if groups is None or groups < 1 or (channels or 0) % groups:
        raise Refused(f"num_groups={groups} for {channels} channels")
    if node.opset < 21:
        scale, bias = _vectors(node, groups)
        return node.chain(LayerSpec(nn.GroupNorm, dict(
            num_groups=groups, epsilon=epsilon, scale=True), dict(gamma=scale, beta=bias)))
    scale, bias = _vectors(node, node.weight(1).size)
    node.check_size(1, scale.size)
    layer = LayerSpec(nn.GroupNorm, dict(num_groups=groups, epsilon=epsilon, scale=True), dict(
        gamma=np.ones(groups, "float32"), beta=np.zeros(groups, "float32")))
    shape = (1, -1) + (1,) * (node.rank() - 2)
    steps = node.chain(layer, output=node.part("normal") + ":out")
    scaled = node.helper("broadcast_mul", steps[-1].outputs[0], node.stored(f"{node.name}_gain", scale.reshape(shape)))
    shifted = node.helper("broadcast_add", scaled.outputs[0], node.stored(f"{node.name}_shift", bias.reshape(shape)))
    return steps + [scaled, shifted] + node.alias(shifted.outputs[0])


def _layer_norm(node) -> list:
    """Ba, Kiros & Hinton, arXiv:1607.06450, over all axes from `axis` on."""
    axis, epsilon = node.axis(node.take("axis", -1)), node.take("epsilon", 1e-5)
    node.take("stash_type")
    if any(name and name in node.graph.uses for name in node.outputs[1:]):
        raise Refused("its mean or deviation is read by other nodes")
    shape = node.shape()[axis:]
    if None in shape:
        raise Refused("over axes of open size")
    count = int(np.prod(shape))
    scale = np.broadcast_to(node.weight(1), shape).ravel()
    bias = node.weight(2)
    bias = np.zeros_like(scale) if bias is None else np.broadcast_to(bias, shape).ravel()
    layer = LayerSpec(nn.LayerNorm, dict(axis=-1, epsilon=epsilon, in_channels=count), dict(gamma=scale, beta=bias))
    if len(shape) == 1:
        return node.chain(layer)
    flat = node.chain(("reshape", dict(shape=(0,) * axis + (-1,))), layer, output=node.part("flat") + ":out")
    return [*flat, node.joined("reshape_like", flat[-1].outputs[0], node.value())]


def _mean_variance(node) -> list:
    """(x - mean) / (deviation + 1e-9) over some axes, by default all but the channels."""
    axes = tuple(node.axis(axis) for axis in node.take("axes", [0, 2, 3]))
    x = node.value()
    mean = node.helper("mean", x, axis=axes, keepdims=True)
    centred = node.helper("broadcast_sub", x, mean.outputs[0])
    squares = node.helper("square", centred.outputs[0])
    variance = node.helper("mean", squares.outputs[0], axis=axes, keepdims=True)
    deviation = node.helper("sqrt", variance.outputs[0])
    safe = node.helper("_plus_scalar", deviation.outputs[0], scalar=1e-9)
    return [mean, centred, squares, variance, deviation, safe, node.joined(
        "broadcast_div", centred.outputs[0], safe.outputs[0])]


OPERATORS = {"LRN": _local_response, "InstanceNormalization": _instance_norm, "GroupNormalization": _group_norm,
             "LayerNormalization": _layer_norm, "MeanVarianceNormalization": _mean_variance}
