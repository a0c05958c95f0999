# SPDX-License-Identifier: MIT
"""From nodes of the representation to ONNX operators: node type -> function(graph, node, model)."""

from typing import Any, Callable, Dict, Optional

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
    Grid,
    InnerProduct,
    Model,
    Padding,
    Permute,
    Pooling,
    PReLU,
    Reduce,
    Reshape,
    Resize,
    Rounding,
    ScalarOp,
    Slice,
    Softmax,
    Spread,
)
from deploy.targets.onnx.arithmetic import bias_codes, sum_scale
from deploy.targets.onnx.bytes import first_code, u8_zero_point
from deploy.targets.onnx.nodes import Graph

Writer = Callable[[Graph, Any, Model], None]
OPERATORS: Dict[type, Writer] = {}


def writes(kind: type) -> Callable[[Writer], Writer]:
    """Decorator that enters a function for a node type."""
    def store(function: Writer) -> Writer:
        OPERATORS[kind] = function
        return function
    return store


# ---- functions

SIMPLE = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softplus": "Softplus", "exp": "Exp", "abs": "Abs",
          "sqrt": "Sqrt", "log": "Log", "erf": "Erf", "floor": "Floor", "ceil": "Ceil", "sin": "Sin", "cos": "Cos"}


def function(graph: Graph, kind: Function, source: str, output: str) -> None:
    """An activation function from one tensor to another."""
    values = kind.parameters
    if kind.kind in SIMPLE:
        graph.node(SIMPLE[kind.kind], [source], output)
    elif kind.kind == "clip":
        ends = [graph.constant(f"{output}.{end}", value) for end, value in zip(("min", "max"), values)]
        graph.node("Clip", [source, *ends], output)
    elif kind.kind in ("leaky_relu", "elu"):
        graph.node("LeakyRelu" if kind.kind == "leaky_relu" else "Elu", [source], output, alpha=float(values[0]))
    elif kind.kind == "hard_sigmoid":
        graph.node("HardSigmoid", [source], output, alpha=float(values[0]), beta=float(values[1]))
    else:
        _composed(graph, kind, source, output)


def _composed(graph: Graph, kind: Function, source: str, output: str) -> None:
    """Functions that ONNX writes out in several operators."""
    gate = output + ".gate"
    if kind.kind == "hard_swish":
        alpha, beta = map(float, kind.parameters)
        graph.node("Mul", [source, graph.node("HardSigmoid", [source], gate, alpha=alpha, beta=beta)], output)
    elif kind.kind == "swish":
        graph.node("Mul", [source, graph.node("Sigmoid", [source], gate)], output)
    elif kind.kind == "square":
        graph.node("Mul", [source, source], output)
    elif kind.kind == "rsqrt":
        graph.node("Reciprocal", [graph.node("Sqrt", [source], gate)], output)
    elif kind.kind == "gelu":
        scaled = graph.node("Mul", [source, graph.constant(output + ".root", 0.5 ** 0.5)], output + ".scaled")
        erf = graph.node("Erf", [scaled], output + ".erf")
        one = graph.node("Add", [erf, graph.constant(output + ".one", 1)], gate)
        half = graph.node("Mul", [source, graph.constant(output + ".half", 0.5)], output + ".half_x")
        graph.node("Mul", [half, one], output)
    else:
        raise AssertionError(f"activation function {kind.kind} is not known")


def _activated(graph: Graph, node: Any, write: Callable[[str], None]) -> None:
    """What `write` puts into a tensor, behind the node's activation."""
    if node.activation is None:
        write(node.outputs[0])
        return
    write(node.outputs[0] + ".sums")
    function(graph, node.activation, node.outputs[0] + ".sums", node.outputs[0])


# ---- layers with weights


def _operands(graph: Graph, node: Any) -> list:
    """Weight and bias; integers with their scales where the layer computes so."""
    quantization = getattr(node, "quantization", None)
    name = node.name
    if quantization is None:
        found = [graph.constant(name + ".weight", node.weight)]
        return found + ([] if node.bias is None else [graph.constant(name + ".bias", node.bias)])
    found = [graph.dequantized(name + ".weight", quantization.weight_q, quantization.weight_scale)]
    if node.bias is not None:
        found.append(graph.dequantized(name + ".bias", bias_codes(node).astype(np.int32), sum_scale(node)))
    return found


@writes(Convolution)
def _convolution(graph: Graph, node: Any, model: Model) -> None:
    source, pads = node.inputs[0], list(node.pads)
    if node.pad_value:
        value = graph.constant(node.name + ".pad_value", node.pad_value)
        source = _padded(graph, source, node.name + ".padded", (0, 0, *pads[:2], 0, 0, *pads[2:]), "constant", value)
        pads = [0, 0, 0, 0]
    _activated(graph, node, lambda output: graph.several(
        "Conv", [source, *_operands(graph, node)], [output], node.name, kernel_shape=list(node.weight.shape[2:]),
        strides=list(node.stride), dilations=list(node.dilation), pads=pads, group=node.groups))


