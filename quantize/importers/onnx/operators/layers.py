# SPDX-License-Identifier: MIT
"""ONNX operators with weights but convolutions, and Dropout."""

import logging

import numpy as np
from mxnet.gluon import nn

from quantize.importers.graph_block import LayerSpec, Step
from quantize.importers.onnx.reshapes import shown
from quantize.importers.onnx.sizes import is_open
from quantize.importers.refused import Refused

logger = logging.getLogger(__name__)


def _batch_norm(node) -> list:
    """Inference by the stored statistics. Before opset 14 five outputs mean that the batch's own are taken."""
    if node.take("training_mode", 0):
        raise Refused("training_mode=1: it normalises by the images of a batch; export the network for inference")
    node.only("is_test", 0, 1)
    node.only("spatial", 1)
    node.take("consumed_inputs")
    arrays = {key: node.weight(index)
              for index, key in enumerate(("gamma", "beta", "running_mean", "running_var"), 1)}
    channels = arrays["gamma"].size
    if any(array.shape != (channels,) for array in arrays.values()):
        raise Refused("scale, bias, mean and variance differ in shape")
    node.check_size(1, channels)
    epsilon, momentum = node.take("epsilon", 1e-5), node.take("momentum", 0.9)
    if (arrays["running_var"] + np.float32(epsilon) <= 0).any():
        raise Refused("a variance that is negative, with epsilon added too")
    if node.opset < 14 and len(node.outputs) == 5:
        logger.warning("%s: %s normalises by the images of a batch (training form): a network exported for inference "
                       "gives the same result for an image whatever stands beside it", node.graph.path, node.label)
        return _batch_norm_by_batch(node, arrays["gamma"], arrays["beta"], epsilon)
    return node.chain(LayerSpec(nn.BatchNorm, dict(epsilon=epsilon, momentum=momentum, in_channels=channels), arrays))


