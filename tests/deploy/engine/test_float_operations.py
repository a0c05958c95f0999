# SPDX-License-Identifier: MIT
"""Float operations of the engine against slow references and definitions."""

import math

import numpy as np
import pytest

from deploy import ir
from deploy.engine import activation, operations, run
from deploy.ir.model import NODE_TYPES
from deploy.ir.validate import FUNCTIONS
from tests.deploy.engine import plain
from tests.deploy.ir.models import floats, model_of


@pytest.fixture
def rng():
    return np.random.RandomState(2)


def compute(node, *inputs):
    """What the engine makes of arrays (n, ...)."""
    model = model_of([node], **{name: x.shape[1:] for name, x in zip(node.inputs, inputs)})
    outputs = run(model, dict(zip(node.inputs, inputs))).outputs
    assert all(y.dtype == np.float32 for y in outputs)
    return outputs[0] if len(outputs) == 1 else outputs


def close(got, expected, ulps=16):
    """Equal up to float32 rounding at the scale of the largest value."""
    expected = np.asarray(expected)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=ulps * 2.0 ** -24 * max(np.abs(expected).max(), 1e-30))


def test_every_type_of_node_has_an_operation():
    assert set(operations.OPERATIONS) == set(NODE_TYPES.values())
    assert set(activation.FUNCTIONS) == set(FUNCTIONS)


CONVOLUTIONS = [
    (6, 8, (3, 3), {}), (6, 8, (1, 1), {}), (3, 5, (7, 5), dict(stride=(2, 3), pads=(3, 2, 3, 1))),
    (4, 6, (3, 2), dict(dilation=(2, 3), pads=(1, 0, 2, 0))), (6, 4, (3, 3), dict(groups=2)),
    (6, 6, (3, 3), dict(groups=6, pads=(1, 1, 1, 1))), (6, 6, (3, 5), dict(groups=6, stride=(2, 1), dilation=(1, 2))),
    (4, 12, (3, 3), dict(groups=4)), (1, 1, (2, 2), {}), (6, 8, (1, 1), dict(stride=(2, 2))),
    (6, 8, (9, 10), {}), (3, 3, (3, 3), dict(pads=(1, 1, 1, 1), pad_value=-1.5))]


