# SPDX-License-Identifier: MIT
"""Every classification network of gluoncv with random weights: converts, runs, hybridizes, keeps names and checkpoints.

The slow test goes over the whole list, the quick one over a network of each family whose smallest takes a second or
two. Nothing is excluded: the zoo's
group-normalised networks, which gluoncv's own layer keeps from being traced, are built on
`gluon_quantize.models.nets.GroupNorm`.
"""

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from gluon_quantize.models import zoo
from quantize.convert import convert_model, merge_bn, trace
from quantize.errors import ConversionError
from quantize.modes import disable_quantize
from quantize.tree import walk

NAMES = sorted(zoo.classification_models())
LAYERS = (nn.Conv2D, nn.Conv2DTranspose, nn.Dense)
# The rest takes 64x64. These end in a pooling of fixed size.
SIZES = {"cifar": 32, "densenet": 224, "googlenet": 224, "inceptionv3": 299, "residualattentionnet": 224,
         "squeezenet": 224}
REPRESENTATIVES = ("alexnet", "vgg11_bn", "resnet18_v1", "resnet18_v2", "se_resnet18_v1", "resnet18_v1b",
                   "resnet18_v1b_0.89", "resnext50_32x4d", "resnest14", "senet_154", "densenet121", "shufflenet_v2",
                   "squeezenet1.1", "googlenet", "inceptionv3", "xception", "mobilenet0.25", "mobilenetv2_0.25",
                   "mobilenetv3_small", "cifar_resnet20_v1", "cifar_wideresnet16_10", "cifar_resnext29_32x4d",
                   "darknet53", "nasnet_4_1056", "cifar_residualattentionnet56", "dla34", "hrnet_w18_small_v1_c")
# the smallest of their families take 3 to 10 s each: the slow test alone has them
LARGE = ("vgg11_bn", "senet_154", "densenet121", "inceptionv3", "xception", "cifar_wideresnet16_10", "darknet53",
         "nasnet_4_1056", "cifar_residualattentionnet56", "hrnet_w18_small_v1_c")


def family(name):
    """The module of gluoncv that builds a network."""
    return zoo.classification_models()[name].__module__.split("model_zoo.")[1]


def test_representatives_cover_every_family():
    assert {family(name) for name in REPRESENTATIVES} == {family(name) for name in NAMES} == zoo.CLASSIFICATION


class Spread(mx.init.Initializer):
    """Uniform from `low` to `high`, whatever the parameter is called."""

    def __init__(self, low, high):
        super().__init__(low=low, high=high)
        self.range = low, high

    def _init_weight(self, _, array):
        array[:] = mx.nd.random.uniform(*self.range, shape=array.shape)


def random_network(name):
    """(network, input) with weights that keep activations in scale and norms that do something."""
    mx.random.seed(1)
    np.random.seed(1)
    net = zoo.build(name, {})[1]
    for key, parameter in net.collect_params().items():
        # Small factors: a deep residual network that grows is chaotic, 1e-6 more at its input is another output.
        if key.endswith("gamma"):
            parameter.init = Spread(0.3, 0.6)
        elif key.endswith("running_var"):
            parameter.init = Spread(0.7, 1.3)
        elif key.endswith(("beta", "running_mean")):
            parameter.init = Spread(-0.1, 0.1)
    net.initialize(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    size = next((size for start, size in SIZES.items() if name.startswith(start)), 64)
    return net, mx.nd.random.uniform(-1, 1, (1, 3, size, size))


def drop_shifts(net):
    """Make the norms that are left scale only; returns whether there are any.

    A hybridized BatchNorm of MXNet adds up in another order than an eager one; the float networks differ by 1e-6, which
    the rounding that follows makes whole steps. Without a mean and a beta both compute the same bits.
    """
    left = [block for _, block in walk(net) if type(block) is nn.BatchNorm]
    for block in left:
        for parameter in (block.running_mean, block.beta):
            parameter.set_data(mx.nd.zeros(parameter.shape))
    return bool(left)


def outputs(net, x):
    y = net(x)
    y = y[0] if isinstance(y, (list, tuple)) else y
    return y.asnumpy()


def check(name, tmp_path):
    checkpoint = str(tmp_path / "float.params")
    net, x = random_network(name)
    unmerged = outputs(net, x)
    assert np.isfinite(unmerged).all() and np.ptp(unmerged) > 0
    flat, structural = set(net.collect_params()), set(net._collect_params_with_prefix())
    layers = [path for path, block in walk(net) if isinstance(block, LAYERS)]
    has_norms = any(isinstance(block, nn.BatchNorm) for _, block in walk(net))

    assert bool(merge_bn(net)) == has_norms
    want = outputs(net, x)
    np.testing.assert_allclose(want, unmerged, rtol=0, atol=1e-3 * np.abs(unmerged).max())
    if drop_shifts(net):
        want = outputs(net, x)
    net.save_parameters(checkpoint)

    assert convert_model(net) is net
    assert [entry.path for entry in net.plan.entries if entry.quantized] == layers
    assert flat <= set(net.collect_params()) and structural <= set(net._collect_params_with_prefix())
    eager = outputs(net, x)
    assert np.isfinite(eager).all() and not np.array_equal(eager, want)
    net.hybridize(static_alloc=True, static_shape=True)
    np.testing.assert_array_equal(outputs(net, x), eager)

    for parameter in net.collect_params().values():
        parameter.set_data(mx.nd.zeros(parameter.shape))
    net.load_parameters(checkpoint)
    disable_quantize(net)
    np.testing.assert_array_equal(outputs(net, x), want)


@pytest.mark.parametrize("name", [name for name in REPRESENTATIVES if name not in LARGE])
def test_family(name, tmp_path):
    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_network(name, tmp_path):
    check(name, tmp_path)


def test_group_norm_of_gluoncv_is_refused_with_the_reason():
    net = zoo.classification_models()["resnet50_v1b_gn"](pretrained=False)
    for change in (trace, merge_bn):
        with pytest.raises(ConversionError, match="graph cannot be traced: .*shape"):
            change(net)
