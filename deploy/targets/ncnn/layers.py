# SPDX-License-Identifier: MIT
"""How each node becomes ncnn layers, in integers and in float32.

Blobs keep the names and the shapes they have in the model. Splits and requantization are no matter of single nodes;
`deploy.targets.ncnn.network` adds them.
"""

from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

import numpy as np

from deploy import ir
from deploy.ir.broadcast import aligned
from deploy.targets.ncnn import dilation
from deploy.targets.ncnn.arithmetic import NcnnArithmetic
from deploy.targets.ncnn.constraints import NO_WINOGRAD, by_winograd, of_node
from deploy.targets.ncnn.param import ACTIVATION, Layer
from deploy.targets.ncnn.scales import multipliers
from quantize.errors import DeployError

CONVERTERS: Dict[type, Callable] = {}

# None is the engine's 0, as its own tools leave it out
BINARY = {"add": None, "sub": 1, "mul": 2, "div": 3, "max": 4, "min": 5, "pow": 6, "rsub": 7, "rdiv": 8}
REDUCTION = {"sum": None, "mean": 3, "max": 4, "min": 5}
PADDING = {"constant": None, "edge": 1, "reflect": 2}
RESIZE = {"nearest": 1, "bilinear": 2}
LARGEST = float(np.finfo(np.float32).max)

# kind of function -> (layer type, its parameters from the function's); defaults that are not 0 are never relied on
FUNCTIONS: Dict[str, Tuple[str, Callable[..., Dict[int, Any]]]] = {
    "relu": ("ReLU", lambda: {}),
    "leaky_relu": ("ReLU", lambda slope: {0: slope}),
    "clip": ("Clip", lambda low, high: {0: max(low, -LARGEST), 1: min(high, LARGEST)}),
    "sigmoid": ("Sigmoid", lambda: {}),
    "tanh": ("TanH", lambda: {}),
    "hard_sigmoid": ("HardSigmoid", lambda alpha, beta: {0: alpha, 1: beta}),
    "hard_swish": ("HardSwish", lambda alpha, beta: {0: alpha, 1: beta}),
    "swish": ("Swish", lambda: {}),
    "softplus": ("Softplus", lambda: {}),
    "gelu": ("GELU", lambda: {}),
    "elu": ("ELU", lambda alpha: {0: alpha}),
    "exp": ("UnaryOp", lambda: {0: 7}),
    "abs": ("UnaryOp", lambda: {}),
    "square": ("UnaryOp", lambda: {0: 4}),
    "sqrt": ("UnaryOp", lambda: {0: 5}),
    "rsqrt": ("UnaryOp", lambda: {0: 6}),
    "log": ("UnaryOp", lambda: {0: 8}),
    "erf": ("Erf", lambda: {}),
    "floor": ("UnaryOp", lambda: {0: 2}),
    "ceil": ("UnaryOp", lambda: {0: 3}),
    "sin": ("UnaryOp", lambda: {0: 9}),
    "cos": ("UnaryOp", lambda: {0: 10}),
}
# kind of function -> (activation type, its parameters) that ncnn computes within a layer
FUSED: Dict[str, Tuple[int, Callable]] = {
    "relu": (1, lambda: None),
    "leaky_relu": (2, lambda slope: (slope,)),
    "clip": (3, lambda low, high: (max(low, -LARGEST), min(high, LARGEST))),
    "sigmoid": (4, lambda: None),
    "hard_swish": (6, lambda alpha, beta: (alpha, beta)),
}


