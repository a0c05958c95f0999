# SPDX-License-Identifier: MIT
"""ONNX operators with weights, and the activations that are Gluon layers."""

import numpy as np
from mxnet.gluon import nn

from quantize.importers.graph_block import LayerSpec
from quantize.importers.onnx.operators.pooling import explicit_pads, pad_stage
from quantize.importers.refused import Refused, check_windows

_CONVOLUTIONS = {3: nn.Conv1D, 4: nn.Conv2D}


def _weights(node, dimensions=(4,)) -> dict:
    """Weight (of so many dimensions) and optional bias of a (transposed) convolution."""
    weight, bias = node.weight(1), node.weight(2)
    if weight.ndim not in dimensions:
        supported = " or ".join(map(str, dimensions))
        raise Refused(f"a weight of {weight.ndim} dimensions (supported: {supported})")
    arrays = {"weight": weight}
    if bias is not None:
        arrays["bias"] = bias
    return arrays


def _conv(node) -> list:
    arrays = _weights(node, tuple(_CONVOLUTIONS))
    weight = arrays["weight"]
    axes = weight.ndim - 2
    kernel = node.numbers("kernel_shape", axes, weight.shape[2:])
    strides, dilations = (node.numbers(key, axes, (1,) * axes) for key in ("strides", "dilations"))
    groups = node.take("group", 1)
    check_windows(kernel, strides, dilations, groups)
    if kernel != weight.shape[2:] or weight.shape[0] % groups:
        raise Refused(f"kernel_shape={kernel} or group={groups} does not fit the weight {weight.shape}")
    node.check_size(1, weight.shape[1] * groups)
    pads = explicit_pads(node, kernel, strides, dilations)
    before, after = pads[:axes], pads[axes:]
    symmetric = before == after
    layer = LayerSpec(_CONVOLUTIONS[weight.ndim], dict(
        channels=weight.shape[0], in_channels=weight.shape[1] * groups, kernel_size=kernel, strides=strides,
        padding=before if symmetric else (0,) * axes, dilation=dilations, groups=groups, use_bias="bias" in arrays,
    ), arrays)
    if symmetric:
        return node.chain(layer)
    if axes == 2:
        return node.chain(pad_stage(pads), layer)
    # MXNet pads four axes or more
    return node.chain(("expand_dims", dict(axis=2)), pad_stage((0, *before, 0, *after)), ("squeeze", dict(axis=2)),
                      layer)


def _conv_transpose(node) -> list:
    arrays = _weights(node)
    weight, groups = arrays["weight"], node.take("group", 1)
    node.only("auto_pad", "NOTSET", "VALID")
    node.numbers("kernel_shape", 2, weight.shape[2:])
    strides, dilations = node.numbers("strides", 2, (1, 1)), node.numbers("dilations", 2, (1, 1))
    check_windows(weight.shape[2:], strides, dilations, groups)
    extra = node.numbers("output_padding", 2, (0, 0))
    top, left, bottom, right = node.numbers("pads", 4, (0, 0, 0, 0))
    if extra[0] >= strides[0] or extra[1] >= strides[1]:
        raise Refused(f"output_padding={list(extra)} (supported: less than the stride)")
    node.check_size(1, weight.shape[0])
    symmetric = (top, left) == (bottom, right)
    layer = LayerSpec(nn.Conv2DTranspose, dict(
        channels=weight.shape[1] * groups, in_channels=weight.shape[0], kernel_size=weight.shape[2:], strides=strides,
        padding=(top, left) if symmetric else (0, 0), output_padding=extra, dilation=dilations, groups=groups,
        use_bias="bias" in arrays), arrays)
    if symmetric:
        return node.chain(layer)
    # Padding of a transposed convolution is what is cut off its output.
    crop = ("slice", dict(begin=(None, None, top, left),
                          end=(None, None, -bottom or None, -right or None)))
    return node.chain(layer, crop)


def _batch_norm(node) -> list:
    node.only("training_mode", 0)
    node.only("is_test", 0, 1)
    node.only("spatial", 1)
    node.take("consumed_inputs")
    arrays = {key: node.weight(index)
              for index, key in enumerate(("gamma", "beta", "running_mean", "running_var"), 1)}
    channels = arrays["gamma"].size
    if any(array.shape != (channels,) for array in arrays.values()):
        raise Refused("scale, bias, mean and variance differ in shape")
    node.check_size(1, channels)
    return node.chain(LayerSpec(nn.BatchNorm, dict(
        epsilon=node.take("epsilon", 1e-5), momentum=node.take("momentum", 0.9), in_channels=channels), arrays))


