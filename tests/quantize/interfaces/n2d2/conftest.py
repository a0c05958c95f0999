# SPDX-License-Identifier: MIT
"""A small residual network as an ONNX file, and images in ImageNet's layout."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image


@pytest.fixture
def resnet_file(tmp_path):
    """A small residual network with the names of the text's file."""
    random = np.random.RandomState(1)
    made = {}

    def weight(name, *shape):
        made[name] = numpy_helper.from_array(random.normal(0, 0.2, shape).astype(np.float32), name)
        return name

    def norm(name, source, target, channels):
        parts = [weight(f"{name}_{part}", channels) for part in ("gamma", "beta", "mean")]
        made[f"{name}_var"] = numpy_helper.from_array(np.ones(channels, np.float32), f"{name}_var")
        return helper.make_node("BatchNormalization", [source, *parts, f"{name}_var"], [target], name=name)
    nodes = [
        helper.make_node("Conv", ["data", weight("w0", 4, 3, 3, 3)], ["c0"], "resnetv15_conv0_fwd", pads=[1, 1, 1, 1],
                         kernel_shape=[3, 3]),
        norm("resnetv15_batchnorm0_fwd", "c0", "n0", 4),
        helper.make_node("Relu", ["n0"], ["r0"], "resnetv15_relu0_fwd"),
        helper.make_node("Conv", ["r0", weight("w1", 4, 4, 3, 3)], ["c1"], "resnetv15_stage1_conv0_fwd",
                         pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        norm("resnetv15_stage1_batchnorm0_fwd", "c1", "n1", 4),
        helper.make_node("Add", ["n1", "r0"], ["a1"], "resnetv15_stage1__plus0"),
        helper.make_node("Relu", ["a1"], ["r1"], "resnetv15_stage1_activation0"),
        helper.make_node("GlobalAveragePool", ["r1"], ["p1"], "resnetv15_pool1_fwd"),
        helper.make_node("Flatten", ["p1"], ["f1"], "flatten"),
        helper.make_node("Gemm", ["f1", weight("wd", 3, 4), weight("bd", 3)], ["y"], "resnetv15_dense0_fwd", transB=1)]
    inputs = [helper.make_tensor_value_info("data", TensorProto.FLOAT, [None, 3, 16, 16])]
    graph = helper.make_graph(nodes, "net", inputs,
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])], list(made.values()))
    path = tmp_path / "resnet18v1.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), str(path))
    return path


@pytest.fixture
def images(tmp_path):
    """ImageNet's layout with three classes of colours."""
    random = np.random.RandomState(2)
    for part, count in (("train", 8), ("val", 3)):
        for label in range(3):
            folder = tmp_path / "images" / part / f"n0000000{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                colours = random.randint(0, 100, (20, 18 + number, 3)) + np.eye(3)[label] * 150
                Image.fromarray(colours.astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "images"
