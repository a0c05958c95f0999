# SPDX-License-Identifier: MIT
"""`simulate --backend int8`: the quantized network evaluated in MXNet's own integers."""

import json

import pytest

from deploy.targets.mxnet.runner import exact_products
from gluon_quantize.commands import simulate as command
from gluon_quantize.models.request import NetworkRequest
from gluon_quantize.runs.requests import QuantizationRequest
from gluon_quantize.runs.simulate import SimulateRequest, simulate
from quantize.errors import ConfigError

FEW = ("--model", "digits_lenet", "--num-images", "100")


def stopped(*arguments):
    try:
        return command.main([str(argument) for argument in arguments], "gluon-quantize simulate")
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
    with pytest.raises(ConfigError, match="backend must be one of float, int8, got 'fast'"):
        SimulateRequest(network, backend="fast")
    with pytest.raises(ConfigError, match="wants the formats of --target mxnet"):
        SimulateRequest(network, backend="int8")
    assert simulate(SimulateRequest(network, quantization=QuantizationRequest(target="mxnet", exclude_first=False),
                                    backend="int8")).nearness.total.share > 0.99
