# SPDX-License-Identifier: MIT
"""What `train_qat.py` does: every method on the embedded digits, files, resuming, and what it says to bad input."""

import json
import os
import signal
import subprocess
import sys
import time

import mxnet as mx
import numpy as np
import pytest

import train_qat
from gluon_quantize.training import loop as training
from quantize.convert.layers import WEIGHTED

SCRIPT = os.path.abspath(train_qat.__file__)
DIGITS = ("--model", "digits_lenet", "--batch-size", "64")
SHORT = DIGITS + ("--num-train-images", "256", "--num-images", "64", "--epochs", "1", "--no-plots")
FOUR = ("--weight-bits", "4", "--input-bits", "4")


@pytest.fixture
def command(capfd, tmp_path):
    """function(name, *arguments) -> (exit code, standard output, errors, output folder) of a run in this process."""
    def run(name, *arguments):
        folder = tmp_path / name
        capfd.readouterr()
        try:
            code = train_qat.main([str(argument) for argument in arguments] + ["--output", str(folder)])
        except SystemExit as stop:
            code = stop.code
        return (code, *capfd.readouterr(), folder)
    return run


@pytest.fixture
def trained(command):
    """function(name, *arguments) -> (result.json, log.json, folder) of a run that went well."""
    def run(name, *arguments):
        code, out, err, folder = command(name, *arguments)
        assert code == 0, err
        return json.loads((folder / "result.json").read_text()), json.loads((folder / "log.json").read_text()), folder
    return run


def parameters(path):
    """Name -> array of a parameter file."""
    return {name: array.asnumpy() for name, array in mx.nd.load(str(path)).items()}


def assert_same_run(one, other):
    """Equal logs (but for times) and equal parameters, bit for bit."""
    logs = [json.loads((folder / "log.json").read_text())["epochs"] for folder in (one, other)]
    for log in logs:
        for record in log:
            del record["seconds"], record["images_per_second"]
    assert logs[0] == logs[1]
    for name in ("final.params", "best.params"):
        first, second = parameters(one / name), parameters(other / name)
        assert first.keys() == second.keys()
        for key in first:
            np.testing.assert_array_equal(first[key], second[key], key)


# --- training -----------------------------------------------------------------------------------------------------

def test_two_bits_from_float_weights(command):
    code, out, err, folder = command("run", *DIGITS, "--weight-bits", "2", "--input-bits", "2", "--epochs", "3",
                                     "--optimizer", "adam", "--lr", "0.001")
    assert code == 0, err
    assert {path.name for path in folder.iterdir()} == {
        "best.params", "best.qnet", "checkpoints", "curves.png", "final.params", "final.qnet", "log.json", "plan.txt",
        "result.json", "rules.json"}
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["epoch-2", "epoch-3"]
    result, log = (json.loads((folder / name).read_text()) for name in ("result.json", "log.json"))
    # calibrated alone it has 353 of 364, in float 361
    assert result["final"]["top1_count"] >= 356 and result["best"]["top1"] == max(e["top1"] for e in log["epochs"])
    assert log["epochs"][result["best_epoch"]]["is_best"]
    assert log["epochs"][0]["loss"] > log["epochs"][-1]["loss"] > 0
    assert {"features.4.input_quantizer", "features.4.weight_quantizer"} <= set(log["epochs"][0]["ranges"])
    assert "informedness" in out and "int2/channel/full lsq" in (folder / "plan.txt").read_text()
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("method", ["float", "ste", "lsq", "lsq+", "pact", "cgpact", "dorefa", "sat", "bnn"])
def test_every_method(trained, method):
    bits = {"bnn": ("--weight-bits", "1", "--input-bits", "1"), "float": ()}.get(method, FOUR)
    result, log, folder = trained(method, *SHORT, *bits, "--method", method)
    assert np.isfinite(log["epochs"][0]["loss"]) and result["final"]["images"] == 64
    plan = folder / "plan.txt"
    assert plan.exists() == (method != "float")
    assert method in ("float", "ste") or " " + method in plan.read_text()


def test_trained_from_nothing(trained):
    result, _, _ = trained("run", *DIGITS, *FOUR, "--from-scratch", "--float-epochs", "3", "--epochs", "3",
                           "--float-lr", "0.05", "--no-plots")
    assert result["final"]["top1"] >= 0.95 and result["best_epoch"] >= 3


def test_two_stages_of_sat(trained):
    clamped, _, folder = trained("clamped", *SHORT, "--method", "sat", "--clamp-only", "--lr", "0.02")
    assert clamped["final"]["top1"] > 0.9
    result, _, second = trained("second", *SHORT, "--method", "sat", *FOUR, "-w", folder / "final.params")
    _, _, other = trained("other", *SHORT, "--method", "sat", *FOUR, "--params", folder / "final.params")
    assert_same_run(second, other)
    assert result["final"]["top1"] > 0.9
    assert "sat" in (second / "plan.txt").read_text()
    assert [rule for rule in json.loads((second / "rules.json").read_text()) if rule.get("options")] == [
        {"op_names": ["features.12", "output"], "op_types": list(WEIGHTED), "options": {"scaling": True}}]


