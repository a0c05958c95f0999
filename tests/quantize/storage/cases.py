# SPDX-License-Identifier: MIT
"""Networks in every state that a file must bring back; each a function of nothing, small and quick."""

import contextlib

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from mxnet.gluon import nn

from calib.bias_correction import correct_biases
from calib.calibrators import named_calibrator
from calib.collect import calibrate, observe
from calib.rounding.learn import learn_rounding
from calib.tiles import calibrate_tiles
from quantize.convert import convert_model, convert_to_relu6, fake_bn, mean_global_pooling, merge_bn, merge_fake_bn
from quantize.modes import fix_params, quantize_input, set_mode, update_ema
from quantize.repair.equalize import equalize
from quantize.train import freeze_bn, set_clamp_only, start_training

CASES = {}
TYPES = ["Conv2D", "Dense"]


def images(count=6):
    return mx.nd.array(np.random.RandomState(0).normal(size=(count, 3, 10, 10)))


def case(name):
    def store(make):
        CASES[name] = make
        return make
    return store


class Residual(nn.HybridBlock):
    """A branch, an addition, an operator without a layer, and a parameter of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.first = nn.Conv2D(8, 3, padding=1, use_bias=False)
            self.norm = nn.BatchNorm()
            self.second = nn.Conv2D(8, 3, padding=1, groups=8)
            self.scale = self.params.get("scale", shape=(1, 8, 1, 1), init=mx.init.Constant(0.7))

    def hybrid_forward(self, F, x, scale):
        y = F.relu(self.norm(self.first(x)))
        return F.concat(F.broadcast_mul(self.second(y), scale), F.LeakyReLU(x, act_type="leaky", slope=0.1), dim=1)


def network():
    mx.random.seed(3)
    net = nn.HybridSequential()
    net.add(nn.Conv2D(8, 3, padding=1, use_bias=False), nn.BatchNorm(epsilon=1e-3), nn.Activation("relu"), Residual(),
            nn.MaxPool2D(2, 2), nn.Dropout(0.3), nn.Conv2D(12, 1, activation="relu"), nn.GlobalAvgPool2D(),
            nn.Dense(5))
    net.initialize(mx.init.Xavier(magnitude=3))
    with autograd.train_mode():
        net(images())
    for name, parameter in net.collect_params().items():
        if name.endswith(("gamma", "running_var")):
            parameter.set_data(mx.nd.random.uniform(0.5, 2, parameter.shape))
        elif name.endswith(("beta", "running_mean")):
            parameter.set_data(mx.nd.random.normal(0, 0.3, parameter.shape))
    return net


def converted(**rule):
    one_scale = rule.get("method") in ("pact", "cgpact", "dorefa", "sat")
    usual = {"op_types": TYPES, "weight": "int4/layer" if one_scale else "int4/channel", "input": "auto4"}
    return convert_model(network(), config_list=[dict(usual, **rule)])


def ranged(net, name="mse"):
    calibrator = named_calibrator(name)
    calibrate(net, observe(net, [images(32)], calibrator), calibrator)
    quantize_input(net, enable=True, online=False)
    return net


def trained(net, steps=2, watch=lambda: None):
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.02})
    for _ in range(steps):
        with autograd.record():
            loss = (net(images()) - 1).square().mean()
        loss.backward()
        trainer.step(1)
        watch()
    return net


def started(net, ranges="ema"):
    start_training(net, images(), ranges)
    return trained(net)


# ---- no quantizer, every mode, every calibrator that matters


CASES["float"] = network
CASES["float merged"] = lambda: (lambda net: (merge_bn(net), net)[1])(network())
CASES["relu6, mean pooling"] = lambda: (lambda net: (mean_global_pooling(net), net)[1])(convert_to_relu6(network()))
CASES["as converted"] = converted


@case("mode float")
def _float():
    net = ranged(converted())
    set_mode(net, "float")
    return net


for _name in ("minmax", "percentile:99.9", "mse", "sqnr", "kl", "aciq", "naive"):
    CASES[f"calibrated by {_name}"] = lambda name=_name: ranged(converted(), name)


@case("for a target")
def _target():
    net = network()
    merge_bn(net)
    return ranged(convert_model(net, target="ncnn"))


@case("merged, calibrated, fixed")
def _fixed():
    net = network()
    merge_bn(net)
    convert_model(net, config_list=[{"op_types": TYPES, "weight": "int3/channel", "input": "auto8"}])
    ranged(net)
    fix_params(net)
    return net


@case("zero points")
def _affine():
    return ranged(converted(input="uint8/affine"))


@case("outputs, activations, levels")
def _outputs():
    net = convert_model(network(), config_list=[
        {"op_types": TYPES, "weight": "int(5)/group", "input": "float", "output": "int6"},
        {"op_types": ["Activation"], "output": "auto4"}])
    return ranged(net)


@case("bias correction")
def _bias():
    net = network()
    merge_bn(net)
    convert_model(net, config_list=[{"op_types": TYPES, "weight": "int3/channel", "input": "auto8"}])
    ranged(net)
    correct_biases(net, [images(16)], "sequential")
    fix_params(net)
    return net


@case("equalized, learned rounding")
def _rounding():
    net = network()
    merge_bn(net)
    with contextlib.suppress(Exception):  # nothing of this network can be equalized where its branches forbid it
        equalize(net, [images(32)])
    convert_model(net, config_list=[{"op_types": TYPES, "weight": "int3/channel", "input": "auto8"}])
    ranged(net)
    learn_rounding(net, [images(32)])
    return net


# ---- training: every method, every way of ranges, folded BatchNorm, Winograd


for _name in ("ste", "lsq", "lsq+", "pact", "cgpact", "dorefa", "sat"):
    CASES[f"trained by {_name}"] = lambda name=_name: started(converted(method=name))


@case("trained by bnn")
def _bnn():
    return started(convert_model(network(), config_list=[
        {"op_types": TYPES, "weight": "int1", "input": "float", "method": "bnn"},
        {"op_types": ["Activation"], "output": "int1", "method": "bnn"}]))


@case("sat, clamped only")
def _clamped():
    net = converted(method="sat")
    start_training(net, images())
    set_clamp_only(net)
    set_mode(net, "float", "activation")
    return trained(net)


@case("trained by dorefa, then fixed")
def _dorefa_fixed():
    net = started(converted(method="dorefa"))
    fix_params(net)
    return net


@case("moving averages stored")
def _ema():
    net = started(converted())
    update_ema(net)
    set_mode(net, "offline", "activation")
    return net


@case("gradients of few bits")
def _gradients():
    return started(converted(method="dorefa", options={"gradient_bits": 6}))


for _name in ("batch", "corrected", "running"):
    CASES[f"fake BN, {_name}"] = lambda name=_name: _folded(name)


def _folded(statistics):
    net = converted(method="lsq")
    fake_bn(net, statistics)
    return started(ranged(net), "offline")


@case("fake BN, frozen, fixed")
def _folded_frozen():
    net = _folded("batch")
    freeze_bn(net)
    fix_params(net)
    return net


@case("fake BN, merged")
def _folded_merged():
    net = _folded("running")
    merge_fake_bn(net)
    return net


for _name in ("F23", "F43/position", "F43/channel/inputs"):
    CASES[f"Winograd {_name}"] = lambda name=_name: _winograd(name)


def _winograd(text):
    net = ranged(convert_model(network(), config_list=[
        {"op_types": TYPES, "weight": "int8/channel", "input": "auto8", "method": "lsq"},
        {"op_types": ["Conv2D"], "winograd": text}]))
    if text.endswith("inputs"):
        calibrate_tiles(net, [images()])
    return started(net, "offline")
