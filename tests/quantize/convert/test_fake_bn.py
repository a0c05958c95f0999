# SPDX-License-Identifier: MIT
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.gluon import nn

from quantize import reference
from quantize import reference_trained as trained
from quantize.config import rules_from_config
from quantize.convert import convert_model, fake_bn, merge_fake_bn, remove_fake_bn
from quantize.errors import ConfigError, ConversionError
from quantize.modes import set_mode, unfix_params
from quantize.nn import BypassBatchNorm
from quantize.nn.fold import STATISTICS
from quantize.spec import QuantSpec
from quantize.train import freeze_bn, reestimate_bn

every_statistics = pytest.mark.parametrize("statistics", STATISTICS)
hybridized = pytest.mark.parametrize("hybridize", [{}, {"active": True},
                                                   {"active": True, "static_alloc": True, "static_shape": True}],
                                     ids=["eager", "hybrid", "static"])
FORMATS = {"weight": "int3", "input": "float"}


def switched(net, options):
    net.hybridize(**(options or {"active": False}))
    return net


def pair(layer, shape, scale=True, seed=0):
    """A layer and its BatchNorm with statistics that differ from every batch's, and images."""
    mx.random.seed(seed)
    net = nn.HybridSequential()
    net.add(layer, nn.BatchNorm(epsilon=1e-3, momentum=0.75, scale=scale))
    net.initialize(mx.init.Normal(0.5))
    x = mx.nd.random.normal(0.3, 1, shape=shape)
    net(x)
    norm = net[1]
    for parameter, low, high in ((norm.gamma, -1, 2), (norm.beta, -0.5, 0.5), (norm.running_mean, -1, 1),
                                 (norm.running_var, 0.5, 20)):
        parameter.set_data(mx.nd.random.uniform(low, high, shape=parameter.shape))
    return net, x


def conv_pair(**options):
    return pair(nn.Conv2D(6, 3, in_channels=4, groups=2, **options), (5, 4, 7, 6))


def numbers(net):
    norm = net[1]
    gamma, beta, mean, var = (p.data().asnumpy().astype(np.float64) for p in (
        norm.gamma, norm.beta, norm.running_mean, norm.running_var))
    if norm._kwargs["fix_gamma"]:
        gamma = np.ones_like(gamma)
    return gamma, beta, mean, np.sqrt(var + norm._kwargs["eps"])


def convolved(layer, x, weight, bias=True):
    """The float layer's own forward, (images, channels, positions) in float64."""
    plain = next(base for base in type(layer).__mro__ if base.__module__.startswith("mxnet."))
    operands = [mx.nd.array(weight), None if layer.bias is None else layer.bias.data() * bias]
    return plain.hybrid_forward(layer, mx.nd, x, *operands).asnumpy().astype(np.float64)


def formulas(net, x, statistics):
    """(training output, batch mean, batch variance) as `FoldedBatchNorm` states them."""
    layer, (gamma, beta, mean, sigma) = net[0], numbers(net)
    weight = layer.weight.data().asnumpy()
    along = (-1,) + (1,) * (weight.ndim - 1) if layer.channel_axis == 0 else (1, -1, 1, 1)
    factor = (gamma / sigma).astype(np.float32).reshape(along)
    folded = weight * factor
    rounded = reference.fake_quantize(folded, reference.find_qparams(folded, QuantSpec(3)), QuantSpec(3))
    z = convolved(layer, x, weight if statistics == "corrected" else rounded / factor)
    axes, shape = (0,) + tuple(range(2, z.ndim)), (1, -1) + (1,) * (z.ndim - 2)
    batch_mean, batch_var = z.mean(axis=axes), z.var(axis=axes)
    gamma, beta, mean, sigma, mu = (v.reshape(shape) for v in (gamma, beta, mean, sigma, batch_mean))
    batch_sigma = np.sqrt(batch_var + net[1]._kwargs["eps"]).reshape(shape)
    if statistics == "batch":
        y = gamma * (z - mu) / batch_sigma + beta
    elif statistics == "running":
        y = gamma * (z - mean) / sigma + beta
    else:  # arXiv:1806.08342, section 3.2.2; the layer's bias, if any, is part of mu
        y = convolved(layer, x, rounded, bias=False) * sigma / batch_sigma + beta - gamma * mu / batch_sigma
        bias = 0 if layer.bias is None else layer.bias.data().asnumpy().reshape(shape)
        y = y + gamma * bias / batch_sigma
    return y, batch_mean, batch_var


