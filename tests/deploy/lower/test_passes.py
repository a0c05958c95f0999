# SPDX-License-Identifier: MIT
"""What is absorbed, fused and named, and what must not be."""

import numpy as np
import pytest
from mxnet.gluon import nn

from deploy.ir import Convolution, Function, Grid, Quantization
from deploy.lower import lower
from deploy.lower.passes import absorbed, scaled_quantization, without_factor

IMAGE = (3, 8, 8)


class Net(nn.HybridSequential):
    """Children by name, and a forward of its own."""

    def __init__(self, forward, **children):
        super().__init__(prefix="net_")
        self.run = forward
        with self.name_scope():
            for name, child in children.items():
                setattr(self, name, child)

    def hybrid_forward(self, F, x):
        return self.run(self, F, x)


# ---- BatchNorm


@pytest.mark.parametrize("layer", [
    lambda: nn.Conv2D(4, 3), lambda: nn.Conv2D(4, 3, use_bias=False), lambda: nn.Conv2D(6, 3, groups=3),
    lambda: nn.Conv2DTranspose(4, 3, use_bias=True), lambda: nn.Conv2DTranspose(6, 3, groups=3, in_channels=3),
    lambda: nn.Dense(4)])
@pytest.mark.parametrize("norm", [dict(epsilon=0.1), dict(scale=False), dict(center=False)])
def test_a_norm_is_absorbed(layer, norm, chain, agrees, kinds):
    model = agrees(chain(IMAGE, layer(), nn.BatchNorm(**norm)), IMAGE)
    assert kinds(model) == [{"Dense": "InnerProduct", "Conv2D": "Convolution", "Conv2DTranspose": "Deconvolution"}[
        type(layer()).__name__]]
    assert model.outputs == (model.nodes[0].name,) == ("0",)


def test_factors_and_shifts_are_absorbed_too(random_net, agrees, kinds):
    net = Net(lambda net, F, x: F.broadcast_add(F.broadcast_mul(net.conv(x), F.ones((1, 4, 1, 1)) * 2),
                                                F.reshape(F._internal._arange(start=0, stop=4), shape=(1, 4, 1, 1))),
              conv=nn.Conv2D(4, 3))
    assert kinds(agrees(random_net(net, IMAGE), IMAGE)) == ["Convolution", "ScalarOp", "Affine"]
    net = Net(lambda net, F, x: net.norm(F.broadcast_add(
        net.conv(x), F.reshape(F._internal._arange(start=0, stop=4), shape=(1, 4, 1, 1)))),
        conv=nn.Conv2D(4, 3), norm=nn.BatchNorm())
    assert kinds(agrees(random_net(net, IMAGE), IMAGE)) == ["Convolution"]


def test_a_norm_stays_where_others_read_the_convolution(random_net, agrees, kinds):
    children = dict(conv=nn.Conv2D(3, 1), norm=nn.BatchNorm())
    net = random_net(Net(lambda net, F, x: net.norm(net.conv(x)) * net.conv(x), **children), IMAGE)
    assert kinds(agrees(net, IMAGE)) == ["Convolution", "Convolution", "Elementwise"]  # called twice: two nodes

    def shared(net, F, x):
        y = net.conv(x)
        return net.norm(y) * y
    net = random_net(Net(shared, conv=nn.Conv2D(3, 1), norm=nn.BatchNorm()), IMAGE)
    assert kinds(agrees(net, IMAGE)) == ["Convolution", "BatchNorm", "Elementwise"]

    def output(net, F, x):
        y = net.conv(x)
        return y, net.norm(y)
    net = random_net(Net(output, conv=nn.Conv2D(3, 1), norm=nn.BatchNorm()), IMAGE)
    assert kinds(agrees(net, IMAGE)) == ["Convolution", "BatchNorm"]


def test_a_norm_in_front_or_behind_an_activation_stays(chain, agrees, kinds):
    model = agrees(chain(IMAGE, nn.BatchNorm(), nn.Conv2D(4, 3), nn.Activation("relu"), nn.BatchNorm()), IMAGE)
    assert kinds(model) == ["BatchNorm", "Convolution", "BatchNorm"]


def quantized_convolution():
    codes = np.int8([[5, -127], [3, 2], [1, 127], [-4, 4]]).reshape(4, 2, 1, 1)
    scale = np.float32([0.5, 0.25, 0.1, 0.3])
    return Convolution(name="c", inputs=("data",), outputs=("c",), weight=codes * scale.reshape(4, 1, 1, 1),
                       quantization=Quantization(Grid(0.1), codes, scale))


