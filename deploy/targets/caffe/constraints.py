# SPDX-License-Identifier: MIT
"""What Caffe and caffe2ncnn can hold: a layer is written only where both compute what the model says.

Sources of the rules: Caffe's pooling rounds sizes up and drops a last window that would begin in the padding;
caffe2ncnn writes ncnn's full (rounding up) pooling, which drops none and whose averages never count padding, while
Caffe's count it. Of repeated parameters caffe2ncnn reads the first. It copies unknown layer types without parameters.
"""

from typing import Callable, Dict, Iterator, List

import numpy as np

from deploy import ir
from deploy.target import Problem
from deploy.targets.caffe.activations import activation, survives_printing
from deploy.targets.caffe.layers import LAYERS, OPERATIONS
from deploy.targets.ncnn.constraints import WINOGRAD_QMAX, of_node
from deploy.targets.ncnn.dilation import crashes

ADVICE = "; the target 'ncnn' writes .param and .bin without Caffe"

CHECKS: Dict[type, Callable] = {}


def constraint(*node_types: type) -> Callable[[Callable], Callable]:
    """Decorator that enters function(node, model), a generator of texts, for node types into `CHECKS`."""
    def store(function):
        CHECKS.update((node_type, function) for node_type in node_types)
        return function
    return store


def check(model: ir.Model) -> List[Problem]:
    """Every reason why a model cannot go through Caffe; what ncnn itself cannot do is told by its `guards`."""
    problems = []
    for node in model.nodes:
        texts = list(_node(node, model))
        problems += [Problem(node.path or node.name, text + ADVICE) for text in texts]
        problems += [Problem(node.path or node.name, text, fatal=False) for text in _warnings(node)]
    return problems


def _node(node, model) -> Iterator[str]:
    if type(node) not in LAYERS:
        yield f"Caffe has no layer for {type(node).__name__}"
        return
    for name in node.inputs + node.outputs:
        if len(model.shapes[name]) > 3:
            yield (f"blob {name!r} has the shape {tuple(model.shapes[name])}: ncnn's have 3 axes at most without the "
                   "batch")
    yield from CHECKS.get(type(node), _nothing)(node, model)
    function = ir.activation(node)
    if function is not None:
        yield from _function(function)


def _nothing(node, model):
    return ()


def _function(function):
    if activation(function, 1) is None:
        yield f"Caffe and caffe2ncnn have no common layer for {function.kind}{tuple(function.parameters)}"


def _warnings(node):
    """ncnn2int8 cannot be told to keep a layer away from Winograd's transform, as the direct writer does."""
    quantization = ir.integers(node)
    if (isinstance(node, ir.Convolution) and quantization is not None and quantization.weight_qmax > WINOGRAD_QMAX
            and of_node(node).winograd):
        yield (f"weight codes up to {quantization.weight_qmax}: ncnn's Winograd kernels may overflow; use "
               f"{WINOGRAD_QMAX} levels, or turn them off in the engine, or use the target 'ncnn'")


@constraint(ir.Convolution)
def _convolution(node, model):
    yield from _planes(node, model)
    if len(set(node.dilation)) > 1:
        yield f"dilation {_by(node.dilation)}: caffe2ncnn reads one for both axes"
    if node.pad_value:
        yield f"padding with {node.pad_value}, Caffe pads with 0"
    sizes, out = model.shapes[node.inputs[0]][1:], model.shapes[node.outputs[0]][1:]
    fit = [(size + 2 * pad - step * (length - 1) - 1) // stride + 1 for size, pad, step, length, stride in zip(
        sizes, node.pads[:2], node.dilation, node.weight.shape[2:], node.stride)]
    yield from _asymmetric(node, fit, out)
    if crashes(node, out):
        yield (f"dilation {_by(node.dilation)} and an output of {_by(out)}: ncnn's engine dies of such a convolution "
               "in float when packing is off")


