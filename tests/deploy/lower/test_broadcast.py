# SPDX-License-Identifier: MIT
"""Constants with any number of axes, on either side, deploy to what the network computes: engine and ncnn."""

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from deploy import engine
from deploy.ir import Affine, Convolution, ScalarOp
from deploy.lower import lower
from deploy.targets.ncnn import TARGET
from tests.deploy.lower.test_quantized import calibrated


class Constant(nn.HybridBlock):
    """`op` of the input and a constant of a shape, on the left or on the right."""

    def __init__(self, op, shape, left):
        super().__init__(prefix="net_")
        self.op, self.left = op, left
        values = np.random.RandomState(0).uniform(0.5, 1.5, shape)
        self.k = self.params.get_constant("k", mx.nd.array(values))

    def hybrid_forward(self, F, x, k):
        return getattr(F, "broadcast_" + self.op)(*((k, x) if self.left else (x, k)))


# image -> shapes of constants: sizes that fit other axes as well, where a wrong axis would go unnoticed
SHAPES = [((3, 8, 8), (3, 1, 1)), ((8, 8, 8), (8,)), ((8, 8, 8), (8, 1)), ((8, 8, 8), (1, 8)), ((8, 8, 8), (8, 8)),
          ((8, 8, 8), (1, 8, 8)), ((8, 8, 8), (8, 8, 8)), ((8, 8, 8), (1, 1, 8, 1)), ((8, 8, 8), (1, 8, 1, 1)),
          ((30, 6, 5), (6, 5)), ((5,), (5,)), ((5,), (1, 5)), ((3, 4), (4,)), ((4, 4), (4, 1)), ((6, 5, 4), (1,)),
          ((6, 1, 1), (4, 5)), ((1, 4, 5), (3, 1, 1)), ((6, 4, 1), (5,)), ((1, 5), (3, 1)), ((1,), (4,))]


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("image, shape", SHAPES)
def test_constants_meet_blobs_as_in_numpy(tmp_path, image, shape, left):
    pytest.importorskip("ncnn")
    x = np.random.RandomState(1).uniform(0.5, 1.5, (2,) + image).astype(np.float32)
    for op in ("add", "sub", "mul", "div"):
        net = Constant(op, shape, left)
        net.initialize()
        want = net(mx.nd.array(x)).asnumpy()
        model = lower(net, image, arithmetic=TARGET.arithmetic)
        TARGET.write(model, tmp_path)
        for found in (engine.run(model, x, arithmetic=TARGET.arithmetic_here()).outputs[0], TARGET.run(tmp_path, x)[0]):
            np.testing.assert_allclose(found.reshape(want.shape), want, rtol=0, atol=1e-6 * np.abs(want).max())


# ---- (x - mean) / std in front of a network


class Normalize(nn.HybridBlock):
    """(x / 255 - mean) / std, constants without a batch axis."""

    def __init__(self, mean, std):
        super().__init__(prefix="normalize_")
        for name, values in (("mean", mean), ("std", std)):
            setattr(self, name, self.params.get_constant(name, mx.nd.array(np.reshape(values, (-1, 1, 1)))))

    def hybrid_forward(self, F, x, mean, std):
        return F.broadcast_div(F.broadcast_sub(x / 255, mean), std)


MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.mark.parametrize("layer, absorbed", [
    (lambda: nn.Conv2D(4, 3), True), (lambda: nn.Conv2D(6, 3, groups=3, use_bias=False), True),
    (lambda: nn.Dense(5), True), (lambda: nn.Conv2D(4, 3, padding=1), False)])
def test_preprocessing_becomes_part_of_the_first_layer_where_it_pads_nothing(layer, absorbed, chain, agrees, kinds):
    model = agrees(chain((3, 8, 8), Normalize(MEAN, STD), layer(), nn.Activation("relu")), (3, 8, 8))
    assert ("Affine" not in kinds(model)) == absorbed == (len(model.nodes) == 1)


def test_factors_alone_pass_padding(chain, agrees, kinds):
    model = agrees(chain((3, 8, 8), Normalize([0.0], [0.5]), nn.Conv2D(4, 3, padding=1, use_bias=False)), (3, 8, 8))
    assert kinds(model) == ["Convolution"] and model.nodes[0].bias is None


def test_preprocessing_that_something_else_reads_stays(apply, agrees):
    def forward(F, x):
        x = x * 2 - 1
        return F.concat(F.Pooling(x, kernel=(2, 2), stride=(1, 1)),
                        F.Convolution(x, F.ones((1, 3, 2, 2)), no_bias=True, num_filter=1, kernel=(2, 2)), dim=1)
    agrees(apply(forward, (3, 8, 8)), (3, 8, 8))


def test_a_layer_that_rounds_its_input_keeps_its_preprocessing(chain):
    images = mx.nd.random.uniform(0, 255, (4, 3, 8, 8))
    net = calibrated(chain((3, 8, 8), Normalize(MEAN, STD), nn.Conv2D(4, 3)), images)
    model = lower(net, (3, 8, 8))
    assert [type(node) for node in model.nodes] == [ScalarOp, Affine, Convolution]
    assert model.nodes[-1].quantization is not None
    want = net(images).asnumpy()
    got = engine.run(model, images.asnumpy()).outputs[0]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-2 * np.abs(want).max())
