# SPDX-License-Identifier: MIT
"""Checkpoints: only arrays and numbers, each bit vouched for, whatever the optimizer is."""

import json
import os
import pickle
import shutil

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

from gluon_quantize.training.checkpoints import Checkpoints
from gluon_quantize.training.loop import Progress
from gluon_quantize.training.optimizers import OptimizerChoice, Optimizers
from gluon_quantize.training.states import read_state, write_state
from quantize.convert import convert_model
from quantize.errors import ModelFileError
from quantize.train import start_training

OPTIMIZERS = sorted(set(mx.optimizer.Optimizer.opt_registry) - {"test", "groupadagrad"})  # the last: matrices alone


def network():
    mx.random.seed(3)
    net = gluon.nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(gluon.nn.Dense(5, in_units=4), gluon.nn.Dense(2, in_units=5))
    net.initialize(mx.init.Xavier())
    return net


def step(net, update, number):
    x = mx.nd.array(np.random.RandomState(number).randn(6, 4).astype(np.float32))
    mx.random.seed(number)
    with autograd.record():
        loss = net(x).square().sum()
    loss.backward()
    update(6)


def values(net):
    return [parameter.data().asnumpy() for parameter in net.collect_params().values()]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_goes_on_bit_for_bit(tmp_path, monkeypatch, name):
    monkeypatch.setattr(pickle, "loads", None)
    monkeypatch.setattr(pickle, "dumps", None)

    def trainer(net):
        return gluon.Trainer(net.collect_params(), name, {"learning_rate": 0.01}, kvstore=None)
    net, other = network(), network()
    first = trainer(net)
    for number in range(3):
        step(net, first.step, number)
    write_state(tmp_path / "state.npz", first)
    for old, new in zip(net.collect_params().values(), other.collect_params().values()):
        new.set_data(old.data())
    second = trainer(other)
    read_state(tmp_path / "state.npz", second)
    for number in range(3, 6):
        step(net, first.step, number)
        step(other, second.step, number)
    for one, two in zip(values(net), values(other)):
        np.testing.assert_array_equal(one, two)


def test_the_state_of_another_optimizer_is_refused(tmp_path):
    net = network()
    write_state(tmp_path / "s.npz", gluon.Trainer(net.collect_params(), "adam", kvstore=None))
    with pytest.raises(ModelFileError, match="is the state of Adam, the optimizer is SGD"):
        read_state(tmp_path / "s.npz", gluon.Trainer(net.collect_params(), "sgd", kvstore=None))


@pytest.fixture
def saved(tmp_path):
    """(Checkpoints with epochs 1 and 2, a network and optimizers for them)."""
    net = convert_model(network(), config_list=[
        {"op_types": ["Dense"], "weight": "int4/channel", "input": "auto4", "method": "lsq"}])
    start_training(net, mx.nd.ones((2, 4)))
    optimizers = Optimizers.of(net, *[OptimizerChoice("adam", 0.01, {})] * 2)
    checkpoints = Checkpoints(tmp_path / "checkpoints", {"lr": 0.01})
    for epoch in (1, 2):
        step(net, optimizers.step, epoch)
        checkpoints.save(net, optimizers, Progress(epoch=epoch, step=epoch))
    return checkpoints, net, optimizers