def _batch_norm_by_batch(node, gamma, beta, epsilon) -> list:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta over the batch and all but axis 1."""
    if any(name and name in node.graph.uses for name in node.outputs[1:]):
        raise Refused("its mean or variance is read by other nodes")
    rank = node.rank()
    axes, shape = (0, *range(2, rank)), (1, -1) + (1,) * (rank - 2)
    mean = node.helper("mean", node.value(), axis=axes, keepdims=True)
    centred = node.helper("broadcast_sub", node.value(), mean.outputs[0])
    squares = node.helper("square", centred.outputs[0])
    variance = node.helper("mean", squares.outputs[0], axis=axes, keepdims=True)
    safe = node.helper("_plus_scalar", variance.outputs[0], scalar=epsilon)
    inverse = node.helper("rsqrt", safe.outputs[0])
    normal = node.helper("broadcast_mul", centred.outputs[0], inverse.outputs[0])
    scaled = node.helper("broadcast_mul", normal.outputs[0], node.stored(f"{node.name}_gamma", gamma.reshape(shape)))
    return [mean, centred, squares, variance, safe, inverse, normal, scaled, node.joined(
        "broadcast_add", scaled.outputs[0], node.stored(f"{node.name}_beta", beta.reshape(shape)))]


def _dense(weight, bias, flatten) -> LayerSpec:
    """A Dense layer; `weight` is (units, in_units)."""
    arrays = {"weight": weight}
    if bias is not None:
        arrays["bias"] = bias
    return LayerSpec(nn.Dense, dict(
        units=weight.shape[0], in_units=weight.shape[1], use_bias=bias is not None, flatten=flatten), arrays)


_TURNED = "SwapAxis", dict(dim1=0, dim2=1)


def _gemm(node) -> list:
    """A fully connected layer where B is constant and C has a value for each output; else a product of matrices."""
    turned = [bool(node.only(key, 0, 1)) for key in ("transA", "transB")]
    alpha, beta = (np.float32(node.take(key, 1.0)) for key in ("alpha", "beta"))
    node.only("broadcast", 0, 1)
    bias = node.weight(2) if node.has(2) and node.is_constant(2) else None
    if not node.is_constant(1) or (node.has(2) and bias is None):
        return _product(node, turned, float(alpha), float(beta))
    weight = node.weight(1)
    if weight.ndim != 2:
        raise Refused(f"B of {weight.ndim} dimensions (supported: 2)")
    weight = (weight if turned[1] else weight.T) * alpha
    node.check_size(0 if turned[0] else -1, weight.shape[1])
    if bias is not None:
        units = weight.shape[0]
        if bias.shape not in ((units,), (1, units), (1,), (), (1, 1)):
            return _product(node, turned, float(alpha), float(beta))
        bias = np.broadcast_to(bias.reshape(-1) * beta, (units,))
    return node.chain(*[_TURNED] * turned[0], _dense(weight, bias, flatten=True))


def _product(node, turned, alpha, beta) -> list:
    """alpha * A * B + beta * C of tensors."""
    if any(node.rank(index) != 2 for index in (0, 1)):
        raise Refused(f"operands of {node.rank(0)} and {node.rank(1)} axes (supported: 2)")
    options = dict(transpose_a=turned[0], transpose_b=turned[1], alpha=alpha)
    if not node.has(2):
        return [node.joined("_linalg_gemm2", node.value(0), node.value(1), **options)]
    steps = [node.helper("_linalg_gemm2", node.value(0), node.value(1), **options)]
    if node.is_constant(2):
        addend = node.stored(f"{node.inputs[2]}_of_{node.name}", np.atleast_2d(node.weight(2) * np.float32(beta)))
    else:
        steps.append(node.helper("_mul_scalar", node.value(2), scalar=beta))
        addend = steps[-1].outputs[0]
        if node.rank(2) < 2:
            steps.append(node.helper("expand_dims", addend, axis=0))
            addend = steps[-1].outputs[0]
    return [*steps, node.joined("broadcast_add", steps[0].outputs[0], addend)]


def _matmul(node) -> list:
    if not node.is_constant(1):
        return _matmul_from_left(node)
    weight = node.weight(1)
    if weight.ndim > 2 and weight.shape[:-2] == (1,) * (weight.ndim - 2) and weight.ndim <= node.rank():
        weight = weight.reshape(weight.shape[-2:])
    if weight.ndim > 2:
        return _matmul_by_slices(node, weight)
    node.check_size(-1, weight.shape[0])
    if weight.ndim == 1:
        return node.chain(_dense(weight[np.newaxis], None, flatten=False), ("squeeze", dict(axis=-1)))
    bias, output = _following_bias(node, units=weight.shape[1])
    return node.chain(_dense(weight.T, bias, flatten=False), output=output)


def _matmul_by_slices(node, weight) -> list:
    """A constant matrix for each channel (and so on), the same for every image."""
    rank = node.rank()
    weight = weight.reshape((1,) * (rank - weight.ndim) + weight.shape)
    if weight.ndim != rank or (1, *node.sizes()[1:-2]) != weight.shape[:-2]:
        left_open = any(map(is_open, node.sizes()[1:-2]))
        raise Refused(f"a second operand of shape {node.constant(1).shape} for an input of shape {shown(node.sizes())}"
                      + ", with sizes that the file leaves open" * left_open)
    spread = node.helper("broadcast_like", node.stored(f"{node.inputs[1]}_of_{node.name}", weight), node.value(),
                         lhs_axes=(0,), rhs_axes=(0,))
    return [spread, node.joined("_linalg_gemm2", node.value(), spread.outputs[0])]


def _matmul_from_left(node) -> list:
    """A constant matrix times images, or a product of two tensors that both come from images."""
    rank = node.rank(1)
    if not node.is_constant(0):
        if node.rank() != rank or rank < 2 or node.sizes(0)[:-2] != node.sizes(1)[:-2]:
            raise Refused(f"operands of shapes {shown(node.sizes(0))} and {shown(node.sizes(1))}, both computed from "
                          "images (supported: as many axes, all but the last two of the same length)")
        return [node.joined("_linalg_gemm2", node.value(0), node.value(1))]
    weight = node.weight(0)
    if weight.ndim != 2 or rank < 2:
        raise Refused(f"a first operand of {weight.ndim} dimensions (supported: 2)")
    swap = ("SwapAxis", dict(dim1=rank - 2, dim2=rank - 1))
    return node.chain(swap, _dense(weight, None, flatten=False), swap, start=node.value(1))


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


def _dropout(node) -> list:
    node.take("seed")
    node.only("is_test", 1)
    ratio = node.constant(1)
    training = node.constant(2)
    if training is not None and training.any():
        raise Refused("training_mode is true")
    rate = node.take("ratio", 0.5) if ratio is None else float(ratio)
    steps = node.chain(LayerSpec(nn.Dropout, dict(rate=rate)))
    if len(node.outputs) > 1 and node.outputs[1] in node.graph.uses:  # nothing is dropped
        steps.append(Step(node.part("mask"), (node.value(),), (node.outputs[1],), "ones_like"))
    return steps


OPERATORS = {
    "BatchNormalization": _batch_norm,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Dropout": _dropout,
}
