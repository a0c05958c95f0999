# SPDX-License-Identifier: MIT
"""From nodes of the representation to MXNet's float operators: node type -> function(writing, node)."""

from typing import Any, Callable, Dict, List, Sequence

import numpy as np

from deploy.ir import (
    Activation,
    Affine,
    BatchNorm,
    Concat,
    Constant,
    Convolution,
    Crop,
    Deconvolution,
    Elementwise,
    Function,
    InnerProduct,
    Padding,
    Permute,
    Pooling,
    PReLU,
    Reduce,
    Reshape,
    Resize,
    ScalarOp,
    Slice,
    Softmax,
    Spread,
)
from deploy.targets.mxnet.symbols import Entry
from quantize.errors import DeployError

Writer = Callable[[Any, Any], None]
FLOATS: Dict[type, Writer] = {}
LOWEST = float(np.finfo(np.float32).min)


def writes(kind: type) -> Callable[[Writer], Writer]:
    """Decorator that enters a function for a node type."""
    def store(function: Writer) -> Writer:
        FLOATS[kind] = function
        return function
    return store


# ---- functions

ACTIVATIONS = {"relu": "relu", "sigmoid": "sigmoid", "tanh": "tanh", "softplus": "softrelu"}
UNARY = ("exp", "abs", "square", "sqrt", "rsqrt", "log", "erf", "floor", "ceil", "sin", "cos")


def function(graph: Any, kind: Function, source: Entry, name: str) -> Entry:
    """An activation function of a tensor."""
    values = [float(value) for value in kind.parameters]
    if kind.kind in ACTIVATIONS:
        return graph.node("Activation", [source], name, act_type=ACTIVATIONS[kind.kind])
    if kind.kind in UNARY:
        return graph.node(kind.kind, [source], name)
    if kind.kind == "clip":
        return graph.node("clip", [source], name, a_min=values[0], a_max=values[1])
    if kind.kind in ("leaky_relu", "elu"):
        return graph.node("LeakyReLU", [source], name, act_type="elu" if kind.kind == "elu" else "leaky",
                          slope=values[0])
    if kind.kind == "gelu":
        return graph.node("LeakyReLU", [source], name, act_type="gelu")
    if kind.kind == "hard_sigmoid":
        return graph.node("hard_sigmoid", [source], name, alpha=values[0], beta=values[1])
    gate = (graph.node("hard_sigmoid", [source], name + "_gate", alpha=values[0], beta=values[1])
            if kind.kind == "hard_swish" else graph.node("Activation", [source], name + "_gate", act_type="sigmoid"))
    return graph.node("elemwise_mul", [source, gate], name)


@writes(Activation)
def _activation(writing, node):
    writing.put(node, function(writing.graph, node.function, writing.real(node.inputs[0]), node.name))


@writes(PReLU)
def _prelu(writing, node):
    slope = writing.graph.parameter(node.name + "_slope", node.slope)
    writing.put(node, writing.graph.node("LeakyReLU", [writing.real(node.inputs[0]), slope], node.name,
                                         act_type="prelu"))


# ---- layers with weights


def attributes_of(node: Any) -> Dict[str, Any]:
    """What an operator `Convolution` is told; pads are the same on both sides."""
    return {"kernel": node.weight.shape[2:], "stride": node.stride, "dilate": node.dilation, "pad": node.pads[:2],
            "num_group": node.groups, "num_filter": len(node.weight), "no_bias": node.bias is None}


def activated(writing: Any, node: Any, value: Entry) -> None:
    """A layer's output, behind its activation."""
    if node.activation is not None:
        value = function(writing.graph, node.activation, value, node.name + "_act")
    writing.put(node, value)


@writes(Convolution)
def _convolution(writing, node):
    graph, source = writing.graph, writing.real(node.inputs[0])
    attributes = attributes_of(node)
    if node.pad_value or node.pads[:2] != node.pads[2:]:
        source = _padded(graph, source, node.pads, node.name + "_padded", node.pad_value)
        attributes["pad"] = (0, 0)
    inputs = [source, graph.parameter(node.name + "_weight", node.weight)]
    if node.bias is not None:
        inputs.append(graph.parameter(node.name + "_bias", node.bias))
    activated(writing, node, graph.node("Convolution", inputs, node.name, **attributes))


@writes(Deconvolution)
def _deconvolution(writing, node):
    graph = writing.graph
    if node.pads[:2] != node.pads[2:]:
        raise DeployError(f"{node.path or node.name}: MXNet cuts off as much on both sides of a transposed "
                          f"convolution, not {node.pads}")
    inputs = [writing.real(node.inputs[0]), graph.parameter(node.name + "_weight", node.weight)]
    if node.bias is not None:
        inputs.append(graph.parameter(node.name + "_bias", node.bias))
    attributes = dict(attributes_of(node), adj=node.output_pads, num_filter=node.weight.shape[1] * node.groups)
    activated(writing, node, graph.node("Deconvolution", inputs, node.name, **attributes))


