# SPDX-License-Identifier: MIT
"""Outputs that carry quantizers, in ONNX files: what rounds them there, and layers that read what was rounded."""

import mxnet as mx
import numpy as np
import pytest

from deploy import ir
from deploy.lower import lower
from deploy.proof.prove import Subject, engine_sides, prove
from deploy.target import find
from quantize.convert import convert_model
from quantize.errors import ConfigError, DeployError
from tests.deploy.targets.extremes import extremes
from tests.quantize.convert.test_outputs import BLOCKS, SHAPE, calibrated, floating, images

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
TARGET = find("onnx")
FLOAT = {"ELU", "Swish", "resize"}  # functions and sums of float32, in an order of ONNX Runtime's own


def converted(what, output, given="float"):
    rules = [{"op_types": ["Conv2D", "Dense"], "weight": "int8/channel/even", "input": "auto8/full/even"},
             {"op_names": ["3"], "input": given}, {"op_types": [BLOCKS[what][1]], "output": output}]
    return calibrated(convert_model(floating(what), target=TARGET, config_list=rules, example_input=images(1)))


def settled(net):
    return TARGET.settled(lower(net, SHAPE, arithmetic=TARGET.arithmetic),
                          lambda model, specs: extremes(model, specs, images(20).asnumpy()))


@pytest.mark.parametrize("output", ["auto8/full/even", "auto8/even", "auto4/even"])
@pytest.mark.parametrize("what", BLOCKS)
def test_every_code_is_the_engines(what, output, tmp_path):
    """The last layer computes with the codes that it reads."""
    net = converted(what, output)
    model = settled(net)
    assert not [problem for problem in TARGET.check(model) if problem.fatal]
    step = np.float32(net[2]._children["output"].output_quantizer.get_qparams().scale[0])
    assert step in {np.float32(node.grid.scale) for node in model.nodes if isinstance(node, ir.Rounding)}
    files = TARGET.write(model, tmp_path)
    x = images(30).asnumpy()
    contents = prove(Subject("net", TARGET, model, files), engine_sides(TARGET, model, files), [x])
    codes = contents["sides"]["onnx exact"]["codes"]
    assert codes["identical"] == codes["elements"] or what in FLOAT and codes["largest"] <= 1
    simulated = net(mx.nd.array(x)).asnumpy()
    found, = TARGET.run(tmp_path, x)
    near = np.abs(found.reshape(simulated.shape) - simulated) < 0.01 * np.abs(simulated).max()
    assert near.mean() > 0.95


def test_what_a_file_cannot_hold_is_said():
    with pytest.raises(DeployError, match="rounded twice with different steps.*leave one of them float"):
        settled(converted("MaxPool2D", "auto4/even", given="auto8/full/even"))
    with pytest.raises(ConfigError, match="1: output int12.*write \"output\": \"auto8/full/even\""):
        convert_model(floating("add"), target=TARGET, example_input=images(1), config_list=[
            {"op_types": ["Activation"], "output": "int12/even"}])
