# SPDX-License-Identifier: MIT
"""Small networks on which ncnn on ARM is compared: every layer kind, and inputs that tell roundings apart.

The same numbers on every machine: `numpy.random.RandomState` and what NumPy rounds correctly.
"""

import itertools

import numpy as np

from deploy import ir
from tests.deploy.targets.ncnn import models

FUNCTIONS = {"none": None, "relu": ir.Function("relu"), "relu6": ir.Function("clip", (0.0, 6.0)),
             "leaky": ir.Function("leaky_relu", (0.1,)), "hard_swish": ir.Function("hard_swish", (1 / 6, 0.5)),
             "hard_sigmoid": ir.Function("hard_sigmoid", (0.2, 0.5))}
SAME = {"pads": (1, 1, 1, 1)}
# inputs, outputs, kernel, groups, others: each kernel of ncnn's, packed and not
CONVOLUTIONS = {
    "few inputs": (3, 8, (3, 3), 1, {}), "1x1": (8, 16, (1, 1), 1, {}), "3x3": (8, 12, (3, 3), 1, SAME),
    "odd outputs": (8, 7, (1, 1), 1, {}), "odd outputs 3x3": (8, 7, (3, 3), 1, {}),
    "wide": (6, 10, (1, 5), 1, {"pads": (0, 2, 0, 2)}),
    "groups": (16, 16, (3, 3), 2, {}), "groups of 6": (8, 24, (3, 3), 4, {"stride": (2, 2)}),
    "groups of 3": (4, 12, (3, 3), 4, {}), "depthwise": (8, 8, (3, 3), 8, SAME),
    "depthwise, stride 2": (8, 8, (3, 3), 8, {"stride": (2, 2), **SAME}),
    "depthwise 5x5": (16, 16, (5, 5), 16, {"pads": (2, 2, 2, 2)}),
    "depthwise, dilated": (16, 16, (3, 3), 16, {"dilation": (2, 2), "pads": (2, 2, 2, 2)}),
    "depthwise, two strides": (8, 8, (3, 3), 8, {"stride": (1, 2)}), "depthwise of 6": (6, 6, (3, 3), 6, SAME),
    "depthwise of 6, stride 2": (6, 6, (3, 3), 6, {"stride": (2, 2), **SAME}),
    "depthwise 5x5 of 12": (12, 12, (5, 5), 12, {"pads": (2, 2, 2, 2)}), "depthwise of 5": (5, 5, (2, 3), 5, {}),
}
SIZES = ((8, 5, 4), (16, 7, 7), (7, 7, 7), (7, 13, 11), (4, 3, 3), (7, 1, 2), (12,), (13,), (8, 5), (7, 9), (37,))


def _convolutions():
    """Each convolution with each activation, in front of a layer that reads its codes, and of nobody."""
    cases = {}
    for (name, (inputs, outputs, kernel, groups, options)), activation, bias in itertools.product(
            CONVOLUTIONS.items(), FUNCTIONS, (True, False)):
        if not bias and activation not in ("none", "relu"):
            continue
        height, width = (int(models.RNG.randint(7, 14)) for _ in range(2))
        first = models.conv("a", "data", (outputs, inputs // groups) + kernel, groups, bias, 2.0,
                            activation=FUNCTIONS[activation], **options)
        what = f"{name}, {activation}{'' if bias else ', no bias'}"
        cases[what] = models.model((inputs, height, width), [first])
        cases[what + ", handed on"] = models.model((inputs, height, width), [
            first, models.conv("b", "a", (9, outputs, 1, 1), largest=3.0)])
    for inputs, outputs, activation in itertools.product((7, 40), (5, 10, 12, 16, 24), FUNCTIONS):
        cases[f"dense {inputs} {outputs} {activation}"] = models.model((inputs,), [
            models.dense("x", "data", (outputs, inputs), largest=2.0, activation=FUNCTIONS[activation])])
    return cases


def _floats():
    """Float layers that are reproduced."""
    real, one, cases = models.real, models.one, {}
    for size in SIZES:
        channels = size[0]
        cases[f"batch norm {size}"] = one(ir.BatchNorm, size, gamma=real(channels), beta=real(channels),
                                          mean=real(channels), variance=real(channels, low=0.1, high=2))
        cases[f"affine {size}"] = one(ir.Affine, size, scale=real(channels), shift=real(channels))
        for kind in ("hard_swish", "hard_sigmoid"):
            cases[f"{kind} {size}"] = one(ir.Activation, size, function=FUNCTIONS[kind])
        if len(size) < 3:
            continue
        for kind in ("avg", "max"):
            cases[f"global {kind} {size}"] = one(ir.Pooling, size, kind=kind, global_=True)
            for ceil, count in itertools.product((False, True), repeat=2) if min(size) > 2 else ():
                cases[f"{kind} {size} {ceil} {count}"] = one(
                    ir.Pooling, size, kernel=(3, 3), stride=(2, 2), kind=kind, ceil=ceil, count_padding=count, **SAME)
    return cases


def _coarse(case, steps=32):
    """A network all of whose scales are powers of two, whose biases are multiples of the products': exact halves."""
    nodes = []
    for node in case.nodes:
        quantization = node.quantization
        scale = (2.0 ** np.round(np.log2(quantization.weight_scale))).astype(np.float32)
        grid = ir.Grid(1 / steps if node.inputs[0] == "data" else 1 / 4)
        bias = None if node.bias is None else (np.round(node.bias * 64) / 64).astype(np.float32)
        nodes.append(_replaced(node, ir.Quantization(grid, quantization.weight_q, scale), bias))
    return ir.Model(case.inputs, case.outputs, tuple(nodes), case.shapes)


def _largest(case):
    """A network whose weights all are 127: the largest sums there can be."""
    nodes = [_replaced(node, ir.Quantization(node.quantization.input, np.full_like(node.quantization.weight_q, 127),
                                             node.quantization.weight_scale), node.bias) for node in case.nodes]
    return ir.Model(case.inputs, case.outputs, tuple(nodes), case.shapes)


def _replaced(node, quantization, bias):
    values = {**vars(node), "quantization": quantization, "bias": bias}
    return type(node)(**values)


def networks():
    """Name -> Model of several layers."""
    return {f"network {name}": case for name, case in models.quantized_cases().items()}


def quantized():
    """Name -> Model; all layers with weights compute in integers, and every output is reproduced."""
    models.RNG.seed(21)
    cases = {**_convolutions(), **networks()}
    models.RNG.seed(22)
    chosen = [name for name in cases if "handed on" in name and "hard" not in name]
    cases.update({f"halves: {name}": _coarse(cases[name]) for name in chosen})
    cases.update({f"largest sums: {name}": _largest(cases[name]) for name in chosen if "relu6" not in name})
    return cases


def floats():
    """Name -> Model of one float layer that is reproduced."""
    models.RNG.seed(23)
    return _floats()


def everything():
    """All of them."""
    return {**quantized(), **floats()}


def images(name, case, count=3):
    """A batch for a case: any numbers, or multiples of half a step for `halves`, or the largest codes."""
    x = models.inputs(case, count)["data"]
    if name.startswith("halves"):
        return (np.round(x * 64) / 64).astype(np.float32)
    if name.startswith("largest"):
        return np.where(x > 0, np.float32(9), np.float32(-9))
    if name in ("1x1, none", "1x1, none, handed on"):
        x.reshape(-1)[:6] = [np.nan, np.inf, -np.inf, 3e38, -3e38, 0]
    return x
