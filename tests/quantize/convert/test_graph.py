# SPDX-License-Identifier: MIT
import pytest
from mxnet.gluon import HybridBlock, nn

from quantize.convert.graph import batchnorm_partners, inputs_non_negative, trace
from quantize.errors import ConversionError


class Function(HybridBlock):
    """A function of the input and of its ReLU, followed by a 1x1 convolution."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.conv = nn.Conv2D(2, 1, in_channels=4)

    def hybrid_forward(self, F, x):
        return self.conv(self.function(F, x, F.relu(x)))


@pytest.mark.parametrize("proven, function", [
    (False, lambda F, x, r: x),
    (True, lambda F, x, r: r),
    (True, lambda F, x, r: F.sigmoid(x)),
    (True, lambda F, x, r: F.clip(x, 0, 6)),
    (False, lambda F, x, r: F.clip(x, -1, 6)),
    (True, lambda F, x, r: F.clip(r, -1, 6)),
    (True, lambda F, x, r: r + F.sigmoid(x)),
    (False, lambda F, x, r: r + x),
    (False, lambda F, x, r: r - r),
    (True, lambda F, x, r: r * F.sigmoid(x)),
    (False, lambda F, x, r: r * x),
    (True, lambda F, x, r: F.broadcast_mul(r, F.mean(F.sigmoid(x), axis=(2, 3), keepdims=True))),
    (True, lambda F, x, r: F.concat(r, F.sigmoid(x), dim=1)),
    (False, lambda F, x, r: F.concat(r, x, dim=1)),
    (True, lambda F, x, r: F.Pooling(r, kernel=(2, 2), pool_type="avg")),
    (True, lambda F, x, r: F.Pooling(r, kernel=(3, 3), pad=(1, 1), pool_type="max")),
    (True, lambda F, x, r: F.pad(r, mode="constant", pad_width=(0, 0, 0, 0, 1, 1, 1, 1), constant_value=0)),
    (False, lambda F, x, r: F.pad(r, mode="constant", pad_width=(0, 0, 0, 0, 1, 1, 1, 1), constant_value=-1)),
    (True, lambda F, x, r: F.transpose(F.reshape(r, shape=(0, 0, -1, 1)), axes=(0, 1, 3, 2))),
    (True, lambda F, x, r: r * 2 + 1),
    (False, lambda F, x, r: r * -2),
    (False, lambda F, x, r: r - 1),
    (True, lambda F, x, r: F.maximum(x, 0)),
    (True, lambda F, x, r: F.Activation(x, act_type="softrelu")),
    (False, lambda F, x, r: F.Activation(x, act_type="tanh")),
    (False, lambda F, x, r: F.LeakyReLU(x, slope=0.1)),
    (True, lambda F, x, r: F.LeakyReLU(r, slope=0.1)),
    (False, lambda F, x, r: x * F.clip(x + 3, 0, 6) / 6),
    (True, lambda F, x, r: F.SliceChannel(r, num_outputs=2, axis=1)[1]),
])
def test_non_negative_inputs_are_proven_and_only_those(proven, function):
    assert inputs_non_negative(trace(Function(function)))["conv"] is proven


def test_partners_come_from_the_graph_not_from_names():
    net = nn.HybridSequential()
    net.add(nn.Dense(4, prefix="conv_as_dense_"), nn.BatchNorm(prefix="unrelated_"),
            nn.BatchNorm(prefix="conv_as_dense_batchnorm_"))
    assert batchnorm_partners(trace(net)) == {"0": "1"}


def test_a_convolution_with_two_readers_has_no_partner():
    class Branch(HybridBlock):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2D(2, 1, in_channels=2), nn.BatchNorm(in_channels=2)

        def hybrid_forward(self, F, x):
            x = self.conv(x)
            return x + self.norm(x)

    assert batchnorm_partners(trace(Branch())) == {}


def test_a_convolution_called_twice_has_no_partner():
    class Twice(HybridBlock):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2D(2, 1, in_channels=2), nn.BatchNorm(in_channels=2)

        def hybrid_forward(self, F, x):
            return self.norm(self.conv(self.conv(x)))

    assert batchnorm_partners(trace(Twice())) == {}


def test_pre_activation_has_no_partner():
    net = nn.HybridSequential()
    net.add(nn.BatchNorm(), nn.Activation("relu"), nn.Conv2D(2, 1))
    assert batchnorm_partners(trace(net)) == {}


def test_first_layers():
    net = nn.HybridSequential()
    net.add(nn.BatchNorm(), nn.Activation("relu"), nn.Conv2D(2, 1), nn.Conv2D(2, 1))
    assert trace(net).first_layers() == ["2"]


def test_an_output_counts_as_a_reader():
    class Both(HybridBlock):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2D(2, 1, in_channels=2), nn.BatchNorm(in_channels=2)

        def hybrid_forward(self, F, x):
            x = self.conv(x)
            return [x, self.norm(x)]

    assert batchnorm_partners(trace(Both())) == {}


def test_what_cannot_be_traced_says_so():
    with pytest.raises(ConversionError, match="not a HybridBlock"):
        trace(nn.Sequential())

    class Shape(HybridBlock):
        def hybrid_forward(self, F, x):
            return x.reshape((x.shape[0], -1))

    with pytest.raises(ConversionError, match="cannot be traced"):
        trace(Shape())
