# SPDX-License-Identifier: MIT
"""Every operator: the engine on the lowered model computes what MXNet does."""

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn
from mxnet.gluon.contrib import nn as contrib_nn

from deploy.lower.operators import OPERATORS
from quantize.convert import trace

IMAGE = (6, 9, 7)


def constant(F, *shape):
    """A tensor that does not depend on the input and varies: 1, 2, 3 ..."""
    return F.reshape(F._internal._arange(start=1, stop=1 + int(np.prod(shape))), shape=shape) / 4


FUNCTIONS = {
    "relu": lambda F, x: F.relu(x),
    "sigmoid": lambda F, x: F.sigmoid(x),
    "tanh": lambda F, x: F.tanh(x),
    "exp": lambda F, x: F.exp(x),
    "abs": lambda F, x: F.abs(x),
    "sqrt of square": lambda F, x: F.sqrt(F.square(x)),
    "activation relu": lambda F, x: F.Activation(x, act_type="relu"),
    "activation sigmoid": lambda F, x: F.Activation(x, act_type="sigmoid"),
    "activation tanh": lambda F, x: F.Activation(x, act_type="tanh"),
    "activation softrelu": lambda F, x: F.Activation(x, act_type="softrelu"),
    "leaky": lambda F, x: F.LeakyReLU(x, slope=0.3),
    "leaky default": lambda F, x: F.LeakyReLU(x),
    "elu": lambda F, x: F.LeakyReLU(x, act_type="elu", slope=0.7),
    "selu": lambda F, x: F.LeakyReLU(x, act_type="selu"),
    "gelu": lambda F, x: F.LeakyReLU(x, act_type="gelu"),
    "hard sigmoid": lambda F, x: F.hard_sigmoid(x, alpha=0.3, beta=0.4),
    "clip": lambda F, x: F.clip(x, -0.3, 0.4),
    "clip without end": lambda F, x: F.clip(x, 0, 3.4028235e38),
    "add": lambda F, x: x + F.relu(x),
    "subtract": lambda F, x: x - F.relu(x),
    "multiply": lambda F, x: x * F.relu(x),
    "divide": lambda F, x: x / (F.relu(x) + 1),
    "maximum": lambda F, x: F.maximum(x, 0 - x),
    "minimum": lambda F, x: F.minimum(x, 0.5 * x),
    "add many": lambda F, x: F.add_n(x, F.relu(x), F.exp(x)),
    "broadcast": lambda F, x: F.broadcast_mul(x, F.mean(x, axis=(2, 3), keepdims=True)),
    "broadcast min": lambda F, x: F.broadcast_minimum(x, F.mean(x, axis=1, keepdims=True)),
    "broadcast max": lambda F, x: F.broadcast_maximum(x, F.mean(x, axis=1, keepdims=True)),
    "scalars": lambda F, x: 3 - (2 / (x * 0.5 + 4) - 1) / 3,
    "neutral scalars": lambda F, x: (x * 1 + 0) / 1 - 0,
    "scalar bounds": lambda F, x: F.maximum(F.minimum(x, 0.4), -0.3),
    "power": lambda F, x: F.abs(x) ** 1.5,
    "negative": lambda F, x: F.negative(x),
    "reciprocal": lambda F, x: F.reciprocal(x + 3),
    "ones": lambda F, x: (F.ones_like(x) + x) * F.ones_like(x) - F.zeros_like(x),
    "constant per channel": lambda F, x: F.broadcast_add(F.broadcast_mul(x, constant(F, 1, 6, 1, 1)),
                                                         constant(F, 1, 6, 1, 1)),
    "minus constant": lambda F, x: F.broadcast_sub(x, constant(F, 1, 6, 1, 1)),
    "constant minus": lambda F, x: F.broadcast_sub(constant(F, 1, 6, 1, 1), x),
    "divided by constant": lambda F, x: F.broadcast_div(x, constant(F, 1, 6, 1, 1)),
    "constant divided by": lambda F, x: F.broadcast_div(constant(F, 1, 6, 1, 1), x + 3),
    "maximum of a constant": lambda F, x: F.broadcast_maximum(x, constant(F, 1, 6, 1, 1)),
    "constant minimum": lambda F, x: F.broadcast_minimum(constant(F, 1, 1, 9, 1), x),
    "power of a constant": lambda F, x: F.broadcast_power(F.abs(x) + 0.5, constant(F, 1, 6, 1, 1)),
    "constant to the power": lambda F, x: F.broadcast_power(F.abs(constant(F, 1, 1, 1, 7)) + 0.5, x),
    "power of blobs": lambda F, x: F.broadcast_power(F.abs(x) + 0.5, F.relu(x)),
    "power of equal blobs": lambda F, x: (F.abs(x) + 0.5) ** F.relu(x),
    "number to the power": lambda F, x: 2 ** x,
    "broadcast like": lambda F, x: F.broadcast_like(F.mean(x, axis=(2, 3), keepdims=True), x),
    "broadcast over channels": lambda F, x: F.broadcast_like(F.mean(x, axis=1, keepdims=True), x),
    "mean over channels nearby": lambda F, x: F.squeeze(F.Pooling(F.expand_dims(x, axis=1), kernel=(3, 1, 1),
                                                                  pool_type="avg"), axis=1),
    "constant per place": lambda F, x: F.broadcast_mul(x, constant(F, 1, 1, 9, 7)),
    "constant per column": lambda F, x: F.broadcast_add(x, constant(F, 1, 1, 1, 7)),
    "constant per element": lambda F, x: F.broadcast_add(x, constant(F, 1, 6, 9, 7)),
    "constant pooled": lambda F, x: F.broadcast_div(x, F.Pooling(F.ones_like(x), kernel=(3, 3), pad=(1, 1),
                                                                 pool_type="avg")),
    "reshape": lambda F, x: F.reshape(x, shape=(0, 3, -1, 7)),
    "reshape codes": lambda F, x: F.reshape(x, shape=(0, -4, 2, -1, -3)),
    "reshape like": lambda F, x: F.reshape_like(F.reshape(x, shape=(0, -1)), x),
    "flatten": lambda F, x: F.flatten(x),
    "expand and squeeze": lambda F, x: F.squeeze(F.expand_dims(F.expand_dims(x, axis=2), axis=1), axis=(1, 3)),
    "transpose": lambda F, x: F.transpose(x, axes=(0, 2, 3, 1)),
    "swap axes": lambda F, x: F.swapaxes(x, dim1=1, dim2=3),
    "shuffle channels": lambda F, x: F.reshape(F.swapaxes(F.reshape(x, shape=(0, -4, 2, -1, -2)), 1, 2),
                                               shape=(0, -3, -2)),
    "concat": lambda F, x: F.concat(x, F.relu(x), x, dim=1),
    "concat rows": lambda F, x: F.concat(x, F.relu(x), dim=2),
    "split": lambda F, x: F.concat(*list(F.split(x, num_outputs=3, axis=1))[::-1], dim=1),
    "split squeezed": lambda F, x: F.split(x, num_outputs=6, axis=1, squeeze_axis=True)[4],
    "slice": lambda F, x: F.slice(x, begin=(None, 1, 2, 0), end=(None, None, -1, 5)),
    "slice steps": lambda F, x: F.slice(x, begin=(None, 1, 0, 1), end=(None, 5, None, 6), step=(1, 1, 2, 3)),
    "slice backwards": lambda F, x: F.slice(x, begin=(None, None, 6, None), end=(None, None, 1, None),
                                            step=(1, -1, -2, -3)),
    "flip": lambda F, x: F.flip(x, axis=3),
    "flip axes": lambda F, x: F.flip(x, axis=(1, 2)),
    "slice of channels": lambda F, x: F.slice(x, begin=(None, 1), end=(None, None), step=(1, 2)),
    "slice of many places": lambda F, x: F.slice(F.reshape(x, shape=(0, 1, 1, -1)), begin=(None,) * 4,
                                                 end=(None,) * 4, step=(1, 1, 1, -1)),
    "slice axis": lambda F, x: F.slice_axis(x, axis=1, begin=2, end=5),
    "slice axis to the end": lambda F, x: F.slice_axis(x, axis=-1, begin=-3, end=None),
    "slice like": lambda F, x: F.slice_like(x, F.slice_axis(x, axis=2, begin=0, end=4), axes=(2,)),
    "pad": lambda F, x: F.pad(x, mode="constant", constant_value=2, pad_width=(0, 0, 0, 0, 1, 2, 3, 0)),
    "pad edge": lambda F, x: F.pad(x, mode="edge", pad_width=(0, 0, 0, 0, 1, 2, 3, 0)),
    "pad reflect": lambda F, x: F.pad(x, mode="reflect", pad_width=(0, 0, 0, 0, 1, 2, 3, 0)),
    "pad channels": lambda F, x: F.squeeze(F.pad(F.expand_dims(x, axis=1), mode="constant", constant_value=0,
                                                 pad_width=(0, 0, 0, 0, 2, 3, 1, 0, 0, 0)), axis=1),
    "repeat": lambda F, x: F.repeat(F.repeat(x, repeats=2, axis=2), repeats=3, axis=3),
    "identity": lambda F, x: F.identity(F.BlockGrad(F.cast(x, "float32"))),
    "dropout": lambda F, x: F.Dropout(x, p=0.5),
    "mean of planes": lambda F, x: F.mean(x, axis=(2, 3), keepdims=True),
    "mean of planes, flat": lambda F, x: F.mean(x, axis=(2, 3)),
    "mean of channels": lambda F, x: F.mean(x, axis=1),
    "sum": lambda F, x: F.sum(x, axis=(1, 3), keepdims=True),
    "max": lambda F, x: F.max(x, axis=2),
    "max of planes": lambda F, x: F.max(x, axis=(2, 3)),
    "min": lambda F, x: F.min(x, axis=-1),
    "softmax": lambda F, x: F.softmax(F.flatten(x)),
    "softmax of channels": lambda F, x: F.softmax(x, axis=1),
    "upsampling": lambda F, x: F.UpSampling(x, scale=3, sample_type="nearest"),
    "bilinear": lambda F, x: F.contrib.BilinearResize2D(x, height=13, width=4),
    "bilinear by pixel centres": lambda F, x: F.contrib.BilinearResize2D(x, height=13, width=4, align_corners=False),
    "bilinear to the same size": lambda F, x: F.contrib.BilinearResize2D(x, height=9, width=7),
    "adaptive to 1": lambda F, x: F.contrib.AdaptiveAvgPooling2D(x, output_size=1),
    "adaptive to a divisor": lambda F, x: F.contrib.AdaptiveAvgPooling2D(x, output_size=(3, 7)),
    "adaptive": lambda F, x: F.contrib.AdaptiveAvgPooling2D(x, output_size=(4, 5)),
    "L2 of channels": lambda F, x: F.L2Normalization(x, mode="channel"),
    "L2 of planes": lambda F, x: F.L2Normalization(x, mode="spatial"),
    "L2": lambda F, x: F.L2Normalization(x),
    "log": lambda F, x: F.log(F.abs(x) + 0.5),
    "rsqrt": lambda F, x: F.rsqrt(F.abs(x) + 0.5),
    "erf": lambda F, x: F.erf(x),
    "floor and ceil": lambda F, x: F.floor(x * 3) + F.ceil(x * 5),
    "sin and cos": lambda F, x: F.sin(x) + F.cos(x),
    "softsign": lambda F, x: F.softsign(x) + F.Activation(x, act_type="softsign"),
    "log softmax": lambda F, x: F.log_softmax(F.flatten(x)),
    "log softmax of channels": lambda F, x: F.log_softmax(x, axis=1),
    "space to depth": lambda F, x: F.space_to_depth(F.slice(x, begin=(None, None, 0, 0), end=(None, None, 6, 6)),
                                                       block_size=3),
    "depth to space": lambda F, x: F.depth_to_space(F.slice_axis(x, axis=1, begin=0, end=4), block_size=2),
    "take rows": lambda F, x: F.take(x, F.reshape(constant(F, 4), shape=(4,)) * 4, axis=2, mode="clip"),
    "take columns": lambda F, x: F.take(x, constant(F, 6) * 4 - 1, axis=3, mode="clip"),
    "take channels": lambda F, x: F.take(x, 4 - constant(F, 3) * 4, axis=1, mode="clip"),
    "spread": lambda F, x: F.broadcast_to(F.mean(x, axis=(2, 3), keepdims=True), shape=(0, 0, 5, 4)),
    "spread to the same": lambda F, x: F.broadcast_to(x, shape=(0, 0, 9, 7)),
    "middle": lambda F, x: F.Crop(x, F.slice_axis(F.slice_axis(x, axis=2, begin=0, end=4), axis=3, begin=0, end=4),
                                  num_args=2, center_crop=True),
    "LRN": lambda F, x: F.LRN(x, nsize=3, alpha=0.5, beta=0.7, knorm=1.5),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name, apply, agrees):
    agrees(apply(FUNCTIONS[name], IMAGE), IMAGE)


