# SPDX-License-Identifier: MIT
"""Quantization in the Winograd domain, against NumPy tile by tile."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import SymbolBlock, nn

from calib.tiles import calibrate_tiles
from quantize import reference, reference_trained
from quantize.convert import convert_model
from quantize.errors import CalibrationError
from quantize.modes import disable_quantize, fix_params, quantize_input, set_mode, unfix_params
from quantize.nn import WinogradConv2D
from quantize.spec import PerChannel, PerTensor, QParams, QuantSpec
from quantize.train import quantizer_parameters, start_training
from quantize.winograd import GRANULARITIES, POINTS, WinogradSpec, transforms
from tests.quantize.nn.winograd_naive import fake_quantized, tiles_of, winograd_convolution

every_variant = pytest.mark.parametrize("variant", sorted(POINTS))
every_granularity = pytest.mark.parametrize("granularity", GRANULARITIES)
SHAPES = [dict(channels=5, kernel_size=3, padding=1), dict(channels=6, kernel_size=3, padding=(0, 2), groups=3),
          dict(channels=3, kernel_size=3, groups=3, use_bias=False), dict(channels=4, kernel_size=3, padding=1)]
SIZES = [(9, 7), (6, 11), (8, 8), (3, 3)]
shaped = pytest.mark.parametrize("options, size", list(zip(SHAPES, SIZES)))


def net_of(options, size, seed=0):
    """One convolution on 3 channels, and images of a size."""
    mx.random.seed(seed)
    net = nn.HybridSequential()
    with net.name_scope():
        net.add(nn.Conv2D(in_channels=3, **options))
    net.initialize(mx.init.Normal(0.4))
    if net[0].bias is not None:
        net[0].bias.set_data(mx.nd.random.normal(shape=net[0].bias.shape))
    return net, mx.nd.random.normal(shape=(2, 3) + size)


def converted(net, winograd, bits=8):
    return convert_model(net, config_list=[{"weight": f"int{bits}", "input": "int8", "winograd": winograd}])


def numbers(net, x):
    layer = net[0]
    bias = None if layer.bias is None else layer.bias.data().asnumpy()
    return x.asnumpy(), layer.weight.data().asnumpy(), bias, layer._kwargs["pad"], layer._kwargs["num_group"]


def close(found, expected, relative):
    assert np.abs(found - expected).max() <= relative * np.abs(expected).max()


@shaped
@every_variant
def test_in_float_it_is_the_convolution(variant, options, size):
    net, x = net_of(options, size)
    expected = net(x).asnumpy()
    layer = converted(net, variant + "/inputs")[0]
    transform = layer.weight_transform
    tiles, like = transform.tiles(mx.nd, x, layer._kwargs["pad"])
    bias = None if layer.bias is None else layer.bias.data()
    matrix = transform.transform(mx.nd, layer.weight.data())
    close(transform.multiply(mx.nd, tiles, (matrix, bias), like).asnumpy(), expected, 1e-5)
    close(transform.back(mx.nd, matrix).asnumpy(), layer.weight.data().asnumpy(), 1e-6)
    assert isinstance(layer, WinogradConv2D)


@every_granularity
@shaped
@every_variant
def test_rounded_tiles_and_weights(variant, options, size, granularity):
    net, x = net_of(options, size)
    operands = numbers(net, x)
    layer = converted(net, f"{variant}/{granularity}/inputs")[0]
    # scales that have nothing to do with each other, so that nothing lies on a half; some values are clipped
    steps = np.random.RandomState(1).uniform(0.02, 0.05, layer.tile_quantizer.scale.shape).astype(np.float32)
    layer.input_quantizer.set_qparams(QParams.symmetric([0.0177]))
    layer.tile_quantizer.set_qparams(QParams.symmetric(steps))
    quantize_input(net, online=False)
    expected = winograd_convolution(WinogradSpec(variant, granularity, True), operands, (0.0177, steps))
    found = net(x).asnumpy()
    close(found, expected, 1e-4)
    net.hybridize(static_alloc=True, static_shape=True)
    np.testing.assert_array_equal(net(x).asnumpy(), found)


@every_granularity
def test_ranges_of_a_batch(granularity):
    """Online ranges are the largest magnitudes of the batch."""
    net, x = net_of(SHAPES[3], SIZES[3])
    layer = converted(net, f"F43/{granularity}/inputs")[0]
    online = net(x).asnumpy()
    rounded = fake_quantized(x.asnumpy(), QuantSpec())
    peaks = np.abs(tiles_of(rounded, "F43", (1, 1))).max(axis=(0, 1, 2, 3)).ravel()
    peaks = peaks if granularity == "position" else peaks.max()
    layer.input_quantizer.set_qparams(reference.find_qparams(x.asnumpy(), QuantSpec()))
    layer.tile_quantizer.set_qparams(QParams.symmetric(peaks / 127))
    quantize_input(net, online=False)
    offline = net(x).asnumpy()
    assert layer.tile_quantizer.mode == "offline"
    assert (np.abs(online - offline) <= 1e-5 * np.abs(online).max()).mean() > 0.8  # exact halves go either way


@pytest.mark.parametrize("bits", [2, 4, 8])
@every_granularity
@every_variant
def test_rounded_weights(variant, granularity, bits):
    net, x = net_of(SHAPES[1], SIZES[1])
    layer = converted(net, f"{variant}/{granularity}", bits)[0]
    weight = layer.weight.data().asnumpy().astype(np.float64)
    kernels = transforms(variant)[1]
    positions = len(kernels) ** 2
    u = np.einsum("ia,ocab,jb->oijc", kernels, weight, kernels)
    shape = {"layer": (1, -1), "channel": (len(weight), -1), "position": (len(weight) * positions, -1)}[granularity]
    rounded = fake_quantized(u.reshape(shape), QuantSpec(bits, granularity=PerTensor() if granularity == "layer"
                                                         else PerChannel(0))).reshape(u.shape)
    inverse = np.linalg.pinv(kernels)
    expected = np.einsum("ai,oijc,bj->ocab", inverse, rounded, inverse)
    close(layer.rounded(mx.nd, layer.weight.data()).asnumpy(), expected, 1e-5)


@pytest.mark.parametrize("winograd", ["F23", "F43/position", "F63/layer"])
def test_weights_alone_are_fixed_and_given_back(winograd):
    net, x = net_of(SHAPES[0], SIZES[0])
    before = net[0].weight.data().asnumpy()
    expected = net(x).asnumpy()
    net = converted(net, winograd)
    quantized = net(x).asnumpy()
    assert (quantized != expected).any()
    fix_params(net)
    np.testing.assert_array_equal(net(x).asnumpy(), quantized)
    assert net[0].weight_quantizer.frozen and (net[0].weight.data().asnumpy() != before).any()
    operators = [node for node in net(mx.sym.var("x")).get_internals().list_outputs() if "winograd" in node]
    assert operators == []  # a fixed weight costs nothing
    unfix_params(net)
    np.testing.assert_array_equal(net[0].weight.data().asnumpy(), before)
    disable_quantize(net)
    np.testing.assert_array_equal(net(x).asnumpy(), expected)


def test_layers_that_round_tiles_keep_float_weights():
    net, x = net_of(SHAPES[0], SIZES[0])
    expected, before = net(x).asnumpy(), net[0].weight.data().asnumpy()
    net = converted(net, "F43/position/inputs")
    quantized = net(x).asnumpy()
    fix_params(net)
    np.testing.assert_array_equal(net(x).asnumpy(), quantized)
    np.testing.assert_array_equal(net[0].weight.data().asnumpy(), before)
    disable_quantize(net)
    np.testing.assert_array_equal(net(x).asnumpy(), expected)


def gradients(net, x):
    x.attach_grad()
    layer = net[0]
    with autograd.record():
        y = net(x)
        loss = (y * mx.nd.arange(y.size).reshape(y.shape)).sum()
    loss.backward()
    return [array.asnumpy() for array in (layer.weight.grad(), x.grad)]


@pytest.mark.parametrize("hybridize", [False, True])
@pytest.mark.parametrize("inputs", ["", "/inputs"])
@shaped
@every_variant
def test_gradients_pass_through(variant, options, size, inputs, hybridize):
    """With 16 bits nothing is clipped and little rounded: the gradients are the float convolution's."""
    net, x = net_of(options, size)
    expected = gradients(net, x)
    net = convert_model(net, config_list=[{"weight": "int8", "input": "int16",
                                           "winograd": variant + "/position" + inputs}])
    net[0].weight_quantizer.spec = net[0].weight_quantizer.spec.with_(bits=16)
    if hybridize:
        net.hybridize(static_alloc=True, static_shape=True)
    for found, wanted in zip(gradients(net, x), expected):
        close(found, wanted, 1e-2)


