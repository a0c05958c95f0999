# SPDX-License-Identifier: MIT
import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from calib.bias_correction import METHODS, correct_biases, restore_biases
from calib.calibrators import MinMax
from calib.collect import calibrate, observe
from quantize.convert import convert_model
from quantize.errors import CalibrationError, ConfigError, DataError
from quantize.modes import fix_params, quantize_input, quantized_layers, quantizers, set_mode, unfix_params
from quantize.reference import fake_quantize, find_qparams
from quantize.spec import PerChannel, QuantSpec

TYPES = ["Conv2D", "Conv2DTranspose", "Dense"]
RULES = [{"op_types": TYPES, "weight": "int3/channel", "input": "auto4"}]
WEIGHTS = [{"op_types": TYPES, "weight": "int3/channel", "input": "float"}]


def sequential_net(*layers, rules=RULES, shape=(6, 3, 7, 7)):
    """(converted network, images): with biases and images that are not symmetric, calibrated by min-max."""
    mx.random.seed(5)
    net = nn.HybridSequential()
    net.add(*layers)
    net.initialize(mx.init.Uniform(0.6))
    x = np.random.RandomState(1).gamma(1, 1, shape).astype(np.float32)
    net(mx.nd.array(x))
    for parameter in net.collect_params(".*bias").values():
        parameter.set_data(mx.nd.random.uniform(-1, 1, parameter.shape))
    convert_model(net, config_list=rules)
    if any(quantizers(net, "activation")):
        calibrate(net, observe(net, [x], MinMax()), MinMax())
        quantize_input(net, enable=True, online=False)
    return net, mx.nd.array(x)


def convolutions(rules=RULES):
    return sequential_net(nn.Conv2D(6, 3, padding=1), nn.Activation("relu"), nn.Conv2D(6, 3, strides=2, groups=6),
                          nn.Activation("relu"), nn.Conv2DTranspose(4, 3, strides=2), nn.Activation("relu"),
                          nn.Dense(5), rules=rules)


def biases(net):
    return {path: layer.bias.data().asnumpy() for path, layer in quantized_layers(net)}


def channel_means(y):
    return y.mean(axis=tuple(axis for axis in range(y.ndim) if axis != 1), dtype=np.float64)


def rounded(weight, bits=3):
    spec = QuantSpec(bits, granularity=PerChannel(0))
    return fake_quantize(weight, find_qparams(weight, spec), spec)


