# SPDX-License-Identifier: MIT
"""`gluon-quantize n2d2`: both stages of LeNet on a few images, N2D2's closing lines, weights, and a kill in between."""

import pathlib
import re

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon.model_zoo import vision
from PIL import Image

from gluon_quantize.commands.n2d2 import METRICS as LISTED
from gluon_quantize.commands.n2d2 import main
from gluon_quantize.models.request import RunRequest
from gluon_quantize.progress import Silent
from gluon_quantize.report.n2d2 import fused_text
from gluon_quantize.runs.n2d2 import METRICS, IniEpoch, IniRequest, run_ini
from quantize import load_quantized
from quantize.errors import DataError

FILES = pathlib.Path(__file__).parent.parent / "quantize" / "interfaces" / "n2d2" / "files"
CLOSING = re.compile(r"""Final recognition rate: (\d+\.\d\d)%    \(error rate: (\d+\.\d\d)%\)
    Sensitivity: (\S+)% / Specificity: (\S+)% / Precision: (\S+)%
    Accuracy: (\S+)% / F1-score: (\S+)% / Informedness: (\S+)%
""")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with mnist.npz: ten classes that differ in one bright square each."""
    random = np.random.RandomState(0)

    def images(count):
        labels = np.arange(count) % 10
        found = random.randint(0, 60, (count, 28, 28)).astype(np.uint8)
        for number, label in enumerate(labels):
            row, column = 2 + 12 * (label % 2), 1 + 5 * (label // 2)
            found[number, row:row + 10, column:column + 5] += 150
        return found, labels.astype(np.uint8)
    folder = tmp_path_factory.mktemp("mnist")
    (x_train, y_train), (x_test, y_test) = images(320), images(60)
    np.savez(folder / "mnist.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return folder


@pytest.fixture(scope="module")
def ini(tmp_path_factory):
    """function(name) -> the printed file with smaller batches, for few images."""
    folder = tmp_path_factory.mktemp("ini")

    def copied(name, **changes):
        text = (FILES / f"{name}.ini").read_text().replace("BatchSize=256", "BatchSize=32")
        for old, new in changes.items():
            text = text.replace(f"{old}=", f"{old}={new}\n;")
        path = folder / f"{name}.ini"
        path.write_text(text)
        return path
    return copied


@pytest.fixture(scope="module")
def clamped(digits, ini, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clamped")
    run_ini(IniRequest(str(ini("LeNet_clamp")), str(folder), 3, str(digits), pictures=False))
    return folder / "weights"


def test_both_stages_print_the_closing_lines_and_test_reads_what_they_wrote(digits, ini, clamped, tmp_path, capsys):
    out = tmp_path / "out"
    assert not main([str(ini("LeNet_4bits")), "-learn-epoch", "2", "-w", str(clamped), "--data-dir", str(digits),
                     "--output", str(out)])
    text = capsys.readouterr().out
    figures = [float(figure) for figure in CLOSING.search(text).groups()]
    assert figures[0] + figures[1] == pytest.approx(100) and figures[0] > 90
    assert "validation: none" in text and not (out / "checkpoints").exists()
    assert "5 bits" not in (out / "LeNet_4bits.ini.stats.txt").read_text()
    facts = load_quantized(out / "LeNet_4bits.ini.qnet").facts
    assert (facts.preprocessing["resize_short_side"], facts.preprocessing["colour_order"]) == (32, "L")
    assert "starts from the numbers of 8 cells: conv1, bn1," in text
    for picture in ("weights/conv3_weights_quant.distrib.png", "weights/conv3_weights.distrib.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    assert any((out / f"LeNet_4bits.ini.{ending}").exists() for ending in ("png", "dot"))
    assert not main([str(ini("LeNet_4bits")), "-test", "-qat-sat", "-w", str(out / "weights"), "--data-dir",
                     str(digits), "--output", str(tmp_path / "test")])
    tested = capsys.readouterr().out
    assert CLOSING.search(tested).groups() == CLOSING.search(text).groups() and "FLOAT_MULT    100.00000%" in tested
    drawn = [next(path for path in folder.iterdir() if path.suffix in (".svg", ".dot")).read_text()
             for folder in (out, tmp_path / "test")]
    assert ["bn1" in picture for picture in drawn] == [True, False] and "weights of 4 bits" in drawn[1]


def test_weights_lie_cell_by_cell_and_on_their_grid(digits, ini, clamped, tmp_path):
    run_ini(IniRequest(str(ini("LeNet_4bits")), str(tmp_path), 1, str(digits), str(clamped), pictures=False))
    for cell, steps in (("conv1", 255), ("conv2", 15), ("conv3", 15), ("fc1", 15), ("fc2", 255)):
        found = np.load(tmp_path / "weights" / f"{cell}_quant.npz")
        codes, scale = found["codes"], found["scale"]
        assert codes.min() >= -(steps + 1) // 2 and codes.max() <= steps // 2
        assert np.allclose((codes + found["offset"]) * scale, found["values"], atol=1e-6)
        assert len(np.unique(codes)) <= steps + 1
        assert np.load(tmp_path / "weights" / f"{cell}.npz")["weight"].shape == codes.shape
    assert np.load(tmp_path / "weights" / "bn1.npz")["activation.alpha"] != 6.0  # it was trained
    first = np.load(clamped / "conv3_quant.npz")
    assert set(first.files) == {"values"} and np.abs(first["values"]).max() == 1.0  # clamped, on no grid
    assert len(np.unique(first["values"])) > 1000


class Killer(Silent):
    """Dies after an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def tell(self, step):
        if isinstance(step, IniEpoch) and step.record["epoch"] == self.epoch:
            raise KeyboardInterrupt


