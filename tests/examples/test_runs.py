# SPDX-License-Identifier: MIT
"""The runs from Python, as their docstrings show them: a request goes in, a result comes out, nothing is printed."""

import doctest
import json

import numpy as np
import pytest

from gluon_quantize.commands.terminal import Terminal
from gluon_quantize.progress import Silent
from gluon_quantize.report.steps import step_text
from gluon_quantize.runs import deploy, recheck, simulate
from gluon_quantize.runs.simulate import (
    CalibrationFiles,
    CalibrationRequest,
    ImagesRequest,
    NetworkRequest,
    QuantizationRequest,
    SimulateRequest,
)
from quantize.errors import ConfigError

DIGITS = NetworkRequest(model="digits_lenet")
FEW = ImagesRequest(count=20)


def run_examples(module, **names):
    """Run the examples of a module's docstring."""
    failed, tried = doctest.testmod(module, extraglobs=names)
    assert tried >= 3 and failed == 0


def test_the_example_of_simulate():
    run_examples(simulate)


def test_the_examples_of_deploy_and_recheck(tmp_path):
    pytest.importorskip("ncnn")
    folder = str(tmp_path / "out")
    run_examples(deploy, folder=folder)
    assert not (tmp_path / "out" / "result.json").exists()  # which holds the options of a command
    run_examples(recheck, folder=folder)


def test_a_run_prints_nothing_and_tells_its_steps(capfd):
    class Listener(Silent):
        told = []

        def tell(self, step):
            self.told.append(type(step).__name__)
            assert step_text(step).strip() and step_text(step, True).strip()
    calibration = CalibrationRequest(method="naive", passes=2, evaluate_passes=True)
    result = simulate.simulate(SimulateRequest(DIGITS, FEW, calibration=calibration), Listener())
    assert capfd.readouterr() == ("", "")
    assert Listener.told == ["Task", "Plan", "PassEvaluated", "Trust", "Quantized"]
    assert len(result.history) == 2 and result.trust.method == "naive" and len(result.thresholds) == 4
    np.testing.assert_allclose(result.net.features[4].input_quantizer.threshold,
                               result.thresholds["features.4.input_quantizer"], rtol=1e-6)


def test_requests_that_contradict_themselves():
    for say, make in (
            ("exclude each other", lambda: CalibrationFiles(load_table="t", shard=(1, 2))),
            ("needs --save-state", lambda: CalibrationFiles(shard=(1, 2))),
            ("calibrates nothing", lambda: CalibrationRequest(compare=True, files=CalibrationFiles(load_table="t"))),
            ("leave out --quant-type", lambda: QuantizationRequest(granularity="channel", target="ncnn")),
            ("'F32'", lambda: QuantizationRequest(winograd="F32")),
            ("given: none", lambda: NetworkRequest()),
            ("a target and a calibration", lambda: deploy.DeployRequest(DIGITS, quantization=QuantizationRequest()))):
        with pytest.raises(ConfigError, match=say):
            make()


def test_a_terminal_prints_the_texts_it_is_given(capsys):
    terminal = Terminal({"a step": "its text"}.get)
    for step in ("a step", "another"):
        terminal.tell(step)
    assert list(terminal.bar([1, 2], "counting")) == [1, 2]
    with terminal.counter(3, "counting", "image") as count:
        count(3)
    assert capsys.readouterr().out == "its text\n"


# --- parameters of calibrators -------------------------------------------------------------------------------------

CALIBRATED = ("--model", "digits_lenet", "--num-images", 20, "--quantize-input-offline", "--calib-mode")


def test_parameters_on_the_command_line(cli, tmp_path):
    thresholds = {}
    for mode, name in (("percentile", "percentile"), ("percentile:99", "percentile:99.0"),
                       ("percentile:percent=90", "percentile:90.0")):
        run = cli(*CALIBRATED, mode, "--output", tmp_path, "--save-table", tmp_path / "t", "--save-state",
                  tmp_path / "s")
        assert run.code == 0 and f"Thresholds by {name}, 50 images" in run.out, run.err
        result = json.loads((tmp_path / "result.json").read_text())
        assert result["calibration"]["method"] == name and result["settings"]["calib_mode"] == mode
        assert f" input {name} 8 unsigned " in (tmp_path / "t").read_text()
        loaded = cli(*CALIBRATED[:4], "--load-table", tmp_path / "t")
        assert f"Thresholds by table {tmp_path / 't'} ({name}), 50 images" in loaded.out
        thresholds[mode] = result["thresholds"]
    for path, usual in thresholds["percentile"].items():
        assert usual > thresholds["percentile:99"][path] > thresholds["percentile:percent=90"][path]


def test_a_comparison_shows_the_chosen_parameters_too(cli, tmp_path):
    for mode, there, absent in (("percentile:99", ["percentile", "percentile:99.0"], []),
                                ("naive:0.5", ["naive:0.5"], ["naive"])):
        run = cli(*CALIBRATED, mode, "--compare-calibrators", "--output", tmp_path)
        assert run.code == 0, run.err
        result = json.loads((tmp_path / "result.json").read_text())
        assert set(there) <= set(result["comparison"]) and not set(absent) & set(result["comparison"])
        assert result["comparison"][there[-1]]["thresholds"] == result["thresholds"]


def test_a_moving_average_is_not_decided_from_states_of_another(cli, tmp_path):
    state = ("--save-state", tmp_path / "s.json")
    assert cli(*CALIBRATED, "naive:0.5", *state).code == 0
    assert json.loads((tmp_path / "s.json").read_text())["settings"]["method"] == "naive:0.5"
    run = cli(*CALIBRATED, "naive", "--merge-states", tmp_path / "s.json")
    assert run.code == 2 and "made with the parameters of naive:0.5" in run.err
    assert cli(*CALIBRATED, "naive:0.5", "--merge-states", tmp_path / "s.json").code == 0


@pytest.mark.parametrize("mode, says", [
    ("percentile:101", "percent must be above 0"), ("percentile:q=3", "unknown parameter 'q'"),
    ("minmax:1", "has no parameters"), ("percentil:9", "did you mean 'percentile'"),
    ("easyquant:3", "has no parameters; leave out")])
def test_bad_parameters_are_one_line(cli, mode, says):
    code, out, err = cli(*CALIBRATED, mode)
    assert code == 2 and out == "" and err.startswith("error: argument --calib-mode: ") and says in err
    assert err.count("\n") == 1
