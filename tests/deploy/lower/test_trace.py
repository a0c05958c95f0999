# SPDX-License-Identifier: MIT
"""Names are structural, unique, and the same for every instance of a network."""

from mxnet.gluon import nn

from deploy.lower import lower
from quantize.nn import MeanGlobalAvgPool2D

IMAGE = (3, 8, 8)


class Block(nn.HybridBlock):
    """A residual block with operators of its own."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.body = nn.HybridSequential()
            with self.body.name_scope():
                self.body.add(nn.Conv2D(3, 3, padding=1), nn.BatchNorm(), nn.Activation("relu"))
            self.pool = MeanGlobalAvgPool2D()

    def hybrid_forward(self, F, x):
        y = self.body(x)
        return F.relu(F.broadcast_mul(y, self.pool(y)) + x)


def build():
    net = nn.HybridSequential()  # prefixes count up from instance to instance
    with net.name_scope():
        net.add(Block(), Block(), nn.Flatten(), nn.Dense(4))
    return net


def test_names_are_structural_paths(random_net):
    model = lower(random_net(build(), IMAGE), IMAGE)
    assert [(node.name, node.path) for node in model.nodes] == [
        ("0.body.0", "0.body.0"), ("0.pool", "0.pool"), ("0.broadcast_mul0", ""), ("0.plus0", ""), ("0.relu0", ""),
        ("1.body.0", "1.body.0"), ("1.pool", "1.pool"), ("1.broadcast_mul0", ""), ("1.plus0", ""), ("1.relu0", ""),
        ("3", "3")]
    assert [node.outputs for node in model.nodes] == [(node.name,) for node in model.nodes]


def test_every_instance_has_the_same_names(random_net):
    models = [lower(random_net(build(), IMAGE), IMAGE, input_name="x") for _ in range(2)]
    assert [node.name for node in models[0].nodes] == [node.name for node in models[1].nodes]
    assert models[0].inputs == ("x",) and models[0].shapes == models[1].shapes


def test_a_layer_that_is_called_twice(called_twice, agrees):
    model = agrees(called_twice(IMAGE), IMAGE)
    assert [(node.name, node.path) for node in model.nodes] == [("0", "0"), ("0_1", "0")]


def test_layers_with_one_prefix_are_told_apart_by_their_weights(agrees, random_net):
    net = nn.HybridSequential(prefix="")
    for _ in range(2):
        inner = nn.HybridSequential(prefix="")
        inner.add(nn.Conv2D(3, 1, prefix="conv_" if not len(net) else "other_"))
        net.add(inner)
    net[1][0]._prefix = "conv_"
    model = agrees(random_net(net, IMAGE), IMAGE)
    assert [node.path for node in model.nodes] == ["0.0", "1.0"]


def test_a_name_is_never_taken_twice(random_net, agrees):
    class Net(nn.HybridSequential):
        def hybrid_forward(self, F, x):
            one, two, three = F.split(x, num_outputs=3, axis=1, name="data")
            return F.concat(F.relu(one, name="data_0"), F.relu(two, name="data 1"), F.relu(three, name="x"), dim=1)
    model = agrees(random_net(Net(prefix=""), IMAGE), IMAGE)
    names = [node.name for node in model.nodes]
    blobs = [blob for node in model.nodes for blob in node.outputs] + list(model.inputs)
    assert len(set(names)) == len(names) and len(set(blobs)) == len(blobs)
    assert not any(" " in name for name in names + blobs)