def test_codes_keep_and_scales_take_the_factor():
    factor = np.array([2.0, -0.5, 0.0, 3.0])
    before = quantized_convolution()
    after = absorbed(before, factor, np.array([1.0, 2, 3, 4]))
    np.testing.assert_array_equal(after.quantization.weight_q.reshape(4, 2), [[5, -127], [-3, -2], [0, 0], [-4, 4]])
    np.testing.assert_allclose(after.quantization.weight_scale, [1.0, 0.125, 1.0, 0.9], rtol=1e-7)
    np.testing.assert_allclose(after.weight, before.weight * factor.reshape(4, 1, 1, 1), rtol=1e-6)
    np.testing.assert_array_equal(after.bias, np.float32([1, 2, 3, 4]))
    assert after.quantization.weight_q.dtype == np.int8


def test_a_factor_and_its_inverse_cancel_to_the_bit():
    before = quantized_convolution().quantization
    factor = np.array([0.1, -0.7, 1e-3, 3.3])
    after = scaled_quantization(without_factor(before, factor), factor)
    np.testing.assert_array_equal(np.float32(after.weight_scale), before.weight_scale)
    np.testing.assert_array_equal(after.weight_q, before.weight_q)


# ---- activations


@pytest.mark.parametrize("activation, function", [
    (lambda: nn.Activation("relu"), Function("relu")),
    (lambda: nn.Activation("sigmoid"), Function("sigmoid")),
    (lambda: nn.LeakyReLU(0.5), Function("leaky_relu", (0.5,))),
    (lambda: nn.HybridLambda(lambda F, x: F.clip(x, 0, 6)), Function("clip", (0.0, 6.0))),
    (lambda: nn.HybridLambda(lambda F, x: x * F.clip(x + 3, 0, 6) / 6), Function("hard_swish", (1 / 6, 0.5))),
    (lambda: nn.HybridLambda(lambda F, x: x * (F.clip(x + 3, 0, 6) / 6)), Function("hard_swish", (1 / 6, 0.5))),
    (lambda: nn.HybridLambda(lambda F, x: F.clip(x + 1, 0, 2) * 0.5 * x), Function("hard_swish", (0.5, 0.5))),
    (lambda: nn.HybridLambda(lambda F, x: F.hard_sigmoid(x) * x), Function("hard_swish", (0.2, 0.5)))])
@pytest.mark.parametrize("layer", [lambda: nn.Conv2D(4, 3), lambda: nn.Dense(4), lambda: nn.Conv2DTranspose(4, 3)])
def test_an_activation_is_fused(layer, activation, function, chain, agrees):
    model = agrees(chain(IMAGE, layer(), nn.BatchNorm(), nn.Dropout(0.5), activation()), IMAGE)
    assert [node.activation for node in model.nodes] == [function] and model.outputs == ("0",)


@pytest.mark.parametrize("activation, function", [
    (lambda: nn.Swish(), Function("swish")), (lambda: nn.Activation("tanh"), Function("tanh")),
    (lambda: nn.HybridLambda(lambda F, x: F.clip(x + 3, 0, 6) / 6), Function("hard_sigmoid", (1 / 6, 0.5))),
    (lambda: nn.HybridLambda(lambda F, x: F.clip(x - 1, 0, 2) / 2), Function("hard_sigmoid", (0.5, -0.5)))])
def test_an_activation_is_named_but_not_fused(activation, function, chain, agrees):
    model = agrees(chain(IMAGE, nn.Conv2D(4, 3), activation()), IMAGE)
    assert model.nodes[0].activation is None
    assert [node.function for node in model.nodes[1:]] == [function]


@pytest.mark.parametrize("function", [
    lambda F, x: F.clip(x + 3, 0, 6) / 5, lambda F, x: F.clip(x + 3, -1, 6) / 6, lambda F, x: F.clip(x * 3, 0, 6) / 6,
    lambda F, x: (x + 1) * F.clip(x + 3, 0, 6) / 6, lambda F, x: x * F.sigmoid(x + 1), lambda F, x: x / F.sigmoid(x)])
def test_what_only_looks_like_a_pattern_is_kept(function, apply, agrees):
    assert not [node for node in agrees(apply(function, IMAGE), IMAGE).nodes
                if getattr(node, "function", Function("clip")).kind in ("hard_sigmoid", "hard_swish", "swish")]


def test_an_activation_stays_where_others_read_the_convolution(random_net, agrees, kinds):
    def forward(net, F, x):
        y = net.conv(x)
        return F.relu(y) + y
    net = random_net(Net(forward, conv=nn.Conv2D(4, 3)), IMAGE)
    assert kinds(agrees(net, IMAGE)) == ["Convolution", "Activation", "Elementwise"]


def test_only_one_activation_is_fused(chain, agrees, kinds):
    model = agrees(chain(IMAGE, nn.Conv2D(4, 3, activation="relu"), nn.Activation("sigmoid")), IMAGE)
    assert kinds(model) == ["Convolution", "Activation"] and model.nodes[0].activation == Function("relu")


