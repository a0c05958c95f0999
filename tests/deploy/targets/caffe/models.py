# SPDX-License-Identifier: MIT
"""Small models for Caffe: those of the ncnn tests that Caffe can hold, and some with its own corners."""

import numpy as np

from deploy import ir
from deploy.targets.caffe.constraints import check
from tests.deploy.targets.ncnn.models import conv, dense, float_cases, inputs, model, one, quantization, real

__all__ = ["accepted", "conv", "dense", "inputs", "model", "one", "own_cases", "quantization", "quantized_model",
           "real", "tiny"]


def own_cases():
    """Geometry that is no trouble although it looks like it, and what the ncnn tests have no model of."""
    floor = dict(kernel=(3, 3), stride=(2, 2))
    return {
        "floor that fits": one(ir.Pooling, (3, 9, 11), kind="max", **floor),
        "padded floor that fits": one(ir.Pooling, (3, 7, 9), kind="max", pads=(1, 1, 1, 1), **floor),
        "pads that no window needs": one(ir.Pooling, (3, 9, 11), kind="max", pads=(1, 1, 2, 2), **floor),
        "average with a partial window": one(ir.Pooling, (3, 8, 10), kind="avg", ceil=True, count_padding=True,
                                             **floor),
        "convolution with a bottom pad that no window needs": model((3, 4, 4), [
            conv("x", "data", (4, 3, 2, 2), stride=(2, 2), pads=(1, 1, 2, 2))]),
        "rectangles": model((3, 9, 8), [conv("x", "data", (4, 3, 3, 1), stride=(2, 1), pads=(1, 0, 1, 0))]),
        "dilation": model((3, 9, 8), [conv("x", "data", (4, 3, 3, 3), dilation=(2, 2), pads=(2, 2, 2, 2))]),
        "deconvolution whose output pads undo its pads": one(
            ir.Deconvolution, (4, 3, 3), weight=real(4, 2, 4, 3), bias=real(2), stride=(2, 2), pads=(1, 1, 2, 2),
            output_pads=(1, 1)),
        "relu6": model((3, 5, 5), [conv("x", "data", (4, 3, 3, 3), activation=ir.Function("clip", (0.0, 6.0)))]),
        "scalar div by a power of two": one(ir.ScalarOp, (3, 4, 5), op="div", scalar=-0.25),
        "slope with nine digits": one(ir.Activation, (3, 4, 5), function=ir.Function("leaky_relu", (0.123456789,))),
    }


def accepted():
    """Name -> Model that Caffe can hold."""
    return {name: case for name, case in {**float_cases(), **own_cases()}.items() if not check(case)}


def tiny():
    """A network of a few hundred numbers, the same on every machine."""
    def numbers(*shape):
        return (np.arange(np.prod(shape)).reshape(shape) % 7 - 3).astype(np.float32) / 8

    return ir.Model(("data",), ("prob",), (
        ir.Convolution("conv", ("data",), ("conv",), "features.0", weight=numbers(4, 3, 3, 3), bias=numbers(4),
                       stride=(2, 1), pads=(1, 1, 1, 1), activation=ir.Function("clip", (0.0, 6.0))),
        ir.Convolution("dw", ("conv",), ("dw",), "features.1", weight=numbers(4, 1, 3, 3), groups=4,
                       pads=(1, 1, 1, 1)),
        ir.BatchNorm("bn", ("dw",), ("bn",), "features.2", gamma=numbers(4) + 1, beta=numbers(4), mean=numbers(4),
                     variance=numbers(4) + 1, epsilon=1e-5),
        ir.Activation("leaky", ("bn",), ("leaky",), "features.3", function=ir.Function("leaky_relu", (0.1,))),
        ir.Elementwise("sub", ("leaky", "conv"), ("sub",), op="sub"),
        ir.Pooling("pool", ("sub",), ("pool",), "features.4", kernel=(2, 2), stride=(2, 2)),
        ir.Pooling("gap", ("pool",), ("gap",), "features.5", kind="avg", global_=True),
        ir.InnerProduct("fc", ("gap",), ("fc",), "output", weight=numbers(5, 4), bias=numbers(5)),
        ir.Softmax("prob", ("fc",), ("prob",)),
    ), {"data": (3, 7, 4), "conv": (4, 4, 4), "dw": (4, 4, 4), "bn": (4, 4, 4), "leaky": (4, 4, 4), "sub": (4, 4, 4),
        "pool": (4, 2, 2), "gap": (4, 1, 1), "fc": (5,), "prob": (5,)}, {"name": "tiny"})


def quantized_model():
    """Convolutions of every kind, all of them in integers; 31 levels where ncnn may use Winograd."""
    relu, relu6 = ir.Function("relu"), ir.Function("clip", (0.0, 6.0))
    return model((3, 12, 12), [
        conv("c", "data", (8, 3, 3, 3), largest=2.0, qmax=31, activation=relu, pads=(1, 1, 1, 1)),
        conv("dw", "c", (8, 1, 3, 3), groups=8, largest=3.0, activation=relu6, pads=(1, 1, 1, 1), stride=(2, 2)),
        conv("pw", "dw", (16, 8, 1, 1), largest=6.0, activation=relu),
        conv("side", "pw", (16, 16, 1, 1), largest=5.0),
        ir.Elementwise("sum", ("side", "pw"), ("sum",), op="add"),
        ir.Activation("relu", ("sum",), ("relu",), function=relu),
        ir.Pooling("gap", ("relu",), ("gap",), kind="avg", global_=True),
        ir.Reshape("flat", ("gap",), ("flat",), shape=(16,)),
        dense("fc", "flat", (10, 16), largest=4.0)])
