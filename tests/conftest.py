# SPDX-License-Identifier: MIT
"""Fixtures that several test folders use."""

import pathlib

import hypothesis
import pytest

# times of single examples mean nothing on a shared machine
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data beside the checkout; tests that need it are skipped where it is absent."""
    folder = pathlib.Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


@pytest.fixture
def small_net():
    """conv-BN-ReLU, grouped conv-BN-ReLU, Dense on 3x8x8 images; trained-looking statistics, initialized."""
    import mxnet as mx
    from mxnet.gluon import nn
    mx.random.seed(3)
    net = nn.HybridSequential(prefix="small_")
    with net.name_scope():
        net.add(nn.Conv2D(8, 3, padding=1, use_bias=False), nn.BatchNorm(epsilon=1e-3), nn.Activation("relu"),
                nn.Conv2D(8, 3, groups=2), nn.BatchNorm(scale=False), nn.Activation("relu"), nn.Dense(5))
    net.initialize(mx.init.Xavier(magnitude=3))
    net(mx.nd.zeros((1, 3, 8, 8)))
    for norm in (net[1], net[4]):
        for parameter, low, high in ((norm.gamma, 0.5, 2), (norm.beta, -0.5, 0.5), (norm.running_mean, -1, 1),
                                     (norm.running_var, 0.001, 0.5)):
            parameter.set_data(mx.nd.random.uniform(low, high, shape=parameter.shape))
    return net


@pytest.fixture
def images():
    """Four 3x8x8 images with negative values."""
    import mxnet as mx
    mx.random.seed(4)
    return mx.nd.random.normal(shape=(4, 3, 8, 8))


@pytest.fixture(params=["composed", "native"])
def backend(request):
    """Each back end in turn; one that is missing is skipped with the reason."""
    from quantize.ops import native
    if request.param == "native" and native.why_not():
        pytest.skip(native.why_not())
    return request.param
