# SPDX-License-Identifier: MIT
"""The nodes of a symbol file, and which Gluon layer or F operator stands for each."""

import ast
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from mxnet.gluon import nn

from quantize.importers.graph_block import LayerSpec
from quantize.importers.refused import Refused, check_windows

LONGEST_OPTION = 1000  # characters
MOST_OUTPUTS = 10_000

Shape = Tuple[Optional[int], ...]  # None for a dimension that only the arrays tell
Call = Tuple[str, Dict[str, object], Optional[int]]  # operator, attributes, number of inputs


class LayerPlan(NamedTuple):
    """A layer whose arrays are not read yet.

    `params` maps Gluon's short names to the file's names, `sizes` makes the options that only the arrays tell.
    """

    kind: type
    options: Dict[str, object]
    params: Dict[str, str] = {}
    sizes: Callable = lambda arrays: {}

    def prefix(self, node_name: str) -> str:
        """The prefix under which Gluon gives the parameters their names in the file, where there is one."""
        for short, full in self.params.items():
            prefix = full[:len(full) - len(short)]
            if prefix and all(name == prefix + key for key, name in self.params.items()):
                return prefix
        # Gluon calls a layer's operator <prefix>fwd, and Flatten's <prefix>flatten0.
        ending = "_flatten0" if self.kind is nn.Flatten else "_fwd"
        return (node_name[:-len(ending)] if node_name.endswith(ending) else node_name) + "_"

    def spec(self, prefix: str, arrays: Mapping[str, np.ndarray]) -> LayerSpec:
        """The layer with its arrays."""
        own = {short: arrays[name] for short, name in self.params.items()}
        return LayerSpec(self.kind, dict(self.options, prefix=prefix, **self.sizes(own)), own)


def _literal(text: str) -> Any:
    """MXNet writes attributes as text: numbers, tuples, True and None as in Python, anything else as it is."""
    if len(text) > LONGEST_OPTION:  # a parser's time and stack grow with it
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def _declared(written: Mapping[str, str]) -> Optional[Shape]:
    """The shape that a variable states, None where there is none; 0 (or -1, of NumPy's shapes) is an open dimension."""
    shape = _literal(written.get("__shape__", "None"))
    if shape is not None and not (isinstance(shape, (tuple, list)) and all(
            type(size) is int and -1 <= size < 2 ** 31 for size in shape)):
        raise Refused(f"__shape__={str(shape)[:40]} (supported: whole numbers below 2**31)")
    return None if shape is None else tuple(max(size, 0) for size in shape)


def whole(attrs: Mapping[str, Any], key: str, default: Optional[int] = None) -> int:
    """An option that is a whole number of at least 1; KeyError where there is neither option nor default."""
    value = attrs[key] if default is None else attrs.get(key, default)
    if type(value) is not int or value < 1:
        raise Refused(f"{key}={str(value)[:40]} (supported: whole numbers from 1 on)")
    return value


def numbers(attrs: Mapping[str, Any], key: str, default: Tuple[int, ...], least: int = 0) -> Tuple[int, ...]:
    """An option that is a tuple of whole numbers, each at least `least`."""
    value = attrs.get(key) or default
    if not isinstance(value, (tuple, list)) or any(type(number) is not int or number < least for number in value):
        raise Refused(f"{key}={str(value)[:40]} (supported: whole numbers from {least} on)")
    return tuple(value)