@dataclass
class Build:
    """The layers made so far.

    Parameters
    ----------
    model : ir.Model
    integers : bool
        False: quantizations are left out, all layers compute in float32.
    """

    model: ir.Model
    integers: bool
    layers: List[Layer] = field(default_factory=list)
    weights: Dict[str, Dict[str, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self):
        self.readers = ir.consumers(self.model)

    def add(self, kind: str, name: str, inputs: Iterable[str], outputs: Iterable[str],
            parameters: Optional[Dict[int, Any]] = None, **weights: Optional[np.ndarray]) -> None:
        """Append a layer; parameters and weights that are None are left out."""
        # a NumPy number prints itself otherwise from version to version
        parameters = {number: value.item() if isinstance(value, np.generic) else value
                      for number, value in (parameters or {}).items() if value is not None}
        self.layers.append(Layer(kind, name, tuple(inputs), tuple(outputs), parameters))
        if weights:
            self.weights[name] = {key: value for key, value in weights.items() if value is not None}

    def shape(self, blob: str) -> Tuple[int, ...]:
        """Shape of a blob of the model, without the batch axis."""
        return tuple(self.model.shapes[blob])

    def add_reshape(self, name: str, source: str, target: str, shape: Tuple[int, ...]) -> None:
        """A layer that gives a blob a new shape; ncnn lists the fastest axis first, and depth last."""
        self.add("Reshape", name, [source], [target], axes_of(name, shape))

    def add_function(self, name: str, source: str, target: str, function: ir.Function) -> None:
        """A layer that applies an activation function."""
        if function.kind not in FUNCTIONS:
            raise DeployError(f"{name}: ncnn has no layer for the activation {function.kind!r}")
        kind, parameters = FUNCTIONS[function.kind]
        self.add(kind, name, [source], [target], parameters(*map(float, function.parameters)))


def axes_of(name: str, shape: Tuple[int, ...]) -> Dict[int, Optional[int]]:
    """The parameters that state a shape; ncnn counts axes from the fastest one, and depth came later, as number 11."""
    if not 1 <= len(shape) <= 4:
        raise DeployError(f"{name}: ncnn's blobs have 1 to 4 axes without the batch, not {len(shape)}")
    sizes = dict(zip({1: (0,), 2: (1, 0), 3: (2, 1, 0), 4: (2, 11, 1, 0)}[len(shape)], map(int, shape)))
    return {number: sizes.get(number) for number in (0, 1, 11, 2)}


def converter(node_type: type) -> Callable[[Callable], Callable]:
    """Decorator that enters a function (node, build) for a node type into `CONVERTERS`."""
    def store(function):
        CONVERTERS[node_type] = function
        return function
    return store


def pair(values: Tuple[int, int], wide: int, high: int, default: Optional[int] = None) -> Dict[int, Optional[int]]:
    """Parameters of (height, width): the height stands only where it differs, the width where it is not the default."""
    return {wide: values[1] if values[1] != default else None, high: values[0] if values[0] != values[1] else None}


def sides(pads: Tuple[int, int, int, int], left: int, top: int, right: int, bottom: int) -> Dict[int, Optional[int]]:
    """Parameters of pads; each side stands only where it differs from what the engine takes it for."""
    return {left: pads[1] or None, top: pads[0] if pads[0] != pads[1] else None,
            right: pads[3] if pads[3] != pads[1] else None, bottom: pads[2] if pads[2] != pads[0] else None}


def reads_flat(node: Optional[ir.Node]) -> bool:
    """Whether a reader of (c, 1, 1) takes (c,) as well."""
    return isinstance(node, (ir.InnerProduct, ir.Reshape))


@converter(ir.Activation)
def _activation(node, build):
    build.add_function(node.name, node.inputs[0], node.outputs[0], node.function)


@converter(ir.Pooling)
def _pooling(node, build):
    kind, source, target = {"max": None, "avg": 1}[node.kind], node.inputs[0], node.outputs[0]
    if node.global_:
        # a reshape that nobody needs would break the chain that ncnn fuses
        if all(reader is None or reads_flat(reader) for reader in build.readers[target]):
            build.add("Pooling", node.name, [source], [target], {0: kind, 4: 1})
        else:  # a global pool writes (c,)
            build.add("Pooling", node.name, [source], [target + "_flat"], {0: kind, 4: 1})
            build.add_reshape(node.name + "_shape", target + "_flat", target, build.shape(target))
        return
    counted, pads = node.kind == "avg" and node.count_padding and any(node.pads), node.pads
    if counted and node.ceil:
        # ncnn would count the reach of the last windows too; pads that are part of the blob are counted without it
        build.add("Padding", node.name + "_pad", [source], [target + "_pad"], _pads(node.pads))
        source, pads, counted = target + "_pad", (0, 0, 0, 0), False
    _check_size(node, build)
    build.add("Pooling", node.name, [source], [target], {
        0: kind, **pair(node.kernel, 1, 11), **pair(node.stride, 2, 12, 1), **sides(pads, 3, 13, 14, 15),
        5: None if node.ceil else 1, 6: 1 if counted else None})


def _pads(pads):
    return {number: pads[side] or None for number, side in enumerate((0, 2, 1, 3))}


def _check_size(node, build):
    top, left, bottom, right = node.pads
    _, height, width = build.shape(node.inputs[0])
    rest = [size - kernel for size, kernel in zip((height + top + bottom, width + left + right), node.kernel)]
    size = tuple((-(-r // step) if node.ceil else r // step) + 1 for r, step in zip(rest, node.stride))
    wanted = build.shape(node.outputs[0])[1:]
    if size != wanted:
        raise DeployError(f"{node.name}: ncnn pools to {size[0]}x{size[1]}, the model says {wanted[0]}x{wanted[1]}")


@converter(ir.Constant)
def _constant(node, build):
    build.add("MemoryData", node.name, [], node.outputs, axes_of(node.name, node.value.shape), data=node.value)


@converter(ir.Elementwise)
def _elementwise(node, build):
    rank = max(len(build.shape(blob)) for blob in node.inputs)
    blobs = [_with_rank(node, build, number, rank) for number in range(len(node.inputs))]
    # ncnn's BinaryOp takes two: more are a chain, in the order in which MXNet adds
    result = blobs[0]
    for number, blob in enumerate(blobs[1:], 1):
        last = number == len(blobs) - 1
        name = node.name if last else f"{node.name}_part_{number}"
        target = node.outputs[0] if last else name
        build.add("BinaryOp", name, [result, blob], [target], {0: BINARY[node.op]})
        result = target


def _with_rank(node, build, number, rank):
    """A blob with leading axes of length 1: of itself, ncnn matches a short shape with the first axis that fits."""
    blob = node.inputs[number]
    shape = build.shape(blob)
    if len(shape) == rank:
        return blob
    wide = f"{node.name}_wide_{number}"
    build.add_reshape(wide, blob, wide, aligned(shape, rank))
    return wide


@converter(ir.ScalarOp)
def _scalar(node, build):
    op, number = node.op, np.float32(node.scalar)
    with np.errstate(all="ignore"):
        inverse = 1 / number
    if op == "div" and np.isfinite(inverse):  # ncnn divides by an approximation, of which only some elements are made
        op, number = "mul", inverse           # better; a product is the same on every machine
    build.add("BinaryOp", node.name, node.inputs, node.outputs, {0: BINARY[op], 1: 1, 2: float(number)})


@converter(ir.Concat)
def _concat(node, build):
    build.add("Concat", node.name, node.inputs, node.outputs, {0: node.axis or None})


@converter(ir.Slice)
def _slice(node, build):
    build.add("Slice", node.name, node.inputs, node.outputs, {0: tuple(map(int, node.sizes)), 1: node.axis or None})


@converter(ir.Crop)
def _crop(node, build):
    build.add("Crop", node.name, node.inputs, node.outputs,
              {9: tuple(map(int, node.begin)), 10: tuple(map(int, node.end)), 11: tuple(range(len(node.begin)))})


@converter(ir.Reshape)
def _reshape(node, build):
    build.add_reshape(node.name, node.inputs[0], node.outputs[0], node.shape)


@converter(ir.Permute)
def _permute(node, build):
    orders = list(permutations(range(len(node.order))))  # ncnn numbers them in this sequence
    build.add("Permute", node.name, node.inputs, node.outputs, {0: orders.index(tuple(node.order)) or None})


@converter(ir.Padding)
def _padding(node, build):
    front, behind = node.channels
    build.add("Padding", node.name, node.inputs, node.outputs, {
        **_pads(node.pads), 4: PADDING[node.mode], 5: float(node.value) or None, 7: front or None, 8: behind or None})


@converter(ir.Resize)
def _resize(node, build):
    if node.mode == "nearest":
        _check_nearest(node, build)
    build.add("Interp", node.name, node.inputs, node.outputs,
              {0: RESIZE[node.mode], 3: node.size[0], 4: node.size[1], 6: 1 if node.align_corners else None})


def _check_nearest(node, build):
    """ncnn computes positions in float32; a size that makes it pick another neighbour cannot be written."""
    for old, new in zip(build.shape(node.inputs[0])[1:], node.size):
        place = np.arange(new)
        picked = np.minimum((place.astype(np.float32) * (np.float32(old) / np.float32(new))).astype(int), old - 1)
        if (picked != place * old // new).any():
            raise DeployError(f"{node.name}: ncnn rounds the positions of {old} to {new} elements differently")


@converter(ir.Reduce)
def _reduce(node, build):
    build.add("Reduction", node.name, node.inputs, node.outputs,
              {0: REDUCTION[node.op], 1: 0, 3: tuple(map(int, node.axes)), 4: 1 if node.keepdims else None, 5: 1})


@converter(ir.Softmax)
def _softmax(node, build):
    build.add("Softmax", node.name, node.inputs, node.outputs, {0: node.axis or None, 1: 1 if node.axis else None})


# ---- nodes with weights


def _fused(function):
    """Parameters of an activation within a layer."""
    if function is None:
        return {}
    kind, parameters = FUSED[function.kind]
    values = parameters(*function.parameters)
    return {9: kind, 10: values and tuple(float(value) for value in values)}


def _finish(node, build, make):
    """Make the layer with its activation, or the layer and another one for an activation that ncnn cannot fuse."""
    function = node.activation
    if function is None or function.kind in FUSED:
        make(node.outputs[0], _fused(function))
    else:
        linear = node.outputs[0] + "_linear"
        make(linear, {})
        build.add_function(node.name + ACTIVATION, linear, node.outputs[0], function)


def _geometry(node, weight):
    """Parameters that convolutions and deconvolutions share."""
    return {**pair(weight.shape[2:], 1, 11), **pair(node.dilation, 2, 12, 1), **pair(node.stride, 3, 13, 1),
            **sides(node.pads, 4, 14, 15, 16)}


def _weights(node, integers):
    """The fields of the .bin."""
    if not integers:
        return {"weight": node.weight, "bias": node.bias}
    weight_scale, input_scale = multipliers(node)
    return {"weight": np.asarray(node.quantization.weight_q, np.int8), "bias": node.bias, "weight_scale": weight_scale,
            "input_scale": input_scale}


def _flag(array):
    """The parameter that says whether a layer has an array; 0 is what ncnn assumes."""
    return None if array is None else 1


@converter(ir.Convolution)
def _convolution(node, build):
    integers = build.integers and node.quantization is not None
    pad = float(node.pad_value)
    # measured: the value is used as a code, cut off to a whole number
    if integers and pad:  # ncnn pads the integers
        pad = float(NcnnArithmetic().quantize([pad], node.quantization.input)[0])
    if not integers and dilation.crashes(node, build.shape(node.outputs[0])[1:]):
        weight, gaps, pads = dilation.safe(node)
        node = replace(node, weight=weight, dilation=gaps, pads=pads)
    parameters = {0: len(node.weight), **_geometry(node, node.weight), 18: pad or None, 5: _flag(node.bias),
                  6: node.weight.size, 7: None if node.groups == 1 else node.groups,
                  8: (2 if node.groups == 1 else 1) if integers else None}
    # Winograd may overflow with weights of more levels than ncnn's own tools give these layers
    direct = integers and of_node(node).winograd and not by_winograd(node)
    weights = _weights(node, integers)

    def make(target, activation):
        build.add("Convolution" if node.groups == 1 else "ConvolutionDepthWise", node.name, node.inputs, [target],
                  {**parameters, **activation, 31: NO_WINOGRAD if direct else None}, **weights)
    _finish(node, build, make)


@converter(ir.Deconvolution)
def _deconvolution(node, build):
    inputs, outputs = node.weight.shape[:2]
    weight = node.weight.reshape((node.groups, inputs // node.groups) + node.weight.shape[1:]).swapaxes(1, 2)
    below, right = node.output_pads
    parameters = {0: outputs * node.groups, **_geometry(node, node.weight), 18: right or None,
                  19: below if below != right else None, 5: _flag(node.bias), 6: weight.size,
                  7: None if node.groups == 1 else node.groups}

    def make(target, activation):
        build.add("Deconvolution" if node.groups == 1 else "DeconvolutionDepthWise", node.name, node.inputs, [target],
                  {**parameters, **activation}, weight=weight, bias=node.bias)
    _finish(node, build, make)


@converter(ir.InnerProduct)
def _inner_product(node, build):
    integers = build.integers and node.quantization is not None
    source = node.inputs[0]
    if len(build.shape(source)) in (2, 4):  # ncnn would take two axes for a batch
        flat = node.name + "_flat"
        build.add_reshape(flat, source, flat, (int(np.prod(build.shape(source))),))
        source = flat
    parameters = {0: len(node.weight), 1: _flag(node.bias), 2: node.weight.size,
                  8: 2 if integers else None}
    weights = _weights(node, integers)

    def make(target, activation):
        build.add("InnerProduct", node.name, [source], [target], {**parameters, **activation}, **weights)
    _finish(node, build, make)


@converter(ir.PReLU)
def _prelu(node, build):
    build.add("PReLU", node.name, node.inputs, node.outputs, {0: node.slope.size}, slope=node.slope)


@converter(ir.BatchNorm)
def _batch_norm(node, build):
    variance = np.asarray(node.variance, np.float32) + np.float32(node.epsilon)  # as ncnn computes, without rounding
    build.add("BatchNorm", node.name, node.inputs, node.outputs, {0: len(variance)}, slope=node.gamma, mean=node.mean,
              variance=variance, bias=node.beta)


@converter(ir.Affine)
def _affine(node, build):
    build.add("Scale", node.name, node.inputs, node.outputs,
              {0: node.scale.size, 1: _flag(node.shift)}, scale=node.scale, bias=node.shift)
