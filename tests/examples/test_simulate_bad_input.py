# SPDX-License-Identifier: MIT
"""Bad input to `simulate_quantization.py`: one line that names it, exit code 2, and no file written.

All-zero channels and images are no bad input: they must work.
"""

import json
import pathlib
import re

import mxnet as mx
import numpy as np
import pytest
from PIL import Image

from gluon_quantize.data.arrays import DATA
from gluon_quantize.models.loading import EMBEDDED_PARAMS

DIGITS = ("--model", "digits_lenet")
OFFLINE = DIGITS + ("--quantize-input-offline",)
CROPPED = ("--resize", 0, "--crop", 16)


@pytest.fixture
def refused(cli, tmp_path):
    """function(*arguments, says=[...]): the run must end in one line with these words and leave nothing behind."""
    def check(*arguments, says):
        output = tmp_path / "output"
        code, _, err = cli(*(("--output", output) + arguments))
        assert code == 2 and re.fullmatch("error: [^\n]*\n", err), err
        for words in says:
            assert str(words) in err
        assert not list(output.rglob("*")) and not list(tmp_path.rglob("*.tmp"))
    return check


@pytest.fixture
def embedded():
    return mx.nd.load(str(EMBEDDED_PARAMS))


@pytest.fixture
def digits(tmp_path):
    """function(**arrays) -> folder of a digits.npz in which these arrays are replaced."""
    def make(**arrays):
        with np.load(str(DATA / "digits.npz")) as archive:
            np.savez(str(tmp_path / "digits.npz"), **dict(archive, **arrays))
        return tmp_path
    return make


@pytest.fixture
def damaged(tmp_path):
    """function(path, part) -> a file with the first part of another one's bytes."""
    def make(path, part):
        content = pathlib.Path(str(path)).read_bytes()
        copy = tmp_path / ("cut_" + pathlib.Path(str(path)).name)
        copy.write_bytes(content[:int(len(content) * part)])
        return copy
    return make


# --- model files --------------------------------------------------------------------------------------------------

def test_missing_files(refused, tmp_path):
    refused(*DIGITS, "--params", tmp_path / "absent.params", says=["absent.params"])
    refused("--onnx", tmp_path / "absent.onnx", says=["absent.onnx"])
    refused("--symbol", tmp_path / "absent-symbol.json", says=["absent-symbol.json"])
    refused(*DIGITS, "--config", tmp_path / "absent.json", says=["absent.json"])


@pytest.mark.parametrize("part", [0, 0.001, 0.5, 0.999])
def test_truncated_model_files(refused, damaged, small_onnx, image_folder, part):
    refused(*DIGITS, "--params", damaged(EMBEDDED_PARAMS, part), says=["cut_digits_lenet.params"])
    refused("--onnx", damaged(small_onnx(), part), "--data-dir", image_folder(), says=["cut_small.onnx"])


def test_parameters_of_another_network(refused, embedded, tmp_path):
    path = str(tmp_path / "other.params")
    mx.nd.save(path, {"features.0.weight": mx.nd.ones((2, 2))})
    refused(*DIGITS, "--params", path, says=[path, "does not fit digits_lenet"])
    mx.nd.save(path, dict(embedded, **{"output.weight": mx.nd.ones((11, 64))}))
    refused(*DIGITS, "--params", path, says=[path, "'output.weight'", "(11, 64)"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(refused, embedded, small_onnx, image_folder, tmp_path, value):
    embedded["features.4.weight"][3, 2, 1, 0] = value
    mx.nd.save(str(tmp_path / "bad.params"), embedded)
    refused(*DIGITS, "--params", tmp_path / "bad.params", says=["bad.params", "'features.4.weight'"])
    weight = np.ones((8, 4, 3, 3), np.float32)
    weight[0, 0, 0, 0] = value
    refused("--onnx", small_onnx(weights={"w1": weight}), "--data-dir", image_folder(), says=["small.onnx", "w1"])


def test_numbers_that_overflow_in_the_network(refused, embedded, tmp_path):
    embedded["features.4.weight"] *= 1e38
    embedded["features.8.weight"] *= 1e38
    mx.nd.save(str(tmp_path / "huge.params"), embedded)
    refused(*DIGITS, "--params", tmp_path / "huge.params", says=["float network's outputs hold NaN or infinity"])


def test_unreachable_weights(refused, tmp_path, monkeypatch):
    from gluoncv.model_zoo import model_store

    def unreachable(*_, **__):
        raise OSError("Network is unreachable")
    monkeypatch.setattr(model_store, "get_model_file", unreachable)
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "home"))
    refused("--model", "mobilenet0.25", says=["could not be downloaded", "mobilenet0.25-",
                                              tmp_path / "home" / "models"])


# --- images -------------------------------------------------------------------------------------------------------

def test_npz_files(refused, digits, damaged, tmp_path):
    folder = digits()
    (folder / "digits.npz").write_bytes(damaged(folder / "digits.npz", 0.5).read_bytes())
    refused(*DIGITS, "--data-dir", folder, says=[folder / "digits.npz", "not a complete npz file"])
    (folder / "digits.npz").unlink()
    refused(*DIGITS, "--data-dir", folder, says=[folder / "digits.npz", "no such file"])
    refused(*DIGITS, "--data-dir", tmp_path / "absent", says=[tmp_path / "absent", "no such folder"])


