# SPDX-License-Identifier: MIT
"""Fusion changes no code of any layer; scalings in whole numbers change as many as they change."""

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from deploy.ir import BatchNorm, Grid, Rounding, quantized
from deploy.targets.c.simulate import FusedNetwork, fuse_qat, unfused_codes
from quantize.convert import convert_model
from quantize.errors import ConfigError
from quantize.modes import quantizers, set_mode
from quantize.spec import QParams

SHAPE = (1, 16, 16)
BYTES = Grid(float(np.float32(1 / 255)), 0, 0, 255)


@pytest.fixture(scope="module", params=[("sat", 4), ("sat", 8), ("lsq", 4), ("pact", 3)], ids=str)
def net(request):
    """conv-BN-ReLU, twice, with pooling, and a fully connected layer; activations quantized behind the ReLU."""
    method, bits = request.param
    mx.random.seed(11)
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2D(6, 5, use_bias=False), nn.BatchNorm(), nn.Activation("relu"), nn.MaxPool2D(2),
                nn.Conv2D(16, 3, use_bias=False), nn.BatchNorm(), nn.Activation("relu"), nn.Flatten(),
                nn.Dense(24, activation="relu"), nn.Dense(10))
    net.initialize(mx.init.Xavier(magnitude=3))
    net(mx.nd.zeros((1,) + SHAPE))
    for norm in (net[1], net[5]):
        for parameter, low, high in ((norm.gamma, -1, 2), (norm.beta, -0.5, 1), (norm.running_mean, -0.5, 0.5),
                                     (norm.running_var, 0.001, 0.5)):
            parameter.set_data(mx.nd.random.uniform(low, high, shape=parameter.shape))
    rules = [{"op_types": ["Conv2D", "Dense"], "weight": f"int{bits}/layer", "weight_method": method, "input": "float"},
             {"op_types": ["Activation"], "output": f"uint{bits}", "output_method": method}]
    net = convert_model(net, config_list=rules)
    for number, (_, quantizer) in enumerate(quantizers(net, "activation")):
        quantizer.set_qparams(QParams.symmetric(np.float32([(1.3 + number) / quantizer.spec.qmax])))
    set_mode(net, "offline", "activation")
    return net


@pytest.fixture(scope="module")
def images():
    return np.random.RandomState(7).randint(0, 256, (200,) + SHAPE).astype(np.float32) / np.float32(255)


def share(fused: FusedNetwork, codes, images) -> float:
    found = fused.codes(images)
    assert set(found) == set(codes)
    return float(np.mean([(found[name] == codes[name]).mean() for name in codes]))


@pytest.mark.parametrize("scaling", ["NONE", "FLOAT_MULT"])
def test_no_code_changes(net, images, scaling):
    codes = unfused_codes(net, SHAPE, images, BYTES)
    fused = fuse_qat(net, SHAPE, scaling, BYTES)
    assert not any(isinstance(node, BatchNorm) for node in fused.model.nodes) and len(quantized(fused.model)) == 4
    assert all(len(np.unique(values)) > 2 for values in codes.values())
    for name, values in fused.codes(images).items():
        np.testing.assert_array_equal(values, codes[name], err_msg=name)


def test_the_simulation_in_float32_agrees_but_next_to_the_middle(net, images):
    want = net(mx.nd.array(images)).asnumpy()
    got = fuse_qat(net, SHAPE, input_grid=BYTES)(images)
    assert (got.argmax(axis=1) == want.argmax(axis=1)).mean() > 0.95
    assert (np.abs(got - want).max(axis=1) <= 1e-4 * np.abs(want).max()).mean() > 0.8


def test_whole_numbers_are_as_good_as_their_bits(net, images):
    codes = unfused_codes(net, SHAPE, images, BYTES)
    shares = {name: share(fuse_qat(net, SHAPE, name, BYTES), codes, images)
              for name in ("FIXED_MULT32", "FIXED_MULT16", "DOUBLE_SHIFT", "SINGLE_SHIFT")}
    assert shares["FIXED_MULT32"] > 0.9999 and shares["FIXED_MULT16"] > 0.99
    assert shares["FIXED_MULT32"] >= shares["FIXED_MULT16"] > shares["DOUBLE_SHIFT"] > shares["SINGLE_SHIFT"] > 0.2


def test_the_network_is_not_changed(net, images):
    before = net(mx.nd.array(images[:5])).asnumpy()
    fuse_qat(net, SHAPE, input_grid=BYTES)
    np.testing.assert_array_equal(net(mx.nd.array(images[:5])).asnumpy(), before)


def test_wrong_calls(net):
    with pytest.raises(ConfigError, match="scaling must be one of NONE, .* got 'FIXED_MULT8'; did you mean"):
        fuse_qat(net, SHAPE, "FIXED_MULT8")


