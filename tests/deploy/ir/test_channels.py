# SPDX-License-Identifier: MIT
import dataclasses

import numpy as np
import pytest

from deploy import engine, ir
from deploy.ir.channels import reverse_channels
from deploy.targets.ncnn.arithmetic import NcnnArithmetic
from quantize.errors import DeployError
from tests.deploy.targets.caffe.models import conv, inputs, model, one, quantized_model, real, tiny


def two_readers():
    return model((3, 6, 6), [conv("a", "data", (4, 3, 3, 3)), conv("b", "data", (4, 3, 3, 3)),
                             ir.Elementwise("x", ("a", "b"), ("x",), op="add")])


def normalized_first():
    """As gluoncv's second ResNets begin, and with every other operation on channels."""
    return model((3, 6, 6), [
        ir.BatchNorm("bn", ("data",), ("bn",), gamma=real(3), beta=real(3), mean=real(3), variance=abs(real(3)) + 1),
        ir.Affine("affine", ("bn",), ("affine",), scale=real(3), shift=real(3)),
        ir.Affine("bare", ("affine",), ("bare",), scale=real(3)),
        ir.ScalarOp("times", ("bare",), ("times",), op="mul", scalar=2.0),
        ir.PReLU("prelu", ("times",), ("prelu",), slope=real(3)),
        ir.Activation("tanh", ("prelu",), ("tanh",), function=ir.Function("tanh")),
        conv("x", "tanh", (4, 3, 3, 3))])


@pytest.mark.parametrize("case", [tiny(), two_readers(), normalized_first()])
def test_reversed_images_give_the_same(case):
    batch = inputs(case)["data"]
    wanted = engine.run(case, batch).outputs[0]
    found = engine.run(reverse_channels(case), batch[:, ::-1]).outputs[0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert not np.allclose(engine.run(reverse_channels(case), batch).outputs[0], wanted, atol=1e-3)


def test_integers_are_the_same_bit_for_bit():
    case = quantized_model()
    batch = inputs(case)["data"]
    wanted = engine.run(case, batch, arithmetic=NcnnArithmetic()).outputs[0]
    found = engine.run(reverse_channels(case), batch[:, ::-1], arithmetic=NcnnArithmetic()).outputs[0]
    np.testing.assert_array_equal(found, wanted)


def test_twice_is_the_model_and_the_model_stays():
    case = tiny()
    before = case.nodes[0].weight.copy()
    twice = reverse_channels(reverse_channels(case))
    np.testing.assert_array_equal(twice.nodes[0].weight, before)
    np.testing.assert_array_equal(case.nodes[0].weight, before)


def test_what_cannot_be_reversed_is_named():
    grouped = model((3, 6, 6), [conv("dw", "data", (3, 1, 3, 3), groups=3)])
    grouped = dataclasses.replace(grouped, nodes=(dataclasses.replace(grouped.nodes[0], path="features.0"),))
    with pytest.raises(DeployError, match="features.0: reads the image, but is neither"):
        reverse_channels(grouped)
    with pytest.raises(DeployError, match="1 channels"):
        reverse_channels(model((1, 6, 6), [conv("x", "data", (4, 1, 3, 3))]))
    with pytest.raises(DeployError, match="no convolution reads"):
        reverse_channels(one(ir.Activation, (3, 6, 6), function=ir.Function("relu")))
