# SPDX-License-Identifier: MIT
"""A network with everything that MXNet's operators fuse, and its images."""

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

from calib.calibrators import CALIBRATORS
from calib.collect import calibrate, observe
from deploy.lower import lower
from quantize.convert import convert_model, merge_bn
from quantize.modes import quantize_input
from tests.deploy.targets.extremes import extremes

SHAPE = (3, 18, 18)


def conv(channels, kernel, activation="relu", stride=1, **options):
    block = nn.HybridSequential(prefix="")
    block.add(nn.Conv2D(channels, kernel, stride, **options), nn.BatchNorm())
    if activation:
        block.add(nn.Activation(activation))
    return block


class Block(nn.HybridBlock):
    """Additions of every kind, depthwise, concatenation, poolings, ReLU6, a sigmoid, 1x1 and strided kernels."""

    def __init__(self):
        super().__init__(prefix="net_")
        with self.name_scope():
            self.first = conv(16, 3, padding=1)
            self.same, self.body, self.shortcut = (conv(16, 3, None, padding=1), conv(24, 3, None, 2, padding=1),
                                                   conv(24, 1, None, 2))
            self.depthwise, self.linear = conv(24, 3, groups=24, padding=1), conv(24, 1, None)
            self.again, self.gate = conv(24, 3, None, padding=1), conv(24, 1, "sigmoid")
            self.branch, self.last = conv(8, 1), conv(8, 1, None)
            self.hidden, self.output = nn.Dense(12, activation="relu"), nn.Dense(10)

    def hybrid_forward(self, F, x):
        x = self.first(x)
        x = F.relu(x + self.same(x))                            # uint8 and int8, within the convolution
        x = F.relu(self.body(x) + self.shortcut(x))             # int8 twice, behind a ReLU
        x = F.Pooling(x, kernel=(3, 3), pad=(1, 1), pool_type="max")
        y = F.clip(self.depthwise(x), 0, 6)
        z = self.linear(y)
        z = z + self.again(z)                                   # int8 twice, within the convolution
        y = y + F.Pooling(y, kernel=(3, 3), pad=(1, 1), pool_type="avg", count_include_pad=False)  # uint8 twice
        z = z + F.Pooling(z, kernel=(3, 3), pad=(1, 1), pool_type="avg", count_include_pad=True)
        x = self.last(F.concat(y, self.branch(z), dim=1))
        return self.output(self.hidden(F.mean(x, axis=(2, 3)))), self.gate(z)


def images(count, seed=6):
    return np.random.RandomState(seed).randn(count, *SHAPE).astype(np.float32)


def ranges(model, specs):
    """Minima and maxima in float."""
    return extremes(model, specs, images(20))


def network(net=None):
    """Float, trained-looking; by default a `Block`."""
    mx.random.seed(3)
    net = net or Block()
    net.initialize(mx.init.Xavier(magnitude=2))
    net(mx.nd.array(images(2)))
    for parameter in net.collect_params(".*(beta|running_mean)").values():
        parameter.set_data(mx.nd.random.normal(scale=0.3, shape=parameter.shape))
    return net


def deployed(net, target, rules=None, asked=True):
    """The model of a network, as files of a target hold it; with its rules alone where it is not asked about them."""
    net(mx.nd.array(images(2)))
    merge_bn(net)
    convert_model(net, target=target if asked else None, config_list=rules if asked else target.config_list(net),
                  example_input=mx.nd.array(images(2)))
    minmax = CALIBRATORS.get("minmax")()
    calibrate(net, observe(net, [mx.nd.array(images(20))], calibrator=minmax), minmax)
    quantize_input(net, online=False)
    return target.settled(lower(net, SHAPE, arithmetic=target.arithmetic), ranges)