def test_a_killed_training_goes_on_to_the_same_numbers(digits, ini, clamped, tmp_path):
    def request(name):
        return IniRequest(str(ini("LeNet_4bits")), str(tmp_path / name), 3, str(digits), str(clamped), "Precision",
                          False, RunRequest(seed=5))
    whole = run_ini(request("whole"))
    with pytest.raises(KeyboardInterrupt):
        run_ini(request("killed"), Killer(1))
    assert (tmp_path / "killed" / "checkpoints").is_dir()
    again = run_ini(request("killed"))
    assert again.scores == whole.scores and len(again.history) == 3 and again.best_epoch == whole.best_epoch
    for path in (tmp_path / "whole" / "weights").glob("*.npz"):
        one, other = np.load(path), np.load(tmp_path / "killed" / "weights" / path.name)
        assert all(np.array_equal(one[key], other[key]) for key in one.files), path.name


def test_the_best_epoch_is_kept_by_the_metric(digits, ini, tmp_path):
    result = run_ini(IniRequest(str(ini("LeNet_clamp")), str(tmp_path), 3, str(digits), valid_metric="F1Score",
                                pictures=False))
    best = max(result.history, key=lambda record: record["f1"])
    assert result.best_epoch == best["epoch"] and result.scores["f1"] == best["f1"]


DIGITS = """[database]
Type=Digits_Database
Learn=0.3
Validation=0.2
[sp]
SizeX=12
SizeY=12
BatchSize=16
[sp.Transformation-1]
Type=RescaleTransformation
Width=12
Height=12
[sp.Transformation-2]
Type=RangeAffineTransformation
FirstOperator=Divides
FirstValue=16
[fc1]
Type=Fc
Input=sp
NbOutputs=10
QWeight=SAT
QWeight.ApplyScaling=1
Solvers.LearningRate=0.1
[softmax]
Type=Softmax
Input=fc1
WithLoss=1
[softmax.Target]
"""


def test_the_embedded_digits_need_no_folder(tmp_path):
    path = tmp_path / "digits.ini"
    path.write_text(DIGITS)
    result = run_ini(IniRequest(str(path), str(tmp_path / "out"), 2, pictures=False))
    assert result.scores["images"] == 364 and result.scores["top1"] > 0.6
    facts = load_quantized(tmp_path / "out" / "digits.ini.qnet").facts.preprocessing
    assert facts["scale"] == 1 / 16 and facts["resize_short_side"] == 12
    with pytest.raises(DataError, match="digits.npz"):
        run_ini(IniRequest(str(path), str(tmp_path / "other"), 1, str(tmp_path / "out")))


NORMED = DIGITS.replace("""[fc1]
Type=Fc
Input=sp
""", """[conv1]
Type=Conv
Input=sp
KernelSize=3
Stride=2
NbOutputs=6
NoBias=1
QWeight=SAT
QWeight.Range=15
[bn1]
Type=BatchNorm
Input=conv1
ActivationFunction=Linear
QAct=SAT
QAct.Range=15
[fc1]
Type=Fc
Input=bn1
""")


