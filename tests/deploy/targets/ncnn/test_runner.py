# SPDX-License-Identifier: MIT
"""Running the engine: batches, several inputs, options, and what it says when it cannot."""

import sys

import numpy as np
import pytest

from deploy import engine
from deploy.targets.ncnn import runner, writer
from deploy.targets.ncnn.runner import DEFAULT, EXACT, Options, Runner
from quantize.errors import DataError, DeployError
from tests.deploy.targets.ncnn import models

CHAIN = models.quantized_cases()["chain"]


@pytest.fixture
def paths(tmp_path):
    return writer.write(CHAIN, tmp_path)


def test_a_batch_is_its_images_one_by_one(ncnn, paths):
    images = models.inputs(CHAIN, 3)["data"]
    chain = Runner(*paths)
    assert chain.inputs == ("data",) and chain.blobs == ("data", "c1", "c2", "c3", "p", "x")
    together = chain.run(images, ["x", "p", "c1"])
    assert {name: values.shape for name, values in together.items()} == {
        "x": (3, 10), "p": (3, 9), "c1": (3, 16, 10, 9)}
    for number, image in enumerate(images):
        for name, values in chain.run(image[np.newaxis], ["c1", "x", "p"]).items():
            np.testing.assert_array_equal(values[0], together[name][number])
    np.testing.assert_array_equal(Runner(*paths).run(images, ["x"])["x"], together["x"])


def test_images_need_not_be_contiguous(ncnn, paths):
    images = models.inputs(CHAIN, 2)["data"]
    strange = np.asfortranarray(images.astype(np.float64))
    np.testing.assert_array_equal(Runner(*paths).run(strange, ["x"])["x"], Runner(*paths).run(images, ["x"])["x"])


def test_shapes_are_those_of_the_model(ncnn, paths):
    images = models.inputs(CHAIN)["data"]
    assert Runner(*paths).run(images, ["p"], CHAIN.shapes)["p"].shape == (2, 9, 1, 1)
    with pytest.raises(DeployError, match=r"blob p: ncnn has the shape \(9,\), expected \(8, 1, 1\)"):
        Runner(*paths).run(images, ["p"], {"p": (8, 1, 1)})


def test_several_inputs_and_outputs(ncnn, tmp_path):
    case = models.float_cases()["three"]
    given = models.inputs(case, 3)
    three = Runner(*writer.write(case, tmp_path))
    assert set(three.inputs) == {"data", "other", "last"}
    np.testing.assert_allclose(three.run(given, ["x"])["x"], engine.run(case, given).outputs[0], rtol=1e-6)
    with pytest.raises(DataError, match="give a dict"):
        three.run(given["data"], ["x"])
    with pytest.raises(DataError, match=r"\['data'\] were given, but the network has \['data', 'last', 'other'\]"):
        three.run({"data": given["data"]}, ["x"])
    with pytest.raises(DataError, match="the same number of images"):
        three.run(dict(given, data=given["data"][:1]), ["x"])
    with pytest.raises(DataError, match="at least one"):
        three.run({name: values[:0] for name, values in given.items()}, ["x"])


def test_options_arrive_before_the_files(ncnn, paths):
    options = Runner(*paths, EXACT).options()
    assert options["num_threads"] == 1
    assert not any(options[name] for name in ("use_packing_layout", "use_fp16_packed", "use_fp16_storage",
                                              "use_fp16_arithmetic", "use_bf16_storage", "use_bf16_packed"))
    assert options["use_winograd_convolution"] and options["use_int8_inference"]
    assert not Runner(*paths, Options(winograd=False)).options()["use_winograd_convolution"]
    untouched = ncnn.Net().opt
    assert Runner(*paths, DEFAULT).options() == {
        name: getattr(untouched, name) for name in options}


def test_latency_is_measured_on_one_image(ncnn, paths):
    seconds = Runner(*paths).latency(models.inputs(CHAIN)["data"], ["x"], repeats=5, warmup=1)
    assert seconds.shape == (5,) and (seconds > 0).all() and (np.diff(seconds) >= 0).all()


def test_a_profile_has_every_blob_and_adds_up(ncnn, paths):
    images = models.inputs(CHAIN)["data"]
    chain = Runner(*paths)
    before = chain.run(images, ["x"])["x"]
    blobs, whole = chain.profile(images, ["x"], repeats=20, warmup=5)
    assert list(blobs) == ["c1", "c2", "c3", "p", "x"] and all(seconds.shape == (20,) for seconds in blobs.values())
    assert all((seconds > 0).all() for seconds in blobs.values()) and whole.shape == (20,)
    # the fastest of each: together they cannot take many times as long as the whole, nor much less
    assert 0.5 * whole.min() < sum(seconds.min() for seconds in blobs.values()) < 5 * whole.min()
    np.testing.assert_array_equal(chain.run(images, ["x"])["x"], before)


def test_a_profile_tells_a_large_layer_from_a_small_one(ncnn, tmp_path):
    case = models.model((4, 40, 40), [models.conv("large", "data", (64, 4, 9, 9), pads=(4,) * 4),
                                      models.conv("small", "large", (1, 64, 1, 1))])
    profile = Runner(*writer.write(case, tmp_path)).profile(models.inputs(case), ["small"], repeats=5)
    assert np.median(profile.blobs["large"]) > 3 * np.median(profile.blobs["small"])
    assert 0.8 < np.median(profile.blobs["large"] + profile.blobs["small"]) / np.median(profile.whole) < 1.25


@pytest.mark.parametrize("name", ["batch norm", "relu()", "affine", "scalar sub", "clip(-0.3, 0.3333333333333333)",
                                  "sigmoid()", "prelu", "softmax channels"])
def test_a_first_layer_that_computes_in_place_does_not_write_into_the_image(ncnn, tmp_path, name):
    case = models.float_cases()[name]
    images = models.inputs(case)["data"]
    before, first = images.copy(), Runner(*writer.write(case, tmp_path))
    want = first.run(images, ["x"])["x"]
    assert (first.latency(images, ["x"], repeats=2, warmup=1) > 0).all()
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(first.run(images, ["x"])["x"], want)


def test_unknown_blobs(ncnn, paths):
    with pytest.raises(DeployError, match="the network has no blobs y, z"):
        Runner(*paths).run(models.inputs(CHAIN), ["x", "y", "z"])


@pytest.mark.parametrize("number, content, message", [
    (0, None, "model.param: there is no such file"), (1, None, "model.bin: there is no such file"),
    (0, b"nonsense\n", "model.param: ncnn cannot load it"), (1, b"\0" * 40, "model.bin: ncnn cannot load it")])
def test_files_that_are_missing_or_damaged(ncnn, paths, number, content, message):
    paths[number].unlink()
    if content is not None:
        paths[number].write_bytes(content)
    with pytest.raises(DeployError, match=message):
        Runner(*paths)


def test_without_the_engine(monkeypatch, paths):
    monkeypatch.setitem(sys.modules, "ncnn", None)
    for call in (lambda: Runner(*paths), runner.version):
        with pytest.raises(DeployError, match="the ncnn engine cannot be loaded .*pip install ncnn"):
            call()


def test_the_version_is_the_engines(ncnn):
    assert runner.version() == ncnn.__version__