class SymbolNode:
    """One node of a symbol file; `inputs` are (node, output index) pairs."""

    def __init__(self, index: int, op: str, name: str, written: Mapping[str, str],
                 inputs: Sequence[Tuple['SymbolNode', int]]) -> None:
        self.op, self.name, self.inputs = op, name, inputs
        self.attrs = {key: _literal(value) for key, value in written.items() if not key.startswith("__")}
        self.declared_shape = _declared(written)
        self.attrs.pop("num_args", None)
        self.layer: Optional[LayerPlan] = None
        self.call: Optional[Call] = None
        self.is_parameter = self.is_label = False
        #: Shape that a reader of this variable needs; None for an open dimension.
        self.wanted_shape: Optional[Shape] = None
        # Nodes may share a name (a block called twice), so what an operator makes is numbered.
        count = self._output_count()
        self.outputs = (self.name,) if self.op == "null" else tuple(
            f"{index}:{port}:{self.name}" for port in range(count))
        self.channels = self._find_channels()

    def _output_count(self) -> int:
        if self.op == "SliceChannel":
            count = whole(self.attrs, "num_outputs", 1)
            if count > MOST_OUTPUTS:
                raise Refused(f"num_outputs={count} (supported: up to {MOST_OUTPUTS})")
            return count
        return 2 if self.op == "topk" and self.attrs.get("ret_typ") == "both" else 1

    def _find_channels(self) -> Optional[int]:
        """Size of axis 1 of the output where it follows from the options, or None."""
        before = [node.channels for node, _ in self.inputs]
        if self.op in ("Convolution", "Deconvolution"):
            filters = self.attrs.get("num_filter")
            return filters if type(filters) is int else None  # `plan` says what is wrong with it
        if self.op == "Concat" and self.attrs.get("dim", 1) == 1 and None not in before:
            return sum(channels for channels in before if channels is not None)
        keeps = ("BatchNorm", "Activation", "LeakyReLU", "Pooling", "Dropout", "clip", "elemwise_add", "elemwise_mul")
        return before[0] if self.op in keeps and before else None

    def check_ports(self) -> None:
        """Refuse the side outputs of layers (a Dropout's mask, a BatchNorm's mean)."""
        for node, port in self.inputs:
            if port >= len(node.outputs):
                raise Refused(f"reads output {port} of {node.name!r}")

    def plan(self) -> None:
        """Set `layer`, or `call` as (operator, attributes, number of inputs); Refused when there is neither."""
        self.check_ports()
        if self.op in LAYERS:
            self.layer = LAYERS[self.op](self)
        if self.layer is None and self.op in FUNCTIONS:
            self.call = FUNCTIONS[self.op](self)
        if self.layer is None and self.call is None:
            raise Refused("unknown operator")

    def input_names(self, count: Optional[int] = None) -> tuple:
        """The tensors read at run time, the first `count` of them."""
        return tuple(node.outputs[port] for node, port in self.inputs[:count])

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether an array of this shape can be this variable's value."""
        for wanted in (self.wanted_shape, self.declared_shape):
            if wanted is not None and (len(wanted) != len(shape) or any(
                    need and need != have for need, have in zip(wanted, shape))):
                return False
        return True


def _parameters(node: SymbolNode, **shapes: Shape) -> Dict[str, str]:
    """Claim the inputs after the first as parameters of the given shapes; short name -> name in the file."""
    variables = [variable for variable, _ in node.inputs[1:]]
    if len(variables) != len(shapes):
        raise Refused(f"{len(variables)} parameters (expected {len(shapes)})")
    if any(variable.op != "null" for variable in variables):
        raise Refused("a weight that is computed by other nodes")
    for variable, shape in zip(variables, shapes.values()):
        variable.is_parameter, variable.wanted_shape = True, shape
    return {short: variable.name for short, variable in zip(shapes, variables)}


_CONVOLUTIONS = {1: (nn.Conv1D, "NCW"), 2: (nn.Conv2D, "NCHW")}


def _image_options(node: SymbolNode, dimensions: Tuple[int, ...] = (2,)) -> Dict[str, Any]:
    """Kernel, stride, padding, dilation and groups of a (transposed) convolution of so many dimensions."""
    attrs = node.attrs
    kernel = numbers(attrs, "kernel", ())
    axes = len(kernel)
    if axes not in dimensions or attrs.get("layout") not in (None, _CONVOLUTIONS[axes][1]):
        supported = " or ".join(f"{count}-D, {_CONVOLUTIONS[count][1]}" for count in dimensions)
        raise Refused(f"kernel={kernel}, layout={attrs.get('layout')} (supported: {supported})")
    options: Dict[str, Any] = dict(
        channels=whole(attrs, "num_filter"), kernel_size=kernel,
                   strides=numbers(attrs, "stride", (1,) * axes), padding=numbers(attrs, "pad", (0,) * axes),
                   dilation=numbers(attrs, "dilate", (1,) * axes), groups=whole(attrs, "num_group", 1))
    check_windows(kernel, options["strides"], options["dilation"], options["groups"])
    if options["channels"] % options["groups"] or any(
            len(options[key]) != axes for key in ("strides", "padding", "dilation")):
        raise Refused(f"num_filter={options['channels']}, num_group={options['groups']}, stride={options['strides']} "
                      f"and kernel={kernel} do not fit together")
    return options


def _weight_and_bias(node: SymbolNode, weight_shape: Shape, units: int, no_bias: bool) -> Dict[str, str]:
    return _parameters(node, weight=weight_shape) if no_bias else _parameters(
        node, weight=weight_shape, bias=(units,))