@writes(Spread)
def _spread(writing, node):
    """A transposed convolution with one number 1 for each channel."""
    graph, channels = writing.graph, writing.model.shapes[node.inputs[0]][0]
    ones = graph.parameter(node.name + "_ones", np.ones((channels, 1, 1, 1)))
    writing.put(node, graph.node("Deconvolution", [writing.real(node.inputs[0]), ones], node.name, kernel=(1, 1),
                                 stride=node.steps, num_group=channels, num_filter=channels, no_bias=True))


@writes(InnerProduct)
def _inner_product(writing, node):
    graph = writing.graph
    inputs = [writing.real(node.inputs[0]), graph.parameter(node.name + "_weight", node.weight)]
    if node.bias is not None:
        inputs.append(graph.parameter(node.name + "_bias", node.bias))
    activated(writing, node, graph.node("FullyConnected", inputs, node.name, num_hidden=len(node.weight),
                                        no_bias=node.bias is None))


# ---- everything else


def _axes(writing: Any, node: Any, values: np.ndarray) -> np.ndarray:
    """Numbers of channels, that broadcast along a node's input."""
    rank = len(writing.model.shapes[node.inputs[0]])
    return values.reshape((1, -1) + (1,) * (rank - 1))


@writes(BatchNorm)
def _batch_norm(writing, node):
    graph, value = writing.graph, writing.real(node.inputs[0])
    if len(writing.model.shapes[node.inputs[0]]) == 3:  # of planes there is a kernel, a tenth of the time of three
        inputs = [value, graph.parameter(node.name + "_gamma", node.gamma),
                  graph.parameter(node.name + "_beta", node.beta),
                  graph.state(node.name + "_mean", node.mean), graph.state(node.name + "_variance", node.variance)]
        writing.put(node, graph.node("BatchNorm", inputs, node.name, 3, eps=np.float32(node.epsilon),
                                     fix_gamma=False, use_global_stats=True))
        return
    factor = node.gamma / np.sqrt(node.variance + np.float32(node.epsilon))
    for op, name, numbers in (("sub", "mean", node.mean), ("mul", "factor", factor), ("add", "beta", node.beta)):
        numbers = graph.parameter(f"{node.name}_{name}", _axes(writing, node, numbers))
        value = graph.node("broadcast_" + op, [value, numbers], f"{node.name}_{op}")
    writing.put(node, value)


@writes(Affine)
def _affine(writing, node):
    graph = writing.graph
    scale = graph.parameter(node.name + "_scale", _axes(writing, node, node.scale))
    value = graph.node("broadcast_mul", [writing.real(node.inputs[0]), scale], node.name)
    if node.shift is not None:
        shift = graph.parameter(node.name + "_shift", _axes(writing, node, node.shift))
        value = graph.node("broadcast_add", [value, shift], node.name + "_shifted")
    writing.put(node, value)


def pooling_of(node: Any) -> Dict[str, Any]:
    """What an operator `Pooling` is told."""
    if node.global_:
        return {"kernel": (1, 1), "global_pool": True, "pool_type": node.kind}
    return {"kernel": node.kernel, "stride": node.stride, "pad": node.pads[:2], "pool_type": node.kind,
            "pooling_convention": "full" if node.ceil else "valid", "count_include_pad": node.count_padding}


@writes(Pooling)
def _pooling(writing, node):
    source, attributes = writing.real(node.inputs[0]), pooling_of(node)
    if node.pads[:2] != node.pads[2:]:
        if node.kind == "avg" and not node.count_padding or node.ceil:
            raise DeployError(f"{node.path or node.name}: MXNet pads both sides of a pooling alike, not {node.pads}")
        source = _padded(writing.graph, source, node.pads, node.name + "_padded",
                         LOWEST if node.kind == "max" else 0.0)
        attributes["pad"] = (0, 0)
    writing.put(node, writing.graph.node("Pooling", [source], node.name, **attributes))


@writes(Constant)
def _constant(writing, node):
    value = writing.graph.parameter(node.name + "_value", node.value[np.newaxis])
    writing.put(node, writing.graph.node("broadcast_like", [value, writing.real(node.inputs[0])], node.name,
                                         lhs_axes=(0,), rhs_axes=(0,)))


BROADCAST = {"max": "maximum", "min": "minimum", "pow": "power"}


@writes(Elementwise)
def _elementwise(writing, node):
    shapes, graph = [writing.model.shapes[blob] for blob in node.inputs], writing.graph
    rank = max(map(len, shapes))
    sources = [_aligned(graph, writing.real(blob), shape, rank, f"{node.name}_aligned")
               for blob, shape in zip(node.inputs, shapes)]
    alike = len(set(shapes)) == 1 and node.op in ("add", "sub", "mul", "div")
    op = ("elemwise_" if alike else "broadcast_") + BROADCAST.get(node.op, node.op)
    total = sources[0]
    for number, source in enumerate(sources[1:], 2):
        total = graph.node(op, [total, source], node.name if number == len(sources) else f"{node.name}_part")
    writing.put(node, total)


