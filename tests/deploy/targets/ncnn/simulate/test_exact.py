# SPDX-License-Identifier: MIT
"""The exact simulation against the integer engine and, where it is installed, the ncnn wheel: every element."""

import sys

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from calib.calibrators import CALIBRATORS
from calib.collect import calibrate, observe
from deploy import engine
from deploy.lower import lower
from deploy.proof.compare import Difference
from deploy.targets.ncnn import TARGET, runner, writer
from deploy.targets.ncnn.kernels import runs
from deploy.targets.ncnn.side import side as ncnn_side
from deploy.targets.ncnn.simulate import exact, side
from deploy.targets.ncnn.simulate.blocks import weight_parts
from deploy.targets.ncnn.winograd import WinogradArithmetic
from quantize.convert import convert_model, merge_bn
from quantize.errors import DeployError
from quantize.modes import fix_params, quantize_input
from quantize.nn import MeanGlobalAvgPool2D, ReLU6
from quantize.tree import walk

SHAPE = (3, 23, 21)
HERE = TARGET.arithmetic_here()


class Padded(nn.HybridSequential):
    """A convolution, or an average, behind a padding that its own options cannot say."""

    def hybrid_forward(self, F, x):
        return super().hybrid_forward(F, F.pad(x, mode="constant", pad_width=(0, 0, 0, 0, 0, 1, 1, 2)))


class Residual(nn.HybridSequential):
    """x + body(x)."""

    def hybrid_forward(self, F, x):
        return x + super().hybrid_forward(F, x)


def sequence(*blocks, kind=nn.HybridSequential):
    net = kind(prefix="")
    net.add(*blocks)
    return net


def norm(seed):
    """A BatchNorm that is called trained."""
    rng, block = np.random.RandomState(seed), nn.BatchNorm(epsilon=1e-3)
    block.values = {"gamma": rng.uniform(0.5, 1.5), "beta": rng.normal(), "running_mean": rng.normal() / 5,
                    "running_var": rng.uniform(0.3, 2)}
    return block


def layers():
    """Every kind of layer whose rounding differs between engines, one after the other."""
    return [
        nn.Conv2D(16, 3, padding=1, strides=2, use_bias=False), norm(1), nn.Activation("relu"),
        nn.Conv2D(16, 3, padding=1, groups=16, use_bias=False), norm(2), nn.Activation("relu"),
        nn.Conv2D(16, 3, padding=1, groups=16), ReLU6(),
        nn.Conv2D(16, 5, padding=2, groups=16), nn.Activation("relu"),
        sequence(nn.Conv2D(16, 3, padding=1), norm(3), nn.Activation("relu"), nn.Conv2D(16, 3, padding=1),
                 kind=Residual),
        norm(4), nn.Activation("relu"),  # nothing absorbs it
        sequence(nn.Conv2D(12, 3), kind=Padded), nn.LeakyReLU(0.1),
        nn.AvgPool2D(3, 2, padding=1), nn.Conv2D(8, 1),
        nn.AvgPool2D(3, 1, padding=1, count_include_pad=False), nn.Conv2D(8, 1),
        nn.AvgPool2D(3, 2, ceil_mode=True), nn.Conv2D(8, 2, dilation=1),
        sequence(nn.AvgPool2D(2, 1), kind=Padded), nn.Conv2D(9, 1, use_bias=False),
    ]


def build(*blocks, merge=True, images=8):
    """(converted and calibrated network, its images)."""
    mx.random.seed(7)
    net = sequence(*blocks)
    net.initialize(mx.init.Xavier(magnitude=24))
    batch = np.random.RandomState(8).normal(size=(images,) + SHAPE).astype(np.float32)
    net(mx.nd.array(batch))
    for _, block in walk(net):
        for name, value in getattr(block, "values", {}).items():
            parameter = getattr(block, name)
            spread = np.random.RandomState(9).uniform(0.8, 1.2, parameter.shape)
            parameter.set_data(mx.nd.array(value * spread))
        if getattr(block, "bias", None) is not None:  # sums without a bias are rounded once by everybody
            block.bias.set_data(mx.nd.array(np.random.RandomState(5).normal(size=block.bias.shape) / 8))
    if merge:
        merge_bn(net)
    net = convert_model(net, target=TARGET)
    calibrator = CALIBRATORS.get("minmax")
    calibrator = calibrator() if isinstance(calibrator, type) else calibrator
    calibrate(net, observe(net, [mx.nd.array(batch)], calibrator), calibrator)
    quantize_input(net, enable=True, online=False)
    return net, batch[:2]


def lowered(net):
    return lower(net, SHAPE, arithmetic=TARGET.arithmetic)


