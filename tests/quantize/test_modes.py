# SPDX-License-Identifier: MIT
import mxnet as mx
import numpy as np
import pytest

from calib.calibrators import MinMax
from calib.collect import calibrate, observe
from quantize import modes
from quantize.convert import convert_model
from quantize.errors import CalibrationError, ModelFileError
from quantize.initialize import qparams_init


@pytest.fixture
def converted(small_net):
    return convert_model(small_net, config_list=[{"weight": "int4/channel"}])


def outputs(net, images):
    return net(images).asnumpy()


def test_quantizers_are_found_by_path(converted):
    assert [path for path, _ in modes.quantizers(converted)] == [
        "0.input_quantizer", "0.weight_quantizer", "3.input_quantizer", "3.weight_quantizer", "6.input_quantizer",
        "6.weight_quantizer"]
    assert [path for path, _ in modes.quantizers(converted, "weight")][0] == "0.weight_quantizer"
    assert converted.collect_quantized_blocks() == [converted[0], converted[3], converted[6]]


@pytest.mark.parametrize("hybridize", [False, True])
def test_switching_reaches_hybridized_networks(small_net, images, hybridize):
    small_net.hybridize(hybridize)
    plain = outputs(small_net, images)
    convert_model(small_net, config_list=[{"weight": "int4/channel"}])
    quantized = outputs(small_net, images)
    assert np.abs(plain - quantized).max() > 1e-3
    small_net.disable_quantize()
    np.testing.assert_array_equal(outputs(small_net, images), plain)
    small_net.enable_quantize()
    np.testing.assert_array_equal(outputs(small_net, images), quantized)
    small_net.quantize_input(enable=False)
    weights_only = outputs(small_net, images)
    assert np.abs(weights_only - quantized).max() > 0 and np.abs(weights_only - plain).max() > 0


def test_offline_needs_a_calibration(converted, images):
    with pytest.raises(CalibrationError, match="3 of 3 quantizers \\(first: 0.input_quantizer\\)"):
        converted.quantize_input(online=False)
    calibrate(converted, observe(converted, [images], MinMax()), MinMax())
    converted.quantize_input(online=False)
    online_net = outputs(converted, images)
    assert np.isfinite(online_net).all()
    # a fixed range clips what lies beyond: ten times the image is not ten times the output
    assert np.abs(outputs(converted, images * 10)).max() < 10 * np.abs(online_net).max()


def test_thresholds_name_every_layer(converted, images):
    assert modes.thresholds(converted) == {}
    converted[6].input_quantizer = converted[3].input_quantizer
    calibrate(converted, observe(converted, [images], MinMax()), MinMax())
    found = modes.thresholds(converted)
    assert list(found) == ["0.input_quantizer", "3.input_quantizer", "6.input_quantizer"]
    assert found["6.input_quantizer"] == found["3.input_quantizer"]


def test_the_context_restores_every_quantizer(converted):
    converted[0].input_quantizer.mode = "float"
    before = [quantizer.mode for _, quantizer in modes.quantizers(converted)]
    with pytest.raises(RuntimeError), modes.mode(converted, "online"):
        assert converted[0].input_quantizer.mode == "online"
        raise RuntimeError
    assert [quantizer.mode for _, quantizer in modes.quantizers(converted)] == before


@pytest.mark.parametrize("hybridize", [False, True])
def test_fixed_weights_give_the_same_outputs_and_come_back(converted, images, hybridize):
    converted.hybridize(hybridize)
    weight = converted[3].weight.data().asnumpy()
    expected = outputs(converted, images)
    converted.fix_params()
    converted.fix_params()
    np.testing.assert_array_equal(outputs(converted, images), expected)
    fixed = converted[3].weight.data().asnumpy()
    assert all(len(np.unique(channel)) <= 15 for channel in fixed) and np.abs(fixed - weight).max() > 0
    modes.unfix_params(converted)
    np.testing.assert_array_equal(converted[3].weight.data().asnumpy(), weight)
    np.testing.assert_array_equal(outputs(converted, images), expected)


def test_fixed_weights_are_quantized_once_and_not_at_every_batch(converted, images, monkeypatch):
    calls = []
    quantizer = converted[3].weight_quantizer
    original = type(quantizer).quantize
    monkeypatch.setattr(type(quantizer), "quantize",
                        lambda self, *a, **k: calls.append(self) or original(self, *a, **k))
    converted(images)
    assert quantizer in calls
    converted.fix_params()
    calls.clear()
    converted(images)
    assert calls and quantizer not in calls


def test_fixed_weights_survive_a_checkpoint(converted, images, tmp_path):
    """Quantizing fixed weights again with the stored scale changes nothing."""
    converted.fix_params()
    expected = outputs(converted, images)
    converted.save_parameters(str(tmp_path / "fixed.params"))
    modes.unfix_params(converted)
    converted.load_parameters(str(tmp_path / "fixed.params"))
    modes.set_mode(converted, "offline", "weight")
    np.testing.assert_array_equal(outputs(converted, images), expected)
    converted.fix_params()
    np.testing.assert_array_equal(outputs(converted, images), expected)


def test_grouped_weights_quantize_after_a_float_forward():
    """oneDNN leaves grouped weights in a layout that cannot be reshaped; conversion must cope."""
    from mxnet.gluon import nn
    net = nn.HybridSequential()
    net.add(nn.Conv2D(128, 3, padding=1, groups=2, in_channels=64))
    net.initialize()
    x = mx.nd.random.uniform(shape=(1, 64, 16, 16))
    plain = net(x).asnumpy()
    convert_model(net)
    for _ in range(2):
        assert np.abs(outputs(net, x) - plain).max() < 0.1
        net.disable_quantize()
        np.testing.assert_array_equal(outputs(net, x), plain)
        net.enable_quantize()
    net.fix_params()
    assert np.abs(outputs(net, x) - plain).max() < 0.1


def test_qparams_init_is_harmless_twice(converted, images):
    calibrate(converted, observe(converted, [images], MinMax()), MinMax())
    before = converted[0].input_quantizer.get_qparams().scale
    assert qparams_init(converted) is converted
    np.testing.assert_array_equal(converted[0].input_quantizer.get_qparams().scale, before)


def test_a_broken_checkpoint_is_named(converted, tmp_path):
    path = tmp_path / "broken.params"
    path.write_bytes(b"not a parameter file")
    with pytest.raises(ModelFileError, match="broken.params: cannot be read"):
        converted.load_parameters(str(path))
    with pytest.raises(ModelFileError, match="absent.params: cannot be read"):
        converted.load_parameters(str(tmp_path / "absent.params"))