def convolved(x, weight, stride, pad):
    """Convolution without a bias, by its definition; `weight` (out, in / groups, kh, kw)."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out_channels, depth, kernel = weight.shape[:3]
    side = (x.shape[2] - kernel) // stride + 1
    y = np.zeros((len(x), out_channels, side, side))
    for channel in range(out_channels):
        first = channel * x.shape[1] // out_channels // depth * depth
        for i in range(side):
            for j in range(side):
                rows, columns = slice(stride * i, stride * i + kernel), slice(stride * j, stride * j + kernel)
                y[:, channel, i, j] = (x[:, first:first + depth, rows, columns] * weight[channel]).sum((1, 2, 3))
    return y


# --- the numbers --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", METHODS)
def test_the_correction_is_the_weight_error_times_the_mean_input(method):
    net, x = sequential_net(nn.Dense(5, in_units=4), rules=WEIGHTS, shape=(9, 4))
    weight, bias = net[0].weight.data().asnumpy(), net[0].bias.data().asnumpy()
    expected = (weight - rounded(weight)).astype(np.float64) @ x.asnumpy().mean(axis=0, dtype=np.float64)
    assert np.abs(expected).max() > 0.05
    corrections = correct_biases(net, [x], method)
    np.testing.assert_allclose(corrections["0"], expected, atol=1e-6)
    np.testing.assert_allclose(net[0].bias.data().asnumpy(), bias + expected, atol=1e-6)


def test_parallel_looks_at_each_layer_alone():
    net, x = convolutions()
    pieces = [x.asnumpy()]
    set_mode(net, "float")
    for layer in (net[:2], net[2:4]):
        pieces.append(layer(mx.nd.array(pieces[-1])).asnumpy())
    set_mode(net, "online", "weight")
    quantize_input(net, enable=True, online=False)
    corrections = correct_biases(net, [x], "parallel")
    for path, x_in, stride, pad in (("0", pieces[0], 1, 1), ("2", pieces[1], 2, 0)):
        layer = net[int(path)]
        weight, quantizer = layer.weight.data().asnumpy(), layer.input_quantizer
        x_fq = fake_quantize(x_in, quantizer.get_qparams(), quantizer.spec)
        error = convolved(x_in, weight, stride, pad) - convolved(x_fq, rounded(weight), stride, pad)
        np.testing.assert_allclose(corrections[path], channel_means(error), atol=1e-5)


@pytest.mark.parametrize("hybridize", [False, True])
def test_sequential_gives_every_channel_the_float_mean(hybridize):
    net, x = convolutions()
    net.hybridize(hybridize, static_alloc=hybridize)
    ends = [1, 3, 5, 7]
    modes = {path: quantizer.mode for path, quantizer in quantizers(net)}
    quantized = [net[:end](x).asnumpy() for end in ends]
    set_mode(net, "float")
    wanted = [net[:end](x).asnumpy() for end in ends]
    for path, quantizer in quantizers(net):
        quantizer.mode = modes[path]
    correct_biases(net, [x], "sequential")
    assert net._active == hybridize and {path: quantizer.mode for path, quantizer in quantizers(net)} == modes
    for end, before, target in zip(ends, quantized, wanted):
        target = channel_means(target)
        assert np.abs(channel_means(before) - target).max() > 0.02
        np.testing.assert_allclose(channel_means(net[:end](x).asnumpy()), target, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_is_taken_before_an_activation_of_the_layer_itself(method):
    def corrections(*layers):
        net, x = sequential_net(*layers)
        return list(correct_biases(net, [x], method).values())
    apart = corrections(nn.Conv2D(6, 3), nn.Activation("relu"), nn.Dense(8), nn.Activation("sigmoid"), nn.Dense(3))
    inside = corrections(nn.Conv2D(6, 3, activation="relu"), nn.Dense(8, activation="sigmoid"), nn.Dense(3))
    assert len(apart) == 3
    for one, other in zip(apart, inside):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("method", METHODS)
def test_channels_of_a_dense_layer_on_sequences_are_the_last_axis(method):
    net, x = sequential_net(nn.Dense(5, flatten=False), shape=(4, 6, 3))
    set_mode(net, "float")
    wanted = net(x).asnumpy()
    set_mode(net, "online", "weight")
    quantize_input(net, enable=True, online=False)
    correct_biases(net, [x], method)
    np.testing.assert_allclose(net(x).asnumpy().mean((0, 1)), wanted.mean((0, 1)), atol=1e-5)


@pytest.mark.parametrize("sharing", ["layer", "parameters"])
@pytest.mark.parametrize("method", METHODS)
def test_a_bias_that_is_used_twice_is_corrected_by_its_first_use(method, sharing):
    layer = nn.Conv2D(3, 3, padding=1, in_channels=3)
    other = layer if sharing == "layer" else nn.Conv2D(3, 3, padding=1, in_channels=3, params=layer.params)
    net, x = sequential_net(layer, other)
    assert net[0].bias is net[1].bias
    once, _ = sequential_net(nn.Conv2D(3, 3, padding=1))
    for parameter, name in ((once[0].weight, "weight"), (once[0].bias, "bias")):
        parameter.set_data(getattr(net[0], name).data())
    once[0].input_quantizer.set_qparams(net[0].input_quantizer.get_qparams())
    expected = correct_biases(once, [x], method)["0"]
    before = net[0].bias.data().asnumpy()
    found = correct_biases(net, [x], method)
    assert list(found) == ["0"]
    np.testing.assert_array_equal(found["0"], expected)
    np.testing.assert_array_equal(net[0].bias.data().asnumpy(), before + expected)
    restore_biases(net)
    np.testing.assert_array_equal(net[0].bias.data().asnumpy(), before)


# --- what stays as it was -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", METHODS)
def test_fixed_weights_are_fixed_afterwards_and_the_result_is_the_same(method):
    net, x = convolutions()
    weights = [layer.weight.data().asnumpy() for _, layer in quantized_layers(net)]
    expected = correct_biases(net, [x], method)
    output = net(x).asnumpy()
    fix_params(net)
    for path, correction in correct_biases(net, [x], method).items():
        np.testing.assert_array_equal(correction, expected[path])
    assert all(quantizer.frozen for _, quantizer in quantizers(net, "weight"))
    np.testing.assert_allclose(net(x).asnumpy(), output, rtol=1e-4, atol=1e-4)
    unfix_params(net)
    for before, (_, layer) in zip(weights, quantized_layers(net)):
        np.testing.assert_array_equal(layer.weight.data().asnumpy(), before)


@pytest.mark.parametrize("method", METHODS)
def test_it_is_undone_exactly_and_twice_is_once(method):
    net, x = convolutions()
    before = biases(net)
    correct_biases(net, [x], method)
    once = biases(net)
    assert all((once[path] != before[path]).any() for path in before)
    correct_biases(net, [x], method)
    again = biases(net)
    restore_biases(net)
    restored = biases(net)
    for path in before:
        np.testing.assert_array_equal(again[path], once[path])
        np.testing.assert_array_equal(restored[path], before[path])


def test_corrected_biases_are_saved(tmp_path):
    net, x = convolutions()
    correct_biases(net, [x])
    net.save_parameters(str(tmp_path / "net.params"))
    other, _ = convolutions()
    other.load_parameters(str(tmp_path / "net.params"))
    np.testing.assert_array_equal(other(x).asnumpy(), net(x).asnumpy())


@pytest.mark.parametrize("method", METHODS)
def test_only_the_first_images_are_used(method):
    net, x = convolutions()
    wild = mx.nd.concat(x[:4], 100 * x[4:], dim=0)
    runs = [correct_biases(net, batches, method, images=4)
            for batches in ([x], [wild], [(wild[:3], None), (wild[3:], None)], iter([x[:4], "never looked at"]))]
    for run in runs[1:]:
        for path, correction in run.items():
            np.testing.assert_array_equal(correction, runs[0][path])


@pytest.mark.parametrize("method", METHODS)
def test_float_layers_keep_their_bias(method):
    net, x = convolutions()
    for _, quantizer in net[2].quantizers():
        quantizer.mode = "float"
    before = biases(net)["2"]
    assert list(correct_biases(net, [x], method)) == ["0", "4", "6"]
    np.testing.assert_array_equal(biases(net)["2"], before)


@pytest.mark.parametrize("method", METHODS)
def test_quantized_outputs_of_activations_have_no_bias(method):
    net, x = convolutions(RULES + [{"op_types": ["Activation"], "output": "auto4"}])
    modes = {path: quantizer.mode for path, quantizer in quantizers(net)}
    assert "1.output_quantizer" in modes
    assert list(correct_biases(net, [x], method)) == ["0", "2", "4", "6"]
    assert {path: quantizer.mode for path, quantizer in quantizers(net)} == modes


# --- bad input ----------------------------------------------------------------------------------------------------

def test_layers_without_a_bias(caplog):
    net, x = sequential_net(nn.Conv2D(4, 3, use_bias=False), nn.BatchNorm(), nn.Dense(3))
    with caplog.at_level("WARNING"):
        assert list(correct_biases(net, [x])) == ["2"]
    assert "1 of 2 quantized layers have no bias" in caplog.text and "merge BatchNorm" in caplog.text
    net, x = sequential_net(nn.Conv2D(4, 3, use_bias=False))
    with pytest.raises(CalibrationError, match="no quantized layer has a bias"):
        correct_biases(net, [x])


@pytest.mark.parametrize("method", METHODS)
def test_bad_input_changes_nothing(method):
    net, x = convolutions()
    before, modes = biases(net), {path: quantizer.mode for path, quantizer in quantizers(net)}
    fix_params(net)
    with pytest.raises(CalibrationError, match="empty"):
        correct_biases(net, [], method)
    with pytest.raises(DataError, match="batch 1 is a str"):
        correct_biases(net, ["images"], method)
    with pytest.raises(ConfigError, match="parallel, sequential, got 'both'"):
        correct_biases(net, [x], "both")
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(DataError, match="^0: the output holds NaN"):
        correct_biases(net, [x], method)
    after = biases(net)
    assert all((after[path] == before[path]).all() for path in before)
    assert {path: quantizer.mode for path, quantizer in quantizers(net)} == modes
    assert all(quantizer.frozen for _, quantizer in quantizers(net, "weight"))