@every_statistics
@hybridized
@pytest.mark.parametrize("build", [
    conv_pair, lambda: conv_pair(use_bias=False), lambda: pair(nn.Dense(6, in_units=4), (9, 4), scale=False),
], ids=["bias", "conv", "dense"])
def test_training_output_and_statistics_equal_the_formulas(build, hybridize, statistics):
    net, x = build()
    convert_model(net, config_list=[FORMATS])
    assert fake_bn(net, statistics) == [("0", "1")]
    expected, mean, var = formulas(net, x, statistics)
    before = [p.data().asnumpy() for p in (net[1].running_mean, net[1].running_var)]
    switched(net, hybridize)
    for _ in range(2):
        with autograd.record():
            y = net(x)
        np.testing.assert_allclose(y.asnumpy(), expected, rtol=1e-4, atol=1e-4)
    y.backward()
    mx.nd.waitall()
    for parameter, old, new in zip((net[1].running_mean, net[1].running_var), before, (mean, var)):
        np.testing.assert_allclose(parameter.data().asnumpy(), 0.75 * old + 0.25 * new, rtol=1e-4, atol=1e-5)


@every_statistics
@hybridized
@pytest.mark.parametrize("build", [
    conv_pair, lambda: pair(nn.Conv2DTranspose(6, 3, in_channels=4, strides=2), (3, 4, 5, 4)),
], ids=["conv", "transposed"])
def test_inference_is_what_merging_gives(build, hybridize, statistics):
    net, x = build()
    convert_model(net, config_list=[dict(FORMATS, weight="int3/channel")])
    fake_bn(net, statistics)
    switched(net, hybridize)
    folded = net(x).asnumpy()
    freeze_bn(net)
    with autograd.train_mode():
        frozen = net(x).asnumpy()
    net.fix_params()
    fixed = net(x).asnumpy()
    unfix_params(net)
    assert merge_fake_bn(net) == ["0"]
    merged = net(x).asnumpy()
    for each in (frozen, fixed, merged):
        np.testing.assert_allclose(each, folded, rtol=1e-4, atol=1e-4)
    assert isinstance(net[1], BypassBatchNorm) and net[0].norm is None
    levels = np.take(net[0].weight_quantizer(net[0].weight.data()).asnumpy(), 0, axis=net[0].channel_axis)
    assert len(np.unique(levels)) <= 7


@every_statistics
def test_gradients_are_those_of_the_float_network_when_nothing_is_rounded(statistics):
    """At 16 bits; with running statistics those of a BatchNorm that uses them."""
    found = []
    for folded in (False, True):
        net, x = conv_pair()
        if folded:
            convert_model(net, config_list=[{"weight": "int16/channel", "input": "float"}])
            fake_bn(net, statistics)
        elif statistics == "running":
            freeze_bn(net)
        with autograd.record():
            y = net(x)
        mx.random.seed(1)
        y.backward(mx.nd.random.normal(shape=y.shape))
        found.append([p.grad().asnumpy() for p in (net[0].weight, net[0].bias, net[1].gamma, net[1].beta)])
    for plain, quantized in zip(*found):
        np.testing.assert_allclose(quantized, plain, rtol=1e-3, atol=1e-3 * np.abs(found[0][0]).max())