# ---- padding


def padded(mode="constant", value=0, pads=(0, 1, 2, 0)):
    return nn.HybridLambda(lambda F, x: F.pad(x, mode=mode, constant_value=value, pad_width=(0, 0, 0, 0) + pads))


@pytest.mark.parametrize("layer, pads", [
    (lambda: nn.Conv2D(4, 3, 2), (0, 2, 1, 0)), (lambda: nn.Conv2D(4, 3, padding=1), (1, 3, 2, 1)),
    (lambda: nn.AvgPool2D(3, 2), (0, 2, 1, 0)), (lambda: nn.AvgPool2D(3, 2, 1), (1, 3, 2, 1))])
def test_zeros_become_pads(layer, pads, chain, agrees, kinds):
    model = agrees(chain(IMAGE, padded(), layer()), IMAGE)
    assert len(model.nodes) == 1 and model.nodes[0].pads == pads


def test_repeated_edges_become_pads_of_a_maximum(chain, agrees):
    model = agrees(chain(IMAGE, padded("edge"), nn.MaxPool2D(3, 2)), IMAGE)
    assert len(model.nodes) == 1 and model.nodes[0].pads == (0, 2, 1, 0)


@pytest.mark.parametrize("padding, layer", [
    (lambda: padded(value=1), lambda: nn.Conv2D(4, 3)), (lambda: padded("edge"), lambda: nn.Conv2D(4, 3)),
    (padded, lambda: nn.MaxPool2D(3, 2)), (padded, lambda: nn.AvgPool2D(3, 2, 1, count_include_pad=False)),
    (padded, lambda: nn.AvgPool2D(2, 2)), (padded, nn.GlobalAvgPool2D), (padded, lambda: nn.Activation("sigmoid")),
    (lambda: padded("edge"), lambda: nn.MaxPool2D(2, 2)), (lambda: padded("edge"), lambda: nn.AvgPool2D(3, 2))])
def test_other_paddings_stay(padding, layer, chain, agrees, kinds):
    assert kinds(agrees(chain(IMAGE, padding(), layer()), IMAGE))[0] == "Padding"


def test_a_padding_stays_when_one_reader_cannot_pad(random_net, agrees, kinds):
    def forward(net, F, x):
        y = F.pad(x, mode="constant", constant_value=0, pad_width=(0, 0, 0, 0, 1, 1, 1, 1))
        return net.conv(y), F.relu(y)
    net = random_net(Net(forward, conv=nn.Conv2D(4, 3)), IMAGE)
    assert kinds(agrees(net, IMAGE)) == ["Padding", "Convolution", "Activation"]


# ---- reshapes


def test_reshapes_merge_and_vanish(chain, apply, agrees, kinds):
    model = agrees(chain(IMAGE, nn.Conv2D(4, 3), nn.Flatten(), nn.Dense(3), nn.Flatten()), IMAGE)
    assert kinds(model) == ["Convolution", "InnerProduct"]
    model = agrees(apply(lambda F, x: F.relu(F.reshape(F.reshape(F.flatten(x), (0, 8, -1)), (0, 3, 8, 8))), IMAGE),
                   IMAGE)
    assert kinds(model) == ["Activation"]
    model = agrees(apply(lambda F, x: F.reshape(F.reshape(x, (0, 8, -1)), (0, 3, 64)), IMAGE), IMAGE)
    assert kinds(model) == ["Reshape"] and model.nodes[0].inputs == ("data",)


def test_what_no_output_needs_is_left_out(random_net, agrees, kinds):
    net = random_net(Net(lambda net, F, x: (net.conv(x), F.relu(x))[1], conv=nn.Conv2D(4, 3)), IMAGE)
    assert kinds(agrees(net, IMAGE)) == ["Activation"]
    assert set(lower(net, IMAGE).shapes) == {"data"} | {node.name for node in lower(net, IMAGE).nodes}


# ---- parts that nobody reads


def test_unread_parts_of_a_split_are_no_outputs(random_net, agrees, kinds):
    """In files of ncnn a blob without readers is an output: it was returned in the place of the network's own."""
    net = random_net(Net(lambda net, F, x: F.relu(F.concat(*[
        F.split(x, num_outputs=3, axis=1)[part] for part in (2, 0)], dim=1))), IMAGE)
    model = agrees(net, IMAGE)
    assert kinds(model) == ["Crop", "Crop", "Concat", "Activation"]
    read = {blob for node in model.nodes for blob in node.inputs}
    assert {blob for node in model.nodes for blob in node.outputs} - read == set(model.outputs)
    net = random_net(Net(lambda net, F, x: F.concat(*list(F.split(x, num_outputs=3, axis=1))[::-1], dim=1)), IMAGE)
    assert kinds(agrees(net, IMAGE)) == ["Slice", "Concat"]
