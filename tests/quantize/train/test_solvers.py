# SPDX-License-Identifier: MIT
"""Every quantizer can have a solver of its own; what a configuration says of starts is not calibrated away."""

import mxnet as mx
import numpy as np
import pytest

from calib.calibrators import named_calibrator
from calib.collect import calibrate, observe
from gluon_quantize.training.optimizers import OptimizerChoice, Optimizers
from quantize import load_quantized, save_quantized
from quantize.config import rules_from_config
from quantize.convert import convert_model
from quantize.errors import ConfigError
from quantize.storage.values import decoded, encoded
from quantize.train import solver_groups, start_training

ADAM = {"optimizer": "adam", "lr": 0.5, "wd": 0}


def converted(net, images, *rules):
    convert_model(net, config_list=[{"weight": "int4", "input": "auto4", "method": "lsq"}, *rules])
    start_training(net, images)
    return net


def test_groups_follow_the_rules(small_net, images):
    net = converted(small_net, images, {"op_names": ["3"], "options": {"input_solver": ADAM}},
                    {"op_names": ["6"], "options": {"weight_solver": ADAM, "input_solver": {"lr": 0.25}}})
    groups = {solver: sorted(parameters) for solver, parameters in solver_groups(net).items()}
    adam = (("lr", 0.5), ("optimizer", "adam"), ("wd", 0))
    assert groups.pop(adam) == ["3.input_quantizer.growth", "6.weight_quantizer.growth"]
    assert groups.pop((("lr", 0.25),)) == ["6.input_quantizer.growth"]
    assert groups == {(): ["0.input_quantizer.growth", "0.weight_quantizer.growth", "3.weight_quantizer.growth"]}


def test_they_move_as_their_solvers_say(small_net, images):
    """A step of Adam is as large as its rate; SGD with rate 0 moves nothing."""
    net = converted(small_net, images, {"op_names": ["3"], "options": {"input_solver": dict(ADAM, lr=0.001)}})
    still = OptimizerChoice("sgd", 0.0, {"wd": 0.0, "momentum": 0.9})
    optimizers = Optimizers.of(net, still, still)
    assert {name: type(trainer._optimizer).__name__ for name, trainer in optimizers.trainers.items()} == {
        "weights": "SGD", "quantizers": "SGD", "quantizers-1": "Adam"}
    before = {name: p.data().asnumpy() for name, p in net.collect_params().items() if p.grad_req != "null"}
    with mx.autograd.record():
        loss = (net(images) ** 2).sum()
    loss.backward()
    optimizers.step(len(images))
    moved = {name: abs(net.collect_params()[name].data().asnumpy() - values).max() for name, values in before.items()}
    growth = net[3].input_quantizer.growth.name
    assert moved.pop(growth) == pytest.approx(0.001, rel=0.01)
    assert set(moved.values()) == {0}


def test_what_a_solver_leaves_out_stays():
    usual = OptimizerChoice("nag", 0.1, {"wd": 1e-4, "momentum": 0.9})
    assert usual.changed({}) == usual
    assert usual.changed({"lr": 1}) == OptimizerChoice("nag", 1.0, {"wd": 1e-4, "momentum": 0.9})
    assert usual.changed({"optimizer": "adam", "wd": 0}) == OptimizerChoice("adam", 0.1, {"wd": 0.0})
    assert usual.changed({"optimizer": "sgd", "momentum": 0.5}).options == {"wd": 1e-4, "momentum": 0.5}
    with pytest.raises(ConfigError, match="unknown optimizer 'adm'.*did you mean 'adam'"):
        usual.changed({"optimizer": "adm"})


@pytest.mark.parametrize("value", [3, "adam", {}, {"rate": 1}, {"lr": -1}, {"lr": "1"}, {"lr": True}, {"optimizer": 1},
                                   {"lr": float("inf")}, [1]])
def test_what_is_no_solver(small_net, value):
    with pytest.raises(ConfigError, match="option 'input_solver' is a dictionary of optimizer, lr, wd, momentum"):
        convert_model(small_net, config_list=[{"options": {"input_solver": value}}])


def test_solvers_are_stored(small_net, images, tmp_path):
    rules = tuple(rules_from_config([{"options": {"input_solver": ADAM}}]))
    assert decoded(encoded(rules)) == rules
    net = converted(small_net, images, {"op_names": ["3"], "options": {"input_solver": ADAM}})
    save_quantized(net, tmp_path / "net.qnet")
    again = load_quantized(tmp_path / "net.qnet")
    assert {solver: len(found) for solver, found in solver_groups(again).items()} == {
        solver: len(found) for solver, found in solver_groups(net).items()}


@pytest.mark.parametrize("method", ["pact", "cgpact", "dorefa"])
def test_stated_starts_are_not_calibrated_away(small_net, images, method):
    convert_model(small_net, config_list=[
        {"input": "auto4", "input_method": method}, {"op_names": ["3"], "options": {"alpha": 6.0}}])
    calibrator = named_calibrator("mse")
    observers = observe(small_net, [(images, np.zeros(len(images)))], calibrator)
    found = calibrate(small_net, observers, calibrator, keep_stated=True)
    assert found["3.input_quantizer"] == pytest.approx(6) and found["6.input_quantizer"] != pytest.approx(8)
    assert small_net[3].input_quantizer.alpha.data().asscalar() == 6.0
    calibrate(small_net, observers, calibrator)  # who calls it without a word wants every range
    assert small_net[3].input_quantizer.alpha.data().asscalar() != 6.0
