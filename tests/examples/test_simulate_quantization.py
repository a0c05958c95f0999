# SPDX-License-Identifier: MIT
"""What `simulate_quantization.py` does when all is well: every option, the printed text and the written files."""

import json
import os
import re
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

import simulate_quantization
from gluon_quantize.commands.simulate import build_parser
from gluon_quantize.models.loading import list_models, open_model
from gluon_quantize.models.request import NetworkRequest

SCRIPT = os.path.abspath(simulate_quantization.__file__)
DIGITS = ("--model", "digits_lenet")
OFFLINE = DIGITS + ("--quantize-input-offline",)
# The predecessor's options (reference/peers.md B1-15) and their defaults. Departures: auto inputs, the data set follows
# the network, and without a network the program explains itself.
PREDECESSOR = {
    "--model": None, "--print-model": False, "--list-models": False, "--use-gpu": -1, "--dataset": None,
    "--use-gn": False, "--batch-norm": False, "--use-se": False, "--last-gamma": False, "--merge-bn": None,
    "--weight-bits-width": 8, "--input-signed": "auto", "--input-bits-width": 8, "--quant-type": "layer",
    "--num-data-workers": 4, "--batch-size": 128, "--num-sample": 5, "--quantize-input-offline": False,
    "--calib-mode": "naive", "--calib-epoch": 3, "--disable-cudnn-autotune": False, "--eval-per-calib": False,
    "--exclude-first-conv": "true", "--fixed-random-seed": 7, "--wino-quantize": "none"}


@pytest.fixture
def simulated(cli, tmp_path):
    """function(*arguments) -> (contents of result.json, text of plan.txt, printed text) of a run that went well."""
    def run(*arguments):
        folder = tmp_path / "results" / "new"
        code, out, err = cli(*arguments, "--output", folder)
        assert (code, err) == (0, "")
        assert sorted(path.name for path in folder.iterdir()) == ["network.qnet", "plan.txt", "result.json"]
        return json.loads((folder / "result.json").read_text()), (folder / "plan.txt").read_text(), out
    return run


def rows(plan):
    """Layer path -> its columns weight and activation."""
    *lines, shares = plan.splitlines()[1:]
    assert re.fullmatch(r"quantized: [\d.]+% of [\d.]+ \w? ?weights, [\d.]+% of [\d.]+ \w? ?multiply-adds", shares)
    columns = [re.split(" {2,}", line) for line in lines]
    return {path: (weight, activation) for path, _, weight, activation, *_ in columns}


# --- results ------------------------------------------------------------------------------------------------------

def test_online(simulated):
    result, plan, out = simulated(*DIGITS)
    assert result["thresholds"] == {} and "Thresholds: each batch's own range" in out
    assert rows(plan) == {"features.0": ("-", "-"), "features.4": ("int8/layer", "uint8"),
                          "features.8": ("int8/layer", "uint8"), "features.12": ("int8/layer", "uint8"),
                          "output": ("int8/layer", "uint8")}
    assert plan.strip() in out and f"Top-1 {result['quantized']['top1_count']}/364" in out


def test_result_file(simulated):
    result, plan, out = simulated(*OFFLINE)
    assert set(result) == {"settings", "images", "float", "quantized", "agreement_count", "images_per_second",
                           "thresholds", "top1_count_per_calibration", "calibration", "comparison",
                           "bias_corrections", "answers"}
    for network in ("float", "quantized"):
        assert {"top1_count", "top5_count"} <= set(result[network])
        assert 355 <= result[network]["top1_count"] <= result[network]["top5_count"] <= 364
    assert result["images"] == 364 and 355 <= result["agreement_count"] <= 364
    assert result["images_per_second"] > 0
    assert set(result["thresholds"]) == {path + ".input_quantizer" for path in rows(plan) if path != "features.0"}
    for path, threshold in result["thresholds"].items():
        assert 0 < threshold < 100 and re.search(rf"{re.escape(path)} +{threshold:.6g}\n", out)
    assert result["settings"]["calib_epoch"] == 3 and result["settings"]["preprocessing"]["colour_order"] == "L"
    for words in ("mean per class", "agreement", "images per second"):
        assert words in out


