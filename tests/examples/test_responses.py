# SPDX-License-Identifier: MIT
"""Networks that do not classify, data of one's own, outputs that do not fit the labels, floats that guess."""

import json

import mxnet as mx
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import deploy_ncnn
from gluon_quantize.data.loader import find_loader, open_loader
from gluon_quantize.data.preprocess import Preprocessing
from gluon_quantize.data.steps import steps_text
from gluon_quantize.models.evaluation import Predictions, evaluate
from gluon_quantize.models.responses import Sampler
from quantize.errors import ConfigError, DataError

LOADER = """
import numpy as np
from PIL import Image

class Data:
    classes = 4
    def __init__(self, split):
        self.count = 12 if split == "test" else 6
        random = np.random.RandomState(len(split))
        self.images = random.randint(0, 256, (self.count, 16, 16, 3)).astype(np.uint8)
    def __len__(self):
        return self.count
    def __getitem__(self, index):
        return self.images[index], index % 4

class Masks(Data):
    def __getitem__(self, index):
        image = Image.fromarray(self.images[index])
        return image, np.full((16, 16), index % 4)
    def metric(self, outputs, labels):
        hit = [np.mean(output.argmax(axis=0) == label) for output, label in zip(outputs[0], labels)]
        return {"pixel accuracy": float(np.mean(hit))}

def data(split):
    return Data(split)

def masks(split):
    return Masks(split)

def ready(split):
    random = np.random.RandomState(3)
    return [(random.randn(5, 3, 16, 16).astype("float32"), np.arange(5) % 4) for _ in range(2)]

def broken(split):
    raise RuntimeError("no disk")

def nan(split):
    return [(np.full((2, 3, 16, 16), np.nan, "float32"), np.arange(2))]

nothing = 3
"""


@pytest.fixture
def loader(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(LOADER)
    return lambda function: f"{path}:{function}"


def network(path, outputs=("y",), head=True):
    """Convolution, ReLU, convolution to 4 maps; scores of 4 classes behind a pooling."""
    random, node = np.random.RandomState(3), helper.make_node
    weights = {"w": random.randn(8, 3, 3, 3) * .2, "v": random.randn(4, 8, 1, 1) * .4}
    nodes = [node("Conv", ["x", "w"], ["a"], "conv1", pads=[1] * 4), node("Relu", ["a"], ["b"]),
             node("Conv", ["b", "v"], ["m"], "maps")]
    nodes += [node("GlobalAveragePool", ["m"], ["p"]), node("Flatten", ["p"], ["y"])] if head else []
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, ["N", 3, None, None])],
        [helper.make_tensor_value_info(name, 1, None) for name in outputs],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


# ---- outputs and labels


class Fixed:
    """A network that answers with given arrays."""

    def __init__(self, *outputs):
        self.outputs = [mx.nd.array(output) for output in outputs]

    def __call__(self, images):
        return self.outputs[0] if len(self.outputs) == 1 else self.outputs


def batch(labels=(0, 1)):
    return [(mx.nd.zeros((len(labels), 1, 2, 2)), np.array(labels))]


@pytest.mark.parametrize("outputs, message", [
    ([np.zeros((2, 4, 3, 3))], r"first of shape \(4, 3, 3\).*--metric agreement"),
    ([np.zeros((3, 4))], r"shape \(3, 4\) for 2 images: a reshape"), ([np.zeros((2, 1))], "label 1 does not exist"),
    ([np.full((2, 4), np.nan)], "NaN or infinity")])
def test_outputs_that_do_not_fit(outputs, message):
    with pytest.raises(DataError, match=message):
        evaluate(Fixed(*outputs), batch(), mx.cpu(), "float")


def test_classes_that_are_not_those_of_the_data(cli, small_onnx):
    code, _, err = cli("--onnx", small_onnx(channels=1), "--dataset", "digits", "--resize", 0, "--crop", 0)
    assert code == 2 and ("7 classes" in err)


def test_scores_of_one_place_and_further_outputs_classify():
    found = evaluate(Fixed(np.eye(2).reshape(2, 2, 1, 1), np.zeros((2, 3, 5, 5))), batch(), mx.cpu(), "float")
    assert found.top1 == 1 and found.outputs == 2


@pytest.mark.parametrize("count, classes, chance", [(1260, 10, True), (2000, 10, False), (0, 10, True),
    (90, 1000, False), (6000, 2, True), (8000, 2, False)])
def test_near_chance(count, classes, chance):
    labels = np.arange(10000) % classes
    top5 = np.where(np.arange(10000) < count, labels, (labels + 1) % classes)[:, None]
    assert Predictions(top5, labels, 1.0, 1, classes).near_chance == chance
    assert not Predictions(top5[:20], labels[:20], 1.0, 1, classes).near_chance  # too few to tell


def test_a_float_network_that_guesses_is_warned_about(cli, image_folder, tmp_path):
    folder = image_folder(labels=[k % 4 for k in range(60)])
    code, out, _ = cli("--onnx", network(tmp_path / "n.onnx"), "--data-dir", folder, "--resize", 0, "--crop", 16)
    assert code == 0 and "guessing is about 25.0%" in out and "--colour bgr" in out


# ---- responses


