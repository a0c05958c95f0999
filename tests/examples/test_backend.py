# SPDX-License-Identifier: MIT
"""`simulate --backend`: the quantized network evaluated in MXNet's own integers, or as any target computes it."""

import json

import mxnet as mx
import pytest
from mxnet.gluon import nn

from deploy.targets.mxnet.runner import exact_products
from gluon_quantize.commands import deploy
from gluon_quantize.commands import simulate as command
from gluon_quantize.models.request import NetworkRequest
from gluon_quantize.runs.requests import QuantizationRequest
from gluon_quantize.runs.simulate import SimulateRequest, simulate
from quantize.errors import ConfigError

FEW = ("--model", "digits_lenet", "--num-images", "100")


def stopped(*arguments, main=command.main):
    try:
        return main([str(argument) for argument in arguments], "gluon-quantize")
    except SystemExit as stop:
        return stop.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("backend") / "out"
    assert stopped(*FEW, "--backend", "int8", "--output", place) == 0
    return place


def test_it_says_how_near_its_codes_are(folder):
    found = json.loads((folder / "result.json").read_text())
    backend = found["backend"]
    assert backend["name"] == "int8" and backend["images"] == 4 and set(backend["versions"]) == {"mxnet"}
    assert list(backend["layers"]) == ["features.0", "features.12", "features.4", "features.8", "output"]
    assert sum(layer["codes"] for layer in backend["layers"].values()) == backend["total"]["codes"] > 3000
    assert found["settings"]["target"] == "mxnet" and found["settings"]["backend"] == "int8"
    if exact_products():  # a chain of layers: only steps and biases differ
        assert backend["total"]["identical"] >= 0.97 * backend["total"]["codes"] and backend["total"]["largest"] <= 1
        assert abs(found["quantized"]["top1_count"] - found["float"]["top1_count"]) <= 1


def test_a_checkpoint_runs_in_it_too(folder, tmp_path, capsys):
    assert stopped(folder, "--backend", "int8", "--num-images", "50", "--output", tmp_path / "again") == 0
    assert "Back end int8 (mxnet" in capsys.readouterr().out
    first, again = (json.loads((place / "result.json").read_text())["backend"]["total"]
                    for place in (folder, tmp_path / "again"))
    assert first == again


@pytest.mark.parametrize("more,said", [
    (("--target", "ncnn"), "--backend int8 computes as the target mxnet does, not as ncnn"),
    (("--online",), "--backend int8 needs fixed input ranges"),
    (("--weight-bits", "4"), "the engine decides the formats"),
    (("--calib-shard", "1/2", "--save-state", "s"), "--backend int8 needs fixed input ranges")])
def test_what_does_not_go_with_it(more, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert stopped(*FEW, "--backend", "int8", *more) == 2
    assert said in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_what_the_engine_cannot_hold_is_said(tmp_path, capsys):
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps([{"op_names": ["features.4"], "weight": "int4/channel/even"}]))
    assert stopped(*FEW, "--backend", "int8", "--config", rules) == 2
    assert "features.4: weight int4/channel/even, but MXNet stores" in capsys.readouterr().err


def test_in_python():
    network = NetworkRequest(model="digits_lenet")
    with pytest.raises(ConfigError, match="backend must be one of float, int8, exact, got 'fast'"):
        SimulateRequest(network, backend="fast")
    with pytest.raises(ConfigError, match="wants the formats of --target mxnet"):
        SimulateRequest(network, backend="int8")
    assert simulate(SimulateRequest(network, quantization=QuantizationRequest(target="mxnet", exclude_first=False),
                                    backend="int8")).nearness.total.share > 0.99


# ---- as a target computes


@pytest.mark.parametrize("target", ["c", "ncnn"])
def test_exact_goes_with_other_targets(target, tmp_path, capsys):
    place = tmp_path / "out"
    assert stopped(*FEW, "--backend", "exact", "--target", target, "--output", place) == 0
    found = json.loads((place / "result.json").read_text())
    assert found["backend"]["versions"] == {"target": target} and found["backend"]["name"] == "exact"
    assert found["backend"]["total"]["identical"] >= 0.99 * found["backend"]["total"]["codes"] > 3000
    assert found["quantized"]["top1_count"] >= 99
    # a checkpoint knows its target
    capsys.readouterr()
    assert stopped(place, "--backend", "exact", "--num-images", "50") == 0
    assert f"Back end exact (target {target}): of 3,072 codes of 4 images" in capsys.readouterr().out


class Residual(nn.HybridBlock):
    """An addition and a global average, whose inputs only engines round."""

    def __init__(self):
        super().__init__(prefix="net_")
        with self.name_scope():
            self.first = nn.Conv2D(8, 3, padding=1, activation="relu")
            self.second = nn.Conv2D(8, 3, padding=1)
            self.output = nn.Dense(10)

    def hybrid_forward(self, F, x):
        x = self.first(x)
        x = F.Activation(self.second(x) + x, act_type="relu")
        return self.output(F.Pooling(x, kernel=(1, 1), global_pool=True, pool_type="avg"))


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    """Its options, with random weights."""
    place = tmp_path_factory.mktemp("residual")
    mx.random.seed(5)
    net = Residual()
    net.initialize(mx.init.Xavier())
    net.hybridize()
    net(mx.nd.zeros((1, 1, 8, 8)))
    net.export(str(place / "net"))
    return ("--symbol", place / "net-symbol.json", "--params", place / "net-0000.params", "--dataset", "digits",
            "--batch-size", "50", "--num-images", "300", "--num-sample", "2")


@pytest.mark.parametrize("target", ["mxnet", "onnx"])
def test_exact_is_what_the_engine_computes(target, residual, tmp_path):
    """Where the simulation in float rounds elsewhere: the scores themselves, which only equal codes give."""
    pytest.importorskip({"mxnet": "mxnet", "onnx": "onnxruntime"}[target])
    common = (*residual, "--target", target)
    assert stopped(*common, "--output", tmp_path / "deployed", "--verify-images", "2", "--latency-runs", "1",
                   main=deploy.main) == 0
    assert stopped(*common, "--backend", "exact", "--output", tmp_path / "exact") == 0
    ours, engine = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("exact", "deployed"))
    certificate = json.loads((tmp_path / "deployed" / "certificate.json").read_text())
    first = next(iter(certificate["sides"].values()))
    assert engine["accuracy"]["simulated"]["agreement_count"] == ours["agreement_count"] < 300
    assert ours["backend"]["total"]["identical"] < ours["backend"]["total"]["codes"]
    if first["codes"]["share"] == 1:  # processors without VNNI cut off sums
        assert engine["accuracy"][f"{target} int8"] == engine["accuracy"]["simulated"]


def test_exact_needs_a_target(capsys):
    assert stopped(*FEW, "--backend", "exact") == 2
    assert "--backend exact wants the formats of --target NAME" in capsys.readouterr().err
    network = NetworkRequest(model="digits_lenet")
    with pytest.raises(ConfigError, match="--backend exact wants the formats of --target NAME"):
        SimulateRequest(network, backend="exact")