def test_twice_the_same(simulated):
    first, second = (simulated(*OFFLINE, "--quant-type", "channel", "--input-bits-width", "4")[0] for _ in range(2))
    for result in (first, second):
        for part in (result, result["float"], result["quantized"]):
            part.pop("images_per_second")
    assert first == second
    other = simulated(*OFFLINE, "--fixed-random-seed", "8")[0]
    assert other["thresholds"] != first["thresholds"]


def test_evaluation_after_each_calibration(simulated):
    result, _, out = simulated(*OFFLINE, "--eval-per-calib", "--input-bits-width", "3")
    history = result["top1_count_per_calibration"]
    assert len(history) == 3 and history[-1] == result["quantized"]["top1_count"]
    assert re.findall(r"after calibration (\d): quantized +Top-1 (\d+)/364", out) == [
        (str(number), str(count)) for number, count in enumerate(history[:2], 1)]
    # Looking in between changes nothing.
    plain = simulated(*OFFLINE, "--input-bits-width", "3")[0]
    assert plain["quantized"]["top1_count"] == history[-1] and plain["thresholds"] == result["thresholds"]


def test_merged_norms(simulated):
    plain = simulated(*OFFLINE, "--print-model")
    merged = simulated(*OFFLINE, "--print-model", "--merge-bn")
    assert "BypassBatchNorm" in merged[2] and "BypassBatchNorm" not in plain[2]
    assert merged[2].count("QConv2D") == plain[2].count("QConv2D") == 2
    # The float network computes the same with its norms merged, so every layer sees the same inputs.
    for path, threshold in plain[0]["thresholds"].items():
        assert merged[0]["thresholds"][path] == pytest.approx(threshold, rel=1e-5)
    assert merged[0]["quantized"]["top1_count"] >= 355


@pytest.mark.parametrize("weight, inputs, column, least, most", [
    (1, 8, "int1 mid-rise/layer", 200, 330), (8, 1, "int8/layer", 36, 120), (2, 2, "int2/layer", 36, 120),
    (3, 3, "int3/layer", 335, 362), (8, 8, "int8/layer", 362, 364), (16, 16, "int16/layer", 364, 364)])
def test_bit_widths(simulated, weight, inputs, column, least, most):
    result, plan, _ = simulated(*DIGITS, "--weight-bits-width", weight, "--input-bits-width", inputs)
    assert rows(plan)["features.4"] == (column, f"uint{inputs}")
    assert least <= result["agreement_count"] <= most


@pytest.mark.parametrize("granularity, columns", [
    ("layer", ("int8/layer", "int8/layer")), ("group", ("int8/layer", "int8/group(2)")),
    ("channel", ("int8/channel", "int8/channel"))])
def test_granularities(simulated, small_onnx, image_folder, granularity, columns):
    plan = simulated("--onnx", small_onnx(), "--data-dir", image_folder(), "--resize", 0, "--crop", 16,
                     "--quant-type", granularity, "--exclude-first-conv", "false")[1]
    assert tuple(weight for weight, _ in rows(plan).values())[:2] == columns


@pytest.mark.parametrize("signed, first, others", [
    ("auto", "int8", "uint8"), ("true", "int8", "int8"), ("false", "uint8", "uint8")])
def test_signedness(simulated, caplog, signed, first, others):
    result, plan, _ = simulated(*OFFLINE, "--exclude-first-conv", "false", "--input-signed", signed)
    columns = {path: column[1] for path, column in rows(plan).items()}
    assert columns.pop("features.0") == first and set(columns.values()) == {others} and len(columns) == 4
    assert len(result["thresholds"]) == 5 and result["quantized"]["top1_count"] >= 355
    warned = [record.getMessage() for record in caplog.records if "can be negative" in record.getMessage()]
    assert len(warned) == (signed == "false") and all("features.0" in text for text in warned)