@pytest.mark.parametrize("channels, outputs, kernel, options", CONVOLUTIONS)
def test_convolution(channels, outputs, kernel, options, rng):
    weight = floats(rng, outputs, channels // options.get("groups", 1), *kernel)
    x, bias = floats(rng, 2, channels, 9, 10), floats(rng, outputs)
    node = ir.Convolution("c", ("x",), ("y",), weight=weight, bias=bias, **options)
    sums = np.stack([plain.convolution(image, weight, node, options.get("pad_value", 0)) for image in x])
    close(compute(node, x), sums + bias[:, None, None])
    node = ir.Convolution("c", ("x",), ("y",), weight=weight, activation=ir.Function("clip", (0.0, 0.5)), **options)
    close(compute(node, x), np.clip(sums, 0, 0.5), ulps=200)


@pytest.mark.parametrize("options", [{}, dict(stride=(2, 3), pads=(1, 0, 1, 2), output_pads=(1, 0)),
                                     dict(dilation=(2, 1), groups=2), dict(groups=4, stride=(2, 2))], ids=str)
def test_deconvolution(options, rng):
    weight, x = floats(rng, 4, 3, 3, 2), floats(rng, 2, 4, 5, 6)
    bias = floats(rng, 3 * options.get("groups", 1))
    node = ir.Deconvolution("d", ("x",), ("y",), weight=weight, bias=bias, **options)
    close(compute(node, x), [plain.deconvolution(image, weight, node) + bias[:, None, None] for image in x])


def test_inner_product_flattens(rng):
    weight, x = floats(rng, 7, 24), floats(rng, 3, 2, 3, 4)
    node = ir.InnerProduct("f", ("x",), ("y",), weight=weight, bias=floats(rng, 7), activation=ir.Function("relu"))
    close(compute(node, x), np.maximum(x.reshape(3, 24).astype(np.float64) @ weight.T + node.bias, 0))


@pytest.mark.parametrize("kind, count", [("max", False), ("avg", False), ("avg", True)])
@pytest.mark.parametrize("kernel, stride, pads, ceil", [
    ((2, 2), (2, 2), (0, 0, 0, 0), False), ((2, 2), (2, 2), (0, 0, 0, 0), True), ((3, 3), (2, 2), (1, 1, 1, 1), False),
    ((3, 3), (2, 2), (1, 1, 1, 1), True), ((3, 4), (1, 3), (2, 1, 1, 1), True), ((8, 9), (1, 1), (0, 0, 0, 0), False)])
def test_pooling(kind, count, kernel, stride, pads, ceil, rng):
    x = floats(rng, 2, 3, 8, 9)
    node = ir.Pooling("p", ("x",), ("y",), kind=kind, kernel=kernel, stride=stride, pads=pads, ceil=ceil,
                      count_padding=count)
    close(compute(node, x), [plain.pooling(image, node) for image in x])


def test_padding_does_not_win_a_maximum_and_whole_planes(rng):
    x = -1 - np.abs(floats(rng, 2, 3, 4, 5))
    node = ir.Pooling("p", ("x",), ("y",), kernel=(3, 3), pads=(1, 1, 1, 1))
    assert compute(node, x).max() < -1
    close(compute(ir.Pooling("p", ("x",), ("y",), global_=True), x), x.max(axis=(2, 3), keepdims=True))
    close(compute(ir.Pooling("p", ("x",), ("y",), kind="avg", global_=True), x),
          x.mean(axis=(2, 3), keepdims=True, dtype=np.float64))


VALUES = [-90.0, -4.0, -2.5, -0.3, 0.0, 0.2, 1.0, 3.0, 7.5, 90.0]
DEFINITIONS = [
    ("relu", (), lambda v: max(v, 0)), ("leaky_relu", (0.1,), lambda v: v if v > 0 else 0.1 * v),
    ("clip", (-1.0, 6.0), lambda v: min(max(v, -1), 6)), ("sigmoid", (), lambda v: 1 / (1 + math.exp(-v))),
    ("tanh", (), math.tanh), ("hard_sigmoid", (0.2, 0.5), lambda v: min(max(0.2 * v + 0.5, 0), 1)),
    ("hard_swish", (1 / 6, 0.5), lambda v: v * min(max(v / 6 + 0.5, 0), 1)),
    ("swish", (), lambda v: v / (1 + math.exp(-v))), ("softplus", (), lambda v: math.log1p(math.exp(v))),
    ("gelu", (), lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2), ("abs", (), abs),
    ("elu", (0.7,), lambda v: v if v > 0 else 0.7 * math.expm1(v)), ("square", (), lambda v: v * v),
    ("exp", (), lambda v: math.exp(v) if v < 80 else math.inf),
    ("sqrt", (), lambda v: math.sqrt(v) if v >= 0 else math.nan),
    ("rsqrt", (), lambda v: 1 / math.sqrt(v) if v > 0 else math.inf if v == 0 else math.nan),
    ("log", (), lambda v: math.log(v) if v > 0 else -math.inf if v == 0 else math.nan), ("erf", (), math.erf),
    ("floor", (), math.floor), ("ceil", (), math.ceil), ("sin", (), math.sin), ("cos", (), math.cos)]


@pytest.mark.parametrize("kind, parameters, definition", DEFINITIONS)
@pytest.mark.filterwarnings("ignore:invalid value|overflow|divide by zero")
def test_functions(kind, parameters, definition):
    x = np.float32(VALUES).reshape(1, 2, 5)
    node = ir.Activation("a", ("x",), ("y",), function=ir.Function(kind, parameters))
    np.testing.assert_allclose(compute(node, x).ravel(), [definition(value) for value in VALUES], rtol=1e-6, atol=1e-7)


def test_every_function_is_defined_here():
    assert {kind for kind, _, _ in DEFINITIONS} == set(FUNCTIONS)


@pytest.mark.parametrize("shape", [(4,), (4, 3, 5)])
def test_channels(shape, rng):
    x, (gamma, beta, mean) = floats(rng, 2, *shape), floats(rng, 3, 4)
    variance = np.abs(floats(rng, 4))
    wide = (1, 4) + (1,) * (len(shape) - 1)
    g, b, m, v = (values.reshape(wide).astype(np.float64) for values in (gamma, beta, mean, variance))
    norm = ir.BatchNorm("n", ("x",), ("y",), gamma=gamma, beta=beta, mean=mean, variance=variance, epsilon=1e-3)
    close(compute(norm, x), (x - m) / np.sqrt(v + 1e-3) * g + b)
    close(compute(ir.Affine("n", ("x",), ("y",), scale=gamma, shift=beta), x), x * g + b)
    close(compute(ir.Affine("n", ("x",), ("y",), scale=gamma), x), x * g)
    close(compute(ir.PReLU("n", ("x",), ("y",), slope=gamma), x), np.where(x > 0, x, x * g))
    close(compute(ir.PReLU("n", ("x",), ("y",), slope=gamma[:1]), x), np.where(x > 0, x, x * gamma[0]))


@pytest.mark.parametrize("op, function", [
    ("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div", np.divide), ("max", np.maximum),
    ("min", np.minimum), ("pow", np.power)])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_elementwise(op, function, rng):
    x, y, z = floats(rng, 2, 3, 4, 5), floats(rng, 2, 3, 1, 1), floats(rng, 2, 5)
    x, z = (np.abs(x), np.abs(z)) if op == "pow" else (x, z)
    node = ir.Elementwise("e", ("x", "y"), ("out",), op=op)
    np.testing.assert_array_equal(compute(node, x, y), function(x, y))
    np.testing.assert_array_equal(compute(node, z, x), function(z.reshape(2, 1, 1, 5), x))
    constant = floats(rng, 3, 1, 5)
    nodes = [ir.Constant("c", ("x",), ("c",), value=constant), ir.Elementwise("e", ("x", "c"), ("out",), op=op)]
    np.testing.assert_array_equal(run(model_of(nodes, x=x.shape[1:]), x).outputs[0], function(x, constant))
    if op not in ("sub", "div", "pow"):
        node = ir.Elementwise("e", ("x", "y", "z"), ("out",), op=op)
        np.testing.assert_array_equal(compute(node, x, y, z), function(function(x, y), z.reshape(2, 1, 1, 5)))


@pytest.mark.parametrize("op, definition", [
    ("add", lambda x: x + 3), ("sub", lambda x: x - 3), ("mul", lambda x: x * 3), ("div", lambda x: x / 3),
    ("rsub", lambda x: 3 - x), ("rdiv", lambda x: 3 / x), ("max", lambda x: np.maximum(x, 3)),
    ("min", lambda x: np.minimum(x, 3)), ("pow", lambda x: x ** 3)])
def test_numbers(op, definition, rng):
    x = 2 + 3 * rng.rand(2, 3, 4).astype(np.float32)
    close(compute(ir.ScalarOp("s", ("x",), ("y",), op=op, scalar=3.0), x), definition(x.astype(np.float64)))


def test_moving_elements(rng):
    x, y = floats(rng, 2, 4, 3, 5), floats(rng, 2, 4, 6, 5)
    joined = compute(ir.Concat("c", ("x", "y"), ("out",), axis=1), x, y)
    np.testing.assert_array_equal(joined, np.concatenate([x, y], 2))
    parts = compute(ir.Slice("s", ("x",), ("a", "b", "c"), axis=0, sizes=(1, 2, 1)), x)
    for part, expected in zip(parts, (x[:, :1], x[:, 1:3], x[:, 3:])):
        np.testing.assert_array_equal(part, expected)
    cut = compute(ir.Crop("c", ("x",), ("y",), begin=(1, 0, 2), end=(3, 3, 4)), x)
    np.testing.assert_array_equal(cut, x[:, 1:3, :, 2:4])
    np.testing.assert_array_equal(compute(ir.Reshape("r", ("x",), ("y",), shape=(6, 10)), x), x.reshape(2, 6, 10))
    np.testing.assert_array_equal(compute(ir.Permute("p", ("x",), ("y",), order=(2, 0, 1)), x), x.transpose(0, 3, 1, 2))


def test_padding(rng):
    x = floats(rng, 2, 4, 3, 5)
    widths = ((0, 0), (1, 2), (2, 0), (1, 3))
    for mode, options in [("constant", dict(constant_values=np.float32(0.3))), ("edge", {}), ("reflect", {})]:
        node = ir.Padding("p", ("x",), ("y",), pads=(2, 1, 0, 3), channels=(1, 2), mode=mode, value=0.3)
        np.testing.assert_array_equal(compute(node, x), np.pad(x, widths, mode=mode, **options))


def test_nearest_and_bilinear(rng):
    x = floats(rng, 2, 3, 4, 5)
    np.testing.assert_array_equal(compute(ir.Resize("r", ("x",), ("y",), size=(8, 15)), x), x.repeat(2, 2).repeat(3, 3))
    same = ir.Resize("r", ("x",), ("y",), size=(4, 5), mode="bilinear")
    np.testing.assert_array_equal(compute(same, x), x)
    ramp = np.broadcast_to(np.arange(5, dtype=np.float32) + 10 * np.arange(4, dtype=np.float32)[:, None], (1, 1, 4, 5))
    corners = compute(ir.Resize("r", ("x",), ("y",), size=(7, 9), mode="bilinear", align_corners=True), ramp)
    close(corners[0, 0], np.arange(9) / 2 + 10 * np.arange(7)[:, None] / 2)
    centres = compute(ir.Resize("r", ("x",), ("y",), size=(8, 10), mode="bilinear"), ramp)
    close(centres[0, 0], np.clip(np.arange(10) / 2 - 0.25, 0, 4) + 10 * np.clip(np.arange(8) / 2 - 0.25, 0, 3)[:, None])


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("op", ["mean", "sum", "max", "min"])
def test_reductions(op, keepdims, rng):
    x = floats(rng, 2, 3, 4, 5)
    node = ir.Reduce("r", ("x",), ("y",), op=op, axes=(2, 0), keepdims=keepdims)
    close(compute(node, x), getattr(np, op)(x.astype(np.float64), axis=(1, 3), keepdims=keepdims), ulps=32)


def test_softmax(rng):
    x = 50 * floats(rng, 2, 3, 4)
    e = np.exp(x.astype(np.float64))
    close(compute(ir.Softmax("s", ("x",), ("y",), axis=1), x), e / e.sum(axis=2, keepdims=True), ulps=64)
