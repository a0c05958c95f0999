# SPDX-License-Identifier: MIT
"""Files that exporters write here and now: MXNet's own of gluoncv's networks, PyTorch's where torch is installed."""

import warnings

import mxnet as mx
import numpy as np
import pytest

from quantize.importers.onnx import import_onnx
from tests.quantize.importers.onnx.judge import judged_by_name

QUICK = ("cifar_resnet20_v1", "mobilenetv3_small")
SLOW = ("mobilenetv2_0.25", "squeezenet1.1", "resnet18_v1", "resnet18_v2", "densenet121", "googlenet", "se_resnet18_v1",
        "vgg11_bn", "alexnet", "mobilenet0.25", "inceptionv3", "cifar_wideresnet16_10", "xception")


def by_mxnet(name, folder):
    gluoncv = pytest.importorskip("gluoncv")
    size = 32 if "cifar" in name else 299 if name in ("inceptionv3", "xception") else 224
    net = gluoncv.model_zoo.get_model(name, pretrained=False)
    net.initialize(mx.init.Xavier())
    net.hybridize()
    x = mx.nd.array(np.random.RandomState(0).uniform(-1, 1, (1, 3, size, size)))
    want = net(x).asnumpy()
    net.export(str(folder / "net"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mx.onnx.export_model(str(folder / "net-symbol.json"), str(folder / "net-0000.params"), [x.shape], np.float32,
                             str(folder / "net.onnx"))
    imported = import_onnx(folder / "net.onnx")
    got = imported(x).asnumpy()
    assert got.shape == want.shape and np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    assert imported(mx.nd.concat(x, x, dim=0)).shape == (2, *want.shape[1:])  # the batch of the file is 1


@pytest.mark.parametrize("name", QUICK)
def test_mxnet(name, tmp_path):
    by_mxnet(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_mxnet_at_length(name, tmp_path):
    by_mxnet(name, tmp_path)


@pytest.mark.parametrize("options", [dict(), dict(dynamic_axes={"x": {0: "N"}}), dict(do_constant_folding=False)])
def test_pytorch(options, tmp_path):
    torch = pytest.importorskip("torch")
    import onnx
    layers = torch.nn
    net = layers.Sequential(
        layers.Conv2d(3, 8, 3, padding=1, bias=False), layers.BatchNorm2d(8), layers.ReLU6(), layers.MaxPool2d(2),
        layers.PixelShuffle(2), layers.Conv2d(2, 6, 3), layers.SiLU(), layers.Upsample(scale_factor=2),
        layers.GroupNorm(2, 6), layers.GELU(), layers.AdaptiveAvgPool2d(1), layers.Flatten(), layers.Linear(6, 5))
    net.eval()
    path = str(tmp_path / "net.onnx")
    torch.onnx.export(net, torch.zeros(1, 3, 8, 8), path, input_names=["x"], dynamo=False, **options)
    x = np.random.RandomState(0).uniform(-1, 1, (2, 3, 8, 8)).astype("float32")
    want = np.concatenate([judged_by_name(onnx.load(path), x[index:index + 1]) for index in range(2)])
    np.testing.assert_allclose(import_onnx(path)(mx.nd.array(x)).asnumpy(), want, rtol=1e-5, atol=1e-5)


def shapes_of_networks(layers, torch):
    """Name -> a small network in the forms that people write."""
    functional = layers.functional

    class Gate(layers.Module):
        """Squeeze and excitation by view and expand_as, a hard swish, a mean instead of a pooling."""

        def __init__(self):
            super().__init__()
            self.first, self.down, self.up = layers.Conv2d(3, 8, 3, 2, 1), layers.Linear(8, 4), layers.Linear(4, 8)

        def forward(self, x):
            x = functional.hardswish(self.first(x))
            count, channels, _, _ = x.size()
            gate = functional.adaptive_avg_pool2d(x, 1).view(count, channels)
            gate = torch.sigmoid(self.up(functional.relu6(self.down(gate)))).view(count, channels, 1, 1)
            return (x * gate.expand_as(x)).mean([2, 3])

    class View(layers.Module):
        """LeNet by view(x.size(0), -1), its images normalised inside, LocalResponseNorm, a normalised output."""

        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = layers.Conv2d(3, 6, 5), layers.LocalResponseNorm(4), layers.Linear(96, 5)
            self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

        def forward(self, x):
            x = functional.max_pool2d(self.norm(functional.relu(self.first((x - 0.45) / self.std))), 3)
            return functional.normalize(self.last(x.view(x.size(0), -1)), dim=1)

    class Levels(layers.Module):
        """Two levels of resolution, joined; a clamp by a tensor of zeros; chunks of channels."""

        def __init__(self):
            super().__init__()
            self.first, self.low = layers.Conv2d(3, 8, 3, padding=1), layers.Conv2d(8, 8, 3, 2, 1, groups=8)

        def forward(self, x):
            x = functional.leaky_relu(self.first(x), 0.1)
            low = functional.interpolate(self.low(x), size=x.shape[2:], mode="bilinear", align_corners=False)
            left, right = torch.cat([x, low], 1).chunk(2, dim=1)
            return torch.where(left > 0, right, torch.zeros_like(left)).flip(1).amax(dim=(2, 3))

    return {"gate": Gate, "view": View, "levels": Levels}


@pytest.mark.parametrize("network", ["gate", "view", "levels"])
@pytest.mark.parametrize("opset, newer", [(11, False), (13, False), (17, False), (18, True)])
def test_pytorch_networks(network, opset, newer, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    import onnx
    torch.manual_seed(0)
    net = shapes_of_networks(torch.nn, torch)[network]().eval()
    path, example = str(tmp_path / "net.onnx"), torch.zeros(2, 3, 16, 16)
    shapes = dict(dynamic_shapes=({0: torch.export.Dim("batch")},)) if newer else dict(dynamic_axes={"x": {0: "batch"}})
    torch.onnx.export(net, (example,), path, input_names=["x"], opset_version=opset, dynamo=newer, **shapes)
    x = np.random.RandomState(0).uniform(-1, 1, (3, 3, 16, 16)).astype("float32")
    want = judged_by_name(onnx.load(path), x)
    np.testing.assert_allclose(import_onnx(path)(mx.nd.array(x)).asnumpy(), want, rtol=1e-5, atol=1e-5)
