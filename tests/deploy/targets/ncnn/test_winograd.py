# SPDX-License-Identifier: MIT
"""ncnn's int8 Winograd: the shortcut against the steps, and both against the wheel, bit for bit, overflow included."""

from dataclasses import replace

import numpy as np
import pytest

from deploy import ir
from deploy.engine import ALL, integer, run
from deploy.targets.ncnn.arithmetic import NcnnArithmetic
from deploy.targets.ncnn.constraints import WINOGRAD_EXACT, WINOGRAD_LIMIT
from deploy.targets.ncnn.target import NcnnTarget
from deploy.targets.ncnn.winograd import FACTORS, WinogradArithmetic, fits_winograd, winograd_sums
from quantize.errors import ConfigError
from tests.deploy.targets.ncnn import winograd_naive
from tests.deploy.targets.ncnn.models import quantization
from tests.deploy.targets.ncnn.wheel import quantized_layer, run_layer

every_variant = pytest.mark.parametrize("variant", sorted(FACTORS))
SCALE = float(np.float32(0.0237))
# inputs, outputs, size, pads: odd sizes, uneven padding, channels that fill no register
SHAPES = [(16, 16, (8, 8), (1, 1, 1, 1)), (12, 9, (7, 11), (1, 1, 1, 1)), (64, 18, (9, 5), (0, 0, 0, 0)),
          (3, 23, (13, 10), (1, 0, 2, 1)), (130, 7, (6, 7), (1, 1, 1, 1)), (32, 33, (5, 5), (2, 2, 2, 2)),
          (9, 1, (3, 3), (0, 0, 0, 0)), (200, 21, (4, 6), (1, 1, 1, 1))]


@pytest.fixture(scope="module")
def ncnn():
    return pytest.importorskip("ncnn", reason="the ncnn wheel is not installed")


def node_of(weight_q, pads, levels=127, **options):
    rng = np.random.RandomState(7)
    scales = rng.uniform(0.002, 0.02, len(weight_q)).astype(np.float32)
    return ir.Convolution("layer", ("in0",), ("out",), weight=np.zeros(weight_q.shape, np.float32),
                          bias=rng.randn(len(weight_q)).astype(np.float32), pads=pads,
                          quantization=ir.Quantization(ir.Grid(SCALE), weight_q, scales, levels), **options)


def case(kind, shape, levels=127):
    """A node and images: random, or all products of one sign and near the largest (adversarial), or in between."""
    inputs, outputs, size, pads = shape
    rng = np.random.RandomState(len(kind) + inputs)
    weight_q = rng.randint(-levels, levels + 1, (outputs, inputs, 3, 3))
    x = (3 * rng.randn(2, inputs, *size)).astype(np.float32)
    if kind != "random":
        signs = np.sign(rng.randn(1, inputs, 1, 1))
        weight_q = np.broadcast_to(levels * signs * np.sign(rng.randn(outputs, 1, 1, 1)), weight_q.shape)
        x = np.broadcast_to(3.2 * signs, x.shape).astype(np.float32)
        if kind == "mixed":
            x = x * rng.uniform(0, 1, x.shape).astype(np.float32)
    return node_of(weight_q.astype(np.int8), pads, levels), x


def model_of(node, x, y_shape):
    return ir.Model(node.inputs, node.outputs, (node,), {"in0": x.shape[1:], "out": y_shape})


def in_wheel(ncnn, node, x, variant, packing=False):
    line, binary = quantized_layer(node)
    return run_layer(ncnn, line.replace(" 31=64", ""), binary, [x], packing, winograd43=variant == "F43")


def test_sums_up_to_the_limit_are_exact():
    every = np.arange(-WINOGRAD_EXACT, WINOGRAD_EXACT + 1, dtype=np.int64).astype(np.float64)
    lanes = np.stack([np.append(every, WINOGRAD_LIMIT)] * 4)[None, :, :, None]  # its last element starts the work
    found = winograd_sums(lanes)
    np.testing.assert_array_equal(found[0, 0, :-1, 0], every)


def test_the_limits_are_limits():
    def lanes(*values):
        return np.array(values, np.float64).reshape(1, 1, -1, 1).repeat(4, axis=1)
    near = np.arange(WINOGRAD_EXACT + 1, WINOGRAD_LIMIT + 1, dtype=np.float64)
    lost = near - winograd_sums(lanes(*near))[0, 0, :, 0]
    assert lost[0] == 1 and set(lost) == {0, 1} and 0.02 < lost.mean() < 0.04
    beyond = winograd_sums(lanes(WINOGRAD_LIMIT + 1))[0, 0, 0, 0]
    assert beyond < -3e6  # garbage
    integers = np.full((1, 1, 1, 1), float(WINOGRAD_LIMIT))
    assert winograd_sums(integers)[0, 0, 0, 0] == WINOGRAD_LIMIT  # an output that no register takes is divided exactly


