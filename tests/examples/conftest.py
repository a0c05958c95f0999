# SPDX-License-Identifier: MIT
"""The command run in this process, and small networks and image folders for it."""

import collections

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import simulate_quantization

Run = collections.namedtuple("Run", "code out err")
CLASSES = 7


@pytest.fixture
def cli(capfd):
    """function(*arguments) -> Run: what `simulate_quantization.main` returned and the process wrote."""
    def run(*arguments):
        capfd.readouterr()
        try:
            code = simulate_quantization.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        return Run(code, *capfd.readouterr())
    return run


@pytest.fixture
def small_onnx(tmp_path):
    """function(**changes) -> path of an ONNX file: convolution, grouped convolution, dense; any input size.

    Parameters
    ----------
    weights : dict
        Initializer name -> array, instead of the random ones.
    metadata : str
        Text of the metadata entry ``preprocessing``.
    channels : int
        Of the input.
    pooled : bool
        False: the dense layer takes 16x16 images only.
    """
    def make(weights=None, metadata="", channels=3, pooled=True):
        path = tmp_path / "small.onnx"
        onnx.save(_model(dict(_weights(channels, pooled), **(weights or {})), metadata, channels, pooled), str(path))
        return path
    return make


def _weights(channels, pooled):
    random = np.random.RandomState(3)
    shapes = {"w0": (8, channels, 3, 3), "w1": (8, 4, 3, 3), "w2": (CLASSES, 8 if pooled else 8 * 16 * 16)}
    return {name: (random.randn(*shape) * (2 / np.prod(shape[1:])) ** 0.5).astype(np.float32)
            for name, shape in shapes.items()}


def _model(weights, metadata, channels, pooled):
    node = helper.make_node
    nodes = [node("Conv", ["x", "w0"], ["c0"], "first", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
             node("Relu", ["c0"], ["r0"], "relu0"),
             node("Conv", ["r0", "w1"], ["c1"], "second", kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=2),
             node("Relu", ["c1"], ["r1"], "relu1"),
             node("GlobalAveragePool" if pooled else "Identity", ["r1"], ["p"], "pool"),
             node("Flatten", ["p"], ["f"], "flat"),
             node("Gemm", ["f", "w2"], ["y"], "last", transB=1)]
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, None, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if metadata:
        helper.set_model_props(model, {"preprocessing": metadata})
    return model


@pytest.fixture
def image_folder(tmp_path):
    """function(name, brightness, size, labels) -> a flat folder of PNG images with its labels.txt."""
    def make(name="images", brightness=1.0, size=(20, 16), labels=range(CLASSES)):
        folder = tmp_path / name
        folder.mkdir()
        random = np.random.RandomState(5)
        for number, _ in enumerate(labels):
            pixels = random.randint(0, 256, (size[1], size[0], 3)) * brightness
            Image.fromarray(pixels.astype(np.uint8)).save(str(folder / f"{number}.png"))
        lines = [f"{number}.png {label}" for number, label in enumerate(labels)]
        (folder / "labels.txt").write_text("\n".join(lines) + "\n")
        return folder
    return make