@every_statistics
def test_statistics_that_are_frozen_stay(statistics):
    net, x = conv_pair()
    convert_model(net, config_list=[FORMATS])
    fake_bn(net, statistics)
    net.hybridize()
    for frozen in (True, False):
        freeze_bn(net, frozen)
        before = net[1].running_var.data().asnumpy()
        with autograd.record():
            loss = net(x).sum()
        loss.backward()
        assert (net[1].running_var.data().asnumpy() == before).all() == frozen
        assert np.abs(net[1].gamma.grad().asnumpy()).max() > 0


@every_statistics
def test_float_mode_is_the_float_network(small_net, images, statistics):
    plain = small_net(images).asnumpy()
    with autograd.train_mode():
        trained_mode = small_net(images).asnumpy()
    convert_model(small_net)
    fake_bn(small_net, statistics)
    small_net.disable_quantize()
    np.testing.assert_allclose(small_net(images).asnumpy(), plain, rtol=1e-4, atol=1e-4)
    if statistics != "running":
        with autograd.train_mode():
            np.testing.assert_allclose(small_net(images).asnumpy(), trained_mode, rtol=1e-4, atol=1e-4)


def test_weights_names_and_checkpoints_stay(small_net, images, tmp_path):
    """A float checkpoint loads into the folded network, and the folded one's into a network without folding."""
    small_net.save_parameters(str(tmp_path / "float.params"))
    weights = [small_net[i].weight.data().asnumpy() for i in (0, 3)]
    config = [{"weight": "int4/channel"}]
    convert_model(small_net, config_list=config)
    names = set(small_net._collect_params_with_prefix())
    converted = small_net(images).asnumpy()
    fake_bn(small_net)
    assert set(small_net._collect_params_with_prefix()) == names
    small_net.load_parameters(str(tmp_path / "float.params"))
    folded = small_net(images).asnumpy()
    small_net.save_parameters(str(tmp_path / "folded.params"))
    for i, weight in zip((0, 3), weights):
        np.testing.assert_array_equal(small_net[i].weight.data().asnumpy(), weight)
    assert remove_fake_bn(small_net) == ["0", "3"]
    assert type(small_net[1]) is nn.BatchNorm
    small_net.load_parameters(str(tmp_path / "folded.params"))
    np.testing.assert_array_equal(small_net(images).asnumpy(), converted)
    assert np.abs(folded - converted).max() < 0.5


