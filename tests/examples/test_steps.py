# SPDX-License-Identifier: MIT
"""How images are prepared, who said so, and what the commands make of it."""

import argparse
import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from gluon_quantize.commands import options
from gluon_quantize.commands.parser import Parser
from gluon_quantize.data.preprocess import Preprocessing, imagenet
from gluon_quantize.data.request import ImagesRequest
from gluon_quantize.data.steps import check_size, origins, steps_for, steps_text
from quantize.errors import ConfigError, DataError

FILE = Preprocessing("RGB", 1.0, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), 40, 32)


def asked(*arguments):
    """The ImagesRequest of a command line."""
    parser = Parser()
    options.add_data(parser)
    return options.images_request(parser.parse_args(list(arguments)))


def test_what_the_file_says_counts_and_what_is_asked_for_counts_more():
    steps = steps_for(ImagesRequest(), "imagenet", FILE)
    assert steps == FILE and set(origins(steps).values()) == {"the network's file"}
    steps = steps_for(asked("--mean", "7", "--crop", "24x28"), "imagenet", FILE)
    assert (steps.mean, steps.std, steps.scale, steps.crop) == ((7, 7, 7), FILE.std, 1, (24, 28))
    assert [name for name, origin in origins(steps).items() if origin == "option"] == ["mean", "crop"]


def test_presets_are_said_to_be_assumed():
    steps = steps_for(ImagesRequest(), "imagenet")
    assert steps == imagenet() and set(origins(steps).values()) == {"assumed, usual for imagenet"}
    assert "mean    0.485 0.456 0.406" in steps_text(steps)


def test_numbers_beside_a_preset_replace_all_of_its_numbers():
    steps = steps_for(asked("--scale", "1"), "imagenet")
    assert (steps.scale, steps.mean, steps.std, steps.resize) == (1, (0, 0, 0), (1, 1, 1), 256)
    steps = steps_for(asked("--mean", "1/2", "--std", "0.5"), "imagenet")
    assert (steps.scale, steps.mean, steps.std) == (1 / 255, (.5, .5, .5), (.5, .5, .5))
    assert origins(steps)["scale"] == "none, beside --mean"
    with pytest.raises(ConfigError, match="--mean 104 117 123: in units of bytes"):
        steps_for(asked("--mean", "104", "117", "123"), "imagenet")
    assert steps_for(asked("--mean", "104", "117", "123", "--scale", "1"), "imagenet").std == (1, 1, 1)
    with pytest.raises(ConfigError, match="--std: 2 values for 3 channels"):
        steps_for(asked("--std", "1", "2"), "imagenet")


@pytest.mark.parametrize("colour, order, mean", [("bgr", "BGR", (3, 2, 1)), ("rgb", "RGB", (1, 2, 3)),
                                                 ("grey", "L", (2,))])
def test_colours_take_their_means_along(colour, order, mean):
    steps = steps_for(asked("--colour", colour), "imagenet", FILE)
    assert (steps.colour_order, steps.mean) == (order, mean) and origins(steps)["colour"] == "option"
    assert steps_for(asked("--colour", colour, "--mean", "9"), "imagenet", FILE).mean == (9,) * len(mean)


def test_a_network_of_one_channel_takes_grey_images():
    steps = steps_for(ImagesRequest(), "imagenet", None, 1)
    assert steps.colour_order == "L" and "1 channel" in origins(steps)["mean"]
    assert steps_for(ImagesRequest(), "mnist", None, 1).colour_order == "L"
    assert steps_for(ImagesRequest(), "imagenet", FILE, 1) == FILE


@pytest.mark.parametrize("arguments, message", [
    (["--colour", "hsv"], "invalid choice"), (["--crop", "8x"], "whole number"), (["--crop", "1x2x3"], "HEIGHTxWIDTH"),
    (["--scale", "1/0"], "is not a number"), (["--std", "nan"], "finite")])
