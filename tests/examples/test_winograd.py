# SPDX-License-Identifier: MIT
"""The Winograd domain on the command lines of all three programs."""

import json

import pytest

import deploy_ncnn
import train_qat

DIGITS = ("--model", "digits_lenet")


@pytest.mark.parametrize("options, spec", [
    (("--wino-quantize", "F43"), "F43/channel"),
    (("--wino_quantize", "F63", "--wino_granularity", "layer"), "F63/layer"),
    (("--wino-quantize", "F23", "--wino-granularity", "position", "--wino-inputs"), "F23/position/inputs"),
    (("--wino-quantize", "F23", "--wino-inputs", "--quantize-input-offline"), "F23/channel/inputs")])
def test_simulation(cli, tmp_path, options, spec):
    code, out, err = cli(*DIGITS, *options, "--output", tmp_path)
    assert code == 0, err
    plan = (tmp_path / "plan.txt").read_text()
    assert plan.count(f"int8 {spec} ") == 2 and "no Winograd" not in plan
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["agreement_count"] >= 355


def test_layers_that_cannot_take_it(cli, small_onnx, image_folder, tmp_path):
    """The only 3x3 convolution beside the first, which is excluded, has groups: it takes it all the same."""
    code, out, err = cli("--onnx", small_onnx(), "--data-dir", image_folder(), "--crop", 16, "--wino-quantize", "F23",
                         "--output", tmp_path / "out")
    assert code == 0, err
    assert (tmp_path / "out" / "plan.txt").read_text().count("F23/channel") == 1


def test_training(capfd, tmp_path):
    code = train_qat.main([*DIGITS, "--method", "ste", "--batch-size", "64", "--num-train-images", "256",
                           "--num-images", "64", "--epochs", "1", "--no-plots", "--wino-quantize", "F43",
                           "--wino-granularity", "position", "--wino-inputs", "--output", str(tmp_path / "out")])
    assert code == 0, capfd.readouterr().err
    assert (tmp_path / "out" / "plan.txt").read_text().count("int8 F43/position/inputs") >= 1
    assert json.loads((tmp_path / "out" / "result.json").read_text())["final"]["top1"] > 0.8


@pytest.mark.parametrize("keep", [(), ("--keep-winograd",)])
def test_headroom_of_a_deployment(capfd, tmp_path, keep):
    code = deploy_ncnn.main([*DIGITS, "--no-engine", "--num-images", "40", "--verify-images", "40", "--winograd-report",
                             *keep, "--output", str(tmp_path / "out")])
    assert code == 0, capfd.readouterr().err
    out = capfd.readouterr().out
    assert "Sums of the convolutions that ncnn could compute by Winograd F(4,3), 40 images" in out
    found = json.loads((tmp_path / "out" / "winograd.json").read_text())
    assert found["images"] == 40 and set(found["layers"]) == {"127", "31"} and len(found["correct"]) == 3
    for layers in found["layers"].values():
        assert layers and all(0 < layer["largest"] <= layer["bound"] for layer in layers)
        assert all(layer["verdict"] in ("never", "not here") for layer in layers)
    assert "better cure: " + found["cure"] in out
