# SPDX-License-Identifier: MIT
"""ncnn's arithmetic in NumPy against the wheel itself, bit for bit, one layer at a time."""

import numpy as np
import pytest

from deploy import ir
from deploy.engine import run
from deploy.targets.ncnn import TARGET
from deploy.targets.ncnn.arithmetic import multiplier
from tests.deploy.targets.ncnn.wheel import quantized_layer, run_layer

HERE = TARGET.arithmetic_here()  # the wheel takes other kernels on other processors
RELU = ir.Function("relu")
RELU6 = ir.Function("clip", (0.0, 6.0))
LEAKY = ir.Function("leaky_relu", (0.1,))
HARD_SWISH = ir.Function("hard_swish", (1 / 6, 0.5))


@pytest.fixture(scope="module")
def ncnn():
    return pytest.importorskip("ncnn", reason="the ncnn wheel is not installed")


@pytest.fixture
def rng():
    return np.random.RandomState(5)


def model_of(node, shapes, x_shape):
    """A model of one node."""
    inputs = {name: x_shape for name in node.inputs}
    return ir.Model(node.inputs, node.outputs, (node,), dict(inputs, **shapes))


def quantization(rng, weight, groups=1):
    """Random codes; one scale a channel, or one a group."""
    scales = rng.uniform(0.002, 0.02, groups if groups > 1 else len(weight)).astype(np.float32)
    codes = rng.randint(-127, 128, weight.shape).astype(np.int8)
    return ir.Quantization(ir.Grid(float(np.float32(0.0237))), codes, np.repeat(scales, len(weight) // len(scales)))


def convolution(rng, channels, outputs, kernel, groups=1, bias=True, **options):
    weight = np.zeros((outputs, channels // groups) + kernel, np.float32)
    bias = rng.randn(outputs).astype(np.float32) if bias else None
    return ir.Convolution("layer", ("in0",), ("out",), weight=weight, bias=bias, groups=groups,
                          quantization=quantization(rng, weight, groups), **options)


def engine(node, x, got):
    """What the integer engine makes of it, given the shape of what ncnn got."""
    model = model_of(node, {"out": got.shape[1:]}, x.shape[1:])
    return run(model, x, arithmetic=HERE).outputs[0]


def check_quantized(ncnn, node, x, packing=False):
    """The wheel's float output, and its codes where it requantizes itself, are the engine's, all of them."""
    got = run_layer(ncnn, *quantized_layer(node), [x], packing=packing)
    expected = engine(node, x, got)
    np.testing.assert_array_equal(got, expected)
    assert np.isfinite(got).all() and len(np.unique(got)) > 10
    if isinstance(node, ir.Convolution):
        grid = ir.Grid(float(np.float32(np.abs(expected).max() / 100)))
        codes = run_layer(ncnn, *quantized_layer(node, grid.scale), [x], packing=packing)
        np.testing.assert_array_equal(codes, HERE.quantize(expected, grid))


CONVOLUTIONS = [
    (3, 8, (3, 3), dict(pads=(1, 1, 1, 1))),
    (3, 7, (7, 7), dict(stride=(2, 2), pads=(3, 3, 3, 3))),
    (16, 16, (3, 3), dict(pads=(1, 1, 1, 1))),
    (5, 9, (1, 1), dict()),
    (32, 24, (1, 1), dict(stride=(2, 2))),
    (8, 4, (3, 3), dict(dilation=(2, 2), pads=(2, 2, 2, 2))),
    (6, 10, (1, 5), dict(pads=(0, 2, 0, 2))),
    (6, 10, (2, 3), dict(stride=(1, 2), pads=(1, 0, 0, 1))),
    (12, 8, (3, 3), dict(groups=2)),
    (8, 16, (3, 3), dict(groups=8)),
]
DEPTHWISE = [dict(channels=channels, kernel=kernel, stride=stride, dilation=dilation)
             for channels in (5, 16) for kernel in ((3, 3), (5, 5), (1, 1), (2, 3), (7, 7))
             for stride in ((1, 1), (2, 2), (1, 2)) for dilation in ((1, 1), (2, 2))
             if kernel != (7, 7) or dilation == (1, 1)]


@pytest.mark.parametrize("activation", [None, RELU, RELU6, LEAKY, HARD_SWISH], ids=str)
@pytest.mark.parametrize("channels, outputs, kernel, options", CONVOLUTIONS)
def test_convolutions(ncnn, rng, channels, outputs, kernel, options, activation):
    node = convolution(rng, channels, outputs, kernel, activation=activation, **options)
    check_quantized(ncnn, node, rng.randn(2, channels, 9, 11).astype(np.float32))


@pytest.mark.parametrize("activation", [None, RELU, RELU6, LEAKY, HARD_SWISH], ids=str)
@pytest.mark.parametrize("options", DEPTHWISE, ids=str)
def test_depthwise_convolutions(ncnn, rng, options, activation):
    options = dict(options)
    channels, kernel = options.pop("channels"), options.pop("kernel")
    node = convolution(rng, channels, channels, kernel, groups=channels, activation=activation, pads=(1, 1, 1, 1),
                       **options)
    check_quantized(ncnn, node, rng.randn(2, channels, 9, 11).astype(np.float32))


@pytest.mark.parametrize("groups", [1, 8])
def test_layers_without_bias(ncnn, rng, groups):
    node = convolution(rng, 8, 8, (3, 3), groups=groups, bias=False)
    check_quantized(ncnn, node, rng.randn(2, 8, 9, 11).astype(np.float32))


def test_packing_changes_nothing_but_depthwise_layers(ncnn, rng):
    x = rng.randn(2, 16, 9, 11).astype(np.float32)
    check_quantized(ncnn, convolution(rng, 16, 32, (3, 3)), x, packing=True)
    check_quantized(ncnn, convolution(rng, 16, 32, (1, 1), activation=RELU), x, packing=True)


@pytest.mark.parametrize("activation", [None, RELU, RELU6, LEAKY, HARD_SWISH], ids=str)
@pytest.mark.parametrize("shape, outputs", [((40,), 10), ((7,), 5), ((6, 3, 4), 16), ((64, 1, 1), 1000)])
def test_inner_products(ncnn, rng, shape, outputs, activation):
    weight = np.zeros((outputs, int(np.prod(shape))), np.float32)
    node = ir.InnerProduct("layer", ("in0",), ("out",), weight=weight, bias=rng.randn(outputs).astype(np.float32),
                           quantization=quantization(rng, weight), activation=activation)
    check_quantized(ncnn, node, rng.randn(3, *shape).astype(np.float32))


def check_float(ncnn, node, line, binary, inputs):
    got = run_layer(ncnn, line, binary, inputs)
    model = ir.Model(node.inputs, node.outputs, (node,), dict(
        {name: x.shape[1:] for name, x in zip(node.inputs, inputs)}, out=got.shape[1:]))
    expected = run(model, dict(zip(node.inputs, inputs)), arithmetic=HERE).outputs[0]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("shape", [(5, 3, 3), (16, 4, 4), (7, 7, 7), (33, 5, 9), (12,)], ids=str)
def test_batch_norm_and_scale(ncnn, rng, shape):
    gamma, beta, mean, variance = (rng.uniform(0.5, 2, shape[0]).astype(np.float32) for _ in range(4))
    x = rng.randn(3, *shape).astype(np.float32)
    node = ir.BatchNorm("layer", ("in0",), ("out",), gamma=gamma, beta=beta, mean=mean, variance=variance, epsilon=1e-5)
    binary = b"".join(values.tobytes() for values in (gamma, mean, variance, beta))
    check_float(ncnn, node, f"BatchNorm 1 1 in0 out 0={shape[0]} 1={1e-5:e}", binary, [x])
    node = ir.Affine("layer", ("in0",), ("out",), scale=gamma, shift=beta)
    check_float(ncnn, node, f"Scale 1 1 in0 out 0={shape[0]} 1=1", gamma.tobytes() + beta.tobytes(), [x])
    node = ir.Affine("layer", ("in0",), ("out",), scale=gamma)
    check_float(ncnn, node, f"Scale 1 1 in0 out 0={shape[0]}", gamma.tobytes(), [x])


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 3), (3, 3), (5, 7), (7, 7), (8, 8), (14, 14)], ids=str)
def test_global_average_pooling(ncnn, rng, size):
    x = rng.randn(3, 6, *size).astype(np.float32)
    got = run_layer(ncnn, "Pooling 1 1 in0 out 0=1 4=1", b"", [x])
    node = ir.Pooling("layer", ("in0",), ("out",), kind="avg", global_=True)
    model = model_of(node, {"out": (6, 1, 1)}, x.shape[1:])
    expected = run(model, x, arithmetic=HERE).outputs[0]
    np.testing.assert_array_equal(got, expected[:, :, 0, 0])


@pytest.mark.parametrize("kind, count, ceil", [("max", 0, 0), ("max", 0, 1), ("avg", 0, 0), ("avg", 0, 1),
                                               ("avg", 1, 0)])
@pytest.mark.parametrize("kernel, stride, pads", [((2, 2), (2, 2), (0, 0, 0, 0)), ((3, 3), (2, 2), (1, 1, 1, 1)),
                                                  ((3, 2), (1, 2), (1, 0, 1, 1)), ((7, 7), (1, 1), (0, 0, 0, 0)),
                                                  ((8, 8), (3, 3), (2, 2, 2, 2))])
def test_pooling(ncnn, rng, kernel, stride, pads, kind, count, ceil):
    top, left, bottom, right = pads
    node = ir.Pooling("layer", ("in0",), ("out",), kind=kind, kernel=kernel, stride=stride, pads=pads, ceil=bool(ceil),
                      count_padding=bool(count))
    line = (f"Pooling 1 1 in0 out 0={int(kind == 'avg')} 11={kernel[0]} 1={kernel[1]} 12={stride[0]} 2={stride[1]} "
            f"3={left} 13={top} 14={right} 15={bottom} 5={int(not ceil)} 6={int(count and any(pads))}")
    check_float(ncnn, node, line, b"", [rng.randn(2, 5, 14, 13).astype(np.float32)])


@pytest.mark.parametrize("shape", [(5, 3, 3), (16, 4, 4), (33, 5, 9)], ids=str)
def test_elementwise_and_activations(ncnn, rng, shape):
    x, y, z = (3 * rng.randn(2, *shape).astype(np.float32) for _ in range(3))
    node = ir.Elementwise("layer", ("in0", "in1", "in2"), ("out",), op="add")
    check_float(ncnn, node, "Eltwise 3 1 in0 in1 in2 out 0=1", b"", [x, y, z])
    for function, line in [(RELU, "ReLU 1 1 in0 out"), (LEAKY, "ReLU 1 1 in0 out 0=1.000000e-01"),
                           (RELU6, "Clip 1 1 in0 out 0=0.000000e+00 1=6.000000e+00"),
                           (HARD_SWISH, "HardSwish 1 1 in0 out 0=1.66666672e-01 1=5.000000e-01"),
                           (ir.Function("hard_sigmoid", (1 / 6, 0.5)),
                            "HardSigmoid 1 1 in0 out 0=1.66666672e-01 1=5.000000e-01")]:
        check_float(ncnn, ir.Activation("layer", ("in0",), ("out",), function=function), line, b"", [x])
    slope = rng.uniform(0, 0.5, shape[0]).astype(np.float32)
    check_float(ncnn, ir.PReLU("layer", ("in0",), ("out",), slope=slope), f"PReLU 1 1 in0 out 0={shape[0]}",
                slope.tobytes(), [x])


@pytest.mark.parametrize("op, number", [("add", 0), ("sub", 1), ("mul", 2), ("div", 3), ("max", 4), ("min", 5),
                                        ("rsub", 7)])
def test_numbers(ncnn, rng, op, number):
    x = rng.uniform(0.5, 4, (2, 5, 6, 7)).astype(np.float32)
    node = ir.ScalarOp("layer", ("in0",), ("out",), op=op, scalar=3.14159274)
    check_float(ncnn, node, f"BinaryOp 1 1 in0 out 0={number} 1=1 2=3.14159274e+00", b"", [x])


def test_codes_of_halves_and_of_what_is_no_number(ncnn):
    just_below = np.nextafter(np.float32(0.5), np.float32(0))
    values = np.float32([0.5, -0.5, 1.5, -2.5, 126.5, 127.5, -127.5, 1e9, 3e9, -3e9, np.inf, -np.inf, np.nan,
                         just_below])
    codes = [1, -1, 2, -3, 127, 127, -127, 127, -127, -127, -127, -127, -127, 1]
    grid = ir.Grid(1.0)
    np.testing.assert_array_equal(HERE.quantize(values, grid), codes)
    x = np.resize(values, (1, 1, 1, 16 * len(values)))  # whole SIMD registers
    got = run_layer(ncnn, "Quantize 1 1 in0 out 0=1", np.float32(1).tobytes(), [x])
    np.testing.assert_array_equal(got, HERE.quantize(x, grid))


def test_codes_come_from_the_multiplier(rng):
    scale = np.float32(0.0237)
    x = (np.arange(-127, 127, dtype=np.float32) + np.float32(0.5)) * scale  # on halves, where last bits decide
    codes = HERE.quantize(x, ir.Grid(float(scale)))
    scaled = x * multiplier(scale)
    np.testing.assert_array_equal(codes, np.clip(np.trunc(scaled + np.copysign(np.float32(0.5), scaled)), -127, 127))
    assert (codes != np.clip(np.trunc(x / scale + np.copysign(np.float32(0.5), x)), -127, 127)).any()


def test_weights_as_ncnn_quantizes_them(rng):
    weight = rng.randn(4, 3, 3, 3).astype(np.float32)
    scale = np.abs(weight).reshape(4, -1).max(axis=1) / np.float32(31)
    codes = HERE.quantize_weight(weight, scale, 31)
    assert codes.dtype == np.int8 and np.abs(codes).max() == 31
    expected = HERE.quantize(weight[1], ir.Grid(float(scale[1])))
    np.testing.assert_array_equal(codes[1], expected)
