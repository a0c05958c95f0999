# SPDX-License-Identifier: MIT
"""Calls of the library with the wrong things: an error of the project's own, on one line."""

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from calib.calibrators import CALIBRATORS
from calib.collect import calibrate, observe
from quantize.convert import convert_model, merge_bn
from quantize.errors import CalibrationError, ConfigError, ConversionError, DataError
from quantize.train import start_training

MSE = CALIBRATORS.get("mse")()
LSQ = [{"op_types": ["Conv2D", "Dense"], "weight": "int4/channel", "input": "auto4", "method": "lsq"}]


class Two(nn.Dense):
    """A layer that wants two inputs."""

    def hybrid_forward(self, F, x, y, weight, bias=None):
        return super().hybrid_forward(F, x + y, weight, bias)


@pytest.fixture
def quantized(small_net):
    return convert_model(small_net)


@pytest.mark.parametrize("call", [convert_model, merge_bn, lambda net: observe(net, [mx.nd.ones((2, 3))], MSE)])
@pytest.mark.parametrize("net", [None, 3, "net"])
def test_no_network(call, net):
    with pytest.raises(ConversionError, match="a network is wanted .*, got "):
        call(net)


@pytest.mark.parametrize("initialize", [True, False])
def test_parameters_without_values(initialize):
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3), nn.BatchNorm())
    if initialize:
        net.initialize()
    with pytest.raises(ConversionError, match="0.weight: the parameter has no values yet"):
        merge_bn(net)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_networks_in_other_types_are_refused(small_net, dtype):
    small_net.cast(dtype)
    with pytest.raises(ConversionError, match=f"the parameter is {dtype}; .*net.cast"):
        convert_model(small_net)


@pytest.mark.parametrize("shape", [(2, 5, 8, 8), (2, 3, 20, 20), (2, 3)])
def test_images_of_another_shape(quantized, shape):
    """The last layer is behind all that is observed, and must take them all the same."""
    with pytest.raises(DataError, match="the network cannot take batches of images of shape") as told:
        observe(quantized, [mx.nd.ones(shape)], MSE)
    assert "\n" not in str(told.value)


def test_images_of_other_types(quantized, images):
    minmax = CALIBRATORS.get("minmax")()
    found = [observe(quantized, [images.astype(dtype)], minmax) for dtype in ("float32", "float64")]
    thresholds = [calibrate(quantized, observers, minmax) for observers in found]
    assert thresholds[0] == thresholds[1]


@pytest.mark.parametrize("batches", [3, None, mx.nd.ones((2, 3, 8, 8)), np.ones((2, 3, 8, 8))])
def test_batches_that_are_none(quantized, batches):
    with pytest.raises(DataError, match="batches: got one .*; wanted is something to iterate over"):
        observe(quantized, batches, MSE)


def test_calibrators_that_are_none(quantized, images):
    for wrong, said in ((CALIBRATORS.get("mse"), "MSE itself"), ("mse", "'mse'"), (None, "None")):
        with pytest.raises(ConfigError, match=f"a calibrator is wanted, .*, got {said}"):
            observe(quantized, [images], wrong)
        with pytest.raises(ConfigError, match="a calibrator is wanted"):
            calibrate(quantized, {}, wrong)
    with pytest.raises(CalibrationError, match="wanted is what observe or collect returned, got NoneType"):
        calibrate(quantized, None, MSE)


def test_a_training_starts_from_arrays_too(small_net, images):
    net = convert_model(small_net, config_list=LSQ)
    start_training(net, images.asnumpy())
    assert all(layer.input_quantizer.calibrated for layer in (net[0], net[3], net[6]))


@pytest.mark.parametrize("batch, says", [
    (mx.nd.ones((2, 5, 8, 8)), r"cannot take a batch of 1 inputs, of the shapes \(2, 5, 8, 8\)"),
    ((mx.nd.ones((2, 3, 8, 8)),) * 2, "cannot take a batch of 2 inputs"), ("images", "a str; wanted is an NDArray"),
    ([], "a list; wanted is an NDArray")])
def test_batches_from_which_no_training_starts(small_net, batch, says):
    net = convert_model(small_net, config_list=LSQ)
    with pytest.raises(DataError, match=says) as told:
        start_training(net, batch)
    assert "\n" not in str(told.value)


def test_two_inputs():
    net = nn.HybridSequential()
    net.add(nn.Dense(3, in_units=4))
    net._children["0"] = Two(3, in_units=4)
    net.initialize()
    with pytest.raises(ConversionError, match="cannot be traced"):
        merge_bn(net)
