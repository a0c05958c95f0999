# SPDX-License-Identifier: MIT
"""Bits for each layer, searched from the command line."""

import json
from types import SimpleNamespace

import pytest

from gluon_quantize.commands.main import main
from gluon_quantize.runs import search
from gluon_quantize.runs.search import ImagesRequest, NetworkRequest, SearchRequest
from quantize.errors import ConfigError

FEW = ("search", "--model", "digits_lenet", "--num-images", 100)


def command(*arguments):
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code


@pytest.fixture
def found(tmp_path, capfd):
    """function(*arguments) -> (printed text, result.json, rules.json) of a search that went well."""
    def run(*arguments, code=0):
        assert command(*FEW, "--output", tmp_path / "out", "--force", *arguments) == code
        return (capfd.readouterr().out, *(json.loads((tmp_path / "out" / name).read_text())
                                         for name in ("result.json", "rules.json")))
    return run


def test_a_size_is_kept_and_the_rules_make_the_same_network(found, tmp_path, capfd):
    out, result, rules = found("--size", 0.5)
    assert result["met"] and result["best"]["share"] <= 0.5 and "<- chosen" in out
    assert [rule["op_names"] for rule in rules] == [[f"features.{i}"] for i in (0, 4, 8, 12)] + [["output"]]
    assert len({rule["weight"] for rule in rules}) > 1 and {rule["input"] for rule in rules} == {"auto8"}
    curve = result["curve"]
    assert [point["share"] for point in curve] == sorted(point["share"] for point in curve)
    assert sum("top1_count" in point for point in curve) >= 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"curve.png", "plan.txt", "result.json",
                                                                    "rules.json"}
    assert command("simulate", "--model", "digits_lenet", "--num-images", 100, "--merge-bn", "--exclude-first-conv",
                   "false", "--learn-rounding", "gptq", "--config", tmp_path / "out" / "rules.json", "--output",
                   tmp_path / "again") == 0
    again = json.loads((tmp_path / "again" / "result.json").read_text())
    assert again["quantized"]["top1_count"] == result["best"]["top1_count"]


def test_bit_operations_take_bits_from_inputs(found):
    _, result, rules = found("--operations", 0.4, "--curve-points", 1, "--bits", 4, 6)
    assert result["met"] and result["best"]["share"] <= 0.4
    assert {rule["input"] for rule in rules} - {"auto8"}


def test_the_smallest_that_keeps_a_drop(found):
    _, result, _ = found("--accuracy-drop", 1, "--bits", 2, 4, "--curve-points", 1)
    assert result["met"] and result["best"]["drop"] <= 1 and result["best"]["share"] < 0.7
    evaluated = [point for point in result["curve"] if "drop" in point]
    assert all(point["share"] >= result["best"]["share"] for point in evaluated if point["drop"] <= 1)


def test_a_size_that_cannot_be_kept_is_said_and_the_exit_code_says_so(found):
    out, result, rules = found("--size", 0.01, "--bits", 4, 8, "--curve-points", 1, code=1)
    assert not result["met"] and "can NOT be kept" in out
    assert {rule["weight"] for rule in rules} == {"int4/channel"}
    found("--size", 0.01, "--bits", 4, 8, "--curve-points", 1, code=1)  # --force replaces what a search has written


def test_the_smallest_that_keeps_an_agreement(found):
    _, result, _ = found("--agreement", 0.98, "--bits", 2, 4, "--curve-points", 1)
    assert result["met"] and result["best"]["agreement"] >= 0.98 and result["best"]["share"] < 0.7


def test_bad_input(capfd):
    for arguments in ((), ("--size", 0.5, "--operations", 0.5), ("--size", "nan"), ("--operations", "inf")):
        assert command(*FEW, *arguments) == 2
        assert "give one limit" in capfd.readouterr().err
    with pytest.raises(ConfigError, match="give one limit"):
        SearchRequest(NetworkRequest(model="digits_lenet"))


def test_a_neighbour_that_is_better_is_chosen(monkeypatch):
    """The first neighbour is better, and the next is one of its own; the third is not, and so the second stays."""
    drops, tried = [2.0, 1.0, 1.5], []

    def attempt(name, request, *_):
        tried.append([rule.weight for rule in request.quantization.rules])
        return SimpleNamespace(drop=drops[len(tried) - 1], agreement=0.5)
    monkeypatch.setattr(search, "attempt", attempt)
    request = SearchRequest(NetworkRequest(model="digits_lenet"), ImagesRequest(count=20), size=0.5, points=1,
                            trials=16, refinements=2)
    result = search.search(request)
    assert len(tried) == 3 and len({str(bits) for bits in tried}) == 3
    assert result.best.attempt.drop == 1.0 and result.met
    assert sum(point.attempt is not None for point in result.curve) == 3
    assert all(point.allocation.cost <= 0.5 * result.full_size for point in result.curve if point.attempt)
