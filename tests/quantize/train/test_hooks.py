# SPDX-License-Identifier: MIT
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.gluon import nn

from quantize.convert import convert_model, fake_bn
from quantize.errors import CalibrationError, ConfigError, DataError, TrainingError
from quantize.finite import not_finite
from quantize.modes import quantizers, set_mode
from quantize.nn import SignFakeQuantize
from quantize.train import (
    CheckNumbers,
    ClipWeights,
    FreezeBatchNorm,
    Hook,
    Hooks,
    StartQuantization,
    quantizer_parameters,
    reestimate_bn,
    set_rates,
    start_training,
    weight_parameters,
)

LSQ = [{"weight": "int4/channel", "input": "auto4", "method": "lsq"}]
LABELS = mx.nd.array([0, 1, 2, 3])


def modes_of(net):
    return [quantizer.mode for _, quantizer in quantizers(net)]


def train(net, images, hooks, steps, first=0, **options):
    """Losses of some steps."""
    trainer = gluon.Trainer(net.collect_params(), "sgd", dict({"learning_rate": 0.01}, **options), kvstore=None)
    loss_function, losses = gluon.loss.SoftmaxCrossEntropyLoss(), []
    for step in range(first, first + steps):
        hooks.before_step(step)
        with autograd.record():
            loss = loss_function(net(images), LABELS)
        loss.backward()
        trainer.step(len(images))
        hooks.after_step(step)
        losses.append(float(loss.mean().asscalar()))
    return losses


@pytest.mark.parametrize("hybridize", [False, True])
def test_quantization_starts_at_its_step(small_net, images, hybridize):
    """Before, the network trains as the float one; no gradient is stale in either part."""
    small_net.hybridize(hybridize)
    convert_model(small_net, config_list=LSQ)
    start_training(small_net, images)
    expected, prepared = modes_of(small_net), []
    assert expected == ["offline"] * 6
    hook = StartQuantization(small_net, 3, prepare=lambda: prepared.append(modes_of(small_net)))
    train(small_net, images, hook, 3)
    assert modes_of(small_net) == ["float"] * 6 and prepared == []
    weight = small_net[6].weight.data().asnumpy()
    hook.before_step(3)
    quantizer = small_net[6].weight_quantizer
    np.testing.assert_allclose(quantizer.get_qparams().scale.ravel(),
                               2 * np.abs(weight).mean(axis=1) / np.sqrt(7), rtol=1e-5)
    train(small_net, images, hook, 2, first=3)
    assert modes_of(small_net) == expected and prepared == [expected]
    assert np.abs(quantizer.growth.data().asnumpy()).max() > 0


def test_a_resumed_run_is_quantized_at_once(small_net, images):
    convert_model(small_net, config_list=LSQ)
    start_training(small_net, images)
    quantizer = small_net[0].weight_quantizer
    quantizer.growth.set_data(quantizer.growth.data() + 0.5)
    StartQuantization(small_net, 3).before_step(5)
    assert modes_of(small_net) == ["offline"] * 6 and (quantizer.growth.data().asnumpy() == 0.5).all()


def test_a_start_may_be_of_some_quantizers_alone(small_net):
    convert_model(small_net)
    StartQuantization(small_net, 3, ["*.input_quantizer"]).before_step(0)
    assert modes_of(small_net) == ["float", "online"] * 3
    with pytest.raises(ConfigError, match=r"'\*.outputs' matches no quantizer; they are: 0.input_quantizer"):
        StartQuantization(small_net, 3, ["*.outputs"])


@pytest.mark.parametrize("folded", [False, True])
def test_batchnorm_freezes_at_its_step(small_net, images, folded):
    convert_model(small_net)
    if folded:
        fake_bn(small_net)
    small_net.hybridize()
    hook = FreezeBatchNorm(small_net, 2)
    seen = []
    for step in range(4):
        train(small_net, images, hook, 1, first=step)
        mx.nd.waitall()
        seen.append(small_net[1].running_mean.data().asnumpy())
    assert (seen[0] != seen[1]).any() and (seen[1] == seen[2]).all() and (seen[2] == seen[3]).all()
    hook.before_step(0)
    train(small_net, images, Hook(), 1)
    assert (small_net[1].running_mean.data().asnumpy() != seen[3]).any()