def assert_same(observed, codes, outputs, model):
    assert set(observed.codes) == set(codes) and len(codes) > 0
    assert len(outputs[0]) > 1 and not np.array_equal(outputs[0][0], outputs[0][1]), "images must matter"
    for name, values in codes.items():
        difference = Difference()
        difference.update(observed.codes[name], values.reshape(observed.codes[name].shape))
        assert difference.exact, (name, difference)
    for blob, values in zip(model.outputs, outputs):
        np.testing.assert_array_equal(observed.blobs[blob], values.reshape(observed.blobs[blob].shape))


POOLS = {"global": nn.GlobalAvgPool2D, "mean": None, "flatten": nn.Flatten}


def head(pool):
    blocks = [POOLS[pool]() if POOLS[pool] else MeanGlobalAvgPool2D.from_float(nn.GlobalAvgPool2D())]
    return blocks + [nn.Dense(20, activation="relu"), nn.Dense(5)]


# layers behind a first convolution whose own result leaves the network, with all its bits
LAST = {
    "convolution": lambda: [nn.Conv2D(12, 3, padding=1)],
    "convolution, relu": lambda: [nn.Conv2D(12, 3, strides=2), nn.Activation("relu")],
    "depthwise": lambda: [nn.Conv2D(16, 3, padding=1, groups=16)],
    "depthwise, stride 2": lambda: [nn.Conv2D(16, 3, strides=2, groups=16), nn.Activation("relu")],
    "depthwise, relu6": lambda: [nn.Conv2D(16, 3, padding=1, groups=16), ReLU6()],
    "depthwise 5x5": lambda: [nn.Conv2D(16, 5, groups=16)],
    "dense": lambda: [nn.Dense(20)],
    "dense, relu": lambda: [nn.Dense(20, activation="relu")],
    "plane average": lambda: [nn.GlobalAvgPool2D()],
    "plane mean": lambda: [MeanGlobalAvgPool2D.from_float(nn.GlobalAvgPool2D())],
    "average, padding counted": lambda: [nn.AvgPool2D(3, 2, padding=1)],
    "average, padding not counted": lambda: [nn.AvgPool2D(3, 2, padding=1, count_include_pad=False)],
    "average, no padding": lambda: [nn.AvgPool2D(3, 1)],
    "average, size rounded up": lambda: [nn.AvgPool2D(3, 2, ceil_mode=True)],
    "average, padding in front": lambda: [sequence(nn.AvgPool2D(3), kind=Padded)],
    "batch norm": lambda: [nn.Activation("relu"), norm(4)],
    "residual": lambda: [sequence(nn.Conv2D(16, 3, padding=1), norm(3), kind=Residual), nn.LeakyReLU(0.1)],
}


@pytest.mark.parametrize("name", sorted(LAST))
def test_every_bit_of_a_layers_output(name, tmp_path):
    net, images = build(nn.Conv2D(16, 3), *LAST[name]())
    model = lowered(net)
    expected = engine.run(model, images, arithmetic=HERE, codes=True)
    observed = side(net, model)(images)
    assert_same(observed, expected.codes, expected.outputs, model)
    pytest.importorskip("ncnn", reason="the ncnn wheel is not installed")
    (found,) = TARGET.run(TARGET.write(model, tmp_path)[0].parent, images)
    np.testing.assert_array_equal(found.reshape(expected.outputs[0].shape), expected.outputs[0])


@pytest.mark.parametrize("pool, merge", [("flatten", True), ("global", False), ("mean", True)])
def test_equals_the_engine(pool, merge):
    net, images = build(*(layers() + head(pool)), merge=merge)
    model = lowered(net)
    expected = engine.run(model, images, arithmetic=HERE, codes=True)
    assert_same(side(net, model)(images), expected.codes, expected.outputs, model)


def test_equals_ncnn(tmp_path):
    pytest.importorskip("ncnn", reason="the ncnn wheel is not installed")
    net, images = build(*(layers() + head("global")))
    fix_params(net)
    model = lowered(net)
    found = ncnn_side(model, runner.Runner(*writer.write(model, tmp_path)))(images)
    codes = {node.name: found.codes[node.name] if node.name in found.codes else HERE.quantize(
        found.blobs[node.inputs[0]], node.quantization.input)
        for node in model.nodes if getattr(node, "quantization", None) is not None}
    assert_same(side(net, model)(images), codes, [found.blobs[blob] for blob in model.outputs], model)


def test_another_arithmetic_gives_other_bits():
    """Else the equalities above would prove less than they seem to."""
    net, images = build(nn.Conv2D(16, 3), *LAST["residual"]())
    model = lowered(net)
    plain = engine.run(model, images)  # divides, and rounds after each operation
    assert (side(net, model)(images).blobs[model.outputs[0]] != plain.outputs[0]).any()


