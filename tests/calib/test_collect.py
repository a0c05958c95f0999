# SPDX-License-Identifier: MIT
import mxnet as mx
import numpy as np
import pytest

from calib.calibrators import MinMax, Naive
from calib.collect import calibrate, observe
from quantize.convert import convert_model
from quantize.errors import CalibrationError, DataError


@pytest.fixture
def converted(small_net):
    return convert_model(small_net)


@pytest.mark.parametrize("hybridize", [False, True])
def test_observation_sees_the_float_network(small_net, images, hybridize):
    relu = small_net[:3](images).asnumpy()
    small_net.hybridize(hybridize, static_alloc=hybridize)
    convert_model(small_net)
    quantized = small_net(images).asnumpy()
    observers = observe(small_net, [images], MinMax())
    assert observers["0.input_quantizer"].range() == (images.asnumpy().min(), images.asnumpy().max())
    assert observers["3.input_quantizer"].range() == pytest.approx((0, relu.max()), rel=1e-6)
    np.testing.assert_array_equal(small_net(images).asnumpy(), quantized)  # modes and hybridization are back


def test_thresholds_are_stored_and_returned(converted, images):
    thresholds = calibrate(converted, observe(converted, [images], MinMax()), MinMax())
    assert thresholds["0.input_quantizer"] == pytest.approx(np.abs(images.asnumpy()).max(), rel=1e-6)
    assert converted[0].input_quantizer.calibrated


def test_pairs_batches_and_several_passes(converted, images):
    halves = [(images[:2], mx.nd.zeros(2)), (images[2:], mx.nd.zeros(2))]
    whole = observe(converted, [images], MinMax())
    split = observe(converted, halves, MinMax())
    assert {p: o.range() for p, o in whole.items()} == {p: o.range() for p, o in split.items()}
    again = observe(converted, [images], MinMax(), split)
    assert again["0.input_quantizer"].samples == 8


def test_an_empty_set_is_an_error(converted):
    with pytest.raises(CalibrationError, match="empty"):
        observe(converted, [], Naive())


def test_nan_is_refused_with_the_layers_name(converted, images):
    images[0, 0, 0, 0] = float("nan")
    before = [converted[0].input_quantizer.mode, converted[0].weight_quantizer.mode]
    with pytest.raises(DataError, match="0.input_quantizer: 1 of 768 values are NaN"):
        observe(converted, [images], Naive())
    assert [converted[0].input_quantizer.mode, converted[0].weight_quantizer.mode] == before
    assert converted[0].input_quantizer.observer is None


def test_weights_only_networks_have_nothing_to_calibrate(small_net, images):
    convert_model(small_net, config_list=[{"input": "float"}])
    with pytest.raises(CalibrationError, match="nothing to calibrate"):
        observe(small_net, [images], Naive())


def test_a_missing_observer_is_named(converted, images):
    observers = observe(converted, [images], Naive())
    del observers["3.input_quantizer"]
    with pytest.raises(CalibrationError, match="3.input_quantizer: was not observed"):
        calibrate(converted, observers, Naive())
