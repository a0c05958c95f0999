# SPDX-License-Identifier: MIT
"""Small models made by hand, of every kind of node."""

import numpy as np

from deploy import ir
from deploy.arithmetic import Arithmetic
from deploy.engine.operations import OPERATIONS
from deploy.targets.ncnn.arithmetic import NcnnArithmetic

RNG = np.random.RandomState()  # each set of models seeds it


def real(*shape, low=-1.0, high=1.0):
    """Uniform float32 numbers."""
    return RNG.uniform(low, high, shape).astype(np.float32)


def model(shapes, nodes, outputs=None):
    """A Model whose blobs have the shapes that the engine computes.

    Parameters
    ----------
    shapes : tuple or dict
        Shape of the input ``data``, or input -> shape.
    """
    shapes = shapes if isinstance(shapes, dict) else {"data": shapes}
    blobs = {name: np.zeros((1,) + shape, np.float32) for name, shape in shapes.items()}
    for node in nodes:
        found = OPERATIONS[type(node)](node, [blobs[name] for name in node.inputs], Arithmetic())
        blobs.update(zip(node.outputs, found if isinstance(found, tuple) else (found,)))
    return ir.Model(tuple(shapes), outputs or nodes[-1].outputs, tuple(nodes),
                    {name: blob.shape[1:] for name, blob in blobs.items()})


def inputs(case, count=2):
    """A batch for each input of a model."""
    rng = np.random.RandomState(11)
    return {name: rng.uniform(-2, 2, (count,) + case.shapes[name]).astype(np.float32) for name in case.inputs}


