# SPDX-License-Identifier: MIT
import copy
import json

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.gluon import nn

from quantize.convert import convert_model
from quantize.modes import mode, quantizers, unfix_params
from quantize.nn import SkippableReLU
from quantize.spec import QParams


class TwoBranches(gluon.HybridBlock):
    """Two convolutions that read the same tensor, as a residual block with a projection."""

    def __init__(self):
        super().__init__()
        self.relu = nn.Activation("relu")
        self.a, self.b = nn.Conv2D(4, 1, in_channels=3), nn.Conv2D(4, 3, padding=1, in_channels=3)
        self.initialize()

    def hybrid_forward(self, F, x):
        x = self.relu(x)
        return self.a(x) + self.b(x)


def operators(net):
    return [node["op"] for node in json.loads(net._cached_graph[1].tojson())["nodes"]]


@pytest.mark.parametrize("config, count", [(None, 1), ([{"op_names": ["b"], "input": "auto4"}], 2)])
def test_a_tensor_read_twice_in_one_format_is_quantized_once(images, config, count, backend):
    net = TwoBranches()
    convert_model(net, config_list=config, backend=backend)
    assert (net.a.input_quantizer is net.b.input_quantizer) == (count == 1)
    assert len([path for path, _ in quantizers(net, "activation")]) == count
    eager = net(images).asnumpy()
    net.fix_params()
    net.hybridize()
    np.testing.assert_allclose(net(images).asnumpy(), eager, rtol=1e-6, atol=1e-6)
    assert operators(net).count({"native": "fq_online", "composed": "_contrib_round_ste"}[backend]) == count


def test_shared_quantizers_survive_checkpoints(tmp_path):
    net = convert_model(TwoBranches())
    net.a.input_quantizer.set_qparams(QParams.symmetric([0.25]))
    net.save_parameters(str(tmp_path / "q.params"))
    other = convert_model(TwoBranches())
    other.load_parameters(str(tmp_path / "q.params"))
    assert other.b.input_quantizer.get_qparams().scale == [0.25]


def test_a_relu_in_front_of_unsigned_quantizers_steps_aside_when_frozen(images, backend):
    net = convert_model(TwoBranches(), backend=backend)
    assert isinstance(net.relu, SkippableReLU)
    net.hybridize()
    expected = net(images).asnumpy()
    assert "Activation" in operators(net)
    net.fix_params()
    np.testing.assert_array_equal(net(images).asnumpy(), expected)
    assert "Activation" not in operators(net)
    with mode(net, "float", "activation"):
        assert (net.relu(images).asnumpy() >= 0).all()
    unfix_params(net)
    net(images)
    assert "Activation" in operators(net)


@pytest.mark.parametrize("cut", ["a", "b"])
def test_a_relu_stays_while_one_of_its_readers_needs_it(cut):
    """One reader cuts off what is below zero, the other one computes in float: both get rectified values."""
    net = convert_model(TwoBranches(), config_list=[{"op_names": ["b"], "input": "auto4"}])
    assert isinstance(net.relu, SkippableReLU)
    net.fix_params()
    x = mx.nd.random.uniform(-1, 1, shape=(1, 3, 4, 4))
    np.testing.assert_array_equal(net.relu(x).asnumpy(), x.asnumpy())
    getattr(net, cut).input_quantizer.mode = "float"
    assert [reader.clips_negative_input for reader in (net.a, net.b)].count(True) == 1
    np.testing.assert_array_equal(net.relu(x).asnumpy(), np.maximum(x.asnumpy(), 0))


def test_a_copied_network_knows_its_own_layers(images, recwarn):
    net = copy.deepcopy(convert_model(TwoBranches()))
    assert net.relu.readers == {net.a, net.b}
    assert net.collect_params() and not [w for w in recwarn if "unregistered" in str(w.message)]


def test_observers_see_the_rectified_values(images):
    from calib.calibrators import MinMax
    from calib.collect import calibrate, observe
    net = convert_model(TwoBranches())
    net.fix_params()
    calibrate(net, observe(net, [images], MinMax()), MinMax())
    assert net.a.input_quantizer.threshold == pytest.approx(images.asnumpy().max(), rel=1e-6)


def test_training_keeps_the_gradient_of_the_relu():
    net = convert_model(TwoBranches())
    x = mx.nd.full((1, 3, 4, 4), -1e-6)
    x[0, 0, 0, 0] = 1
    x.attach_grad()
    with autograd.record():
        y = net(x)
    y.backward()
    assert (x.grad.asnumpy() != 0).sum() == 1


@pytest.mark.parametrize("change", [
    lambda net: [{"op_names": ["b"], "input": "int8"}], lambda net: [{"op_names": ["b"], "input": "float"}],
    lambda net: [{"op_names": ["b"], "exclude": True}], lambda net: [{"op_names": ["b"], "weight": "float"}]])
def test_a_relu_that_somebody_else_reads_stays(change):
    net = TwoBranches()
    convert_model(net, config_list=change(net))
    assert type(net.relu) is nn.Activation


def test_a_relu_whose_values_are_an_output_or_added_stays():
    class Residual(gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            self.relu, self.conv = nn.Activation("relu"), nn.Conv2D(3, 1, in_channels=3)
            self.initialize()

        def hybrid_forward(self, F, x):
            x = self.relu(x)
            return x + self.conv(x)

    net = convert_model(Residual())
    assert type(net.relu) is nn.Activation


def test_a_relu_called_twice_stays():
    class Twice(gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            self.relu, self.conv = nn.Activation("relu"), nn.Conv2D(3, 1, in_channels=3)
            self.initialize()

        def hybrid_forward(self, F, x):
            return self.relu(self.conv(self.relu(x)))

    assert type(convert_model(Twice()).relu) is nn.Activation