def test_the_context_computes_the_same_hybridized_and_gives_the_network_back():
    net, images = build(*(layers() + head("global")))
    before = net(mx.nd.array(images)).asnumpy()
    blocks = [(path, type(block)) for path, block in walk(net)]
    model = lowered(net)
    expected = side(net, model)(images).blobs[model.outputs[0]]
    for hybridized in (False, True):
        net.hybridize(hybridized)
        with exact(net, model):
            np.testing.assert_array_equal(net(mx.nd.array(images)).asnumpy(), expected)
        assert [(path, type(block)) for path, block in walk(net)] == blocks
    np.testing.assert_array_equal(net(mx.nd.array(images)).asnumpy(), before)
    np.testing.assert_array_equal(side(net, model)(images).blobs[model.outputs[0]], expected)
    assert net[0]._active, "side must leave hybridization as it was"


def test_is_the_network_that_was_simulated():
    """Fake quantization rounds elsewhere, so codes differ now and then, by 1, and outputs a little."""
    net, images = build(*(layers() + head("global")))
    simulated = net(mx.nd.array(images)).asnumpy()
    model = lowered(net)
    outputs = side(net, model)(images).blobs[model.outputs[0]].reshape(simulated.shape)
    assert np.abs(outputs - simulated).max() < 0.03 * np.abs(simulated).max()


def test_a_network_that_is_left_by_an_error_is_given_back():
    net, images = build(nn.Conv2D(4, 3), nn.Dense(3))
    blocks = [type(block) for _, block in walk(net)]
    with pytest.raises(ZeroDivisionError), exact(net, lowered(net)):
        raise ZeroDivisionError
    assert [type(block) for _, block in walk(net)] == blocks


def test_another_networks_model_is_refused():
    net, _ = build(nn.Conv2D(4, 3), nn.Dense(3))
    other, _ = build(nn.Flatten(), nn.Dense(4), nn.Dense(2))
    with pytest.raises(DeployError, match="lower this network again"):
        side(net, lowered(other))
    with pytest.raises(DeployError, match="lower this network again"):
        side(other, lowered(net))


def test_sums_beyond_float32_stay_exact():
    """All weights and inputs at their largest: the sum, 1449 * 127 * 127, is odd and more than 2^24."""
    net, _ = build(nn.Dense(3))
    net[0].weight.set_data(mx.nd.ones(net[0].weight.shape))
    model = lowered(net)
    images = np.full((2,) + SHAPE, 9, np.float32)
    images[1, 0, 0, 0] = 0
    assert len(weight_parts(model.nodes[-1])) == 2
    expected = engine.run(model, images, arithmetic=HERE, codes=True)
    assert list(expected.largest.values()) == [1449 * 127 * 127]
    assert_same(side(net, model)(images), expected.codes, expected.outputs, model)


def test_wide_weights_are_cut_into_parts(monkeypatch):
    """With a lower limit than float32's, so that small layers are wide."""
    monkeypatch.setattr("deploy.targets.ncnn.simulate.blocks.FLOAT32_EXACT", 2 ** 18)
    net, images = build(*(layers() + head("flatten")))
    model = lowered(net)
    for node in model.nodes:
        if getattr(node, "quantization", None) is not None:
            parts = weight_parts(node)
            assert np.array_equal(sum(parts), node.quantization.weight_q)
            assert all(np.abs(part).reshape(len(part), -1).sum(axis=1).max() * 127 < 2 ** 18 for part in parts)
    assert max(len(weight_parts(node)) for node in model.nodes if getattr(node, "quantization", None)) > 2
    expected = engine.run(model, images, arithmetic=HERE, codes=True)
    assert_same(side(net, model)(images), expected.codes, expected.outputs, model)


def test_runs_follow_planes_vectors_and_depthwise_layers():
    net, _ = build(nn.Conv2D(8, 3), nn.Conv2D(8, 3, groups=8), nn.Conv2D(4, 1), nn.GlobalAvgPool2D(), nn.Dense(6),
                   nn.Dense(2))
    model = lowered(net)
    found = [runs(model)[node.name] for node in model.nodes if getattr(node, "quantization", None) is not None]
    assert found == [23 * 21, 21 * 19, 1, 4, 6]


def test_what_may_round_otherwise_is_said(caplog):
    net, _ = build(nn.Conv2D(8, 3), nn.Activation("sigmoid"), nn.Conv2D(8, 3), nn.LeakyReLU(1 / 3), nn.AvgPool2D(3),
                   Residual(prefix=""), nn.Dense(3, activation="tanh"), nn.Dense(2))
    model = lowered(net)
    with caplog.at_level("INFO"):
        side(net, model)
    (text,) = [record.getMessage() for record in caplog.records if "may round otherwise" in record.getMessage()]
    # the sigmoid is computed within the convolution
    assert text == "2 operators may round otherwise than ncnn: 0, 6.act"
    caplog.clear()
    certain, _ = build(*(layers() + head("global")))
    with caplog.at_level("INFO"):
        side(certain, lowered(certain))
    assert "may round otherwise" not in caplog.text


