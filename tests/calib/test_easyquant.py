# SPDX-License-Identifier: MIT
import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from calib.calibrators import MinMax
from calib.collect import calibrate, observe
from calib.easyquant import easyquant
from quantize.convert import convert_model
from quantize.errors import CalibrationError
from quantize.modes import quantizers
from quantize.reference import fake_quantize, find_qparams
from quantize.spec import PerChannel, QParams, QuantSpec

RULES = [{"op_types": ["Conv2D", "Dense"], "weight": "int4/channel", "input": "auto4"}]


@pytest.fixture
def dense():
    """A Dense layer on heavy-tailed inputs, min-max calibrated: clipping must help."""
    random = np.random.RandomState(0)
    net = nn.HybridSequential()
    net.add(nn.Dense(6, in_units=20, use_bias=False))
    net.initialize(mx.init.Normal(1))
    x = (random.standard_t(3, (24, 20))).astype(np.float32)
    convert_model(net, config_list=[{"op_types": ["Dense"], "weight": "int4/channel", "input": "int4"}])
    calibrate(net, observe(net, [x], MinMax()), MinMax())
    return net, x


def test_the_scale_is_that_of_a_plain_search(dense):
    net, x = dense
    weight = net[0].weight.data().asnumpy()
    start = net[0].input_quantizer.get_qparams().scale
    spec = QuantSpec(4, granularity=PerChannel(0))
    weight_fq = fake_quantize(weight, find_qparams(weight, spec), spec)

    def cosine(scale):
        y, y_fq = x @ weight.T, fake_quantize(x, QParams.symmetric(scale), QuantSpec(4)) @ weight_fq.T
        return (y * y_fq).sum() / np.linalg.norm(y) / np.linalg.norm(y_fq)
    candidates = [start] + [(start * factor).astype(np.float32) for factor in np.linspace(0.5, 2, 100)]
    thresholds = easyquant(net, [x], images=24)
    found = net[0].input_quantizer.get_qparams().scale
    assert cosine(found) == pytest.approx(max(map(cosine, candidates)), abs=1e-6) and cosine(found) > cosine(start)
    assert found < start and thresholds == {"0.input_quantizer": pytest.approx(7 * found[0])}


@pytest.mark.parametrize("hybridize", [False, True])
def test_modes_and_hybridization_come_back(small_net, images, hybridize):
    small_net.hybridize(hybridize)
    convert_model(small_net, config_list=RULES)
    calibrate(small_net, observe(small_net, [images], MinMax()), MinMax())
    before = small_net(images).asnumpy()
    thresholds = easyquant(small_net, [(images, None)])
    assert set(thresholds) == {path for path, _ in quantizers(small_net, "activation")}
    assert {quantizer.mode for _, quantizer in quantizers(small_net)} == {"online"} and small_net._active == hybridize
    np.testing.assert_array_equal(small_net(images).asnumpy(), before)


def test_only_the_first_images_are_used(small_net, images):
    convert_model(small_net, config_list=RULES)

    def run(batches):
        calibrate(small_net, observe(small_net, [images], MinMax()), MinMax())
        return easyquant(small_net, batches, images=3)
    other = mx.nd.concat(images[:3], 100 * images[3:], dim=0)
    assert run([images]) == run([other]) == run([images[:2], images[2:]]) == run(iter([images[:3], images]))


def test_dead_layers_keep_their_scale(small_net, images):
    convert_model(small_net, config_list=RULES)
    small_net[3].weight.set_data(small_net[3].weight.data() * 0)
    small_net[3].bias.set_data(small_net[3].bias.data() * 0)
    thresholds = calibrate(small_net, observe(small_net, [images], MinMax()), MinMax())
    assert easyquant(small_net, [images])["3.input_quantizer"] == thresholds["3.input_quantizer"]


def test_bad_input(small_net, images):
    convert_model(small_net)
    with pytest.raises(CalibrationError, match="0.input_quantizer: no range to start from"):
        easyquant(small_net, [images])
    calibrate(small_net, observe(small_net, [images], MinMax()), MinMax())
    with pytest.raises(CalibrationError, match="empty"):
        easyquant(small_net, [])


def test_outputs_of_activations(small_net, images):
    convert_model(small_net, config_list=[{"op_types": ["Activation"], "output": "auto4"}])
    calibrate(small_net, observe(small_net, [images], MinMax()), MinMax())
    thresholds = easyquant(small_net, [images])
    assert thresholds["2.output_quantizer"] > 0