@pytest.mark.parametrize("label", [10, -1])
def test_labels_of_arrays(refused, digits, label):
    labels = np.arange(1797) % 10
    labels[6] = label
    refused(*DIGITS, "--data-dir", digits(y=labels), says=["digits.npz", f"label {label} at position 6"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite(refused, digits, value):
    images = np.zeros((1797, 8, 8), np.float32)
    images[1, 2, 3] = value
    refused(*DIGITS, "--data-dir", digits(x=images), says=["digits.npz", "'x' holds NaN or infinity"])


def test_image_that_cannot_be_decoded(refused, small_onnx, image_folder, damaged):
    good, bad = image_folder(), image_folder("bad")
    (bad / "3.png").write_bytes(damaged(good / "3.png", 0.6).read_bytes())
    refused("--onnx", small_onnx(), *CROPPED, "--data-dir", bad, says=[bad / "3.png", "cannot be decoded"])
    # Found in the calibration, after the float network was evaluated.
    refused("--onnx", small_onnx(), *CROPPED, "--data-dir", good, "--calib-data-dir", bad, "--quantize-input-offline",
            says=[bad / "3.png", "cannot be decoded"])


def test_labels_of_files(refused, small_onnx, image_folder):
    network = ("--onnx", small_onnx()) + CROPPED
    refused(*network, "--data-dir", image_folder("a", labels=[0, 1000]), says=["labels.txt line 2", "0..999"])
    refused(*network, "--data-dir", image_folder("b", labels=[0, 1, 7]), says=["label 7", "has 7 classes"])


def test_images_of_the_wrong_size(refused, small_onnx, image_folder, tmp_path):
    folder = image_folder()
    refused("--onnx", small_onnx(), "--resize", 0, "--crop", 17, "--data-dir", folder,
            says=[folder / "0.png", "20x16 pixels", "17x17 crop"])
    refused("--onnx", small_onnx(pooled=False), "--resize", 0, "--crop", 12, "--data-dir", folder,
            says=["(3, 12, 12)", "--crop"])
    refused("--onnx", small_onnx(), "--resize", 0, "--crop", 0, "--data-dir", mixed(folder, tmp_path),
            says=["9x9.png", "crop"])
    refused(*DIGITS, "--crop", 6, says=["(1, 6, 6)", "--crop"])
    refused(*DIGITS, "--crop", 1, says=["(1, 1, 1)", "--crop"])


def mixed(folder, tmp_path):
    """The same folder with a smaller image in it."""
    Image.new("RGB", (9, 9)).save(str(folder / "9x9.png"))
    with open(str(folder / "labels.txt"), "a") as file:
        file.write("9x9.png 0\n")
    return folder


def test_images_of_the_wrong_channels(refused, small_onnx, image_folder):
    refused("--onnx", small_onnx(channels=4), *CROPPED, "--data-dir", image_folder(), says=["(3, 16, 16)", "--dataset"])


def test_empty_calibration_set(refused, digits, small_onnx, image_folder, tmp_path):
    # The first image of a class is a test image, so nothing is left to calibrate on.
    lonely = digits(x=np.zeros((1, 8, 8), np.uint8), y=np.zeros(1, int))
    refused(*OFFLINE, "--calib-data-dir", lonely, says=["calibration set", lonely, "empty"])
    refused(*OFFLINE, "--calib-data-dir", tmp_path / "absent", says=[tmp_path / "absent", "--calib-data-dir"])
    (tmp_path / "none").mkdir()
    refused("--onnx", small_onnx(), *CROPPED, "--data-dir", image_folder(), "--quantize-input-offline",
            "--calib-data-dir", tmp_path / "none", says=[tmp_path / "none", "labels.txt"])


# --- options ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments, says", [
    (("--weight-bits-width", 0), ["--weight-bits-width", "from 1 to 16"]),
    (("--weight-bits-width", 17), ["--weight-bits-width", "17"]),
    (("--input-bits-width", 0), ["--input-bits-width", "from 1 to 16"]),
    (("--input-bits-width", "8.5"), ["--input-bits-width", "8.5"]),
    (("--wino-quantize", "F32"), ["--wino-quantize", "'F32'", "F23"]),
    (("--wino-granularity", "position"), ["--wino-granularity", "need --wino-quantize"]),
    (("--wino-inputs",), ["--wino-inputs", "need --wino-quantize"]),
    (("--wino-quantize", "F23", "--weight-bits-width", 9), ["features.4", "9-bit weights", "2 to 8 bits"]),
    (("--wino-quantize", "F23", "--target", "ncnn"), ["--target ncnn", "leave out --wino-quantize"]),
    (("--use-gpu", 99), ["--use-gpu 99", "-1 for the CPU"]), (("--use-gpu", -2), ["--use-gpu"]),
    (("--fixed-random-seed", -1), ["--fixed-random-seed"]), (("--fixed-random-seed", 2**32), ["--fixed-random-seed"]),
    (("--batch-size", 0), ["--batch-size"]), (("-j", 0), ["-j"]), (("--calib-epoch", 0), ["--calib-epoch"]),
    (("--num-sample", 0), ["--num-sample"]), (("--quant-type", "row"), ["--quant-type", "'row'"]),
    (("--input-signed", "maybe"), ["--input-signed"]), (("--dataset", "coco"), ["--dataset", "'coco'"]),
    (("--calib-mode", "kll"), ["--calib-mode", "'kll'", "kl-ncnn"]),
    (("--use-gn",), ["'use_gn'"]), (("--onnx", "x.onnx"), ["--onnx"]), (("--bogus",), ["--bogus"])])