def responses(*outputs):
    sampler = Sampler()
    sampler.add([np.asarray(output, np.float32) for output in outputs], [0] * len(outputs[0]))
    return sampler.responses(np.zeros(len(outputs[0])), (1.0, 1))


def test_sqnr_and_agreement():
    values = np.random.RandomState(0).randn(3, 4, 6, 6)
    before, after = responses(values, values[:, :1]), responses(values * 1.1, values[:, :1])
    assert after.sqnr(before)[0] == pytest.approx(20, abs=1e-3) and after.sqnr(before)[1] == float("inf")
    assert after.agreement(before) == 1 and after.agreement_count(before) == 3
    assert responses(-values, values[:, :1]).agreement(before) < 0.1
    assert responses(values[:, :1]).agreement(responses(values[:, :1])) is None
    large = np.random.RandomState(0).randn(2, 3, 200, 200)
    assert responses(large).samples[0].shape[1] <= 4096


@pytest.mark.parametrize("outputs", [("m",), ("y", "m"), ("m", "y")])
def test_maps_and_several_outputs_go_through_simulation_and_deployment(cli, capfd, image_folder, tmp_path, outputs):
    pytest.importorskip("ncnn")
    images = image_folder()
    (images / "labels.txt").unlink()
    common = ["--onnx", network(tmp_path / "n.onnx", outputs), "--data-dir", images, "--resize", 0, "--crop", 16,
              "--metric", "agreement"]
    code, out, err = cli(*common, "--quantize-input-offline", "--calib-mode", "mse", "--output", tmp_path / "sim")
    assert code == 0, err
    assert "SQNR       output 0 " in out and "agreement  " in out and "Top-1" not in out
    found = json.loads((tmp_path / "sim" / "result.json").read_text())["responses"]
    assert len(found["sqnr_db"]) == len(outputs) and min(found["sqnr_db"]) > 15
    code, out, err = cli(*common, "--compare-calibrators")
    assert code == 0 and "least SQNR dB" in out, err
    arguments = [str(argument) for argument in common] + ["--output", str(tmp_path / "out"), "--verify-images", "3"]
    assert deploy_ncnn.main(arguments) == 0, capfd.readouterr().err
    contents = json.loads((tmp_path / "out" / "result.json").read_text())
    assert contents["accuracy"]["ncnn int8"]["agreement"] > 0.9
    assert contents["verification"]["ncnn exact"]["codes"]["share"] == 1


# ---- loaders


def test_items_of_a_loader(loader):
    data = open_loader(loader("data"), "test")
    assert len(data) == 12 and data.labelled and data.num_classes == 4 and data.labels[5] == 1
    assert data.prepared(3, Preprocessing(crop=8)).shape == (3, 8, 8)
    masks = open_loader(loader("masks"), "train")
    assert not masks.labelled and masks.metric is not None and masks.raw_labels([1])[0].shape == (16, 16)
    ready = open_loader(loader("ready"), "test")
    assert len(ready) == 10 and ready.prepared(0, Preprocessing(crop=8)).shape == (3, 16, 16)
    # what is said of the preprocessing is what is done
    assert data.decoded and not ready.decoded
    assert steps_text(Preprocessing(), ready.decoded) == "Preprocessing: none, the arrays are taken as they are"
    assert "crop" in steps_text(Preprocessing(), data.decoded)


@pytest.mark.parametrize("function, error, message", [
    ("gone", ConfigError, "no function 'gone'"), ("nothing", ConfigError, "no function"),
    ("broken", DataError, "RuntimeError for 'test': no disk")])
def test_loaders_that_fail(loader, function, error, message):
    with pytest.raises(error, match=message):
        open_loader(loader(function), "test")


def test_names_of_loaders(loader, monkeypatch, tmp_path):
    for name, message in (("no_such_module:data", "cannot be imported"), ("own", "entry point of the group")):
        with pytest.raises(ConfigError, match=message):
            find_loader(name)
    monkeypatch.chdir(tmp_path)
    loader("data")
    assert find_loader("own:data")("test").classes == 4


def test_nan_of_a_loader_is_found(loader):
    with pytest.raises(DataError, match="768 of 768 values are NaN"):
        open_loader(loader("nan"), "test").prepared(0, Preprocessing())


def test_a_loader_and_its_metric_in_the_commands(cli, loader, tmp_path):
    classifier, maps = network(tmp_path / "c.onnx"), network(tmp_path / "m.onnx", ("m",), head=False)
    code, out, err = cli("--onnx", classifier, "--data", loader("data"), "--resize", 0, "--crop", 0,
                         "--quantize-input-offline")
    assert code == 0 and "/12 = " in out, err
    code, out, err = cli("--onnx", maps, "--data", loader("masks"), "--resize", 0, "--crop", 0,
                         "--quantize-input-offline")
    assert code == 0 and "pixel accuracy 0." in out and "SQNR" in out, err
    code, out, err = cli("--onnx", classifier, "--data", loader("ready"), "--num-images", 5)
    assert code == 0 and "/5 = " in out, err
    code, out, err = cli("--onnx", classifier, "--data", loader("data"), "--data-dir", tmp_path)
    assert code == 2 and "leave out --dataset and --data-dir" in err
