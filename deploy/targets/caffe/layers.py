# SPDX-License-Identifier: MIT
"""Nodes as Caffe layers. What Caffe cannot express has been refused before (`constraints`).

A node becomes one layer or a chain of them: a convolution and its activation, BatchNorm and Scale.
"""

from typing import Any, Callable, Dict, List, Sequence, Tuple, Union, cast

import numpy as np

from deploy import ir
from deploy.targets.caffe.activations import activation, power, prelu
from deploy.targets.caffe.layer import Layer, per_channel, scale
from deploy.targets.caffe.weights import that_becomes_codes

LAYERS: Dict[type, Callable] = {}
OPERATIONS = {"add": "SUM", "sub": "SUM", "mul": "PROD", "max": "MAX"}


def layers(*node_types: type) -> Callable[[Callable], Callable]:
    """Decorator that enters function(node, model) -> list of Layer for node types into `LAYERS`."""
    def store(function):
        LAYERS.update((node_type, function) for node_type in node_types)
        return function
    return store


def channels(node: ir.Node, model: ir.Model) -> int:
    """Size of the first axis of a node's (first) input."""
    return model.shapes[node.inputs[0]][0]


def windows(kernel: Sequence[int], stride: Tuple[int, int], pads: Tuple[int, int, int, int], repeated: bool) -> dict:
    """Parameters of sliding windows: one number where height and width are equal, as Caffe's own files have it.

    Those of a convolution are repeated fields, of which caffe2ncnn reads the first; two numbers have their own fields.
    """
    parameters = {}
    for name, both, (height, width) in (("kernel", "kernel_size", kernel), ("stride", "stride", stride),
                                        ("pad", "pad", pads[:2])):
        if height == width:
            parameters[both] = [height] if repeated else height
        else:
            parameters.update({name + "_h": height, name + "_w": width})
    return parameters


@layers(ir.Convolution, ir.Deconvolution)
def convolution(node: Union[ir.Convolution, ir.Deconvolution], model: ir.Model) -> List[Layer]:
    """Convolution, grouped ones too (caffe2ncnn makes ConvolutionDepthWise of those), and its activation."""
    outputs = model.shapes[node.outputs[0]][0]
    parameters = windows(node.weight.shape[2:], node.stride, node.pads, repeated=True)
    parameters.update(num_output=outputs, bias_term=node.bias is not None, dilation=[node.dilation[0]])
    if node.groups != 1:
        parameters["group"] = node.groups
    return [Layer(type(node).__name__, {"convolution_param": parameters}, _weights(node))] + _fused(node, outputs)


@layers(ir.InnerProduct)
def inner_product(node: ir.InnerProduct, model: ir.Model) -> List[Layer]:
    """InnerProduct, which flattens its input, and its activation."""
    outputs = node.weight.shape[0]
    parameters = {"num_output": outputs, "bias_term": node.bias is not None}
    flatten = [Layer("Flatten")] if len(model.shapes[node.inputs[0]]) == 2 else []  # ncnn would multiply row by row
    product = Layer("InnerProduct", {"inner_product_param": parameters}, _weights(node))
    return flatten + [product] + _fused(node, outputs)


def _weights(node):
    weight = node.weight if ir.integers(node) is None else that_becomes_codes(node)
    return (weight,) if node.bias is None else (weight, node.bias)


def _fused(node, outputs):
    return [] if node.activation is None else [activation(node.activation, outputs)]


@layers(ir.Pooling)
def pooling(node: ir.Pooling, model: ir.Model) -> List[Layer]:
    """Pooling, of windows or of whole planes."""
    kind = {"max": "MAX", "avg": "AVE"}[node.kind]
    if node.global_:
        return _pool_planes(node, kind, model)
    parameters = windows(node.kernel, node.stride, node.pads, repeated=False)
    return [Layer("Pooling", {"pooling_param": dict(parameters, pool=kind)})]


@layers(ir.Reduce)
def reduce_planes(node: ir.Reduce, model: ir.Model) -> List[Layer]:
    """Mean or maximum of whole planes: global pooling."""
    return _pool_planes(node, {"mean": "AVE", "max": "MAX"}[node.op], model)