@pytest.mark.parametrize("kind", ["random", "adversarial", "mixed"])
@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[3], SHAPES[4]], ids=str)
@every_variant
def test_the_shortcut_is_what_the_steps_give(variant, shape, kind):
    node, x = case(kind, shape)
    codes, sums = integer.layer(node, x, NcnnArithmetic())
    top, left, bottom, right = node.pads
    padded = np.pad(codes, ((0, 0), (0, 0), (top, bottom), (left, right)))
    expected = winograd_naive.winograd_sums(padded, node.quantization.weight_q, variant)
    np.testing.assert_array_equal(winograd_sums(sums, variant), expected)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("kind", ["random", "adversarial", "mixed"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_variant
def test_the_wheel_gives_the_same_bits(ncnn, variant, shape, kind, packing):
    node, x = case(kind, shape)
    got = in_wheel(ncnn, node, x, variant, packing)
    found = run(model_of(node, x, got.shape[1:]), x, arithmetic=WinogradArithmetic(variant, everywhere=True))
    np.testing.assert_array_equal(got, found.outputs[0])


def test_the_cases_overflow():
    for shape in (SHAPES[2], SHAPES[4]):
        node, x = case("adversarial", shape)
        _, sums = integer.layer(node, x, NcnnArithmetic())
        assert np.abs(sums).max() > WINOGRAD_LIMIT
        assert (winograd_sums(sums) != sums).mean() > 0.5


@pytest.mark.parametrize("kind", ["random", "adversarial"])
def test_31_levels_as_the_engine_runs_them(ncnn, kind):
    """What the target's own arithmetic gives for layers that the files leave to Winograd."""
    node, x = case(kind, (200, 16, (6, 6), (1, 1, 1, 1)), levels=31)
    got = in_wheel(ncnn, node, x, "F43")
    model = model_of(node, x, got.shape[1:])
    np.testing.assert_array_equal(got, run(model, x, arithmetic=NcnnTarget.arithmetic).outputs[0])
    exact = run(model, x, arithmetic=NcnnArithmetic()).outputs[0]
    assert (exact != got).any() == (kind == "adversarial")


def test_127_levels_are_kept_from_winograd(ncnn):
    node, x = case("adversarial", SHAPES[4])
    line, binary = quantized_layer(node)
    got = run_layer(ncnn, line, binary, [x])
    np.testing.assert_array_equal(got, run(model_of(node, x, got.shape[1:]), x,
                                           arithmetic=NcnnTarget.arithmetic).outputs[0])


@pytest.mark.parametrize("shape, options, fits", [
    ((9, 1, 3, 3), {}, True), ((1, 9, 3, 3), {}, True), ((8, 8, 3, 3), {}, False), ((16, 16, 1, 1), {}, False),
    ((16, 16, 3, 3), {"stride": (2, 2)}, False), ((16, 16, 3, 3), {"dilation": (2, 2)}, False),
    ((16, 1, 3, 3), {"groups": 16}, False)])
def test_layers_that_fit(shape, options, fits):
    assert fits_winograd(node_of(np.ones(shape, np.int8), (0, 0, 0, 0), **options)) == fits
    assert not fits_winograd(ir.InnerProduct("a", ("b",), ("c",), weight=np.ones((16, 16), np.float32)))


def test_unknown_variant():
    with pytest.raises(ConfigError, match="ncnn has int8 kernels for F23 and F43, not for 'F63'"):
        WinogradArithmetic("F63")


@pytest.mark.parametrize("variant, levels", [("F43", 127), ("F43", 31), ("F23", 127)])
def test_real_weights_and_images(ncnn, shared_data, variant, levels):
    """Every 3x3 layer of cifar_resnet20, with what it gets from ten photographs."""
    from deploy.lower import lower
    from quantize.importers.onnx import import_onnx
    images = np.load(shared_data / "cifar10_test.npz")["x"][:10].transpose(0, 3, 1, 2).astype(np.float32) / 64 - 2
    model = lower(import_onnx(shared_data / "cifar_resnet20" / "model.onnx"), (3, 32, 32))
    compared = 0
    blobs = run(model, images, keep=ALL).blobs
    for node in filter(fits_winograd, model.nodes):
        x = blobs[node.inputs[0]]
        node = replace(node, name="layer", inputs=("in0",), outputs=("out",),
                       quantization=quantization(node.weight, 1, float(np.abs(x).max()), levels))
        got = in_wheel(ncnn, node, x, variant)
        found = run(model_of(node, x, got.shape[1:]), x, arithmetic=WinogradArithmetic(variant, everywhere=True))
        np.testing.assert_array_equal(got, found.outputs[0])
        compared += 1
    assert compared == 17