def test_a_batchnorm_that_was_made_frozen_stays_so(small_net):
    small_net[1]._kwargs["use_global_stats"] = True
    convert_model(small_net)
    hook = FreezeBatchNorm(small_net, 1)
    hook.before_step(1)
    hook.before_step(0)
    assert [small_net[i]._kwargs["use_global_stats"] for i in (1, 4)] == [True, False]


def test_binary_weights_are_clipped_after_the_step(small_net, images):
    convert_model(small_net, config_list=[{"op_names": ["0", "3"], "weight": "int1", "weight_method": "bnn"}])
    assert isinstance(small_net[0].weight_quantizer, SignFakeQuantize)
    before = small_net[6].weight.data().asnumpy() * 20
    small_net[6].weight.set_data(mx.nd.array(before))
    small_net[0].weight.set_data(small_net[0].weight.data() * 5)
    train(small_net, images, ClipWeights(small_net), 2, learning_rate=1e-4)
    assert np.abs(small_net[0].weight.data().asnumpy()).max() == 1
    assert np.abs(small_net[6].weight.data().asnumpy()).max() > 1  # not binary: left alone


@pytest.mark.parametrize("name, value", [
    ("6.weight_quantizer.growth", float("nan")), ("3.input_quantizer.alpha", float("inf")),
    ("3.input_quantizer.alpha", -1.0), ("3.input_quantizer.alpha", 0.0)])
def test_a_trained_number_that_is_lost_stops_training(small_net, images, name, value):
    convert_model(small_net, config_list=[{"weight": "int4/channel", "input": "auto4", "weight_method": "lsq",
                                           "input_method": "cgpact"}])
    start_training(small_net, images)
    hook = CheckNumbers(small_net, every=2)
    train(small_net, images, hook, 4)
    parameter = quantizer_parameters(small_net)[name]
    values = parameter.data().asnumpy()
    values[0] = value
    parameter.set_data(mx.nd.array(values))
    hook.after_step(4)
    with pytest.raises(TrainingError, match=f"{name}: .* after step 5.*set_rates"):
        hook.after_step(5)
    with pytest.raises(ConfigError, match="at least 1"):
        CheckNumbers(small_net, every=0)


@pytest.mark.parametrize("method", ["pact", "cgpact"])
def test_weight_decay_pulls_a_trained_clip(small_net, images, method):
    """PACT's paper regularizes alpha as weights: without any gradient it shrinks by rate * decay."""
    convert_model(small_net, config_list=[{"input": "auto4", "input_method": method}])
    start_training(small_net, images)
    alpha = quantizer_parameters(small_net)["6.input_quantizer.alpha"]
    trainer = gluon.Trainer({"alpha": alpha}, "sgd", {"learning_rate": 0.1, "wd": 0.5}, kvstore=None)
    with autograd.record():
        (small_net(images) * 0).sum().backward()
    before = alpha.data().asscalar()
    trainer.step(1)
    assert alpha.data().asscalar() == pytest.approx(before * (1 - 0.1 * 0.5), rel=1e-6)


def test_nothing_trained_needs_no_check(small_net):
    CheckNumbers(convert_model(small_net)).after_step(0)


def test_hooks_run_in_order():
    calls = []

    class Spy(Hook):
        def __init__(self, name):
            self.name = name

        def before_step(self, step):
            calls.append((self.name, "before", step))

        def after_step(self, step):
            calls.append((self.name, "after", step))
    hooks = Hooks(Spy("a"), Hooks(Spy("b")), Hook())
    hooks.before_step(3)
    hooks.after_step(3)
    assert calls == [("a", "before", 3), ("b", "before", 3), ("a", "after", 3), ("b", "after", 3)]