def _pool_planes(node, kind, model):
    """Global pooling leaves (c, 1, 1) in Caffe but (c,) in ncnn: a Reshape makes them agree where it matters."""
    pool = Layer("Pooling", {"pooling_param": {"pool": kind, "global_pooling": True}})
    blob = node.outputs[0]
    if all(_flattens(reader) for reader in ir.consumers(model)[blob]):
        return [pool]
    return [pool, _reshape(model.shapes[blob])]


def _flattens(node):
    return isinstance(node, ir.InnerProduct) or isinstance(node, ir.Reshape) and len(node.shape) == 1


@layers(ir.Activation)
def activation_layer(node: ir.Activation, model: ir.Model) -> List[Layer]:
    """An activation on its own."""
    # `constraints.check` has refused what Caffe has no layer for
    return [cast(Layer, activation(node.function, channels(node, model)))]


@layers(ir.PReLU)
def prelu_layer(node: ir.PReLU, model: ir.Model) -> List[Layer]:
    """PReLU."""
    return [prelu(node.slope, channels(node, model))]


@layers(ir.BatchNorm)
def batch_norm(node: ir.BatchNorm, model: ir.Model) -> List[Layer]:
    """BatchNorm, which only normalizes, and Scale; the third blob divides the first two, as in Caffe's own files."""
    parameters = {"use_global_stats": True, "eps": node.epsilon}
    return [Layer("BatchNorm", {"batch_norm_param": parameters}, (node.mean, node.variance, np.ones(1, np.float32))),
            scale(node.gamma, node.beta)]


@layers(ir.Affine)
def affine(node: ir.Affine, model: ir.Model) -> List[Layer]:
    """Scale."""
    return [scale(node.scale, node.shift)]


@layers(ir.ScalarOp)
def scalar(node: ir.ScalarOp, model: ir.Model) -> List[Layer]:
    """Scale with equal numbers: they stand in the binary file, where Power's would be printed with six decimals."""
    count, number = channels(node, model), np.float32(node.scalar)
    if node.op == "pow":
        return [power(node.scalar)]
    factor: Any
    shift: Any
    factor, shift = {"add": (1, number), "sub": (1, -number), "rsub": (-1, number), "mul": (number, None),
                     "div": (1 / number, None)}[node.op]
    return [scale(per_channel(factor, count), None if shift is None else per_channel(shift, count))]


@layers(ir.Elementwise)
def elementwise(node: ir.Elementwise, model: ir.Model) -> List[Layer]:
    """Eltwise; a difference is a sum with the factors 1 and -1."""
    parameters: Dict[str, Any] = {"operation": OPERATIONS[node.op]}
    if node.op == "sub":
        parameters["coeff"] = [1.0, -1.0]
    return [Layer("Eltwise", {"eltwise_param": parameters})]


@layers(ir.Concat)
def concat(node: ir.Concat, model: ir.Model) -> List[Layer]:
    """Concat; Caffe's axes count the batch."""
    return [Layer("Concat", {"concat_param": {"axis": node.axis + 1}})]


@layers(ir.Slice)
def slice_blob(node: ir.Slice, model: ir.Model) -> List[Layer]:
    """Slice, cut at the sums of the sizes."""
    points = np.cumsum(node.sizes)[:-1].tolist()
    return [Layer("Slice", {"slice_param": {"axis": node.axis + 1, "slice_point": points}})]


@layers(ir.Softmax)
def softmax(node: ir.Softmax, model: ir.Model) -> List[Layer]:
    """Softmax."""
    return [Layer("Softmax", {"softmax_param": {"axis": node.axis + 1}})]


@layers(ir.Permute)
def permute(node: ir.Permute, model: ir.Model) -> List[Layer]:
    """Permute of Caffe's SSD branch; the batch stays in front."""
    return [Layer("Permute", {"permute_param": {"order": [0] + [axis + 1 for axis in node.order]}})]


@layers(ir.Reshape)
def reshape(node: ir.Reshape, model: ir.Model) -> List[Layer]:
    """Flatten where one axis is left, else Reshape."""
    return [_reshape(node.shape)]


def _reshape(shape):
    """0 keeps the size of the batch axis."""
    if len(shape) == 1:
        return Layer("Flatten")
    return Layer("Reshape", {"reshape_param": {"shape": {"dim": [0] + [int(size) for size in shape]}}})
