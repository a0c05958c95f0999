# SPDX-License-Identifier: MIT
"""What cannot be lowered is refused, all of it at once and by name."""

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import Block, HybridBlock, nn

from deploy import engine
from deploy.lower import lower, lower_front
from quantize.errors import ConversionError, DeployError

IMAGE = (4, 6, 6)


def refused(net, *texts, shape=IMAGE):
    with pytest.raises(DeployError) as error:
        lower(net, shape)
    assert "\n" not in str(error.value)
    for text in texts:
        assert text in str(error.value)


def test_every_unsupported_operator_is_named(chain):
    sort = [nn.HybridLambda(lambda F, x: F.sort(x, axis=1)) for _ in range(2)]
    net = chain(IMAGE, sort[0], nn.Conv2D(4, 1), sort[1], nn.HybridLambda(lambda F, x: F.cumsum(x, axis=1)))
    refused(net, "operator sort is not supported (0, 2)", "operator _np_cumsum is not supported (3)")


def test_of_many_layers_with_one_problem_the_first_are_named(chain):
    net = chain(IMAGE, *(nn.HybridLambda(lambda F, x: F.sort(x, axis=1)) for _ in range(11)))
    refused(net, "operator sort is not supported (0, 1, 2, 3, 4, 5, 6, 7 and 3 more)")


@pytest.mark.parametrize("function, text", [
    (lambda F, x: F.mean(x, axis=0), "no batch axis"),
    (lambda F, x: F.softmax(x, axis=0), "batch axis"),
    (lambda F, x: F.transpose(x, axes=(1, 0, 2, 3)), "batch axis"),
    (lambda F, x: F.reshape(x, shape=(-3, -2)), "no batch axis"),
    (lambda F, x: F.sum(x), "batch axis"),
    (lambda F, x: F.concat(x, F.ones_like(x), dim=1), "operand 1 is a constant"),
    (lambda F, x: F.broadcast_add(F.mean(x, axis=(1, 2)), F.ones((1, 1, 6))), "more axes than the tensor it meets"),
    (lambda F, x: F.cast(x, "float16"), "dtype=float16 (supported: float32)"),
    (lambda F, x: F.slice(F.reshape(x, (0, 2, -1)), begin=(None,) * 3, end=(None,) * 3, step=(1, 1, 2)),
     "takes 36 places of a tensor of shape (2, 72)"),
    (lambda F, x: F.arccos(x), "operator arccos"),
    (lambda F, x: F.repeat(x, repeats=2, axis=1), "repeats elements"),
    (lambda F, x: F.Pooling(x, kernel=(2, 2), pool_type="lp", p_value=2), "pool_type=lp (supported: max, avg)"),
    (lambda F, x: F.LeakyReLU(x, act_type="rrelu"), "act_type=rrelu"),
    (lambda F, x: F.FullyConnected(x, F.ones((5, 6)), no_bias=True, num_hidden=5, flatten=False), "flatten=False"),
    (lambda F, x: F.Convolution(x, F.mean(x, axis=(2, 3), keepdims=True), no_bias=True, num_filter=1, kernel=(1, 1)),
     "operand 1 depends on the network's input"),
    (lambda F, x: F.Convolution(F.reshape(x, (0, 4, 36)), F.ones((2, 4, 3)), no_bias=True, num_filter=2, kernel=(3,)),
     "a 1-D convolution (supported: 2-D)"),
    (lambda F, x: F.Pooling(F.reshape(x, (0, 4, 36)), kernel=(2,)), "supported: images"),
    (lambda F, x: F.ones_like(x), "output 0"),
])
def test_unsupported_options(function, text, apply):
    refused(apply(function, IMAGE), text)


def test_constants_alone_are_no_network(apply):
    refused(apply(lambda F, x: F.ones_like(x) * 2, IMAGE), "does not depend on the network's input (output 0)")


def test_an_input_that_does_not_fit(chain):
    refused(chain(IMAGE, nn.Conv2D(3, 3), nn.Dense(2)), "(3, 9, 9)", "does not fit the network", shape=(3, 9, 9))


def test_parameters_without_values():
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2D(3, 3, in_channels=4))
    refused(net, "2 parameters have no values (first: net_conv0_weight)")
    net.initialize()
    assert lower(net, IMAGE).nodes[0].weight.shape == (3, 4, 3, 3)


def test_a_plain_block_is_refused():
    class Plain(Block):
        def forward(self, x):
            return x
    with pytest.raises(ConversionError, match="not a HybridBlock"):
        lower(Plain(), IMAGE)


def test_a_network_that_looks_at_values_is_refused():
    net = nn.HybridSequential()
    net.add(nn.HybridLambda(lambda F, x: x if x.shape[0] else -x))
    with pytest.raises(ConversionError, match="cannot be traced"):
        lower(net, IMAGE)


def test_the_front_of_a_network_that_cannot_be_deployed(chain):
    """What stands in front of the first unsupported operators, with what those read as its outputs."""
    net = chain(IMAGE, nn.Conv2D(5, 1), Forked(), nn.Conv2D(3, 1))
    with pytest.raises(DeployError):
        lower(net, IMAGE)
    model = lower_front(net, IMAGE)
    assert [node.path for node in model.nodes] == ["0", "1.left", "1.right"]
    assert [model.shapes[blob] for blob in model.outputs] == [(2, 6, 6), (2, 6, 6)]
    x = np.random.default_rng(0).normal(size=(2,) + IMAGE).astype(np.float32)
    left, right = engine.run(model, x).outputs
    expected = net[0](mx.nd.array(x))
    for found, layer in ((left, net[1].left), (right, net[1].right)):
        np.testing.assert_allclose(found, layer(expected).asnumpy(), atol=1e-5)


def test_a_network_without_a_front(chain):
    with pytest.raises(DeployError, match="operator sort is not supported"):
        lower_front(chain(IMAGE, nn.HybridLambda(lambda F, x: F.sort(x, axis=1)), nn.Conv2D(4, 1)), IMAGE)


class Forked(HybridBlock):
    """Two layers side by side, one sorted and multiplied by the other."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.left, self.right = nn.Conv2D(2, 1), nn.Conv2D(2, 1)

    def hybrid_forward(self, F, x):
        return F.sort(self.left(x), axis=1) * self.right(x)
