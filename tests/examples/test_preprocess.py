# SPDX-License-Identifier: MIT
"""The arrays `Preprocessing` makes, and what it refuses."""

import json

import numpy as np
import onnx
import pytest
from PIL import Image

from gluon_quantize.data import preprocess
from gluon_quantize.data.preprocess import Preprocessing
from quantize.errors import ConfigError, DataError, ModelFileError

GREY = Preprocessing("L", 1.0, (0.0,), (1.0,))


def picture(height, width, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def test_formula_and_channel_order():
    image = picture(4, 5)
    steps = Preprocessing("BGR", 0.5, (1.0, 2.0, 3.0), (2.0, 4.0, 8.0))
    want = (image[:, :, ::-1].astype(np.float32) * 0.5 - (1, 2, 3)) / (2, 4, 8)
    got = steps.apply(image)
    assert got.dtype == np.float32 and got.shape == (3, 4, 5) and got.flags.c_contiguous
    np.testing.assert_allclose(got, want.transpose(2, 0, 1), rtol=1e-6)
    np.testing.assert_array_equal(steps.apply(Image.fromarray(image)), got)


def test_grey_arrays_and_colour_conversion():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4)
    np.testing.assert_array_equal(GREY.apply(image), image[None].astype(np.float32))
    np.testing.assert_array_equal(GREY.apply(image[:, :, None]), image[None].astype(np.float32))
    assert Preprocessing().apply(Image.fromarray(image)).shape == (3, 4, 4)
    assert GREY.apply(picture(4, 4)).shape == (1, 4, 4)


def test_centre_crop_offset():
    # 227 -> 224 starts at 1, as the measured accuracies of ../shared/data were taken.
    image = picture(227, 227)
    got = Preprocessing(scale=1.0, crop=224).apply(image)
    np.testing.assert_array_equal(got, image[1:225, 1:225].transpose(2, 0, 1))
    assert Preprocessing(crop=(3, 5)).apply(picture(9, 9)).shape == (3, 3, 5)


@pytest.mark.parametrize("height, width, want", [(100, 50, (128, 64)), (50, 101, (64, 129)), (64, 80, (64, 80))])
def test_resize_short_side(height, width, want):
    assert Preprocessing(resize=64).apply(picture(height, width)).shape == (3,) + want


def test_resize_to_the_same_size_changes_nothing():
    image = picture(64, 80)
    np.testing.assert_array_equal(Preprocessing(resize=64).apply(image), Preprocessing().apply(image))


def test_override():
    steps = preprocess.imagenet()
    assert (steps.override().resize, steps.override().crop) == (256, 224)
    assert steps.override(resize=0, crop=200) == preprocess.Preprocessing(
        "RGB", 1 / 255, steps.mean, steps.std, 0, 200)


def test_presets():
    assert preprocess.imagenet(299).resize == 342
    assert preprocess.cifar10().mean == (0.4914, 0.4822, 0.4465)
    assert preprocess.mnist().apply(np.full((28, 28), 255, np.uint8)).max() == 1.0
    assert preprocess.digits().apply(np.full((8, 8), 16, np.uint8)).max() == 1.0
    assert set(preprocess.PRESETS) == {"imagenet", "cifar10", "mnist", "digits"}


@pytest.mark.parametrize("steps", [preprocess.imagenet(), preprocess.cifar10(), preprocess.digits(),
                                   Preprocessing(crop=(3, 5))])
def test_json_round_trip(steps):
    assert Preprocessing.from_onnx_metadata(json.loads(json.dumps(steps.to_dict()))) == steps


@pytest.mark.parametrize("network, want", [
    ("cifar_resnet20", Preprocessing("RGB", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
    ("mobilenet_v1_0.75_224", Preprocessing("RGB", 1 / 127.5, (1, 1, 1), (1, 1, 1), 256, 224)),
    ("squeezenet_v1.1", Preprocessing("BGR", 1.0, (104, 117, 123), (1, 1, 1), 256, 227))])
def test_real_onnx_metadata(shared_data, network, want):
    model = onnx.load(str(shared_data / network / "model.onnx"))
    stated, = [json.loads(entry.value) for entry in model.metadata_props if entry.key == "preprocessing"]
    assert Preprocessing.from_onnx_metadata(stated) == want


@pytest.mark.parametrize("change, message", [
    (dict(colour_order="RBG"), "colour_order 'RBG'"), (dict(layout="NHWC"), "layout 'NHWC'"),
    (dict(mean=(1,)), "3 values"), (dict(std=(1, 0, 1)), "not 0"), (dict(scale=float("nan")), "finite"),
    (dict(crop=-1), "crop -1"), (dict(crop=(1, 2, 3)), "whole numbers"), (dict(resize=2.5), "resize 2.5")])
def test_bad_values(change, message):
    with pytest.raises(ConfigError, match=message):
        Preprocessing(**change)


def test_bad_metadata():
    good = preprocess.imagenet().to_dict()
    with pytest.raises(ModelFileError, match="lacks mean"):
        Preprocessing.from_onnx_metadata({key: value for key, value in good.items() if key != "mean"})
    with pytest.raises(ModelFileError, match="resize_filter 'bicubic'"):
        Preprocessing.from_onnx_metadata(dict(good, resize_filter="bicubic"))


def test_image_smaller_than_crop_is_named():
    with pytest.raises(DataError, match=r"cat\.jpg: 30x20 pixels, smaller than the 24x24 crop"):
        Preprocessing(crop=24).apply(picture(20, 30), "cat.jpg")


@pytest.mark.parametrize("array", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8),
                                   np.zeros(4, np.uint8)])
def test_no_image(array):
    with pytest.raises(DataError, match="an image is uint8"):
        GREY.apply(array, "x")


@pytest.mark.parametrize("change, says", [
    ({"mean": None}, "Expected `array`, got `null` - at `$.mean`"), ({"scale": "x"}, "Expected `float`, got `str`"),
    ({"mean": ["a"]}, r"at `\$.mean\[0\]`|at `\$.mean\[...\]`"), ({"colour_order": []}, "Expected `str`, got `array`"),
    ({"resize_short_side": 100000}, "Expected `int` <= 8192"), ({"crop": [8]}, "length >= 2"),
    ({"crop": [0, 8]}, "0 pixels")])
def test_metadata_that_nobody_should_have_written(change, says):
    good = {"colour_order": "L", "scale": 1, "mean": [0], "std": [1]}
    assert Preprocessing.from_onnx_metadata(good) == GREY
    with pytest.raises((ConfigError, ModelFileError), match=says.replace("$", r"\$") if "|" not in says else says):
        Preprocessing.from_onnx_metadata(dict(good, **change))
    with pytest.raises(ModelFileError, match="must be a JSON object"):
        Preprocessing.from_onnx_metadata([good])


def test_a_thin_image_does_not_grow_without_bound():
    from quantize.limits import memory_limit
    steps = Preprocessing("L", 1.0, (0.0,), (1.0,), resize=1000)
    with memory_limit(10 ** 8), pytest.raises(DataError, match="thin: 3000x1 pixels, resized to 3000000x1000"):
        steps.apply(np.zeros((1, 3000), np.uint8), "thin")
