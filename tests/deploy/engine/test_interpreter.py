# SPDX-License-Identifier: MIT
"""The interpreter: order, parts, what it returns, what it forgets, and what it refuses."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from deploy import ir
from deploy.arithmetic import Arithmetic
from deploy.engine import ALL, run
from deploy.engine.interpreter import PART_BYTES, part_size
from deploy.engine.operations import OPERATIONS
from quantize.errors import DataError, DeployError
from tests.deploy.ir.models import every_node, floats, model_of
from tests.deploy.targets.ncnn import models


@pytest.fixture(scope="module")
def model():
    return every_node()


@pytest.fixture(scope="module")
def images():
    return floats(np.random.RandomState(1), 7, 6, 9, 8)


def test_every_blob_has_its_shape(model, images):
    result = run(model, images, keep=ALL)
    assert {name: blob.shape[1:] for name, blob in result.blobs.items()} == model.shapes
    assert all(blob.dtype == np.float32 and np.isfinite(blob).all() for blob in result.blobs.values())
    np.testing.assert_array_equal(result.blobs["data"], images)
    assert result.outputs[0] is result.blobs["softmax"]


@pytest.mark.parametrize("part", [1, 2, 3, 7, 100])
def test_no_bit_depends_on_the_parts(model, images, part):
    expected, got = run(model, images, keep=ALL, codes=True), run(model, images, keep=ALL, codes=True, part=part)
    for name in model.shapes:
        np.testing.assert_array_equal(got.blobs[name], expected.blobs[name])
    for name in expected.codes:
        np.testing.assert_array_equal(got.codes[name], expected.codes[name])
    assert got.largest == expected.largest


def test_what_is_returned(model, images):
    result = run(model, images)
    assert set(result.blobs) == {"softmax"} and result.codes == {}
    assert set(result.largest) == {"conv", "depthwise", "dense"} and min(result.largest.values()) > 0
    result = run(model, images, keep=["pool"], codes=True)
    assert set(result.blobs) == {"softmax", "pool"}
    assert {name: codes.shape[1:] for name, codes in result.codes.items()} == {
        "conv": (6, 9, 8), "depthwise": (8, 5, 8), "dense": (2, 4)}
    assert all(codes.dtype == np.int32 for codes in result.codes.values())


def test_several_inputs_and_outputs(images):
    add = ir.Elementwise("add", ("a", "b"), ("add",))
    half = ir.ScalarOp("half", ("a",), ("half",), op="div", scalar=2.0)
    both = model_of([add, half], a=(6, 9, 8), b=(6, 1, 1))
    result = run(both, {"a": images, "b": images[:, :, :1, :1]})
    np.testing.assert_array_equal(result.outputs[0], images + images[:, :, :1, :1])
    np.testing.assert_array_equal(result.outputs[1], images / 2)


def test_an_input_can_be_an_output(images):
    model = model_of([ir.ScalarOp("half", ("a",), ("half",), op="div", scalar=2.0)], a=(6, 9, 8))
    result = run(dataclasses.replace(model, outputs=("half", "a")), images)
    np.testing.assert_array_equal(result.outputs[1], images)


def test_no_images(model):
    result = run(model, np.zeros((0, 6, 9, 8), np.float32), codes=True)
    assert result.outputs[0].shape == (0, 5) and result.codes["conv"].shape == (0, 6, 9, 8)
    assert set(result.largest.values()) == {0}


def test_inputs_are_not_written_to(model, images):
    before = images.copy()
    run(model, images, keep=ALL)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("inputs, message", [
    (np.zeros((2, 6, 9, 9), np.float32), "takes \\(n, 6, 9, 8\\)"),
    (np.zeros((6, 9, 8), np.float32), "takes \\(n, 6, 9, 8\\)"),
    ({"image": np.zeros((1, 6, 9, 8), np.float32)}, "inputs \\['image'\\] were given, but the model has \\['data'\\]"),
])
def test_inputs_that_do_not_fit(model, inputs, message):
    with pytest.raises(DataError, match=message):
        run(model, inputs)


def test_inputs_of_models_with_several(images):
    model = model_of([ir.Elementwise("add", ("a", "b"), ("add",))], a=(6, 9, 8), b=(6, 9, 8))
    with pytest.raises(DataError, match="give a dict"):
        run(model, images)
    with pytest.raises(DataError, match="different numbers of images"):
        run(model, {"a": images, "b": images[:2]})


def test_an_unknown_blob_to_keep(model, images):
    with pytest.raises(DeployError, match="no blob 'pooll' to keep; did you mean 'pool'"):
        run(model, images, keep=["pooll"])


def test_a_shape_that_the_model_got_wrong_names_the_layer(images):
    model = model_of([ir.ScalarOp("half", ("a",), ("half",), "features.1", op="div", scalar=2.0)], a=(6, 9, 8))
    model.shapes["half"] = (6, 9, 7)
    with pytest.raises(DeployError, match="features.1.*\\(6, 9, 7\\), but got \\(6, 9, 8\\)"):
        run(model, images)


def test_an_arithmetic_replaces_operations_and_functions(images):
    class Odd(Arithmetic):
        operations = {ir.ScalarOp: lambda node, inputs, arithmetic: -OPERATIONS[ir.ScalarOp](node, inputs, arithmetic)}
        functions = {"relu": lambda x: x + 1}

    nodes = [ir.ScalarOp("twice", ("a",), ("twice",), op="mul", scalar=2.0),
             ir.Activation("relu", ("twice",), ("relu",), function=ir.Function("relu"))]
    result = run(model_of(nodes, a=(6, 9, 8)), images, arithmetic=Odd())
    np.testing.assert_array_equal(result.outputs[0], -2 * images + 1)


def test_memory_is_bounded():
    """A chain of 40 blobs of 4 MB an image needs a few of them, whatever the number of images."""
    names = ["a"] + [f"b{i}" for i in range(40)]
    nodes = [ir.ScalarOp(b, (a,), (b,), op="add", scalar=1.0) for a, b in zip(names, names[1:])]
    nodes.append(ir.Reduce("sum", (names[-1],), ("sum",), op="sum", axes=(1, 2)))
    model = model_of(nodes, a=(4, 512, 512))
    assert part_size(model) == PART_BYTES // (8 << 20)
    images = np.zeros((8, 4, 512, 512), np.float32)
    tracemalloc.start()
    result = run(model, images)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (result.outputs[0] == 40 * 512 * 512).all()
    assert peak < 3 * PART_BYTES


def test_who_watches_sees_every_blob_once_and_part_by_part():
    case = models.quantized_cases()["chain"]
    given, seen = models.inputs(case, 3)["data"], {}

    def watch(name, values):
        seen.setdefault(name, []).append(values.copy())
    kept = run(case, given, keep=ALL, part=2, watch=watch).blobs
    assert set(seen) == set(kept) and all([len(part) for part in parts] == [2, 1] for parts in seen.values())
    for name, parts in seen.items():
        np.testing.assert_array_equal(np.concatenate(parts), kept[name])