def test_rules_file(simulated, tmp_path):
    path = tmp_path / "rules.json"
    path.write_text('[{"op_names": ["features.8"], "exclude": true}, '
                    '{"op_types": ["Dense"], "weight": "int4/channel", "input": "auto5"}]')
    result, plan, _ = simulated(*OFFLINE, "--config", path)
    assert rows(plan) == {"features.0": ("-", "-"), "features.4": ("int8/layer", "uint8"), "features.8": ("-", "-"),
                          "features.12": ("int4/channel", "uint5"), "output": ("int4/channel", "uint5")}
    assert sorted(result["thresholds"]) == [path + ".input_quantizer" for path in ("features.12", "features.4",
                                                                                   "output")]


def test_few_images(simulated):
    result = simulated(*OFFLINE, "--num-images", 50, "--batch-size", 16, "--num-calib-batches", 1, "-j", 1,
                       "--num-sample", 2, "--calib-epoch", 1)[0]
    assert result["images"] == 50 and result["agreement_count"] <= 50


# --- networks and images ------------------------------------------------------------------------------------------

METADATA = json.dumps({"colour_order": "BGR", "scale": 1.0, "mean": [100, 110, 120], "std": [60, 60, 60],
                       "resize_short_side": None, "crop": 12})


@pytest.mark.parametrize("metadata, options, resize, crop", [
    ("", (), 256, 224), ("", ("--resize", 0, "--crop", 16), None, 16), (METADATA, (), None, 12),
    (METADATA, ("--resize", 30, "--crop", 24), 30, 24)])
def test_onnx_file(simulated, small_onnx, image_folder, metadata, options, resize, crop):
    result, plan, _ = simulated("--onnx", small_onnx(metadata=metadata), "--data-dir", image_folder(), *options)
    steps = result["settings"]["preprocessing"]
    assert (steps["resize_short_side"], steps["crop"]) == (resize, crop)
    assert steps["colour_order"] == ("BGR" if metadata else "RGB")
    assert result["images"] == 7 and result["agreement_count"] >= 6 and len(rows(plan)) == 3


def test_calibration_images_elsewhere(simulated, small_onnx, image_folder):
    options = ("--onnx", small_onnx(metadata=METADATA.replace("100, 110, 120", "0, 0, 0")), "--quantize-input-offline",
               "--data-dir", image_folder())
    bright = simulated(*options)[0]
    dark = simulated(*options, "--calib-data-dir", image_folder("dark", brightness=0.25))[0]
    assert dark["float"]["top1_count"] == bright["float"]["top1_count"]
    assert len(bright["thresholds"]) == 2
    for path, threshold in bright["thresholds"].items():
        assert 0.2 * threshold < dark["thresholds"][path] < 0.3 * threshold


def test_exported_symbol(simulated, tmp_path):
    net = open_model(NetworkRequest(model="digits_lenet")).net
    net.hybridize()
    net(mx.nd.zeros((1, 1, 8, 8)))
    net.export(str(tmp_path / "lenet"), epoch=3)
    result, plan, _ = simulated("--symbol", tmp_path / "lenet-symbol.json", "--params", tmp_path / "lenet-0003.params",
                                "--dataset", "digits", "--quantize-input-offline")
    named = simulated(*OFFLINE)[0]
    assert sorted(result["thresholds"].values()) == pytest.approx(sorted(named["thresholds"].values()), rel=1e-5)
    assert result["float"]["top1_count"] == named["float"]["top1_count"] and len(rows(plan)) == 5


