# SPDX-License-Identifier: MIT
"""Equalization and learned rounding from the command line, simulated and deployed."""

import json
import re

import pytest

import deploy_ncnn

DIGITS = ("--model", "digits_lenet", "-j", 1)
THREE_BITS = DIGITS + ("--num-images", 100, "--weight-bits-width", 3, "--quant-type", "channel",
                       "--exclude-first-conv", "false")


@pytest.fixture
def result(cli, tmp_path):
    """function(*arguments) -> (printed text, result.json) of a simulation that went well."""
    def run(*arguments):
        code, out, err = cli(*arguments, "--output", tmp_path)
        messages = re.sub(r"[a-z ]+: .*\d+/\d+ .*\n", "", err)  # a slow machine shows how far it is
        assert (code, messages) == (0, ""), err
        return out, json.loads((tmp_path / "result.json").read_text())
    return run


@pytest.fixture
def refused(cli):
    """function(*arguments, says=text): exit code 2 and one line with this text."""
    def check(*arguments, says):
        code, _, err = cli(*arguments)
        assert code == 2 and re.fullmatch("error: [^\n]*\n", err) and says in err, err
    return check


def test_learned_rounding_brings_the_outputs_nearer(result, tmp_path):
    folder = tmp_path / "progress"
    out, first = result(*THREE_BITS, "--learn-rounding", "gptq", "--rounding-progress", folder)
    assert "Rounding of 5 layers learned (gptq)" in out and len(list(folder.glob("layer_*.npz"))) == 5
    for layer in first["rounding"].values():
        assert layer["error"] < layer["nearest_error"] / 1.5
    _, again = result(*THREE_BITS, "--learn-rounding", "gptq", "--rounding-progress", folder)
    assert again["quantized"]["top1_count"] == first["quantized"]["top1_count"]
    assert again["rounding"] == first["rounding"]


def test_equalization_says_that_the_network_stayed_what_it_was(result):
    out, found = result(*DIGITS, "--num-images", 100, "--equalize", "--exclude-first-conv", "false")
    assert "5 layers equalized" in out and "50 of 50 calibration images the same class" in out
    assert found["agreement_count"] >= 98


def test_biases_are_absorbed_and_channels_split(result):
    out, found = result(*DIGITS, "--num-images", 100, "--equalize", "--absorb-biases", "--split-channels", 0.05,
                        "--quant-type", "layer", "--exclude-first-conv", "false")
    assert re.search(r"biases of \d+ channels of \d+ layers absorbed", out)
    assert re.search(r"[1-9]\d* channels of [1-9] layers split in two", out)
    assert out.count("50 of 50 calibration images the same class") == 3 and found["agreement_count"] >= 98


def test_a_comparison_learns_for_every_method(result):
    options = THREE_BITS + ("--learn-rounding", "gptq", "--calib-mode", "mse")
    _, alone = result(*options)
    _, found = result(*options, "--compare-calibrators")
    assert found["comparison"]["mse"]["top1_count"] == alone["quantized"]["top1_count"]
    assert found["rounding"] == alone["rounding"]


def test_what_is_deployed_is_what_was_simulated(tmp_path):
    pytest.importorskip("ncnn")
    arguments = [*DIGITS, "--num-images", 20, "--equalize", "--learn-rounding", "gptq", "--latency-runs", 1, "--output",
                 tmp_path / "out"]
    assert deploy_ncnn.main([str(argument) for argument in arguments]) == 0
    certificate = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert certificate["sides"]["ncnn exact"]["codes"]["share"] == 1.0


def test_bad_input(refused, cli):
    refused(*DIGITS, "--learn-rounding", "gptq", "--bias-correction", "parallel", says="leave out --bias-correction")
    refused(*DIGITS, "--equalize", "--calib-shard", "1/2", "--save-state", "x", says="all images in one run")
    refused(*DIGITS, "--rounding-progress", "x", says="--learn-rounding")
    refused(*DIGITS, "--split-channels", 2, says="from 0 to 1 (0.02, not 2)")
    refused(*DIGITS, "--learn-rounding", "gptq", "--num-calib-images", 8, says="8 images are too few")
    refused(*DIGITS, "--learn-rounding", "best", says="invalid choice")
    refused(*DIGITS, "--learn-rounding", "gptq", "--wino-quantize", "F23", says="Winograd domain")


def test_sensitivities_in_a_table_a_file_and_a_plot(result, tmp_path):
    out, found = result(*DIGITS, "--num-images", 50, "--quant-type", "channel", "--sensitivity", 8, 3,
                        "--sensitivity-images", 20)
    rows = found["sensitivity"]["rows"]
    assert found["sensitivity"]["images"] == 20 and len(rows) == 4 * 3 * 2  # the first convolution stays float
    assert {(row["layer"], row["operand"]) for row in rows} == {
        (layer, operand) for layer in ("features.4", "features.8", "features.12", "output")
        for operand in ("weight", "input", "layer")}
    assert all(0 <= row["top1_count"] <= 20 and row["kl"] >= 0 for row in rows)
    for words in ("weight alone quantized", "input alone quantized", "(no layer float)", "of layers x bits = 8"):
        assert words in out
    assert (tmp_path / "sensitivity.png").stat().st_size > 1000


def test_sensitivities_need_images(refused):
    refused(*DIGITS, "--sensitivity", "--calib-shard", "1/2", "--save-state", "x", says="--sensitivity")
    refused(*DIGITS, "--sensitivity", 1, says="from 2 to 8")