def test_trained_steps():
    net, x = net_of(SHAPES[0], SIZES[0])
    net = convert_model(net, config_list=[{"weight": "int4", "input": "int8", "weight_method": "lsq",
                                           "winograd": "F43/position"}])
    quantizer = net[0].weight_quantizer
    assert quantizer.calibrated and quantizer.scale.shape == (5 * 36, 1)
    gradients(net, x)
    steps = [p for p in net.collect_params(".*weight_quantizer.*").values() if p.grad_req != "null"]
    assert steps and all((p.grad().asnumpy() != 0).any() for p in steps)


@every_granularity
def test_fixed_ranges_of_tiles(granularity):
    net, x = net_of(SHAPES[0], SIZES[0])
    pad = net[0]._kwargs["pad"]
    net = converted(net, f"F43/{granularity}/inputs")
    net[0].input_quantizer.set_qparams(reference.find_qparams(x.asnumpy(), QuantSpec()))
    quantize_input(net, online=False)
    found = calibrate_tiles(net, [x[:1], x[1:]])
    rounded = fake_quantized(x.asnumpy(), QuantSpec())
    peaks = np.abs(tiles_of(rounded, "F43", pad)).max(axis=(0, 1, 2, 3)).ravel()
    expected = peaks if granularity == "position" else peaks.max(keepdims=True)
    (path, thresholds), = found.items()
    assert path == "0"
    np.testing.assert_allclose(thresholds, expected, rtol=1e-5)
    one, both = net(x[:1]).asnumpy(), net(x).asnumpy()
    np.testing.assert_allclose(one, both[:1], atol=1e-5)  # a fixed range does not depend on the batch
    assert net[0].tile_quantizer.mode == "offline"
    quantize_input(net, online=True)
    net(x)
    assert net[0].tile_quantizer.mode == "online"