def test_what_a_checkpoint_holds(saved, tmp_path):
    checkpoints, net, optimizers = saved
    folder = tmp_path / "checkpoints" / "epoch-2"
    names = ["manifest.json", "net.params", "progress.json", "quantizers.npz", "weights.npz"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert set(json.loads((folder / "manifest.json").read_text())["files"]) == set(names) - {"manifest.json"}
    assert checkpoints.load(net, optimizers).step == 2


def test_folders_with_other_names_are_none(saved, tmp_path):
    checkpoints, net, optimizers = saved
    newest = tmp_path / "checkpoints" / "epoch-2"
    for name in ("epoch-2.old", "epoch-3.tmp", "epoch-3.0123456789abcdef.tmp", "epoch-x", "epoch-",
                 "epoch-03", "epoch-٣"):
        shutil.copytree(str(newest), str(newest.with_name(name)))
    newest.with_name("epoch-9").write_text("")
    assert [path.name for path in checkpoints.folders()] == ["epoch-1", "epoch-2"]
    assert checkpoints.load(net, optimizers).step == 2


@pytest.mark.parametrize("name", ["net.params", "progress.json", "quantizers.npz", "weights.npz", "manifest.json"])
@pytest.mark.parametrize("damage", ["bit", "cut", "missing"])
def test_damage_is_never_resumed_in_silence(saved, tmp_path, name, damage):
    checkpoints, net, optimizers = saved
    path = tmp_path / "checkpoints" / "epoch-2" / name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        content[len(content) // 2] ^= 4
        path.write_bytes(bytes(content) if damage == "bit" else bytes(content[:len(content) // 2]))
    refused = "epoch-2.*remove this checkpoint to go on from the one before"
    for call in (checkpoints.check, lambda: checkpoints.load(net, optimizers)):
        with pytest.raises(ModelFileError, match=refused) as told:
            call()
        assert "\n" not in str(told.value)
    shutil.rmtree(str(path.parent))
    assert checkpoints.load(net, optimizers).step == 1


def test_files_beside_are_refused(saved, tmp_path):
    checkpoints, _, _ = saved
    (tmp_path / "checkpoints" / "epoch-2" / "more").write_text("")
    with pytest.raises(ModelFileError, match="more: is not listed in its manifest"):
        checkpoints.check()


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_pickles_of_earlier_versions_are_refused_unread(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints, net, optimizers = saved
    folder = tmp_path / "checkpoints" / "epoch-2"
    for name in ("weights", "quantizers"):
        (folder / f"{name}.states").write_bytes(pickle.dumps(Code()))
        (folder / f"{name}.npz").unlink()
    (folder / "manifest.json").unlink()
    with pytest.raises(ModelFileError, match="of an earlier version, whose optimizer states are pickles"):
        checkpoints.load(net, optimizers)
    np.savez(str(tmp_path / "evil.npz"), layout=np.array([Code()], object))
    with pytest.raises(ModelFileError, match="is no state of an optimizer"):
        read_state(tmp_path / "evil.npz", gluon.Trainer(net.collect_params(), "adam", kvstore=None))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("change", [
    lambda layout: layout["states"].update({"0": None}), lambda layout: layout["states"].update({"0": ["0.0"]}),
    lambda layout: layout["states"].update({"0": ["0.0", "1.0"]}), lambda layout: layout["states"].update({"9": None}),
    lambda layout: layout["updates"].update({"0": 10 ** 400}), lambda layout: layout["numbers"].update(lr="0.1"),
    lambda layout: layout.update(more=1)])
def test_states_that_do_not_fit_their_parameters_are_refused(tmp_path, change):
    """MXNet would read beyond them, or fail at the first step."""
    step_net = network()
    trainer = gluon.Trainer(step_net.collect_params(), "adam", {"learning_rate": 0.01}, kvstore=None)
    step(step_net, trainer.step, 0)
    write_state(tmp_path / "s.npz", trainer)
    with np.load(str(tmp_path / "s.npz")) as stored:
        arrays = {name: stored[name] for name in stored.files}
    read_state(tmp_path / "s.npz", trainer)
    layout = json.loads(arrays["layout"].tobytes())
    change(layout)
    np.savez(str(tmp_path / "s.npz"), **dict(arrays, layout=np.frombuffer(json.dumps(layout).encode(), np.uint8)))
    with pytest.raises(ModelFileError, match="s.npz: ") as told:
        read_state(tmp_path / "s.npz", trainer)
    assert "\n" not in str(told.value)