def test_parameters_are_parted_for_two_optimizers(small_net, images):
    convert_model(small_net, config_list=[{"weight": "int4/channel", "input": "auto4", "weight_method": "lsq",
                                           "input_method": "cgpact"}])
    start_training(small_net, images)
    trained, rest = quantizer_parameters(small_net), weight_parameters(small_net)
    assert set(trained) == {"0.input_quantizer.growth", "0.weight_quantizer.growth", "3.input_quantizer.alpha",
                            "3.weight_quantizer.growth", "6.input_quantizer.alpha", "6.weight_quantizer.growth"}
    assert not {id(p) for p in trained.values()} & {id(p) for p in rest.values()}
    assert {p.name for p in trained.values()} | set(rest) == set(small_net.collect_params())
    quantizer = gluon.Trainer(trained, "adam", {"learning_rate": 0.01}, kvstore=None)
    weights = gluon.Trainer(rest, "sgd", {"learning_rate": 0.0}, kvstore=None)
    before = small_net[3].weight.data().asnumpy(), trained["3.input_quantizer.alpha"].data().asscalar()
    with autograd.record():
        loss = gluon.loss.SoftmaxCrossEntropyLoss()(small_net(images), LABELS)
    loss.backward()
    quantizer.step(4)
    weights.step(4)
    np.testing.assert_array_equal(small_net[3].weight.data().asnumpy(), before[0])
    assert abs(trained["3.input_quantizer.alpha"].data().asscalar() - before[1]) == pytest.approx(0.01, rel=1e-2)


def test_rates_are_multiples_of_the_optimizers(small_net, images):
    convert_model(small_net, config_list=LSQ)
    start_training(small_net, images)
    set_rates(small_net, lr_mult=0)
    train(small_net, images, Hook(), 2)
    growth = [p.data().asnumpy() for p in quantizer_parameters(small_net).values()]
    assert all((values == 0).all() for values in growth)
    assert all(p.wd_mult == 0 for p in quantizer_parameters(small_net).values())
    set_rates(small_net, wd_mult=0.5)
    assert {(p.lr_mult, p.wd_mult) for p in quantizer_parameters(small_net).values()} == {(0, 0.5)}
    with pytest.raises(ConfigError, match="lr_mult must be a number from 0"):
        set_rates(small_net, lr_mult=-1)


def test_steps_of_activations_start_from_a_batch(small_net, images):
    convert_model(small_net, config_list=LSQ)
    small_net.hybridize()
    with pytest.raises(CalibrationError, match="3 trained steps have no start yet \\(first: 0.input_quantizer\\)"):
        start_training(small_net)
    start_training(small_net, images)
    scale = small_net[0].input_quantizer.get_qparams().scale
    np.testing.assert_allclose(scale, 2 * np.abs(images.asnumpy()).mean() / np.sqrt(7), rtol=1e-5)
    start_training(small_net, images * 100)  # what has a start keeps it
    assert small_net[0].input_quantizer.get_qparams().scale == scale
    assert np.isfinite(small_net(images).asnumpy()).all()


def test_other_activations_take_the_ranges_asked_for(small_net, images):
    convert_model(small_net, config_list=[{"weight": "int8/channel"}, {"op_names": ["3"], "input_method": "pact"}])
    start_training(small_net)
    assert [small_net[i].input_quantizer.mode for i in (0, 3, 6)] == ["ema", "offline", "ema"]
    start_training(small_net, ranges="online")
    assert [small_net[i].input_quantizer.mode for i in (0, 3, 6)] == ["online", "offline", "online"]
    with pytest.raises(CalibrationError, match="0.input_quantizer has no calibrated range"):
        start_training(small_net, ranges="offline")


