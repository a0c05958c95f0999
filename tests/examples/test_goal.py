# SPDX-License-Identifier: MIT
"""Goals of a deployment: what is tried, when that ends, and what is deployed."""

import json
import re

import pytest

import deploy_ncnn
from gluon_quantize.commands.main import main
from gluon_quantize.runs import goal as goals
from gluon_quantize.runs.goal import missing
from gluon_quantize.runs.requests import GoalRequest
from quantize.errors import ConfigError


def command(*arguments):
    try:
        return deploy_ncnn.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code


@pytest.fixture
def deployed(tmp_path, capfd):
    """function(*arguments) -> (printed text, result.json): with weights of so few bits that something must be done."""
    rules = tmp_path / "rules.json"

    def run(weight, *arguments, code=0):
        rules.write_text(json.dumps([{"op_types": ["Conv2D", "Dense"], "weight": weight}]))
        assert command("--model", "digits_lenet", "--num-images", 100, "--config", rules, "--no-engine", "--force",
                       "--output", tmp_path / "out", *arguments) == code
        return capfd.readouterr().out, json.loads((tmp_path / "out" / "result.json").read_text())
    return run


def test_the_first_attempt_that_holds_is_deployed(deployed):
    out, result = deployed("int8/channel", "--accuracy-drop", 1)
    assert [item["name"] for item in result["goal"]["tried"]] == ["sqnr, as asked"] and result["goal"]["holds"]
    assert "kept by sqnr, as asked" in out


def test_methods_are_tried_in_the_order_of_their_costs_until_one_holds(deployed):
    out, result = deployed("int2/channel", "--agreement", 0.95)
    goal = result["goal"]
    names = [item["name"] for item in goal["tried"]]
    assert goal["holds"] and names[-1] == goal["best"] and "rounding learned" in names[-1]
    assert [words for words in ("mse", "biases corrected", "equalized") if any(words in name for name in names)] == [
        "mse", "biases corrected", "equalized"]
    assert all(item["agreement"] < 0.95 for item in goal["tried"][:-1])
    assert result["accuracy"]["simulated"]["agreement_count"] >= 95
    assert result["accuracy"]["simulated"]["agreement_count"] == round(100 * goal["tried"][-1]["agreement"])
    assert len(re.findall("\ntried      ", out)) == len(names)


def test_a_goal_that_nothing_reaches_is_said_and_the_best_deployed(deployed, monkeypatch):
    monkeypatch.setattr(goals, "missing", lambda goal, tried: 2 - tried.agreement)
    out, result = deployed("int2/channel", "--agreement", 1.0, "--num-calib-images", 20, code=1)
    goal = result["goal"]
    assert not goal["holds"] and "NOT reached" in out
    assert [item for item in goal["tried"] if item["name"] == goal["best"]][0]["agreement"] == max(
        item["agreement"] for item in goal["tried"])
    floats = [item for item in goal["tried"] if "layers float" in item["name"]]
    assert len(floats) == 3 and [item["bytes"] for item in floats] == sorted(item["bytes"] for item in floats)


def test_attempts_are_timed_in_the_engine(tmp_path, capfd):
    pytest.importorskip("ncnn")
    assert command("--model", "digits_lenet", "--num-images", 20, "--latency-runs", 1, "--agreement", 0.9, "--output",
                   tmp_path / "out") == 0
    tried = json.loads((tmp_path / "out" / "result.json").read_text())["goal"]["tried"]
    assert tried[0]["milliseconds"] > 0 and " ms; took" in capfd.readouterr().out


def test_what_a_goal_lacks():
    class Tried:
        drop, agreement = 1.5, 0.97
    assert missing(GoalRequest(drop=2), Tried) == 0
    assert missing(GoalRequest(drop=1), Tried) == pytest.approx(0.5)
    assert missing(GoalRequest(drop=1, agreement=0.99), Tried) == pytest.approx(2)
    assert missing(GoalRequest(agreement=0.97), Tried) == 0


@pytest.fixture
def unlabelled(tmp_path):
    """A module of a few images without labels."""
    (tmp_path / "few.py").write_text(
        "import numpy as np\n\n\ndef images(part):\n"
        "    return np.random.RandomState(len(part)).randint(0, 17, (40, 8, 8), np.uint8)\n")
    return ("--model", "digits_lenet", "--data", f"{tmp_path / 'few.py'}:images")