@writes(Deconvolution)
def _deconvolution(graph: Graph, node: Any, model: Model) -> None:
    _activated(graph, node, lambda output: graph.several(
        "ConvTranspose", [node.inputs[0], *_operands(graph, node)], [output], node.name,
        kernel_shape=list(node.weight.shape[2:]), strides=list(node.stride), dilations=list(node.dilation),
        pads=list(node.pads), output_padding=list(node.output_pads), group=node.groups))


@writes(Spread)
def _spread(graph: Graph, node: Any, model: Model) -> None:
    """A transposed convolution with one number 1 for each channel."""
    channels = model.shapes[node.inputs[0]][0]
    ones = graph.constant(node.name + ".ones", np.ones((channels, 1, 1, 1)))
    graph.node("ConvTranspose", [node.inputs[0], ones], node.outputs[0], node.name, kernel_shape=[1, 1],
               strides=list(node.steps), group=channels)


@writes(InnerProduct)
def _inner_product(graph: Graph, node: Any, model: Model) -> None:
    source = node.inputs[0]
    if len(model.shapes[source]) > 1:
        source = graph.node("Flatten", [source], node.name + ".flat")
        if node.quantization is not None:  # or the codes would end in front of the reshape
            source = _on_grid(graph, source, node.name + ".flat.rounded", node.quantization.input)
    _activated(graph, node, lambda output: graph.several(
        "Gemm", [source, *_operands(graph, node)], [output], node.name, transB=1))


@writes(Rounding)
def _rounding(graph: Graph, node: Any, model: Model) -> None:
    _on_grid(graph, node.inputs[0], node.outputs[0], node.grid)


def _on_grid(graph: Graph, source: str, output: str, grid: Grid) -> str:
    """A tensor rounded to a grid, by way of its codes; returns `output`."""
    numbers = [graph.constant(output + ".scale", grid.scale),
               graph.constant(output + ".zero", u8_zero_point(grid), np.uint8)]
    graph.node("QuantizeLinear", [source, *numbers], codes_name(output))
    return graph.node("DequantizeLinear", [codes_name(output), *numbers], output)


def codes_name(blob: str) -> str:
    """The tensor that holds the codes of a rounded blob, as uint8: the node's own minus `bytes.first_code`."""
    return blob + ".codes"


def node_codes(values: np.ndarray, node: Rounding) -> np.ndarray:
    """Codes of a rounding's grid (int32) from a file's uint8."""
    return values.astype(np.int32) + first_code(node.grid)


# ---- everything else


@writes(Activation)
def _activation(graph: Graph, node: Any, model: Model) -> None:
    function(graph, node.function, node.inputs[0], node.outputs[0])


@writes(PReLU)
def _prelu(graph: Graph, node: Any, model: Model) -> None:
    axes = (1,) * (len(model.shapes[node.inputs[0]]) - 1)
    slope = graph.constant(node.name + ".slope", node.slope.reshape((-1, *axes)))
    graph.node("PRelu", [node.inputs[0], slope], node.outputs[0])


@writes(BatchNorm)
def _batch_norm(graph: Graph, node: Any, model: Model) -> None:
    arrays = [graph.constant(f"{node.name}.{name}", getattr(node, name)) for name in ("gamma", "beta", "mean",
                                                                                      "variance")]
    graph.node("BatchNormalization", [node.inputs[0], *arrays], node.outputs[0], epsilon=float(node.epsilon))


@writes(Affine)
def _affine(graph: Graph, node: Any, model: Model) -> None:
    axes = (1,) * (len(model.shapes[node.inputs[0]]) - 1)
    scale = graph.constant(node.name + ".scale", node.scale.reshape((-1, *axes)))
    if node.shift is None:
        graph.node("Mul", [node.inputs[0], scale], node.outputs[0])
        return
    scaled = graph.node("Mul", [node.inputs[0], scale], node.outputs[0] + ".scaled")
    shift = graph.constant(node.name + ".shift", node.shift.reshape((-1, *axes)))
    graph.node("Add", [scaled, shift], node.outputs[0])


@writes(Pooling)
def _pooling(graph: Graph, node: Any, model: Model) -> None:
    kind = "Max" if node.kind == "max" else "Average"
    if node.global_:
        graph.node(f"Global{kind}Pool", node.inputs, node.outputs[0])
        return
    counted: Dict[str, Any] = {"count_include_pad": int(node.count_padding)} if node.kind == "avg" else {}
    graph.node(f"{kind}Pool", node.inputs, node.outputs[0], kernel_shape=list(node.kernel), strides=list(node.stride),
               pads=list(node.pads), ceil_mode=int(node.ceil), **counted)


BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "pow": "Pow"}