def test_fused_networks_are_compared_and_written(tmp_path):
    """As N2D2's page has it: the same results, and the whole numbers in weights_quantized."""
    path = tmp_path / "net.ini"
    path.write_text(NORMED)
    run_ini(IniRequest(str(path), str(tmp_path / "out"), 2, pictures=False))
    assert not (tmp_path / "out" / "weights_quantized").exists()
    result = run_ini(IniRequest(str(path), str(tmp_path / "fused"), weights=str(tmp_path / "out" / "weights"),
                                qat_sat=True, pictures=False))
    text = fused_text(result.fused)
    assert text.startswith("Fused, 107016 codes of 364 images:")  # of images and of bn1
    assert re.search(rf"FLOAT_MULT +100.00000% of the codes as before fusion, recognition rate "
                     rf"{result.scores['top1']:.2%}", text)
    assert all(f"    {name} " in text for name in ("FIXED_MULT32", "FIXED_MULT16", "SINGLE_SHIFT", "DOUBLE_SHIFT"))
    found = {name: np.load(tmp_path / "fused" / "weights_quantized" / f"{name}.npz") for name in ("conv1", "fc1")}
    trained = np.load(tmp_path / "fused" / "weights" / "conv1_quant.npz")
    assert np.array_equal(found["conv1"]["weights"], 2 * trained["codes"] + 1)  # odd numbers: there is no zero
    assert found["conv1"]["biases"].any() and found["fc1"]["weights"].shape == (10, 150)


@pytest.mark.slow
def test_resnet18_from_onnx_in_both_stages_as_printed(tmp_path):
    net = vision.resnet18_v1(prefix="resnetv15_")
    net.initialize(mx.init.Xavier())
    net.hybridize()
    net(mx.nd.zeros((1, 3, 32, 32)))
    net.export(str(tmp_path / "net"))
    mx.onnx.export_model(str(tmp_path / "net-symbol.json"), str(tmp_path / "net-0000.params"), [(1, 3, 32, 32)],
                         "float32", str(tmp_path / "resnet18v1.onnx"))
    random = np.random.RandomState(0)
    for part, count in (("train", 16), ("val", 4)):
        for label in range(3):
            (tmp_path / "images" / part / f"n{label}").mkdir(parents=True)
            for number in range(count):
                colours = random.randint(0, 120, (48, 40 + number, 3)) + np.eye(3)[label] * 130
                path = tmp_path / "images" / part / f"n{label}" / f"{number}.png"
                Image.fromarray(colours.astype(np.uint8)).save(path)
    results = []
    for name in ("clamp", "4bits"):
        text = (FILES / f"resnet18-v1_{name}.ini").read_text()  # the printed file, but for sizes
        for old, new in (("=224\n", "=32\n"), ("=256\n", "=36\n"), ("X=16\n", "X=2\n"), ("Y=16\n", "Y=2\n"),
                         ("BatchSize=128", "BatchSize=8")):
            text = text.replace(old, new)
        (tmp_path / f"{name}.ini").write_text(text)
        results.append(run_ini(IniRequest(
            str(tmp_path / f"{name}.ini"), str(tmp_path / name), 1, str(tmp_path / "images"),
            str(tmp_path / "clamp" / "weights") if results else None, "Precision", pictures=False)))
    first, second = (result.network.net._children for result in results)
    assert first["resnetv15_conv0_fwd"].weight_quantizer.clamp_only
    assert second["resnetv15_conv0_fwd"].weight_quantizer.levels == 255
    assert second["resnetv15_stage4_conv1_fwd"].weight_quantizer.levels == 15
    assert second["resnetv15_stage4_activation1"].output_quantizer.spec.qmax == 15
    assert all(result.scores["images"] == 12 and len(result.history) == 1 for result in results)


@pytest.mark.parametrize("arguments, said", [
    (["-test"], "-test needs the numbers of a training"), ([], "say what to do"),
    (["-test", "-learn-epoch", "1"], "-test trains nothing"), (["-learn-epoch", "-1"], "from 0 on"),
    (["-learn-epoch", "1", "--data-dir", "nowhere"], "nowhere: no such folder"),
    (["-learn-epoch", "1", "-w", "nowhere"], "nowhere: no such folder"),
    (["-learn-epoch", "1"], "DataPath: is missing")])
def test_what_is_wrong_with_the_options_is_one_line(digits, ini, tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.delenv("N2D2_DATA", raising=False)
    if "-w" in arguments:
        arguments = [*arguments, "--data-dir", str(digits)]
    assert main([str(ini("LeNet_clamp")), "--output", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_help_and_run_know_the_same_metrics():
    assert set(LISTED) == set(METRICS)