@pytest.mark.parametrize("hybridized", [False, True])
@every_granularity
def test_trained_steps_of_tiles(granularity, hybridized):
    """With LSQ inputs the steps of tiles get LSQ's gradient, and what they have become is what is computed."""
    net, x = net_of(SHAPES[0], SIZES[0])
    net = convert_model(net, config_list=[{
        "weight": "int8", "weight_method": "ste", "input": "int8", "input_method": "lsq",
        "winograd": f"F43/{granularity}/inputs"}])
    layer = net[0]
    layer.input_quantizer.set_qparams(reference.find_qparams(x.asnumpy(), QuantSpec()))
    quantize_input(net, online=False)
    calibrate_tiles(net, [x * 0.7])  # some values are clipped
    start_training(net)
    if hybridized:
        net.hybridize(static_alloc=True, static_shape=True)
    with autograd.record():
        y = net(x)
    upstream = mx.nd.random.normal(shape=y.shape)
    y.backward(upstream)
    tiles, like = layer.weight_transform.tiles(mx.nd, layer.input_quantizer(x), layer._kwargs["pad"])
    quantizer, rounded = layer.tile_quantizer, layer.tile_quantizer(tiles)
    rounded.attach_grad()
    with autograd.record():
        matrix = layer.weight_quantizer(layer.weight_transform.transform(mx.nd, layer.weight.data()))
        again = layer.weight_transform.multiply(mx.nd, rounded, (matrix, layer.bias.data()), like)
    again.backward(upstream)
    step = quantizer.get_qparams().scale
    images = 1 / np.sqrt(tiles.size / step.size / len(x) * quantizer.spec.qmax)
    _, expected = reference_trained.lsq_gradient(tiles.asnumpy(), rounded.grad.asnumpy(), step, quantizer.spec, images)
    name = "0.tile_quantizer.growth"
    close(quantizer_parameters(net)[name].grad().asnumpy(), expected.reshape(step.shape) / step, 1e-3)
    quantizer.growth.set_data(mx.nd.array(np.full(step.shape, 0.25)))
    np.testing.assert_allclose(quantizer.get_qparams().scale, 1.25 * step, rtol=1e-6)
    assert np.abs((net(x) - y).asnumpy()).max() > 1e-3


def test_tiles_that_cannot_be_calibrated():
    net, x = net_of(SHAPES[0], SIZES[0])
    assert calibrate_tiles(converted(net_of(SHAPES[0], SIZES[0])[0], "F43"), [x]) == {}
    net = converted(net, "F43/inputs")
    with pytest.raises(CalibrationError, match="is empty|no image"):
        calibrate_tiles(net, [])
    set_mode(net, "float", "activation")
    with pytest.raises(CalibrationError, match="0: its input is not quantized now"):
        calibrate_tiles(net, [x])


def test_layers_in_float_are_left_out_of_the_calibration_of_tiles():
    net, x = net_of(SHAPES[0], SIZES[0])
    net.add(nn.Conv2D(4, 3, in_channels=5))
    net[1].initialize(mx.init.Normal(0.4))
    net = converted(net, "F23/inputs")
    net[0].input_quantizer.mode = "float"
    assert list(calibrate_tiles(net, [x])) == ["1"]
    assert net[1].tile_quantizer.calibrated and not net[0].tile_quantizer.calibrated


@pytest.mark.parametrize("winograd", ["F43", "F23/position/inputs"])
def test_files(tmp_path, winograd):
    """Checkpoints hold no constants, exported graphs do; float checkpoints load."""
    net, x = net_of(SHAPES[0], SIZES[0])
    net.save_parameters(str(tmp_path / "float"))
    net.collect_params().save(str(tmp_path / "flat"), strip_prefix=net.prefix)
    net = converted(net, winograd)
    quantize_input(net, online=True)
    net.hybridize()
    expected = net(x).asnumpy()
    net.save_parameters(str(tmp_path / "quantized"))
    assert not any("there" in name or "tiles" in name for name in mx.nd.load(str(tmp_path / "quantized")))
    other = converted(net_of(SHAPES[0], SIZES[0], seed=1)[0], winograd)
    for name in ("quantized", "float", "flat"):
        other.load_parameters(str(tmp_path / name))
        np.testing.assert_array_equal(other(x).asnumpy(), expected)
    net.export(str(tmp_path / "net"))
    imported = SymbolBlock.imports(str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params"))
    np.testing.assert_array_equal(imported(x).asnumpy(), expected)
