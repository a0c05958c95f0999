# SPDX-License-Identifier: MIT
"""Every state of a network comes back from its file in another process, bit for bit."""

import json
import pathlib
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

from calib.bias_correction import correct_biases
from calib.calibrators import named_calibrator
from calib.collect import calibrate, observe
from calib.rounding.learn import restore_rounding
from quantize import load_quantized, save_quantized
from quantize.convert import convert_model
from quantize.modes import float_parameters, mode, quantize_input, quantized_layers, quantizers, unfix_params
from tests.quantize.storage.cases import CASES, images, trained

ROOT = pathlib.Path(__file__).resolve().parents[3]
NAMES = list(CASES)


def outputs(net, x):
    return net(x).asnumpy()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Case -> what differs in the other process; one for all of them, since it takes seconds to start."""
    folder = tmp_path_factory.mktemp("states")
    for number, make in enumerate(CASES.values()):
        path, x, net = folder / f"{number:02d}.qnet", images(), make()
        save_quantized(net, path)
        expected = {"x": x.asnumpy(), "eager": outputs(net, x)}
        # a batch moves moving averages: such a network is not the one that was saved any more
        if not any(quantizer.mode == "ema" for _, quantizer in quantizers(net)):
            net.hybridize(static_alloc=True, static_shape=True)
            expected["hybridized"] = outputs(net, x)
        np.savez(str(path.with_suffix(".npz")), **expected)
    done = subprocess.run([sys.executable, "-m", "tests.quantize.storage.load_all", str(folder)], cwd=str(ROOT),
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: found[f"{number:02d}"] for number, name in enumerate(NAMES)}


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_the_same_in_another_process(loaded, name):
    assert loaded[name] == []


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("trained", "fake BN,", "Winograd"))
                                  and "fixed" not in name])
def test_training_goes_on_as_if_nothing_had_been(name, tmp_path):
    net = CASES[name]()
    save_quantized(net, tmp_path / "net.qnet")
    again = load_quantized(tmp_path / "net.qnet")
    wanted = {key: p.grad_req for key, p in net._collect_params_with_prefix().items()}
    assert {key: p.grad_req for key, p in again._collect_params_with_prefix().items()} == wanted
    for each in (net, again):
        mx.random.seed(0)
        trained(each)
    assert outputs(net, images()).tobytes() == outputs(again, images()).tobytes()


def test_what_was_there_before_rounding_and_correction_comes_back(tmp_path):
    """Float weights and biases were those that rounding had been learned for, also for whoever trains on from them."""
    net, x = CASES["equalized, learned rounding"](), images()
    layers = [layer for _, layer in quantized_layers(net)]
    before = [layer.unrounded.weight.asnumpy() for layer in layers]
    save_quantized(net, tmp_path / "net.qnet")
    other = load_quantized(tmp_path / "net.qnet")
    rounded = outputs(other, x)
    with float_parameters(other), mode(other, "float"):
        in_float = outputs(other, x)
    np.testing.assert_array_equal(outputs(other, x), rounded)
    np.testing.assert_array_equal(outputs(load_quantized(tmp_path / "net.qnet", as_float=True), x), in_float)
    restore_rounding(other)
    for (_, layer), weight in zip(quantized_layers(other), before):
        np.testing.assert_array_equal(layer.weight.data().asnumpy(), weight)
        assert layer.unrounded is None
    with mode(other, "float"):
        np.testing.assert_array_equal(outputs(other, x), in_float)
    assert not np.array_equal(in_float, rounded)


def test_corrected_biases_are_not_the_float_networks(tmp_path):
    net, x = CASES["merged, calibrated, fixed"](), images()
    unfix_params(net)
    with mode(net, "float"):
        in_float = outputs(net, x)
    correct_biases(net, [x])
    save_quantized(net, tmp_path / "net.qnet")
    np.testing.assert_array_equal(outputs(load_quantized(tmp_path / "net.qnet", as_float=True), x), in_float)
    other = load_quantized(tmp_path / "net.qnet")
    with float_parameters(other), mode(other, "float"):
        np.testing.assert_array_equal(outputs(other, x), in_float)


def test_a_quantizer_is_shared_whichever_layer_comes_first_by_the_alphabet(tmp_path):
    """SSD's predictors share the backbone's, whose names come after theirs: such files could not be opened."""
    class Branches(mx.gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            self.zebra, self.ape = mx.gluon.nn.Dense(3, in_units=4), mx.gluon.nn.Dense(3, in_units=4)

        def hybrid_forward(self, F, x):
            return self.zebra(x) + self.ape(x)

    net, x = Branches(), mx.nd.array(np.random.RandomState(2).randn(5, 4))
    net.initialize(mx.init.Uniform(1))
    net = convert_model(net, config_list=[{"op_types": ["Dense"], "weight": "int8", "input": "int8"}], example_input=x)
    calibrator = named_calibrator("minmax")
    calibrate(net, observe(net, [x], calibrator), calibrator)
    quantize_input(net, enable=True, online=False)
    assert net.ape.input_quantizer is net.zebra.input_quantizer
    save_quantized(net, tmp_path / "net.qnet")
    again = load_quantized(tmp_path / "net.qnet")
    layers = dict(quantized_layers(again))
    assert layers["ape"].input_quantizer is layers["zebra"].input_quantizer
    np.testing.assert_array_equal(again(x).asnumpy(), net(x).asnumpy())
