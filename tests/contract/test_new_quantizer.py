# SPDX-License-Identifier: MIT
"""A quantizer that this project does not know needs a class and a row: everything else takes it up by itself."""

import os
import re
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import Trainer

from quantize.convert import convert_model
from quantize.errors import ConfigError, ModelFileError
from quantize.modes import fix_params, quantizers
from quantize.nn.methods import METHODS, Method
from quantize.train import start_training
from tests.contract.toy_quantizers import WideQuantize

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = [{"weight": "int4", "input": "auto4", "method": "wide"}]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(METHODS._members, "wide", Method(WideQuantize, WideQuantize))


def test_the_contract_takes_it_up_and_says_what_is_missing():
    """In a process of its own, since classes are collected once."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.contract.toy_quantizers", "-p", "no:cacheprovider",
         "tests/contract/test_fake_quantizers.py", "-k", "Wide or (Silent and reference)", "-rA"],
        cwd=str(ROOT), env=dict(os.environ, REGISTER_TOYS="1"), capture_output=True, text=True)
    verdicts = re.findall(r"^(PASSED|FAILED|ERROR) \S*\[\S*(Wide|Silent)", done.stdout, re.MULTILINE)
    assert verdicts, done.stdout + done.stderr
    assert {verdict for verdict, toy in verdicts if toy == "Wide"} == {"PASSED"}, done.stdout[-3000:]
    assert {verdict for verdict, toy in verdicts if toy == "Silent"} == {"FAILED"}
    assert len([1 for _, toy in verdicts if toy == "Wide"]) > 20
    assert "SilentQuantize states no formula: define `formula` and `formula_gradient`" in done.stdout


def test_a_network_is_converted_trained_and_saved_with_it(small_net, images, tmp_path):
    net = convert_model(small_net, config_list=[*CONFIG, {"options": {"wide": 3.0}}])
    assert {type(quantizer) for _, quantizer in quantizers(net)} == {WideQuantize}
    start_training(net, images, "online")
    trainer = Trainer(net.collect_params(), "sgd", {"learning_rate": 0.01}, kvstore=None)
    before = net[0].weight.data().asnumpy()
    net.hybridize()
    with autograd.record():
        loss = (net(images) ** 2).mean()
    loss.backward()
    trainer.step(1)
    assert not np.array_equal(net[0].weight.data().asnumpy(), before)
    path = str(tmp_path / "trained.params")
    net.save_parameters(path)
    expected = net(images).asnumpy()
    net[0].weight_quantizer.wide.set_data(mx.nd.ones(1))
    net[0].weight.set_data(mx.nd.array(before))
    net.load_parameters(path)
    np.testing.assert_array_equal(net(images).asnumpy(), expected)
    fix_params(net)
    np.testing.assert_allclose(net(images).asnumpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("flat", [False, True])
def test_a_float_checkpoint_loads_in_spite_of_its_own_parameter(small_net, images, tmp_path, flat):
    path = str(tmp_path / "float.params")
    if flat:
        small_net.collect_params().save(path, strip_prefix=small_net.prefix)
    else:
        small_net.save_parameters(path)
    expected = small_net(images).asnumpy()
    net = convert_model(small_net, config_list=CONFIG)
    net[0].weight.set_data(net[0].weight.data() * 2)
    net.load_parameters(path)
    assert net[0].weight_quantizer.wide.data() == 2
    net.disable_quantize()
    np.testing.assert_array_equal(net(images).asnumpy(), expected)


def test_a_file_that_lacks_a_weight_is_refused_by_the_weights_name(small_net, tmp_path):
    path = str(tmp_path / "part.params")
    small_net[:6].save_parameters(path)
    net = convert_model(small_net, config_list=CONFIG)
    with pytest.raises(ModelFileError, match=r"2 parameters of the float network are missing \(first: 6\.weight\)"):
        net.load_parameters(path)


def test_its_options_are_checked(small_net):
    with pytest.raises(ConfigError, match="'wide' is how much wider the step is: 1 or more; got 0.5"):
        convert_model(small_net, config_list=[*CONFIG, {"options": {"wide": 0.5}}])