def _convolution(node: SymbolNode) -> LayerPlan:
    options = _image_options(node, (1, 2))
    inside = node.inputs[0][0].channels
    shape = (options["channels"], inside and inside // options["groups"]) + options["kernel_size"]
    no_bias = node.attrs.get("no_bias", False)
    params = _weight_and_bias(node, shape, options["channels"], no_bias)
    kind = _CONVOLUTIONS[len(options["kernel_size"])][0]
    return LayerPlan(kind, dict(options, use_bias=not no_bias), params,
                     lambda arrays: {"in_channels": arrays["weight"].shape[1] * options["groups"]})


def _deconvolution(node: SymbolNode) -> LayerPlan:
    options = _image_options(node)
    if node.attrs.get("target_shape"):
        raise Refused(f"target_shape={node.attrs['target_shape']}")
    shape = (node.inputs[0][0].channels, options["channels"] // options["groups"]) + options["kernel_size"]
    no_bias = node.attrs.get("no_bias", True)
    params = _weight_and_bias(node, shape, options["channels"], no_bias)
    options.update(use_bias=not no_bias, output_padding=tuple(node.attrs.get("adj") or (0, 0)))
    return LayerPlan(nn.Conv2DTranspose, options, params, lambda arrays: {"in_channels": arrays["weight"].shape[0]})


def _dense(node: SymbolNode) -> LayerPlan:
    units, no_bias = whole(node.attrs, "num_hidden"), node.attrs.get("no_bias", False)
    params = _weight_and_bias(node, (units, None), units, no_bias)
    return LayerPlan(nn.Dense, dict(units=units, use_bias=not no_bias, flatten=node.attrs.get("flatten", True)),
                     params, lambda arrays: {"in_units": arrays["weight"].shape[1]})


def _batch_norm(node: SymbolNode) -> LayerPlan:
    attrs, shape = node.attrs, (node.inputs[0][0].channels if node.attrs.get("axis", 1) == 1 else None,)
    params = _parameters(node, gamma=shape, beta=shape, running_mean=shape, running_var=shape)
    return LayerPlan(nn.BatchNorm, dict(
        axis=attrs.get("axis", 1), momentum=attrs.get("momentum", 0.9), epsilon=attrs.get("eps", 1e-3),
        scale=not attrs.get("fix_gamma", True), use_global_stats=attrs.get("use_global_stats", False),
    ), params, lambda arrays: {"in_channels": arrays["gamma"].size})


def _leaky_relu(node: SymbolNode) -> Optional[LayerPlan]:
    kind = node.attrs.get("act_type", "leaky")
    if kind == "leaky":
        return LayerPlan(nn.LeakyReLU, dict(alpha=node.attrs.get("slope", 0.25)))
    if kind == "prelu":
        return LayerPlan(nn.PReLU, {}, _parameters(node, alpha=(None,)),
                         lambda arrays: {"in_channels": arrays["alpha"].size})
    if kind == "rrelu":
        raise Refused("act_type='rrelu'")
    return None


def _pooling(node: SymbolNode) -> Optional[LayerPlan]:
    attrs, kind = node.attrs, node.attrs.get("pool_type", "max")
    kernel, convention = numbers(attrs, "kernel", ()), attrs.get("pooling_convention", "valid")
    strides, pads = numbers(attrs, "stride", (1,) * len(kernel)), numbers(attrs, "pad", (0,) * len(kernel))
    if not attrs.get("global_pool", False):
        check_windows(kernel, strides)
    if kind not in ("max", "avg") or attrs.get("layout") not in (None, "NCHW"):
        return None
    if attrs.get("global_pool", False):
        return LayerPlan(nn.GlobalMaxPool2D if kind == "max" else nn.GlobalAvgPool2D, {})
    if len(kernel) != 2 or convention == "same":
        return None
    options = dict(pool_size=kernel, strides=strides, padding=pads, ceil_mode=convention == "full")
    if kind == "max":
        return LayerPlan(nn.MaxPool2D, options)
    return LayerPlan(nn.AvgPool2D, dict(options, count_include_pad=attrs.get("count_include_pad") is not False))


def _norm(kind: type, epsilon: float, **defaults: object) -> Callable[[SymbolNode], LayerPlan]:
    """A normalisation with a gamma and a beta, by statistics of the image itself."""
    def plan(node: SymbolNode) -> LayerPlan:
        attrs = dict(node.attrs)
        if attrs.pop("output_mean_var", False):
            raise Refused("output_mean_var=True")
        params = _parameters(node, gamma=(None,), beta=(None,))
        options = {key: attrs.get(key, default) for key, default in defaults.items()}
        size: Optional[Dict[str, Any]] = {} if kind is nn.GroupNorm else None
        return LayerPlan(kind, dict(options, epsilon=attrs.get("eps", epsilon), scale=True), params,
                         lambda arrays: {"in_channels": arrays["gamma"].size} if size is None else size)
    return plan


def _dropout(node: SymbolNode) -> LayerPlan:
    if node.attrs.get("mode", "training") != "training":
        raise Refused(f"mode={node.attrs['mode']!r}")
    return LayerPlan(nn.Dropout, dict(rate=node.attrs.get("p", 0.5), axes=tuple(node.attrs.get("axes") or ())))


#: Operator -> LayerPlan, or None where the operator itself is to be called.
LAYERS = {
    "Convolution": _convolution,
    "Deconvolution": _deconvolution,
    "FullyConnected": _dense,
    "BatchNorm": _batch_norm,
    "Activation": lambda node: LayerPlan(nn.Activation, dict(activation=node.attrs["act_type"])),
    "LeakyReLU": _leaky_relu,
    "Pooling": _pooling,
    "Flatten": lambda node: LayerPlan(nn.Flatten, {}),
    "Dropout": _dropout,
    "InstanceNorm": _norm(nn.InstanceNorm, 1e-3),
    "LayerNorm": _norm(nn.LayerNorm, 1e-5, axis=-1),
    "GroupNorm": _norm(nn.GroupNorm, 1e-5, num_groups=1),
}


def _softmax_output(node: SymbolNode) -> Call:
    # The label is for training only; what comes out is the softmax of the first input.
    for variable, _ in node.inputs[1:]:
        variable.is_label = True
    return "softmax", {"axis": 1 if node.attrs.get("multi_output", False) else -1}, 1


def _softmax_activation(node: SymbolNode) -> Call:
    # of detectors' classes at each place; the other mode is over whatever an image has, which the operator flattens
    if node.attrs.get("mode", "instance") != "channel":
        raise Refused("mode='instance' (supported: 'channel'); export the network with softmax")
    return "softmax", {"axis": 1}, None


def _same(node: SymbolNode) -> Call:
    return node.op, node.attrs, None


#: Operators called as they are, with the attributes of the file.
_PLAIN = [
    "Pooling", "LeakyReLU", "Concat", "clip", "relu", "sigmoid", "hard_sigmoid", "softmax", "log_softmax", "tanh",
    "exp", "log", "sqrt", "square", "abs", "negative", "elemwise_add", "elemwise_sub", "elemwise_mul", "elemwise_div",
    "add_n", "broadcast_add", "broadcast_sub", "broadcast_mul", "broadcast_div", "broadcast_maximum",
    "broadcast_minimum", "broadcast_like", "_plus_scalar", "_minus_scalar", "_rminus_scalar", "_mul_scalar",
    "_div_scalar", "_rdiv_scalar", "_power_scalar", "_maximum_scalar", "_minimum_scalar", "Reshape", "reshape_like",
    "expand_dims", "squeeze", "transpose", "SwapAxis", "Pad", "slice", "slice_axis", "slice_like", "SliceChannel",
    "repeat", "mean", "sum", "max", "min", "UpSampling", "identity", "_copy", "BlockGrad", "Cast", "ones_like",
    "zeros_like", "L2Normalization", "LRN", "_contrib_AdaptiveAvgPooling2D", "_contrib_BilinearResize2D",
    "_rpower_scalar",
    "rsqrt", "reciprocal", "fix", "round", "rint", "floor", "ceil", "sign", "erf", "sin", "cos",
    "tan", "arcsin", "arccos", "arctan", "sinh", "cosh", "arcsinh", "arccosh", "arctanh", "softsign", "logical_not",
    "where",
    "take", "tile", "broadcast_to", "depth_to_space", "space_to_depth", "reverse", "argmax", "argmin", "prod", "norm",
    "topk", "Crop", "stack", "broadcast_power", "_linalg_gemm2",
    *(f"broadcast_{name}" for name in ("equal", "not_equal", "greater", "greater_equal", "lesser", "lesser_equal",
                                       "logical_and", "logical_or", "logical_xor")),
    *(f"_{name}_scalar" for name in ("equal", "not_equal", "greater", "greater_equal", "lesser", "lesser_equal")),
]

FUNCTIONS = dict({op: _same for op in _PLAIN}, SoftmaxOutput=_softmax_output, Softmax=_softmax_output,
                 SoftmaxActivation=_softmax_activation)