LAYERS = {
    "convolution": lambda: nn.Conv2D(4, (3, 2), strides=(2, 1), padding=(1, 0)),
    "dilated": lambda: nn.Conv2D(4, 3, padding=2, dilation=(2, 1), use_bias=False),
    "grouped": lambda: nn.Conv2D(4, 3, groups=2),
    "depthwise": lambda: nn.Conv2D(6, 3, groups=6, padding=1),
    "dense": lambda: nn.Dense(5),
    "synchronized norm": lambda: contrib_nn.SyncBatchNorm(in_channels=6),
    "dense without bias": lambda: nn.Dense(5, use_bias=False, activation="relu"),
    "transposed": lambda: nn.Conv2DTranspose(4, 3, strides=2, padding=1, output_padding=1, use_bias=True),
    "transposed grouped": lambda: nn.Conv2DTranspose(4, (3, 2), strides=(1, 2), groups=2, in_channels=6),
    "max": lambda: nn.MaxPool2D(3, 2, 1),
    "max ceil": lambda: nn.MaxPool2D(3, 2, ceil_mode=True),
    "max ceil padded": lambda: nn.MaxPool2D((2, 3), (3, 2), (1, 1), ceil_mode=True),
    "average": lambda: nn.AvgPool2D(3, 2, 1),
    "average not counting": lambda: nn.AvgPool2D(3, 2, 1, count_include_pad=False),
    "average ceil": lambda: nn.AvgPool2D(3, 2, 1, ceil_mode=True),
    "average ceil not counting": lambda: nn.AvgPool2D(2, 2, ceil_mode=True, count_include_pad=False),
    "pooling of one element": lambda: nn.AvgPool2D(1, 1),
    "global average": nn.GlobalAvgPool2D,
    "global max": nn.GlobalMaxPool2D,
    "BatchNorm": nn.BatchNorm,
    "BatchNorm without scale": lambda: nn.BatchNorm(scale=False, epsilon=0.1),
    "BatchNorm and ReLU": nn.BatchNormReLU,
    "GroupNorm": lambda: nn.GroupNorm(3),
    "InstanceNorm": lambda: nn.InstanceNorm(scale=True),
    "LayerNorm": nn.LayerNorm,
    "LayerNorm of channels": lambda: nn.LayerNorm(axis=1),
    "PReLU": lambda: nn.PReLU(in_channels=6),
    "PReLU of one slope": nn.PReLU,
    "swish": nn.Swish,
    "swish with a factor": lambda: nn.Swish(beta=2.0),
    "gelu": nn.GELU,
    "reflection": lambda: nn.ReflectionPad2D(2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, chain, agrees):
    agrees(chain(IMAGE, LAYERS[name]()), IMAGE)


def test_bilinear_upsampling(agrees, random_net):
    class Net(nn.HybridSequential):
        def __init__(self):
            super().__init__(prefix="net_")
            self.weight = self.params.get("weight", shape=(6, 1, 4, 4), init=mx.init.Bilinear())

        def hybrid_forward(self, F, x, weight):
            return F.UpSampling(x, weight, scale=2, sample_type="bilinear", num_filter=6, num_args=2)
    agrees(random_net(Net(), IMAGE), IMAGE)


def test_every_operator_is_tested(apply, chain):
    """Each handler belongs to an operator that one of the networks above has."""
    met = set()
    for net in [apply(function, IMAGE) for function in FUNCTIONS.values()] + [
            chain(IMAGE, layer()) for layer in LAYERS.values()]:
        met.update(node.op for node in trace(net).nodes)
    assert set(OPERATORS) <= met


def test_several_outputs(agrees):
    class Net(nn.HybridBlock):
        def hybrid_forward(self, F, x):
            return F.relu(x), F.flatten(x), x
    model = agrees(Net(prefix="net_"), IMAGE)
    assert model.outputs[2] == "data" and len(set(model.outputs)) == 3