def test_an_exported_graph_computes_the_same(small_net, images, tmp_path):
    convert_model(small_net, config_list=[{"weight": "int4/channel"}])
    fake_bn(small_net)
    small_net.hybridize()
    expected = small_net(images).asnumpy()
    small_net.export(str(tmp_path / "net"))
    again = gluon.SymbolBlock.imports(str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params"))
    np.testing.assert_allclose(again(images).asnumpy(), expected, rtol=1e-5, atol=1e-5)


def test_layers_may_be_hybridized_one_by_one(small_net, images):
    convert_model(small_net)
    fake_bn(small_net)
    expected = small_net(images).asnumpy()
    for child in small_net:
        child.hybridize()
    np.testing.assert_allclose(small_net(images).asnumpy(), expected, rtol=1e-5, atol=1e-5)


def test_trained_steps_start_from_the_folded_weights(small_net, tmp_path):
    small_net.save_parameters(str(tmp_path / "float.params"))
    convert_model(small_net, config_list=[{"weight": "int4/channel", "weight_method": "lsq"}])
    layer, spec = small_net[0], small_net[0].weight_quantizer.spec
    unfolded = layer.weight_quantizer.get_qparams().scale
    np.testing.assert_allclose(unfolded, trained.lsq_start(layer.weight.data().asnumpy(), spec), rtol=1e-6)
    fake_bn(small_net)
    norm = small_net[1]
    factor = norm.gamma.data().asnumpy() / np.sqrt(norm.running_var.data().asnumpy() + 1e-3)
    expected = unfolded.ravel() * np.abs(factor)
    np.testing.assert_allclose(layer.weight_quantizer.get_qparams().scale.ravel(), expected, rtol=1e-5)
    layer.weight_quantizer.growth.set_data(layer.weight_quantizer.growth.data() + 1)
    small_net.load_parameters(str(tmp_path / "float.params"))
    np.testing.assert_allclose(layer.weight_quantizer.get_qparams().scale.ravel(), expected, rtol=1e-5)
    remove_fake_bn(small_net)
    np.testing.assert_allclose(layer.weight_quantizer.get_qparams().scale, unfolded, rtol=1e-5)


def test_a_channel_that_gamma_switches_off_is_its_beta():
    net, x = conv_pair()
    gamma = net[1].gamma.data().asnumpy()
    gamma[2] = 0
    net[1].gamma.set_data(mx.nd.array(gamma))
    convert_model(net, config_list=[FORMATS])
    for statistics in STATISTICS:
        fake_bn(net, statistics)
        with autograd.record():
            y = net(x)
        y.backward()
        np.testing.assert_allclose(y.asnumpy()[:, 2], net[1].beta.data().asnumpy()[2], rtol=1e-6)
        assert np.isfinite(net[0].weight.grad().asnumpy()).all()
        remove_fake_bn(net)


def test_what_cannot_be_folded_stays(small_net, images):
    convert_model(small_net, config_list=[{"op_names": ["0"], "weight": "float"}])
    assert fake_bn(small_net, exclude=[small_net[6]]) == [("3", "4")]
    assert type(small_net[1]) is nn.BatchNorm and isinstance(small_net[4], BypassBatchNorm)
    merge_fake_bn(small_net)
    with pytest.raises(ConversionError, match="no BatchNorm is folded here"):
        merge_fake_bn(small_net)


def test_errors(small_net):
    with pytest.raises(ConversionError, match="after convert_model"):
        fake_bn(small_net)
    convert_model(small_net, exclude=[small_net[0], small_net[3]])
    with pytest.raises(ConfigError, match="no BatchNorm to fold"):
        fake_bn(small_net)
    net, _ = conv_pair()
    convert_model(net)
    with pytest.raises(ConfigError, match="batch, corrected, running"):
        fake_bn(net, "both")


@pytest.mark.parametrize("folded", [False, True])
def test_statistics_are_measured_anew(folded):
    net, x = conv_pair()
    convert_model(net, config_list=[FORMATS])
    set_mode(net, "float")
    if folded:
        fake_bn(net)
    z = convolved(net[0], x, net[0].weight.data().asnumpy())
    net.hybridize()
    assert reestimate_bn(net, [x[:2], x[2:3], x[3:]]) == 1
    np.testing.assert_allclose(net[1].running_mean.data().asnumpy(), z.mean(axis=(0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(net[1].running_var.data().asnumpy(), z.var(axis=(0, 2, 3)), rtol=1e-4)
    gamma, beta, _, sigma = numbers(net)
    shape = (1, -1, 1, 1)
    expected = (gamma / sigma).reshape(shape) * (z - z.mean(axis=(0, 2, 3)).reshape(shape)) + beta.reshape(shape)
    np.testing.assert_allclose(net(x).asnumpy(), expected, rtol=1e-3, atol=1e-4)


def test_rules_ask_for_it_layer_by_layer(small_net):
    net = convert_model(small_net, config_list=[{"fold_bn": True}, {"op_names": ["3"], "fold_bn": False}])
    assert [net[i].norm is not None for i in (0, 3, 6)] == [True, False, False]
    assert [entry.fold_bn for entry in net.plan.entries] == [True, False, True]
    with pytest.raises(ConfigError, match="'fold_bn' must be true or false, got 'yes'"):
        rules_from_config([{"fold_bn": "yes"}])


def test_a_frozen_batchnorm_can_be_released_after_folding_was_taken_back(small_net):
    net = convert_model(small_net)
    freeze_bn(net)
    fake_bn(net)
    remove_fake_bn(net)
    freeze_bn(net, False)
    assert [net[i]._kwargs["use_global_stats"] for i in (1, 4)] == [False, False]
    assert [type(net[i]) for i in (1, 4)] == [nn.BatchNorm, nn.BatchNorm]
