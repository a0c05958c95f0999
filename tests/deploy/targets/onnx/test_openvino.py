# SPDX-License-Identifier: MIT
"""The same file in OpenVINO: its outputs and classes, beside the integer engine's."""

import numpy as np
import pytest

from deploy import engine, ir
from deploy.target import find
from deploy.targets.onnx import writer
from deploy.targets.onnx.arithmetic import OrtArithmetic

openvino = pytest.importorskip("openvino")


def model():
    """Convolution, ReLU, residual addition, average, fully connected."""
    random, target = np.random.RandomState(0), find("onnx")

    def quantization(weight, grid):
        scale = (np.abs(weight).reshape(len(weight), -1).max(axis=1) / 127).astype(np.float32)
        return ir.Quantization(grid, target.arithmetic.quantize_weight(weight, scale, 127), scale)

    def rounding(blob, scale, low):
        return ir.Rounding(blob + ".r", (blob,), (blob + ".r",), grid=ir.Grid(scale, 0, low, low + 255))
    signed, positive = ir.Grid(0.03125, 0, -128, 127), ir.Grid(0.05, 0, 0, 255)
    weights = [random.randn(*shape).astype(np.float32) * 0.3 for shape in ((8, 3, 3, 3), (8, 8, 3, 3), (10, 8))]
    nodes = [
        rounding("data", 0.03125, -128),
        ir.Convolution("a", ("data.r",), ("a",), weight=weights[0], bias=random.randn(8).astype(np.float32),
                       pads=(1, 1, 1, 1), quantization=quantization(weights[0], signed),
                       activation=ir.Function("relu")),
        rounding("a", 0.05, 0),
        ir.Convolution("b", ("a.r",), ("b",), weight=weights[1], pads=(1, 1, 1, 1),
                       quantization=quantization(weights[1], positive)),
        rounding("b", 0.2, -128), ir.Elementwise("sum", ("a.r", "b.r"), ("sum",), op="add"), rounding("sum", 0.2, -128),
        ir.Pooling("mean", ("sum.r",), ("mean",), kind="avg", global_=True), rounding("mean", 0.05, -128),
        ir.InnerProduct("out", ("mean.r",), ("out",), weight=weights[2],
                        quantization=quantization(weights[2], ir.Grid(0.05, 0, -128, 127)))]
    shapes = {"data": (3, 12, 12), "a": (8, 12, 12), "b": (8, 12, 12), "sum": (8, 12, 12), "mean": (8, 1, 1)}
    shapes.update({blob + ".r": shape for blob, shape in shapes.items()}, out=(10,))
    return ir.Model(("data",), ("out",), tuple(nodes), shapes)


def test_outputs_and_classes_are_the_engines(tmp_path):
    images = np.random.RandomState(1).randn(64, 3, 12, 12).astype(np.float32)
    path, = writer.write(model(), tmp_path, "net")
    core = openvino.Core()
    compiled = core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(images)[compiled.output(0)]
    wanted = engine.run(model(), images, arithmetic=OrtArithmetic()).outputs[0]
    difference = np.abs(found - wanted).max(axis=1)
    assert difference.max() < 0.05 * np.abs(wanted).max()
    # a class may change only where the two largest scores are closer than what outputs differ by
    first, second = -np.sort(-wanted, axis=1)[:, :2].T
    clear = first - second > 2 * difference
    assert clear.sum() > 20 and (found.argmax(axis=1) == wanted.argmax(axis=1))[clear].all()