@pytest.mark.parametrize("statistics", ["batch", "corrected", "running"])
def test_fake_bn(trained, statistics):
    result, _, folder = trained(statistics, *SHORT, *FOUR, "--fake-bn", statistics, "--reestimate-bn", "2",
                                "--epochs", "2", "--freeze-bn-epoch", "1")
    assert result["final"]["top1"] > 0.9
    final, best = parameters(folder / "final.params"), parameters(folder / "best.params")
    assert (final["features.1.running_mean"] != best["features.1.running_mean"]).any()


def test_frozen_bn_stays(trained):
    _, _, folder = trained("run", *SHORT, *FOUR, "--epochs", "2", "--freeze-bn-epoch", "1")
    before, after = (parameters(folder / "checkpoints" / f"epoch-{n}" / "net.params") for n in (1, 2))
    np.testing.assert_array_equal(before["features.1.running_var"], after["features.1.running_var"])
    assert (before["features.4.weight"] != after["features.4.weight"]).any()


def test_distilled(trained):
    result, log, _ = trained("run", *SHORT, *FOUR, "--distill", "1", "--temperature", "2")
    assert result["final"]["top1"] > 0.9 and log["epochs"][0]["loss"] > 0
    _, mixed, _ = trained("mixed", *SHORT, *FOUR, "--distill", "0.5")
    assert mixed["epochs"][0]["loss"] != log["epochs"][0]["loss"]


def test_formats_of_first_and_last(trained):
    _, _, folder = trained("float_ends", *SHORT, *FOUR, "--first-last-bits", "0")
    rows = {line.split()[0]: line for line in (folder / "plan.txt").read_text().splitlines()}
    assert "excluded" in rows["features.0"] and "excluded" in rows["output"] and "int4" in rows["features.4"]
    _, _, folder = trained("six", *SHORT, *FOUR, "--first-last-bits", "6", "--quant-type", "layer")
    rows = {line.split()[0]: line for line in (folder / "plan.txt").read_text().splitlines()}
    assert "int6/layer" in rows["features.0"] and "int6/layer" in rows["output"] and "int4/layer" in rows["features.4"]


def test_held_out_images(trained):
    result, log, _ = trained("run", *SHORT, *FOUR, "--hold-out", "100", "--best-by", "f1")
    assert log["epochs"][0]["images"] == 100 and result["final"]["images"] == 64


def test_images_of_a_folder(trained, small_onnx, image_folder):
    folder = image_folder(labels=range(5))
    result, log, _ = trained("run", "--onnx", small_onnx(), "--dataset", "imagenet", "--data-dir", folder, "--resize",
                             "18", "--crop", "16", "--batch-size", "2", "--epochs", "1", "--no-plots", *FOUR)
    assert result["final"]["images"] == 5 and np.isfinite(log["epochs"][0]["loss"])


def test_rules_fit_the_simulation(trained, tmp_path):
    import simulate_quantization
    _, _, folder = trained("run", *SHORT, *FOUR, "--method", "ste", "--quant-type", "layer")
    again = tmp_path / "again"
    assert simulate_quantization.main(["--model", "digits_lenet", "--exclude-first-conv", "false", "--config",
                                       str(folder / "rules.json"), "--output", str(again), "--num-images", "8"]) == 0

    def formats(path):
        return [line.split()[:4] for line in (path / "plan.txt").read_text().splitlines()]
    assert formats(again) == formats(folder)


# --- going on -----------------------------------------------------------------------------------------------------

def test_killed_and_resumed(trained, tmp_path):
    """Killed with SIGKILL somewhere in its second epoch or later, a run ends as one that was left alone."""
    arguments = [*DIGITS, *FOUR, "--epochs", "4", "--no-plots", "--optimizer", "adam", "--lr", "0.001"]
    _, _, alone = trained("alone", *arguments)
    killed = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, SCRIPT, *arguments, "--output", str(killed)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (killed / "checkpoints" / "epoch-1").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "result.json").exists()
    trained("killed", *arguments, "--resume")
    assert_same_run(alone, killed)


@pytest.mark.parametrize("options", [
    ("--method", "ste", "--fake-bn", "batch"), ("--method", "sat"), ("--float-epochs", "1"), ("--float-epochs", "2"),
    ("--quant-start-step", "5"), ("--freeze-bn-epoch", "1", "--momentum", "0.5"), ("--method", "sat", "--clamp-only"),
    ("--accumulate", "2", "--schedule", "step", "--lr-drops", "1")], ids=lambda options: " ".join(options))