@pytest.mark.parametrize("method", ["ste", "lsq", "lsq+", "pact", "cgpact", "dorefa", "sat", "bnn"])
@pytest.mark.parametrize("folded", [None, "batch", "corrected", "running"])
def test_every_method_trains_hybridized_with_every_kind_of_batchnorm(small_net, images, method, folded, tmp_path):
    """The loss falls; a checkpoint of the trained network gives the same outputs in a fresh one."""
    config = [{"weight": "int4", "input": "auto4", "method": method}, {"op_names": ["6"], "input": "float"}]
    if method == "bnn":  # signs take the place of the ReLUs
        config = [{"weight": "int1", "input": "float", "method": method},
                  {"op_types": ["Activation"], "output": "int1", "output_method": method}]
    small_net.save_parameters(str(tmp_path / "float.params"))

    def converted():
        net = nn.HybridSequential(prefix="small_")
        with net.name_scope():
            net.add(nn.Conv2D(8, 3, padding=1, use_bias=False, in_channels=3),
                    nn.BatchNorm(epsilon=1e-3, in_channels=8), nn.Activation("relu"),
                    nn.Conv2D(8, 3, groups=2, in_channels=8),
                    nn.BatchNorm(scale=False, in_channels=8), nn.Activation("relu"), nn.Dense(5, in_units=288))
        net.load_parameters(str(tmp_path / "float.params"))
        convert_model(net, config_list=config)
        start_training(net, images)
        if folded:
            fake_bn(net, folded)
        net.hybridize(static_alloc=True, static_shape=True)
        return net
    net = converted()
    losses = train(net, images, Hooks(ClipWeights(net), CheckNumbers(net)), 15, learning_rate=0.02, momentum=0.9)
    assert losses[-1] < 0.5 * losses[0]
    net.update_ema()
    set_mode(net, "offline", "activation")
    expected = net(images).asnumpy()
    net.save_parameters(str(tmp_path / "trained.params"))
    other = converted()
    other.load_parameters(str(tmp_path / "trained.params"))
    set_mode(other, "offline", "activation")
    np.testing.assert_allclose(other(images).asnumpy(), expected, rtol=1e-4, atol=1e-5)


def test_new_statistics_need_batches(small_net, images):
    convert_model(small_net)
    with pytest.raises(CalibrationError, match="no batch came"):
        reestimate_bn(small_net, [])
    assert reestimate_bn(small_net, [images]) == 2


@pytest.mark.parametrize("method", ["bnn", "ste", "lsq", "dorefa"])
def test_nan_is_found_where_it_enters(small_net, images, method):
    """Signs and ReLUs make finite numbers of NaN: the batch and the parameters themselves are looked at."""
    bits = 1 if method == "bnn" else 4
    inputs = "int1" if bits == 1 else f"auto{bits}"
    rules = [{"op_types": ["Conv2D", "Dense"], "weight": f"int{bits}", "input": inputs, "method": method}]
    convert_model(small_net, config_list=rules)
    bad = images.copy()
    bad[0, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="network's input: 1 of"):
        start_training(small_net, bad)
    start_training(small_net, images)
    small_net[1].running_var.set_data(small_net[1].running_var.data() * np.inf)
    with pytest.raises(TrainingError, match="1.running_var: NaN or infinity .* after step 3"):
        CheckNumbers(small_net).after_step(3)
    with pytest.raises(DataError, match="1.running_var: NaN or infinity"):
        start_training(small_net, images)


def test_networks_with_variances_below_zero_are_not_converted(small_net):
    """Their roots are NaN, of which the ReLU behind makes zeros."""
    norm = next(child for child in small_net._children.values() if isinstance(child, nn.BatchNorm))
    norm.running_var.set_data(norm.running_var.data() - 2)
    with pytest.raises(DataError, match="running_var: variances below 0 among the values of the parameter"):
        convert_model(small_net)


def test_networks_with_nan_are_not_converted(small_net):
    weight = small_net[0].weight.data().asnumpy()
    weight[1, 0, 0, 0] = np.nan
    small_net[0].weight.set_data(mx.nd.array(weight))
    with pytest.raises(DataError, match="0.weight: NaN or infinity"):
        convert_model(small_net)


def test_many_parameters_are_looked_at():
    """One operator has room for 200 and dies of more."""
    net = nn.HybridSequential()
    net.add(*[nn.Dense(2, in_units=2) for _ in range(160)])
    net.initialize()
    assert not_finite(net.collect_params()) == []
    net[150].bias.set_data(mx.nd.array([0, np.inf]))
    assert not_finite(net._collect_params_with_prefix()) == ["150.bias"]