@constraint(ir.Deconvolution)
def _deconvolution(node, model):
    yield from _planes(node, model)
    if len(set(node.dilation)) > 1:
        yield f"dilation {_by(node.dilation)}: caffe2ncnn reads one for both axes"
    sizes, out = model.shapes[node.inputs[0]][1:], model.shapes[node.outputs[0]][1:]
    fit = [stride * (size - 1) + step * (length - 1) + 1 - 2 * pad for size, pad, step, length, stride in zip(
        sizes, node.pads[:2], node.dilation, node.weight.shape[2:], node.stride)]
    yield from _asymmetric(node, fit, out)


def _by(sizes):
    """``3x2``."""
    return "x".join(str(size) for size in sizes)


def _sides(pads):
    """The four paddings in words."""
    return ", ".join(f"{side} {pad}" for side, pad in zip(("top", "left", "bottom", "right"), pads))


def _planes(node, model):
    if len(model.shapes[node.inputs[0]]) != 3:
        yield f"its input has the shape {model.shapes[node.inputs[0]]}, Caffe's layer takes (channels, height, width)"


def _asymmetric(node, fit, out):
    """`fit`: the size that Caffe's symmetric padding, equal to that at the top and left, would give."""
    if tuple(fit) != tuple(out):
        yield f"padding ({_sides(node.pads)}): Caffe pads both sides alike and would give {_by(fit)}, not {_by(out)}"


@constraint(ir.Pooling)
def _pooling(node, model):
    if node.global_:
        return
    sizes, out = model.shapes[node.inputs[0]][1:], tuple(model.shapes[node.outputs[0]][1:])
    before, after = node.pads[:2], node.pads[2:]
    rounded = tuple(-(-(size + 2 * pad - kernel) // stride) + 1 for size, pad, kernel, stride in zip(
        sizes, before, node.kernel, node.stride))
    starts = [(count - 1) * stride - pad for count, stride, pad in zip(rounded, node.stride, before)]
    if any(pad >= kernel for pad, kernel in zip(before, node.kernel)):
        yield f"padding {_by(before)} is not less than the window {_by(node.kernel)}, as Caffe wants it"
    elif rounded != out:
        yield (f"pooling {_by(sizes)} to {_by(out)} (window {_by(node.kernel)}, stride {_by(node.stride)}, padding "
               f"{_by(before)}): Caffe rounds up, to {_by(rounded)}")
    elif any(start >= size for start, size in zip(starts, sizes)):
        yield "the last window lies outside of the image: Caffe and caffe2ncnn treat it differently"
    counted = node.count_padding and any(pad and start + kernel > size for pad, start, kernel, size in zip(
        after, starts, node.kernel, sizes))
    if node.kind == "avg" and (any(before) or counted):
        yield f"an average over padding ({_sides(node.pads)}): Caffe counts it, caffe2ncnn does not"


@constraint(ir.Reduce)
def _reduce(node, model):
    if node.op not in ("mean", "max") or tuple(sorted(node.axes)) != (1, 2) or len(model.shapes[node.inputs[0]]) != 3:
        yield f"{node.op} over the axes {tuple(node.axes)}: Caffe has mean and max over height and width"


@constraint(ir.ScalarOp)
def _scalar(node, model):
    if node.op == "pow":
        if not survives_printing(node.scalar):
            yield f"power {node.scalar!r}: caffe2ncnn prints six decimals"
    elif node.op == "div":
        if node.scalar == 0 or abs(np.frexp(node.scalar)[0]) != 0.5:
            yield f"division by {node.scalar}: Caffe multiplies, which is the same for powers of two only"
    elif node.op not in ("add", "sub", "rsub", "mul"):
        yield f"{node.op!r} with a number is no layer of Caffe"


@constraint(ir.Elementwise)
def _elementwise(node, model):
    if node.op not in OPERATIONS:
        yield f"{node.op!r} of blobs: Caffe's Eltwise knows {', '.join(sorted(OPERATIONS))}"
    shapes = [tuple(model.shapes[name]) for name in node.inputs]
    if len(set(shapes)) > 1:
        yield f"blobs of the shapes {', '.join(str(s) for s in shapes)}: Caffe's Eltwise wants equal ones"


@constraint(ir.Permute)
def _permute(node, model):
    if len(node.order) != 3:
        yield f"axes in the order {tuple(node.order)}: caffe2ncnn knows the orders of three axes"