def quantization(weight, groups=1, largest=4.0, qmax=127):
    """The quantization of a weight whose inputs reach to `largest`; one scale for each group of a grouped one."""
    rows = weight.reshape((len(weight) if groups == 1 else groups), -1)
    scale = np.repeat((np.abs(rows).max(axis=1) / qmax).astype(np.float32), len(weight) // len(rows))
    return ir.Quantization(ir.Grid(float(np.float32(largest / 127))), NcnnArithmetic().quantize_weight(
        weight, scale, qmax), scale, qmax)


def conv(name, source, shape, groups=1, bias=True, largest=None, qmax=127, **options):
    """A convolution; quantized if `largest`, the range of its input, is given."""
    weight = real(*shape)
    if largest:
        options["quantization"] = quantization(weight, groups, largest, qmax)
    return ir.Convolution(name, (source,), (name,), weight=weight, bias=real(shape[0]) if bias else None, groups=groups,
                          **options)


def dense(name, source, shape, bias=True, largest=None, **options):
    """An InnerProduct; quantized if `largest` is given."""
    weight = real(*shape)
    if largest:
        options["quantization"] = quantization(weight, 1, largest)
    return ir.InnerProduct(name, (source,), (name,), weight=weight, bias=real(shape[0]) if bias else None, **options)


def one(node_type, blobs, *sources, **fields):
    """A model of one node."""
    sources = sources or ("data",)
    return model(blobs, [node_type("x", sources, ("x",), **fields)])


FUNCTIONS = (ir.Function("relu"), ir.Function("leaky_relu", (0.1,)), ir.Function("clip", (-0.3, 1 / 3)),
             ir.Function("clip", (0, float("inf"))), ir.Function("sigmoid"), ir.Function("tanh"),
             ir.Function("hard_sigmoid", (0.2, 0.5)), ir.Function("hard_swish", (1 / 6, 0.5)), ir.Function("swish"),
             ir.Function("softplus"), ir.Function("gelu"), ir.Function("elu", (0.7,)), ir.Function("exp"),
             ir.Function("abs"), ir.Function("square"), ir.Function("erf"), ir.Function("floor"),
             ir.Function("ceil"), ir.Function("sin"), ir.Function("cos"))


def _activations():
    cases = {f"{f.kind}{f.parameters}": one(ir.Activation, (3, 4, 5), function=f) for f in FUNCTIONS}
    cases["sqrt"] = model((3, 4, 5), [ir.Activation("a", ("data",), ("a",), function=ir.Function("square")),
                                      ir.Activation("x", ("a",), ("x",), function=ir.Function("sqrt"))])
    for kind in ("rsqrt", "log"):
        cases[kind] = model((3, 4, 5), [ir.Activation("a", ("data",), ("a",), function=ir.Function("exp")),
                                        ir.Activation("x", ("a",), ("x",), function=ir.Function(kind))])
    for f in FUNCTIONS:
        cases["conv " + f.kind + str(f.parameters)] = model((3, 6, 5), [conv("x", "data", (8, 3, 3, 3), activation=f)])
    cases["dense swish"] = model((12,), [dense("x", "data", (8, 12), activation=ir.Function("swish"))])
    cases["prelu"] = one(ir.PReLU, (3, 4, 5), slope=real(3))
    cases["prelu one"] = one(ir.PReLU, (3, 4, 5), slope=real(1))
    return cases


def _convolutions():
    return {
        "conv": model((5, 9, 8), [conv("x", "data", (12, 5, 3, 3), pads=(1, 1, 1, 1))]),
        "conv wide": model((4, 9, 8), [conv("x", "data", (6, 4, 3, 5), stride=(2, 1), dilation=(1, 2), bias=False,
                                            pads=(1, 4, 0, 2), pad_value=0.7)]),
        "conv depthwise": model((8, 9, 8), [conv("x", "data", (8, 1, 3, 3), groups=8, pads=(0, 1, 2, 0))]),
        "conv multiplied": model((4, 9, 8), [conv("x", "data", (12, 1, 3, 3), groups=4)]),
        "conv grouped": model((8, 9, 8), [conv("x", "data", (12, 4, 3, 3), groups=2)]),
        "deconv": one(ir.Deconvolution, (6, 5, 4), weight=real(6, 3, 3, 4), bias=real(3), stride=(2, 3),
                      dilation=(2, 1), pads=(1, 0, 2, 1), output_pads=(1, 2), activation=ir.Function("relu")),
        "deconv grouped": one(ir.Deconvolution, (6, 5, 4), weight=real(6, 4, 4, 4), stride=(2, 2), pads=(1, 1, 1, 1),
                              groups=3, activation=ir.Function("tanh")),
        "deconv depthwise": one(ir.Deconvolution, (6, 5, 4), weight=real(6, 1, 4, 4), bias=real(6), stride=(2, 2),
                                groups=6, output_pads=(0, 1)),
        "dense": model((12,), [dense("x", "data", (7, 12))]),
        "dense of maps": model((3, 4, 5), [dense("x", "data", (7, 60), bias=False)]),
        "dense of rows": model((4, 5), [dense("x", "data", (7, 20))]),
        "dense of one row": model((1, 20), [dense("d", "data", (7, 20)), ir.Softmax("x", ("d",), ("x",))]),
        "batch norm": one(ir.BatchNorm, (6, 4, 5), gamma=real(6), beta=real(6), mean=real(6),
                          variance=real(6, low=0.1, high=2), epsilon=1.234567e-3),
        "batch norm flat": one(ir.BatchNorm, (6,), gamma=real(6), beta=real(6), mean=real(6),
                               variance=real(6, low=0.1, high=2)),
        "affine": one(ir.Affine, (6, 4, 5), scale=real(6), shift=real(6)),
        "affine scale": one(ir.Affine, (6, 4, 5), scale=real(6)),
    }


def _poolings():
    cases = {}
    for kind in ("max", "avg"):
        for ceil in (False, True):
            for count in (False, True):
                name = f"{kind} {'ceil' if ceil else 'floor'}{' counted' if count else ''}"
                common = dict(kind=kind, ceil=ceil, count_padding=count)
                cases[name] = one(ir.Pooling, (3, 12, 11), kernel=(3, 3), stride=(2, 2), pads=(1, 1, 1, 1), **common)
                cases[name + " odd"] = one(ir.Pooling, (3, 12, 11), kernel=(3, 2), stride=(2, 2), pads=(1, 0, 2, 0),
                                           **common)
                cases[name + " bare"] = one(ir.Pooling, (3, 12, 11), kernel=(3, 2), stride=(2, 2), **common)
        cases[kind + " global"] = one(ir.Pooling, (8, 5, 4), kind=kind, global_=True)
    cases["global, dense"] = model((8, 5, 4), [
        ir.Pooling("p", ("data",), ("p",), kind="avg", global_=True),
        ir.Reshape("r", ("p",), ("r",), shape=(8,)), dense("x", "r", (5, 8))])
    cases["squeeze and excite"] = model((8, 5, 4), [
        ir.Pooling("p", ("data",), ("p",), kind="avg", global_=True),
        conv("s", "p", (4, 8, 1, 1), activation=ir.Function("relu")),
        conv("e", "s", (8, 4, 1, 1), activation=ir.Function("sigmoid")),
        ir.Elementwise("x", ("data", "e"), ("x",), op="mul")])
    return cases


def _elementwise():
    pair, three = {"data": (3, 4, 5), "other": (3, 4, 5)}, {"data": (3, 4, 5), "other": (3, 1, 1), "last": (5,)}
    cases = {op: one(ir.Elementwise, pair, "data", "other", op=op) for op in ("add", "sub", "mul", "max", "min")}
    for op, shape in (("max", (3, 1, 1)), ("min", (1, 4, 5)), ("max", (1, 1, 5)), ("min", (3, 4, 5))):
        cases[f"{op} {shape}"] = model((3, 4, 5), [ir.Constant("c", ("data",), ("c",), value=real(*shape)),
                                                   ir.Elementwise("x", ("data", "c"), ("x",), op=op)])
    cases["max of rows"] = model((4, 5), [ir.Constant("c", ("data",), ("c",), value=real(4, 1)),
                                          ir.Elementwise("x", ("c", "data"), ("x",), op="max")])
    cases["max of numbers"] = model((5,), [ir.Constant("c", ("data",), ("c",), value=real(5)),
                                           ir.Elementwise("x", ("c", "data"), ("x",), op="max")])
    cases["three"] = one(ir.Elementwise, three, "data", "other", "last", op="add")
    cases["short"] = one(ir.Elementwise, {"data": (5,), "other": (5, 4, 5)}, "data", "other", op="sub")
    cases["square by mul"] = one(ir.Elementwise, (3, 4, 5), "data", "data", op="mul")
    cases["div"] = model((3, 4, 5), [ir.Activation("e", ("data",), ("e",), function=ir.Function("exp")),
                                     ir.Elementwise("x", ("data", "e"), ("x",), op="div")])
    for op in ("add", "sub", "mul", "div", "max", "min", "rsub"):
        cases["scalar " + op] = one(ir.ScalarOp, (3, 4, 5), op=op, scalar=1 / 3)
    exp = ir.Activation("e", ("data",), ("e",), function=ir.Function("exp"))
    for op in ("pow", "rdiv"):
        cases["scalar " + op] = model((3, 4, 5), [exp, ir.ScalarOp("x", ("e",), ("x",), op=op, scalar=0.25)])
    return cases


def _shapes():
    cases = {
        "concat": one(ir.Concat, {"data": (3, 4, 5), "other": (2, 4, 5)}, "data", "other", axis=0),
        "concat rows": one(ir.Concat, {"data": (3, 4, 5), "other": (3, 2, 5)}, "data", "other", axis=1),
        "slice": model((7, 4, 5), [ir.Slice("s", ("data",), ("s_0", "s_1", "s_2"), axis=0, sizes=(2, 4, 1))],
                       ("s_0", "s_1", "s_2")),
        "slice columns": model((3, 4, 5), [ir.Slice("s", ("data",), ("s_0", "s_1"), axis=2, sizes=(2, 3))],
                               ("s_0", "s_1")),
        "crop": one(ir.Crop, (6, 7, 8), begin=(1, 0, 2), end=(5, 6, 8)),
        "crop flat": one(ir.Crop, (8,), begin=(1,), end=(5,)),
        "reshape": one(ir.Reshape, (6, 4, 5), shape=(20, 6)),
        "flatten": one(ir.Reshape, (6, 4, 5), shape=(120,)),
        "unflatten": one(ir.Reshape, (120,), shape=(6, 4, 5)),
        "shuffle": model((6, 4, 5), [ir.Reshape("a", ("data",), ("a",), shape=(2, 3, 4, 5)),
                                     ir.Permute("b", ("a",), ("b",), order=(1, 0, 2, 3)),
                                     ir.Reshape("x", ("b",), ("x",), shape=(6, 4, 5))]),
        "pad": one(ir.Padding, (3, 4, 5), pads=(1, 2, 0, 3), value=0.3),
        "pad edge": one(ir.Padding, (3, 4, 5), pads=(1, 2, 0, 3), mode="edge"),
        "pad reflect": one(ir.Padding, (3, 4, 5), pads=(1, 2, 0, 3), mode="reflect"),
        "pad channels": one(ir.Padding, (3, 4, 5), pads=(1, 0, 0, 0), channels=(1, 2)),
        "softmax": one(ir.Softmax, (9,), axis=0),
        "softmax channels": one(ir.Softmax, (6, 4, 5), axis=0),
        "softmax columns": one(ir.Softmax, (6, 4, 5), axis=2),
    }
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        cases["permute " + "".join(map(str, order))] = one(ir.Permute, (2, 3, 4), order=order)
    cases["permute 10"] = one(ir.Permute, (3, 4), order=(1, 0))
    for mode, size, corners in (("nearest", (8, 15), False), ("nearest", (7, 4), False), ("bilinear", (7, 12), False),
                                ("bilinear", (7, 12), True), ("bilinear", (3, 2), True)):
        cases[f"{mode} {size} {corners}"] = one(ir.Resize, (3, 4, 5), size=size, mode=mode,
                                                            align_corners=corners)
    for op in ("mean", "sum", "max", "min"):
        for axes in ((0,), (1, 2), (2,), (0, 1, 2)):
            for keepdims in (False, True):
                if len(axes) < 3 or keepdims:
                    cases[f"{op} {axes} {keepdims}"] = one(ir.Reduce, (3, 4, 5), op=op, axes=axes,
                                                                       keepdims=keepdims)
    return cases


def float_cases():
    """Name -> Model, at least one for each kind of node and each of its options."""
    RNG.seed(7)
    return {**_activations(), **_convolutions(), **_poolings(), **_elementwise(), **_shapes()}


def quantized_cases():
    """Name -> Model; all layers with weights compute in integers."""
    RNG.seed(3)
    relu, clip = ir.Function("relu"), ir.Function("clip", (0.0, 6.0))
    same = {"pads": (1, 1, 1, 1)}
    return {
        "chain": model((3, 10, 9), [
            conv("c1", "data", (16, 3, 3, 3), largest=2, activation=relu, **same),
            conv("c2", "c1", (16, 1, 3, 3), groups=16, largest=6, activation=clip, stride=(2, 2), **same),
            conv("c3", "c2", (9, 16, 1, 1), largest=6, bias=False),
            ir.Pooling("p", ("c3",), ("p",), kind="avg", global_=True), dense("x", "p", (10, 9), largest=2)]),
        "fire": model((6, 9, 9), [
            conv("squeeze", "data", (5, 6, 1, 1), largest=2, activation=relu),
            conv("e1", "squeeze", (8, 5, 1, 1), largest=5, activation=relu),
            conv("e3", "squeeze", (8, 5, 3, 3), largest=5, activation=relu, **same),
            ir.Concat("cat", ("e1", "e3"), ("cat",)),
            ir.Pooling("p", ("cat",), ("p",), kernel=(3, 3), stride=(2, 2), ceil=True),
            conv("c", "p", (7, 16, 3, 3), largest=9, qmax=31), dense("x", "c", (5, 28), largest=30)]),
        "residual": model((12, 8, 8), [
            conv("c1", "data", (12, 12, 3, 3), largest=2, activation=relu, **same),
            conv("c2", "c1", (12, 12, 3, 3), largest=6, **same),
            ir.Elementwise("add", ("c2", "data"), ("add",)),
            ir.Activation("r", ("add",), ("r",), function=relu),
            conv("c3", "r", (8, 12, 3, 3), largest=20, stride=(2, 2), activation=ir.Function("leaky_relu", (0.1,))),
            conv("x", "c3", (8, 8, 1, 1), largest=60, bias=False)]),
        "grouped": model((8, 9, 8), [
            conv("c1", "data", (12, 4, 3, 3), groups=2, largest=2, activation=relu),
            conv("c2", "c1", (6, 6, 3, 2), groups=2, largest=6),
            conv("x", "c2", (6, 6, 1, 1), largest=30)]),
        "mixed": model((8, 9, 8), [
            conv("c1", "data", (8, 8, 1, 1), largest=2, activation=ir.Function("hard_sigmoid", (0.2, 0.5))),
            conv("c2", "c1", (8, 8, 1, 3), largest=3, activation=ir.Function("hard_swish", (1 / 6, 0.5))),
            conv("c3", "c2", (8, 1, 5, 5), groups=8, largest=8, pads=(2, 2, 2, 2)),
            ir.Pooling("p", ("c3",), ("p",), kind="avg", global_=True),
            conv("s", "p", (8, 8, 1, 1), largest=4), ir.Elementwise("m", ("c3", "s"), ("m",), op="mul"),
            conv("x", "m", (6, 8, 2, 2), largest=40)]),
    }
