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