def _aligned(graph: Any, value: Entry, shape: Sequence[int], rank: int, name: str) -> Entry:
    missing = rank - len(shape)
    return value if not missing else graph.node("Reshape", [value], name, shape=[0] + [1] * missing + list(shape))


SCALARS = {"add": "_plus_scalar", "sub": "_minus_scalar", "mul": "_mul_scalar", "div": "_div_scalar",
           "rsub": "_rminus_scalar", "rdiv": "_rdiv_scalar", "max": "_maximum_scalar", "min": "_minimum_scalar",
           "pow": "_power_scalar"}


@writes(ScalarOp)
def _scalar(writing, node):
    writing.put(node, writing.graph.node(SCALARS[node.op], [writing.real(node.inputs[0])], node.name,
                                         scalar=float(node.scalar)))


@writes(Concat)
def _concat(writing, node):
    sources = [writing.real(blob) for blob in node.inputs]
    writing.put(node, writing.graph.node("Concat", sources, node.name, dim=node.axis + 1, num_args=len(sources)))


@writes(Slice)
def _slice(writing, node):
    source, begin = writing.real(node.inputs[0]), 0
    for blob, size in zip(node.outputs, node.sizes):
        value = writing.graph.node("slice_axis", [source], node.name, axis=node.axis + 1, begin=begin,
                                   end=begin + size)
        writing.values[blob], begin = value, begin + size


@writes(Crop)
def _crop(writing, node):
    value, axes = writing.real(node.inputs[0]), writing.model.shapes[node.inputs[0]]
    cut = [axis for axis, size in enumerate(axes) if (node.begin[axis], node.end[axis]) != (0, size)] or [0]
    for axis in cut:  # `slice` ends the process where oneDNN holds channels in blocks of eight
        value = writing.graph.node("slice_axis", [value], f"{node.name}_{axis}", axis=axis + 1, begin=node.begin[axis],
                                   end=node.end[axis])
    writing.put(node, value)


@writes(Reshape)
def _reshape(writing, node):
    writing.put(node, writing.graph.node("Reshape", [writing.real(node.inputs[0])], node.name,
                                         shape=(0, *node.shape)))


@writes(Permute)
def _permute(writing, node):
    order: List[int] = [0, *(axis + 1 for axis in node.order)]
    writing.put(node, writing.graph.node("transpose", [writing.real(node.inputs[0])], node.name, axes=order))


@writes(Padding)
def _padding(writing, node):
    source = writing.real(node.inputs[0])
    if any(node.channels):
        if node.mode != "constant":
            raise DeployError(f"{node.path or node.name}: MXNet pads channels with a constant only")
        source = _more_channels(writing, node, source)
    writing.put(node, _padded(writing.graph, source, node.pads, node.name, node.value, node.mode))


def _more_channels(writing: Any, node: Any, source: Entry) -> Entry:
    """Planes of a constant before and behind the channels."""
    graph, parts = writing.graph, [source]
    height, width = writing.model.shapes[node.inputs[0]][1:]
    for before, count in zip((True, False), node.channels):
        if count:
            planes = graph.parameter(node.name + "_planes", np.full((1, count, height, width), node.value))
            more = graph.node("broadcast_like", [planes, source], node.name + "_more", lhs_axes=(0,), rhs_axes=(0,))
            parts = [more, *parts] if before else [*parts, more]
    return graph.node("Concat", parts, node.name + "_channels", dim=1, num_args=len(parts))


def _padded(graph: Any, source: Entry, pads: Sequence[int], name: str, value: float = 0.0,
            mode: str = "constant") -> Entry:
    top, left, bottom, right = pads
    return graph.node("Pad", [source], name, mode=mode, pad_width=(0, 0, 0, 0, top, bottom, left, right),
                      constant_value=float(value))


@writes(Resize)
def _resize(writing, node):
    source = writing.real(node.inputs[0])
    height, width = writing.model.shapes[node.inputs[0]][1:]
    if node.mode == "bilinear":
        value = writing.graph.node("_contrib_BilinearResize2D", [source], node.name, height=node.size[0],
                                   width=node.size[1], align_corners=node.align_corners)
    elif node.size[0] % height or node.size != (height * (node.size[0] // height), width * (node.size[0] // height)):
        raise DeployError(f"{node.path or node.name}: MXNet enlarges planes by a whole number, not from "
                          f"{(height, width)} to {node.size}")
    else:
        value = writing.graph.node("UpSampling", [source], node.name, scale=node.size[0] // height,
                                   sample_type="nearest", num_args=1)
    writing.put(node, value)


@writes(Reduce)
def _reduce(writing, node):
    writing.put(node, writing.graph.node(node.op, [writing.real(node.inputs[0])], node.name,
                                         axis=[axis + 1 for axis in node.axes], keepdims=node.keepdims))


@writes(Softmax)
def _softmax(writing, node):
    writing.put(node, writing.graph.node("softmax", [writing.real(node.inputs[0])], node.name, axis=node.axis + 1))