class Twice(nn.HybridBlock):
    """One layer, called on the input and on its own output; behind each call a block of its own."""

    def __init__(self, layer, between, behind):
        super().__init__(prefix="")
        self.layer, self.between, self.behind = layer, between, behind

    def hybrid_forward(self, F, x):
        return self.behind(self.layer(self.between(self.layer(x))))


@pytest.mark.parametrize("behind, same", [(lambda: nn.Activation("relu"), True), (ReLU6, False)])
def test_a_layer_that_is_called_twice(behind, same, monkeypatch):
    """With AVX-512 a depthwise kernel rounds once in front of a ReLU, twice in front of a clip: no block is both."""
    layer = nn.Conv2D(3, 3, padding=1, groups=3)
    net, images = build(Twice(layer, nn.Activation("relu"), behind()), nn.Dense(3))
    model = lowered(net)
    if not same:
        monkeypatch.setattr(sys.modules[exact.__module__], "x86_here", WinogradArithmetic)
        with pytest.raises(DeployError, match="0.layer: ncnn computes the calls of this layer"):
            side(net, model)
        return
    expected = engine.run(model, images, arithmetic=HERE, codes=True)
    assert len(expected.codes) == 3
    observed = side(net, model)(images)
    assert_same(observed, expected.codes, expected.outputs, model)


def test_an_average_over_two_sizes_is_left_alone_and_reported(caplog):
    net, images = build(Twice(nn.AvgPool2D(2), nn.Conv2D(8, 3), nn.Conv2D(4, 1)), nn.Dense(3))
    with caplog.at_level("INFO"):
        observed = side(net, lowered(net))(images)
    assert "2 operators may round otherwise than ncnn: " in caplog.text and len(observed.codes) == 3


class Scaled(nn.HybridBlock):
    """What BatchNorms and factors per channel are, written as functions behind a layer."""

    def __init__(self, layer, how):
        super().__init__(prefix="")
        self.layer, self._how = layer, how
        for name, low in (("gamma", 0.5), ("beta", -0.5), ("mean", -0.5), ("var", 0.5)):
            values = np.random.RandomState(len(name)).uniform(low, low + 1, 16).astype(np.float32)
            constant = self.params.get_constant(name, mx.nd.array(values))
            setattr(self, name, constant)

    def hybrid_forward(self, F, x, gamma, beta, mean, var):
        y = self.layer(x)
        if self._how == "norm":
            return F.BatchNorm(y, gamma, beta, mean, var, fix_gamma=False, eps=1e-3)
        factor, shift = (F.reshape(each, shape=(1, -1, 1, 1)) for each in (gamma, beta))
        return F.broadcast_add(F.broadcast_mul(y, factor), shift) if self._how == "affine" else F.broadcast_mul(
            y, factor)


@pytest.mark.parametrize("how", ["factor", "affine", "norm"])
def test_a_factor_that_is_written_as_a_function_is_applied_once(how):
    """Lowering took it into the layer's scale, and the simulation computed it once more behind that."""
    net, images = build(Scaled(nn.Conv2D(16, 3), how), nn.Activation("relu"), nn.Conv2D(8, 3), nn.Dense(3))
    before = net(mx.nd.array(images)).asnumpy()
    model = lowered(net)
    expected = engine.run(model, images, arithmetic=HERE, codes=True)
    assert len(expected.codes) == 3 and np.abs(expected.outputs[0] - before).max() < 0.03 * np.abs(before).max()
    assert_same(side(net, model)(images), expected.codes, expected.outputs, model)


def test_a_norm_behind_a_layer_that_stays_float():
    """Only a BatchNorm in the weights steps aside: a float layer computes with its own."""
    mx.random.seed(7)
    net = sequence(nn.Conv2D(16, 3), norm(1), nn.Activation("relu"), nn.Conv2D(8, 3), nn.Dense(3))
    net.initialize(mx.init.Xavier(magnitude=24))
    batch = np.random.RandomState(8).normal(size=(4,) + SHAPE).astype(np.float32)
    net(mx.nd.array(batch))
    net[1].running_var.set_data(mx.nd.array(np.random.RandomState(9).uniform(0.5, 2, 16)))
    net = convert_model(net, exclude=["0"], target=TARGET)
    calibrator = CALIBRATORS.get("minmax")()
    calibrate(net, observe(net, [mx.nd.array(batch)], calibrator), calibrator)
    quantize_input(net, enable=True, online=False)
    model = lowered(net)
    expected = engine.run(model, batch, arithmetic=HERE).outputs[0]
    found = side(net, model)(batch).blobs[model.outputs[0]].reshape(expected.shape)
    # the float layer's own sums are rounded otherwise, so that a code may be another, but no more
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