def test_resumed_run_is_the_same(trained, command, monkeypatch, options):
    """Interrupted while its second epoch runs, for settings whose state is more than parameters."""
    arguments = (*SHORT, *FOUR, *options, "--epochs", "3")
    if "--clamp-only" in options:
        arguments = (*SHORT, *options, "--epochs", "3")
    _, _, alone = trained("alone", *arguments)
    step = training.train_step

    def interrupted(run, batches):
        if run.progress.epoch == 1 and run.progress.step % run.steps_per_epoch == 1:
            raise KeyboardInterrupt
        return step(run, batches)
    with monkeypatch.context() as patch:
        patch.setattr(training, "train_step", interrupted)
        assert command("cut", *arguments)[0] == 130
    _, _, resumed = trained("cut", *arguments, "--resume")
    assert_same_run(alone, resumed)


def test_finished_run_resumed(trained):
    _, _, folder = trained("run", *SHORT, *FOUR)
    before = parameters(folder / "final.params")
    result, log, _ = trained("run", *SHORT, *FOUR, "--resume")
    assert len(log["epochs"]) == 1
    for name, array in parameters(folder / "final.params").items():
        np.testing.assert_array_equal(array, before[name])


def test_resume_with_other_settings(command, trained):
    _, _, folder = trained("run", *SHORT, *FOUR)
    code, _, err, _ = command("run", *SHORT, *FOUR, "--resume", "--lr", "0.5")
    assert code == 2 and "--lr 0.01, now it is 0.5" in err
    code, _, err, _ = command("run", *SHORT, *FOUR)
    assert code == 2 and "--resume" in err
    (folder / "checkpoints" / "epoch-1" / "net.params").write_bytes(b"broken")
    code, _, err, _ = command("run", *SHORT, *FOUR, "--resume")
    assert code == 2 and "epoch-1" in err and err.count("\n") == 1


# --- bad input ----------------------------------------------------------------------------------------------------

def test_diverging(command):
    code, _, err, _ = command("run", *SHORT, "--method", "float", "--optimizer", "sgd", "--epochs", "2", "--lr", "1e30")
    assert code == 2 and "the loss is" in err and "not finite is that of features." in err
    code, _, err, _ = command("ste", *SHORT, "--epochs", "2", "--method", "ste", "--lr", "1e30")
    assert code == 2 and "the loss is nan" in err and "Traceback" not in err  # a native operator met it first
    code, _, err, _ = command("clips", *SHORT, *FOUR, "--method", "pact", "--from-scratch", "--quantizer-lr", "1e4")
    assert code == 2 and "input_quantizer.alpha" in err


def test_checkpoint_survives_divergence(command, monkeypatch):
    step = training.train_step

    def spoiled(run, batches):
        if run.progress.epoch == 1:
            list(run.net.collect_params().values())[0].data()[:] = np.nan
        return step(run, batches)
    monkeypatch.setattr(training, "train_step", spoiled)
    code, _, err, folder = command("run", *SHORT, *FOUR, "--epochs", "2")
    assert code == 2 and "features.0" in err and "nan" in err
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["epoch-1"]
    assert (folder / "best.params").exists()


@pytest.mark.parametrize("options, message", [
    (("--weight-bits", "9"), "9 is not allowed"),
    (("--lr", "nan"), "must be a number"),
    (("--method", "sat", "--quant-type", "channel"), "one weight scale"),
    (("--method", "bnn"), "binary"),
    (("--clamp-only",), "first stage of --method sat"),
    (("--lr-drops", "3"), "--schedule step"),
    (("--optimizer", "adan"), "did you mean 'adam'"),
    (("--method", "lsk"), "invalid choice"),
    (("-w", "missing.params"), "no such parameter file"),
    (("-w", SCRIPT), "train_qat.py"),
    (("--hold-out", "5000"), "only 1433 training images"),
    (("--batch-size", "5000"), "do not fill a batch"),
    (("--accumulate", "100"), "only"),
    (("--distill", "0.5", "--from-scratch"), "random weights at the start"),
    (("--distill", "0.5", "--float-epochs", "1"), "random weights at the start"),
    (("--warm-up", "9"), "warm-up"),
    (("--quant-start-step", "4"), "only 4 steps"),
    (("--config", "{config}"), "matches no layer"),
    (("--wino-inputs",), "need --wino-quantize"),
    (("--wino-quantize", "F23", "--weight-bits", "1", "--method", "ste"), "1-bit weights"),
    (("--data-dir", "missing"), "missing"),
], ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_bad_options(command, tmp_path, options, message):
    config = tmp_path / "config.json"
    config.write_text('[{"op_names": ["nothing.*"], "weight": "int4"}]')
    arguments = [option.replace("{config}", str(config)) for option in options]
    code, out, err, folder = command("run", *SHORT, *arguments)
    assert code == 2 and message in err and err.strip().count("\n") == 0, err
    assert not (folder / "checkpoints").exists()


def test_no_output(capsys):
    with pytest.raises(SystemExit) as stop:
        train_qat.main(["--model", "digits_lenet"])
    assert stop.value.code == 2 and "--output DIR is needed" in capsys.readouterr().err
    assert train_qat.main([]) == 0 and "--model digits_lenet" in capsys.readouterr().out