def _dense(node, weight, bias, flatten, output=None) -> list:
    """Steps of a Dense layer; `weight` is (units, in_units)."""
    node.check_size(-1, weight.shape[1])
    arrays = {"weight": weight}
    if bias is not None:
        arrays["bias"] = bias
    return node.chain(LayerSpec(nn.Dense, dict(
        units=weight.shape[0], in_units=weight.shape[1], use_bias=bias is not None, flatten=flatten), arrays),
        output=output)


def _gemm(node) -> list:
    node.only("transA", 0)
    weight, bias = node.weight(1), node.weight(2)
    if weight.ndim != 2:
        raise Refused(f"B of {weight.ndim} dimensions (supported: 2)")
    if not node.take("transB", 0):
        weight = weight.T
    weight = weight * np.float32(node.take("alpha", 1.0))
    beta, units = np.float32(node.take("beta", 1.0)), weight.shape[0]
    node.only("broadcast", 0, 1)
    if bias is not None:
        if bias.shape not in ((units,), (1, units), (1,), (), (1, 1)):
            raise Refused(f"C of shape {bias.shape} (supported: one value per output)")
        bias = np.broadcast_to(bias.reshape(-1) * beta, (units,))
    return _dense(node, weight, bias, flatten=True)


def _matmul(node) -> list:
    weight = node.weight(1)
    if weight.ndim != 2:
        raise Refused(f"a second operand of {weight.ndim} dimensions (supported: 2)")
    bias, output = _following_bias(node, units=weight.shape[1])
    return _dense(node, weight.T, bias, flatten=False, output=output)


def _following_bias(node, units):
    """Bias and output of the Add that alone reads this node, if it adds one constant per unit."""
    users = node.graph.uses.get(node.outputs[0], [])
    if len(users) == 1 and users[0] is not None and users[0].op_type == "Add" and not users[0].attribute:
        others = [name for name in users[0].input if name != node.outputs[0]]
        bias = node.graph.facts.constants.get(others[0]) if others else None
        if bias is not None and bias.shape == (units,):
            node.graph.fused.add(users[0].output[0])
            return bias, users[0].output[0]
    return None, None


def _prelu(node) -> list:
    slope = node.weight(1)
    # ONNX aligns the slope with the last axes, so only (C, 1, 1) is one value per channel of an image.
    per_channel = slope.ndim in (3, 4) and slope.shape[-2:] == (1, 1) and slope.shape[:-3] in ((), (1,))
    if slope.size != 1 and not per_channel:
        raise Refused(f"a slope of shape {slope.shape} (supported: one value, or (C, 1, 1))")
    return node.chain(LayerSpec(nn.PReLU, dict(in_channels=slope.size), {"alpha": slope.reshape(-1)}))


def _leaky_relu(node) -> list:
    alpha = node.take("alpha", 0.01)
    if alpha < 0:
        raise Refused(f"alpha={alpha} (supported: not negative)")
    return node.chain(LayerSpec(nn.LeakyReLU, dict(alpha=alpha)))


def _activation(kind):
    def plan(node) -> list:
        node.take("consumed_inputs")
        return node.chain(LayerSpec(nn.Activation, dict(activation=kind)))
    return plan


def _dropout(node) -> list:
    node.take("seed")
    node.only("is_test", 1)
    ratio = node.constant(1)
    training = node.constant(2)
    if training is not None and training.any():
        raise Refused("training_mode is true")
    rate = node.take("ratio", 0.5) if ratio is None else float(ratio)
    return node.chain(LayerSpec(nn.Dropout, dict(rate=rate)))


OPERATORS = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "BatchNormalization": _batch_norm,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "PRelu": _prelu,
    "LeakyRelu": _leaky_relu,
    "Relu": _activation("relu"),
    "Sigmoid": _activation("sigmoid"),
    "Tanh": _activation("tanh"),
    "Softplus": _activation("softrelu"),
    "Softsign": _activation("softsign"),
    "Dropout": _dropout,
}
