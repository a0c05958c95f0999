# SPDX-License-Identifier: MIT
"""Networks whose outputs are quantized, as PACT, SAT and DoReFa have them: the codes that ncnn reads."""

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from deploy import engine
from deploy.ir import Rounding, quantized
from deploy.lower import lower
from deploy.targets.ncnn import TARGET, runner, writer
from deploy.targets.ncnn.side import side as ncnn_side
from deploy.targets.ncnn.simulate import side
from quantize.convert import convert_model
from quantize.modes import quantizers, set_mode
from quantize.spec import QParams

SHAPE = (3, 12, 12)


def network(method, bits):
    """Trained-looking, for ncnn: the first layer rounds the image, the others read what activations give."""
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2D(8, 3, padding=1, use_bias=False), nn.BatchNorm(), nn.Activation("relu"), nn.MaxPool2D(2),
                nn.Conv2D(8, 3), nn.Activation("relu"), nn.Dense(5))
    mx.random.seed(8)
    net.initialize(mx.init.Xavier(magnitude=3))
    net(mx.nd.zeros((1,) + SHAPE))
    net[1].running_var.set_data(mx.nd.random.uniform(0.01, 0.5, shape=(8,)))
    rules = [{"op_names": ["4", "6"], "input": "float"},
             {"op_types": ["Conv2D", "Dense"], "weight": f"int{bits}/layer", "weight_method": method},
             {"op_types": ["Activation"], "output": f"uint{bits}", "output_method": method}]
    net = convert_model(net, target="ncnn", config_list=rules)
    for number, (_, quantizer) in enumerate(quantizers(net, "activation")):
        quantizer.set_qparams(QParams.symmetric(np.float32([(2 + number / 2) / quantizer.spec.qmax])))
    set_mode(net, "offline", "activation")
    return net


@pytest.mark.parametrize("bits", [2, 4, 7])
@pytest.mark.parametrize("method", ["sat", "pact"])
def test_every_code(method, bits, tmp_path):
    net = network(method, bits)
    model = lower(net, SHAPE, arithmetic=TARGET.arithmetic)
    assert len(quantized(model)) == 3 and not any(isinstance(node, Rounding) for node in model.nodes)
    images = np.random.RandomState(3).randn(20, *SHAPE).astype(np.float32)
    judge = engine.run(model, images, arithmetic=TARGET.arithmetic_here(), codes=True)
    assert all(len(np.unique(codes)) > 2 for codes in judge.codes.values())
    found = side(net, model)(images)
    for name, codes in found.codes.items():
        np.testing.assert_array_equal(codes, judge.codes[name], err_msg=name)
    np.testing.assert_array_equal(found.blobs[model.outputs[0]], judge.outputs[0])
    pytest.importorskip("ncnn", reason="the ncnn wheel is not installed")
    there = ncnn_side(model, runner.Runner(*writer.write(model, tmp_path)))(images)
    np.testing.assert_array_equal(there.blobs[model.outputs[0]].reshape(judge.outputs[0].shape), judge.outputs[0])
    # the modes that the simulation had are back
    assert {quantizer.mode for _, quantizer in quantizers(net, "activation")} == {"offline"}


def test_what_stays_a_rounding_is_refused(tmp_path):
    net = network("sat", 4)
    model = lower(net, SHAPE, arithmetic=TARGET.arithmetic)
    rounding = Rounding("round", model.outputs, ("rounded",), grid=quantized(model)[1].quantization.input)
    more = type(model)(model.inputs, ("rounded",), model.nodes + (rounding,), dict(model.shapes, rounded=(5,)))
    assert any("round" in str(problem) for problem in TARGET.check(more) if problem.fatal)