def test_network_of_gluoncv(simulated, tmp_path):
    net = open_model(NetworkRequest(model="cifar_resnet20_v1", pretrained=False)).net
    net.save_parameters(str(tmp_path / "random.params"))
    random = np.random.RandomState(0)
    for name in ("cifar10_test.npz", "cifar10_train_1.npz"):
        np.savez(str(tmp_path / name), x=random.randint(0, 256, (20, 32, 32, 3)).astype(np.uint8), y=np.arange(20) % 10)
    result, plan, _ = simulated("--model", "cifar_resnet20_v1", "--params", tmp_path / "random.params", "--data-dir",
                                tmp_path, "--merge-bn", "--quantize-input-offline", "--num-sample", 1)
    assert result["images"] == 20 and result["agreement_count"] >= 15
    assert len(rows(plan)) == 22 and len(result["thresholds"]) == 21


# --- the command line ---------------------------------------------------------------------------------------------

def test_no_arguments(cli):
    code, out, err = cli()
    assert (code, err) == (0, "")
    for words in ("--model digits_lenet", "8x8 handwritten digits", "--onnx FILE", "--symbol FILE", "--help"):
        assert words in out


def test_list_models(cli):
    code, out, err = cli("--list-models")
    assert (code, out.split(), err) == (0, list_models(), "")


def test_options_of_the_predecessor(cli):
    given = vars(build_parser().parse_args([]))
    names = {"--num-data-workers": "num_workers", "--weight-bits-width": "weight_bits",
             "--input-bits-width": "input_bits"}
    code, out, _ = cli("--help")
    assert code == 0
    described = {paragraph.split()[0].strip(","): " ".join(paragraph.split())
                 for paragraph in re.split(r"\n  (?=-)", out.split("\nthe network:\n")[1])}
    described["--num-data-workers"] = described["-j"]
    described.update({f"--{name}-bits-width": described[f"--{name}-bits"] for name in ("weight", "input")})
    for option, default in PREDECESSOR.items():
        assert given[names.get(option, option[2:].replace("-", "_"))] == default, option
        if default not in (None, False):
            assert f"default: {default}" in described[option], option
        assert len(described[option].split()) > 3, option


@pytest.mark.parametrize("spelling", ["--wino-quantize", "--wino_quantize"])
def test_winograd_spellings(simulated, spelling):
    assert simulated(*DIGITS, spelling, "none")[0]["settings"]["wino_quantize"] == "none"


def run_script(folder, *arguments):
    """The finished process; its stderr without the warning of a machine that could not build native operators."""
    run = subprocess.run([sys.executable, SCRIPT] + [str(argument) for argument in arguments], cwd=str(folder),
                         capture_output=True, text=True)
    run.stderr = re.sub("WARNING: native operators are missing[^\n]*\n", "", run.stderr)
    return run


def test_script_from_another_folder(tmp_path):
    run = run_script(tmp_path, *OFFLINE, "--output", "here")
    assert (run.returncode, run.stderr) == (0, "")
    assert "Top-1 361/364" in run.stdout
    assert sorted(os.listdir(str(tmp_path / "here"))) == ["network.qnet", "plan.txt", "result.json"]


def test_script_warns_on_standard_error(tmp_path):
    run = run_script(tmp_path, *DIGITS, "--num-images", "9", "--input-signed", "false", "--exclude-first-conv", "false")
    assert run.returncode == 0
    assert re.fullmatch(r"WARNING: features\.0: its input can be negative[^\n]*\n", run.stderr)


@pytest.mark.parametrize("arguments, words", [
    (DIGITS + ("--params", "absent.params"), "absent.params"), (DIGITS + ("--weight-bits-width", "17"), "17"),
    (("--model", "mobilnet1.0"), "mobilenet1.0")])
def test_script_refuses_in_one_line(tmp_path, arguments, words):
    run = run_script(tmp_path, *arguments)
    assert run.returncode == 2 and re.fullmatch("error: [^\n]*\n", run.stderr) and words in run.stderr
