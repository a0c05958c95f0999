# SPDX-License-Identifier: MIT
"""A network with every node that C source has, and its images."""

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

from calib.calibrators import CALIBRATORS
from calib.collect import calibrate, observe
from deploy.ir import Model
from deploy.lower import lower
from quantize.convert import convert_model
from quantize.modes import quantize_input

SHAPE = (3, 15, 13)


class Residual(nn.HybridSequential):
    """x + body(x)."""

    def hybrid_forward(self, F, x):
        return x + super().hybrid_forward(F, x)


class Joined(nn.HybridSequential):
    """x and body(x), side by side, and the larger of x and its half."""

    def hybrid_forward(self, F, x):
        return F.concat(x, super().hybrid_forward(F, x), F.broadcast_maximum(x, F.clip(x, -0.5, 0.25)), dim=1)


class Padded(nn.HybridSequential):
    """A difference behind a padding that no window can take over."""

    def hybrid_forward(self, F, x):
        x = F.pad(x, mode="constant", pad_width=(0, 0, 0, 0, 0, 1, 1, 2))
        return super().hybrid_forward(F, x - F.clip(x, -1, 0.5))


def sequence(*blocks, kind=nn.HybridSequential):
    net = kind(prefix="")
    net.add(*blocks)
    return net


def network() -> nn.HybridSequential:
    """Float, trained-looking."""
    mx.random.seed(5)
    net = sequence(
        nn.Conv2D(8, 3, padding=1, strides=2, use_bias=False), nn.BatchNorm(), nn.Activation("relu"),
        sequence(nn.Conv2D(8, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2D(8, 3, padding=1, groups=8), nn.BatchNorm(),
                 kind=Residual),
        nn.Activation("relu"), nn.AvgPool2D(3, 2, 1, count_include_pad=False),
        sequence(nn.Conv2D(4, 1), nn.PReLU(), kind=Joined), nn.BatchNorm(),
        sequence(nn.Conv2D(6, 3, dilation=2, padding=2), kind=Padded), nn.Activation("relu"),
        nn.MaxPool2D(2, ceil_mode=True), nn.GlobalAvgPool2D(), nn.Flatten(), nn.Dense(7, activation="relu"),
        nn.Dense(5))
    net.initialize(mx.init.Xavier(magnitude=3))
    net(mx.nd.zeros((1,) + SHAPE))
    for norm in (net[1], net[3][3], net[7]):
        for parameter, low, high in ((norm.gamma, -1, 1.5), (norm.beta, -1, 1), (norm.running_var, 0.05, 0.5)):
            parameter.set_data(mx.nd.random.uniform(low, high, shape=parameter.shape))
    return net


def images(count: int) -> np.ndarray:
    return np.random.RandomState(1).randn(count, *SHAPE).astype(np.float32)


def quantized_network(target, config_list=()):
    """The network, converted for a target and calibrated."""
    net = convert_model(network(), target=target, config_list=list(config_list))
    calibrator = CALIBRATORS.get("minmax")()
    calibrate(net, observe(net, [mx.nd.array(images(20))], calibrator=calibrator), calibrator)
    quantize_input(net, online=False)
    return net


def settled(target, net) -> Model:
    """As the target writes it."""
    return target.settled(lower(net, SHAPE, arithmetic=target.arithmetic), lambda model, specs: {})