@writes(Constant)
def _constant(graph: Graph, node: Any, model: Model) -> None:
    graph.node("Identity", [graph.constant(node.name + ".value", node.value[np.newaxis])], node.outputs[0])


@writes(Elementwise)
def _elementwise(graph: Graph, node: Any, model: Model) -> None:
    rank = max(len(model.shapes[blob]) for blob in node.inputs)
    sources = [_aligned(graph, blob, model, rank, f"{node.name}.aligned{number}")
               for number, blob in enumerate(node.inputs)]
    total = sources[0]
    for number, source in enumerate(sources[1:], 2):
        output = node.outputs[0] if number == len(sources) else f"{node.name}.part{number}"
        total = graph.node(BINARY[node.op], [total, source], output)


def _aligned(graph: Graph, blob: str, model: Model, rank: int, name: str) -> str:
    """A blob with axes of length 1 behind the batch axis, so that it broadcasts as without that."""
    shape = model.shapes[blob]
    if len(shape) == rank:
        return blob
    wanted = graph.constant(name + ".shape", [0] + [1] * (rank - len(shape)) + list(shape), np.int64)
    return graph.node("Reshape", [blob, wanted], name)


@writes(ScalarOp)
def _scalar(graph: Graph, node: Any, model: Model) -> None:
    number = graph.constant(node.name + ".scalar", node.scalar)
    operands = [number, node.inputs[0]] if node.op in ("rsub", "rdiv") else [node.inputs[0], number]
    graph.node(BINARY[node.op[1:] if node.op in ("rsub", "rdiv") else node.op], operands, node.outputs[0])


@writes(Concat)
def _concat(graph: Graph, node: Any, model: Model) -> None:
    graph.node("Concat", node.inputs, node.outputs[0], axis=node.axis + 1)


@writes(Slice)
def _slice(graph: Graph, node: Any, model: Model) -> None:
    sizes = graph.constant(node.name + ".sizes", node.sizes, np.int64)
    graph.several("Split", [node.inputs[0], sizes], node.outputs, node.name, axis=node.axis + 1)


@writes(Crop)
def _crop(graph: Graph, node: Any, model: Model) -> None:
    bounds = [graph.constant(f"{node.name}.{name}", values, np.int64) for name, values in (
        ("begin", node.begin), ("end", node.end), ("axes", range(1, len(node.begin) + 1)))]
    graph.node("Slice", [node.inputs[0], *bounds], node.outputs[0])


@writes(Reshape)
def _reshape(graph: Graph, node: Any, model: Model) -> None:
    shape = graph.constant(node.name + ".shape", (0, *node.shape), np.int64)
    graph.node("Reshape", [node.inputs[0], shape], node.outputs[0])


@writes(Permute)
def _permute(graph: Graph, node: Any, model: Model) -> None:
    graph.node("Transpose", node.inputs, node.outputs[0], perm=[0, *(axis + 1 for axis in node.order)])


@writes(Padding)
def _padding(graph: Graph, node: Any, model: Model) -> None:
    (before, after), (top, left, bottom, right) = node.channels, node.pads
    value = graph.constant(node.name + ".value", node.value) if node.mode == "constant" else None
    _padded(graph, node.inputs[0], node.outputs[0], (0, before, top, left, 0, after, bottom, right), node.mode, value)


def _padded(graph: Graph, source: str, output: str, pads: Any, mode: str, value: Optional[str]) -> str:
    widths = graph.constant(output + ".pads", pads, np.int64)
    return graph.node("Pad", [source, widths] + ([] if value is None else [value]), output, mode=mode)


@writes(Resize)
def _resize(graph: Graph, node: Any, model: Model) -> None:
    before = model.shapes[node.inputs[0]][1:]
    scales = graph.constant(node.name + ".scales", [1, 1] + [new / old for new, old in zip(node.size, before)])
    mode = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    if node.mode == "bilinear":
        mode = {"mode": "linear", "coordinate_transformation_mode":
                "align_corners" if node.align_corners else "half_pixel"}
    graph.node("Resize", [node.inputs[0], "", scales], node.outputs[0], **mode)


REDUCTIONS = {"mean": "ReduceMean", "sum": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin"}


@writes(Reduce)
def _reduce(graph: Graph, node: Any, model: Model) -> None:
    axes, op = [axis + 1 for axis in node.axes], REDUCTIONS[node.op]
    if node.op == "sum" or graph.int4:  # axes are a tensor: of sums from operator set 13 on, of the others from 18
        graph.node(op, [node.inputs[0], graph.constant(node.name + ".axes", axes, np.int64)], node.outputs[0],
                   keepdims=int(node.keepdims))
        return
    graph.node(op, node.inputs, node.outputs[0], axes=axes, keepdims=int(node.keepdims))


@writes(Softmax)
def _softmax(graph: Graph, node: Any, model: Model) -> None:
    graph.node("Softmax", node.inputs, node.outputs[0], axis=node.axis + 1)