def test_options(refused, arguments, says):
    refused(*(DIGITS + arguments), says=says)


def test_model_names(refused):
    refused("--model", "mobilnet1.0", says=["'mobilnet1.0'", "mobilenet1.0", "--list-models"])
    refused("--batch-size", 4, says=["--model", "--onnx", "--symbol"])
    refused("--params", EMBEDDED_PARAMS, says=["--model", "--onnx", "--symbol"])


@pytest.mark.parametrize("rules, says", [
    ([{"op_names": ["feature.4"], "exclude": True}], ["'feature.4' matches no layer"]),
    ([{"op_types": ["Conv3D"], "exclude": True}], ["'Conv3D'"]), ([{"weight": "int17"}], ["rules.json", "int17"]),
    ([{"wieght": "int8"}], ["rules.json", "'wieght'", "'weight'"]), ({"weight": "int8"}, ["rules.json", "list"]),
    ([{"op_names": ["*"], "exclude": True}], ["nothing to quantize"]), ("[{", ["rules.json", "line 1"])])
def test_rules(refused, tmp_path, rules, says):
    path = tmp_path / "rules.json"
    path.write_text(rules if isinstance(rules, str) else json.dumps(rules))
    refused(*DIGITS, "--config", path, says=says)


def test_file_in_the_way_of_the_output(cli, tmp_path):
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        code, _, err = cli(*DIGITS, "--output", output)
        assert code == 2 and re.fullmatch(f"error: --output {re.escape(str(output))}[^\n]*\n", err)
    assert (tmp_path / "file").read_text() == "mine" and len(list(tmp_path.rglob("*"))) == 1


def test_output_without_permission(refused, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # a real one stops everybody but root, who may run the tests
    refused(*DIGITS, says=["--output", "no permission"])


@pytest.mark.parametrize("name", ["result.json", "plan.txt"])
def test_folder_in_the_way_of_a_result(cli, tmp_path, name):
    (tmp_path / name).mkdir()
    code, out, err = cli(*DIGITS, "--output", tmp_path)
    assert code == 2 and re.fullmatch(f"error: --output [^\n]*{re.escape(name)}[^\n]*\n", err)
    assert [path.name for path in tmp_path.rglob("*")] == [name] and "Top-1" not in out


def test_failed_write_leaves_the_old_result(cli, tmp_path, monkeypatch):
    assert cli(*DIGITS, "--output", tmp_path).code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("os.replace", full)
    code, _, err = cli(*DIGITS, "--weight-bits-width", 3, "--output", tmp_path)
    assert code == 2 and re.fullmatch("error: [^\n]*No space left on device\n", err) and str(tmp_path) in err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- zeros are fine -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("granularity", ["layer", "channel"])
@pytest.mark.parametrize("options", [(), ("--quantize-input-offline",), ("--quantize-input-offline", "--merge-bn")])
def test_zero_channels(cli, embedded, tmp_path, granularity, options):
    embedded["features.4.weight"][3] = 0
    embedded["features.12.weight"][:] = 0
    result = zeros_run(cli, embedded, tmp_path, "--quant-type", granularity, *options)
    assert result["agreement_count"] == 364


@pytest.mark.parametrize("options", [(), ("--quantize-input-offline", "--exclude-first-conv", "false")])
def test_zero_images(cli, embedded, tmp_path, digits, options):
    result = zeros_run(cli, embedded, tmp_path, "--data-dir", digits(x=np.zeros((1797, 8, 8), np.uint8)), *options)
    assert result["agreement_count"] == 364
    assert len(result["thresholds"]) == (5 if options else 0)


def test_zero_network(cli, embedded, tmp_path):
    result = zeros_run(cli, {name: array * 0 for name, array in embedded.items()}, tmp_path, "--quant-type", "channel",
                       "--quantize-input-offline")
    assert result["agreement_count"] == 364 and len(result["thresholds"]) == 4


def zeros_run(cli, arrays, tmp_path, *options):
    """result.json of a run with these weights; finite outputs are checked by the program itself."""
    mx.nd.save(str(tmp_path / "zeros.params"), arrays)
    code, _, err = cli(*DIGITS, "--params", tmp_path / "zeros.params", "--output", tmp_path / "out", *options)
    assert (code, err) == (0, "")
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert all(np.isfinite(threshold) and threshold > 0 for threshold in result["thresholds"].values())
    return result