def test_a_layer_that_reads_real_numbers_reads_16_bits(images):
    """The printed LeNet's last layer reads a fully connected one without a quantizer."""
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2D(4, 5), nn.Activation("relu"), nn.Dense(12), nn.Dropout(0.5), nn.Dense(5))
    net.initialize(mx.init.Xavier(magnitude=3))
    net(mx.nd.zeros((1,) + SHAPE))
    net = convert_model(net, config_list=[
        {"op_types": ["Conv2D", "Dense"], "weight": "int4/layer", "weight_method": "sat", "input": "float"},
        {"op_types": ["Activation"], "output": "uint4", "output_method": "sat"}])
    set_mode(net, "offline", "activation")
    fused, codes = fuse_qat(net, SHAPE, input_grid=BYTES), unfused_codes(net, SHAPE, images, BYTES)
    assert [node.quantization.input.qmax for node in quantized(fused.model)] == [255, 15, 2 ** 15 - 1]
    assert 2 ** 6 < np.abs(codes["4"]).max() < 2 ** 15
    for name, values in fused.codes(images).items():
        np.testing.assert_array_equal(values, codes[name], err_msg=name)
    want = net(mx.nd.array(images)).asnumpy()
    assert (np.abs(fused(images) - want).max(axis=1) <= 0.05 * np.abs(want).max()).mean() > 0.9


def test_images_tell_how_fine_sixteen_bits_can_be(images):
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2D(4, 5), nn.Activation("relu"), nn.Dense(12), nn.Dense(5))
    net.initialize(mx.init.Xavier(magnitude=3))
    net(mx.nd.zeros((1,) + SHAPE))
    net = convert_model(net, config_list=[
        {"op_types": ["Conv2D", "Dense"], "weight": "int4/layer", "weight_method": "sat", "input": "float"},
        {"op_types": ["Activation"], "output": "uint4", "output_method": "sat"}])
    set_mode(net, "offline", "activation")
    plain, ranged = fuse_qat(net, SHAPE, input_grid=BYTES), fuse_qat(net, SHAPE, input_grid=BYTES, images=images)
    steps = [quantized(fused.model)[-1].quantization.input.scale for fused in (plain, ranged)]
    assert steps[1] <= steps[0] / 2
    codes = unfused_codes(net, SHAPE, images, BYTES, ranging=images)
    for name, values in ranged.codes(images).items():
        np.testing.assert_array_equal(values, codes[name], err_msg=name)
    last = max(codes, key=lambda name: np.abs(codes[name]).max())
    assert 2 ** 12 < np.abs(codes[last]).max() <= 2 ** 14


def test_roundings_stand_in_front_of_integer_layers_only(net):
    model = fuse_qat(net, SHAPE, input_grid=BYTES).model
    read = {blob for node in model.nodes for blob in node.inputs}
    assert all(node.outputs[0] in read for node in model.nodes if isinstance(node, Rounding))


class Residual(nn.HybridBlock):
    """Two convolutions with BatchNorms beside a third one, their sum rectified."""

    def __init__(self, channels, **options):
        super().__init__(**options)
        with self.name_scope():
            self.a, self.norm_a = nn.Conv2D(channels, 3, padding=1, use_bias=False), nn.BatchNorm()
            self.b, self.norm_b = nn.Conv2D(channels, 3, padding=1, use_bias=False), nn.BatchNorm()
            self.c, self.norm_c = nn.Conv2D(channels, 1, use_bias=False), nn.BatchNorm()
            self.inner, self.outer = nn.Activation("relu"), nn.Activation("relu")

    def hybrid_forward(self, F, x):
        y = self.norm_b(self.b(self.inner(self.norm_a(self.a(x)))))
        return self.outer(y + self.norm_c(self.c(x)))


def test_no_code_changes_where_sums_are_of_real_numbers(images):
    """Both sides of an addition lie on no grid: one code that changes in an early block changes many in later ones."""
    mx.random.seed(5)
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2D(8, 3), nn.BatchNorm(), nn.Activation("relu"), *(Residual(8) for _ in range(4)),
                nn.GlobalAvgPool2D(), nn.Dense(10))
    net.initialize(mx.init.Xavier(magnitude=3))
    net(mx.nd.zeros((1,) + SHAPE))
    for name, parameter in net.collect_params(".*(gamma|beta|running_mean|running_var)").items():
        low, high = (0.01, 0.3) if "var" in name else (-0.5, 1.0)
        parameter.set_data(mx.nd.random.uniform(low, high, shape=parameter.shape))
    net = convert_model(net, config_list=[
        {"op_types": ["Conv2D", "Dense"], "weight": "int4/layer", "weight_method": "sat", "input": "float"},
        {"op_types": ["Activation"], "output": "uint4", "output_method": "sat"}])
    set_mode(net, "offline", "activation")
    images = images[:40]
    codes = unfused_codes(net, SHAPE, images, BYTES, images)
    shares = {name: share(fuse_qat(net, SHAPE, name, BYTES, images), codes, images)
              for name in ("NONE", "FLOAT_MULT", "FIXED_MULT32")}
    assert len(codes) == 14 and shares["NONE"] == shares["FLOAT_MULT"] == 1 and 0.99 < shares["FIXED_MULT32"] < 1
