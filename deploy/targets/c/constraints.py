# SPDX-License-Identifier: MIT
"""What the C source can hold, as rules for float networks and as objections to plans and models."""

from typing import Any, Iterable, Iterator, List, Tuple

from deploy.engine.integer import INT32_MAX, bound
from deploy.ir import (
    Activation,
    Affine,
    BatchNorm,
    Concat,
    Convolution,
    Crop,
    Elementwise,
    InnerProduct,
    Model,
    Node,
    Padding,
    Permute,
    Pooling,
    PReLU,
    Reshape,
    Resize,
    Rounding,
    Softmax,
    Spread,
    activation,
    consumers,
    integers,
)
from deploy.target import Problem
from quantize.spec import PerChannel, PerGroup, PerTensor, QuantSpec

NAME = "c"
KINDS = (Activation, Affine, BatchNorm, Concat, Convolution, Crop, Elementwise, InnerProduct, Padding, Permute, Pooling,
         PReLU, Reshape, Resize, Rounding, Spread)
FUNCTIONS = ("relu", "clip", "leaky_relu")
ELEMENTWISE = ("add", "sub", "max", "min")
LAYERS = ("Conv2D", "Dense", "Conv2DTranspose")
AXES = 3
BYTE = (-128, 255)  # codes fit into int8_t or uint8_t


def config_list() -> List[dict]:
    """8 bits for everything; images and outputs of ReLUs are unsigned."""
    return [{"op_types": list(LAYERS), "weight": "int8/channel", "input": "auto8"}]


def check_plan(layers: Iterable[Tuple[Any, Any]]) -> List[Problem]:
    """What the source cannot follow in a Plan; `layers` yields (PlanEntry, float Block)."""
    return [Problem(entry.path, text) for entry, _ in layers for text in _plan_problems(entry)]


def _plan_problems(entry) -> Iterator[str]:
    if entry.weight is None and entry.output is None:
        if entry.op_type in LAYERS:
            yield "stays float, but C source has integer layers only; give it formats (int8/channel, auto8)"
        return
    for operand, spec in (("input", entry.input), ("output", entry.output)):
        if spec is not None and not _holds(spec):
            yield (f"{operand} {spec}, but C source takes 8 bits or fewer with one scale, halves rounded away from "
                   f"zero; write \"{operand}\": \"auto8\"")
    if entry.weight is not None:
        yield from _weight_problems(entry)


def _holds(spec: QuantSpec) -> bool:
    return (spec.grid == "mid_tread" and spec.rounding == "half_away" and spec.granularity == PerTensor()
            and spec.qmin >= BYTE[0] and spec.qmax <= BYTE[1])


def _weight_problems(entry) -> Iterator[str]:
    spec = entry.weight
    if entry.winograd is not None:
        yield (f"its weight is rounded in the Winograd domain ({entry.winograd}), but C source stores kernels on a "
               "grid; write \"winograd\": \"none\"")
    if not (spec.signed and spec.symmetric) or spec.rounding != "half_away" or spec.bits > 8:
        yield (f"weight {spec}, but C source stores signed codes of 8 bits or fewer without a zero point; write for "
               "example int8/channel")
    if not (isinstance(spec.granularity, (PerTensor, PerGroup)) or spec.granularity == PerChannel(
            int(entry.op_type == "Conv2DTranspose"))):
        yield f"weight {spec}, but C source has one scale for each output; write int{spec.bits}/channel"


def check(model: Model) -> List[Problem]:
    """All problems of a settled model."""
    problems = [Problem(name, "there are several inputs; C source has one image") for name in model.inputs[1:]]
    read = consumers(model)[model.inputs[0]]
    if len(read) != 1 or not isinstance(read[0], Rounding):
        problems.append(Problem(model.inputs[0], "the image is read by what is no integer layer, or by integer layers "
                                                 "with different codes; quantize all layers that read it alike"))
    for node in model.nodes:
        problems += [Problem(node.path or node.name, text) for text in _node_problems(node, model)]
    return problems


def check_kinds(model: Model) -> List[Problem]:
    """Nodes and functions that C source has not, in float either."""
    return [Problem(node.path or node.name, text) for node in model.nodes for text in _kind_problems(node)]


def _kind_problems(node: Node) -> Iterator[str]:
    if isinstance(node, Softmax):
        yield "C source has no softmax: the largest score is the same class; leave it out of the network"
    elif not isinstance(node, KINDS):
        yield f"C source has no {type(node).__name__}"
    function = activation(node)
    if function is not None and function.kind not in FUNCTIONS:
        yield f"C source has no {function.kind} (it has: {', '.join(FUNCTIONS)})"


def _node_problems(node: Node, model: Model) -> Iterator[str]:
    kind = type(node).__name__
    yield from _kind_problems(node)
    if isinstance(node, (Convolution, InnerProduct)):
        yield from _layer_problems(node)
    if isinstance(node, Elementwise) and (node.op not in ELEMENTWISE or len(node.inputs) != 2 or len(
            {model.shapes[blob] for blob in node.inputs}) > 1):
        yield f"{node.op} of these blobs; C source has {', '.join(ELEMENTWISE)} of two blobs of one shape"
    if isinstance(node, Padding) and (node.mode != "constant" or node.value != 0):
        yield f"padding with {node.mode} {node.value:g}; C source pads with 0"
    if isinstance(node, Resize) and node.mode != "nearest":
        yield f"resizing with {node.mode}; C source repeats the nearest pixel"
    if isinstance(node, (Crop, Permute)) and len(model.shapes[node.inputs[0]]) > AXES:
        yield f"{kind} of {len(model.shapes[node.inputs[0]])} axes; C source has {AXES} at most"
    if isinstance(node, Concat) and node.axis != 0:
        yield f"a concatenation along axis {node.axis}; C source joins channels"


def _layer_problems(node) -> Iterator[str]:
    quantization = integers(node)
    if quantization is None:
        yield "is a float layer, but C source has integer layers only"
        return
    if isinstance(node, Convolution) and node.pad_value != 0:
        yield f"pads with {node.pad_value:g}; C source pads with 0"
    grid, largest = quantization.input, bound(node)
    if not -2 ** 15 <= grid.qmin <= grid.qmax < 2 ** 15:
        yield f"its input has codes {grid.qmin} to {grid.qmax}; 16 bits hold -32768 to 32767"
    if largest > INT32_MAX:
        yield f"its sums can reach {largest}, int32 ends at {INT32_MAX}. Use fewer bits for its weights"