def test_bad_options(capsys, arguments, message):
    with pytest.raises(SystemExit):
        asked(*arguments)
    assert message in capsys.readouterr().err


def test_values_that_cannot_be(capsys):
    with pytest.raises(ConfigError, match="std must be finite"):
        steps_for(asked("--std", "0"), "imagenet")
    with pytest.raises(ConfigError, match="colour 'hsv'"):
        ImagesRequest(colour="hsv")


@pytest.mark.parametrize("declared", [None, (3, None, None), ("c", 0, 32), (3, 32, 32)])
def test_sizes_that_fit(declared):
    check_size(FILE, (3, 32, 32), declared, "cat.jpg")


@pytest.mark.parametrize("declared, message", [
    ((3, 24, 24), r"shape \(3, 24, 24\), cat.jpg has the shape .* --resize 24 --crop 24"),
    ((3, 24, 48), "--resize 24 --crop 24x48"), ((1, None, None), r"shape \(1, any, any\).* --colour grey"),
    ((4, 32, 32), "images have 1 or 3: --data")])
def test_sizes_that_do_not_fit(declared, message):
    with pytest.raises(DataError, match=message):
        check_size(FILE, (3, 32, 32), declared, "cat.jpg")


def fixed_size(path, channels=3, size=16):
    """An ONNX file that declares the size of its images, with two outputs."""
    random, node = np.random.RandomState(3), helper.make_node
    weights = {"w": random.randn(8, channels, 3, 3) * .2, "fw": random.randn(4, 8) * .2}
    nodes = [node("Conv", ["x", "w"], ["a"], "conv1", pads=[1] * 4), node("Relu", ["a"], ["b"]),
             node("GlobalAveragePool", ["b"], ["p"]), node("Flatten", ["p"], ["q"]),
             node("Gemm", ["q", "fw"], ["y"], "fc", transB=1)]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, ["N", channels, size, size])],
        [helper.make_tensor_value_info(name, 1, None) for name in ("y", "q")],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def test_a_declared_size_is_kept_and_grey_networks_run(cli, tmp_path, image_folder):
    folder = image_folder(labels=range(4))
    images = ("--dataset", "imagenet", "--data-dir", folder, "--batch-size", 4)
    colour, grey = fixed_size(tmp_path / "colour.onnx"), fixed_size(tmp_path / "grey.onnx", 1)
    code, _, err = cli("--onnx", colour, *images)
    assert code == 2 and "images of shape (3, 16, 16)" in err and "(3, 224, 224)" in err
    output = tmp_path / "out"
    code, out, err = cli("--onnx", grey, *images, "--resize", 16, "--crop", 16, "--mean", 0.5, "--output", output)
    assert code == 0, err
    assert "  mean    0.5         option" in out
    stored = json.loads((output / "result.json").read_text())["settings"]
    assert stored["preprocessing"]["mean"] == [0.5] and stored["preprocessing_from"]["mean"] == "option"
    assert "grey" in stored["preprocessing_from"]["colour"]


def test_every_command_that_takes_images_takes_them_so():
    from gluon_quantize.commands import deploy, recheck, simulate, train_options
    for module in (deploy, recheck, simulate, train_options):
        parser = module.build_parser()
        flags = {flag for action in parser._actions if isinstance(action, argparse.Action)
                 for flag in action.option_strings}
        assert {"--mean", "--std", "--scale", "--colour", "--resize", "--crop"} <= flags


def test_a_checkpoint_keeps_how_its_images_are_prepared(tmp_path, capfd):
    from gluon_quantize.commands.main import main
    model = ["--model", "digits_lenet", "--scale", "1/20"]
    assert main(["simulate", *model, "--num-images", "20", "--output", str(tmp_path / "out")]) == 0
    capfd.readouterr()
    assert main(["simulate", str(tmp_path / "out"), "--num-images", "20"]) == 0
    assert "  scale   0.05  the network's file" in capfd.readouterr().out