def test_without_labels_there_is_agreement_and_no_drop(unlabelled, tmp_path, capfd):
    common = (*unlabelled, "--no-engine", "--output", tmp_path / "out")
    assert command(*common, "--accuracy-drop", 1) == 2
    assert "ask for --agreement" in capfd.readouterr().err
    assert command(*common, "--agreement", 0.9) == 0
    assert re.search("tried      sqnr, as asked: agreement [0-9.]+%", capfd.readouterr().out)


def test_what_a_network_does_not_allow_is_skipped_and_said(deployed):
    out, result = deployed("int2/channel", "--agreement", 1.0, "--num-calib-images", 8, code=1)
    assert "skipped    sqnr" in out and "8 images are too few" in out
    assert any("too few" in item["reason"] for item in result["goal"]["skipped"])


def test_bad_goals(capfd):
    for arguments, says in ((("--accuracy-drop", -1), "from 0 to 100"), (("--agreement", 98), "0.98, not 98"),
                            (("--agreement", "x"), "invalid float")):
        assert command("--model", "digits_lenet", "--output", "x", *arguments) == 2
        assert says in capfd.readouterr().err
    with pytest.raises(ConfigError, match="--accuracy-drop"):
        GoalRequest()


# ---- networks that are quantized already


@pytest.fixture(scope="module")
def coarse(tmp_path_factory):
    """Folder of a checkpoint whose weights have 2 bits."""
    folder = tmp_path_factory.mktemp("coarse")
    assert main(["simulate", "--model", "digits_lenet", "--num-images", "50", "--weight-bits", "2", "--merge-bn",
                 "--exclude-first-conv", "false", "--input-signed", "true", "--output", str(folder / "simulated")]) == 0
    return folder / "simulated"


def deployed_checkpoint(coarse, out, *arguments):
    assert command(coarse, "--num-images", 100, "--no-engine", "--output", out, *arguments) == 0
    return json.loads((out / "result.json").read_text())


def test_a_checkpoint_keeps_its_goal_as_it_is_or_with_layers_in_float(coarse, tmp_path):
    result = deployed_checkpoint(coarse, tmp_path / "easy", "--agreement", 0.05)
    assert [item["name"] for item in result["goal"]["tried"]] == ["as the checkpoint is"]
    assert "float: accuracy goal" not in (tmp_path / "easy" / "plan.txt").read_text()
    result = deployed_checkpoint(coarse, tmp_path / "hard", "--agreement", 0.95)
    names = [item["name"] for item in result["goal"]["tried"]]
    assert names[0] == "as the checkpoint is" and "layers float" in names[1] and len(names) >= 2
    assert result["goal"]["holds"] and result["accuracy"]["simulated"]["agreement_count"] >= 95
    plan = (tmp_path / "hard" / "plan.txt").read_text()
    left = [line.split()[0] for line in plan.splitlines() if "float: accuracy goal" in line]
    from deploy.ir import quantized
    from deploy.ir.file import load
    codes = [node.path for node in quantized(load(tmp_path / "hard" / "digits_lenet.ir"))]
    assert left and not set(left) & set(codes) and len(left) + len(codes) == 5
    # and the checkpoint that lies beside the files is that network
    again = deployed_checkpoint(tmp_path / "hard" / "digits_lenet.qnet", tmp_path / "again")
    assert again["accuracy"]["simulated"]["top1_count"] == result["accuracy"]["simulated"]["top1_count"]


def test_float_is_what_a_checkpoint_is_measured_against(coarse, tmp_path):
    result = deployed_checkpoint(coarse, tmp_path / "out", "--accuracy-drop", 100)
    assert result["float"]["top1_count"] == 100 > result["accuracy"]["simulated"]["top1_count"]
    assert result["goal"]["tried"][0]["drop"] > 10


def test_sensitivities_of_a_checkpoint_are_refused(coarse, capfd):
    assert main(["simulate", str(coarse), "--sensitivity"]) == 2
    assert "name the float network" in capfd.readouterr().err
