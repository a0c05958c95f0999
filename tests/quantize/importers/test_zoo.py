# SPDX-License-Identifier: MIT
"""The graph forms of the public zoo and of five exporters: import, simulation, lowering and ncnn."""

import warnings

import mxnet as mx
import numpy as np
import onnx
import pytest

from calib.calibrators import CALIBRATORS
from calib.collect import calibrate, observe
from deploy import engine
from deploy.lower import lower
from quantize.convert import convert_model
from quantize.importers.onnx import import_onnx
from quantize.modes import fix_params
from tests.quantize.importers.onnx.judge import judged_by_name
from tests.quantize.importers.zoo import caffe2, cntk, gluon, paddle, pytorch, tensorflow

NETWORKS = {f"{module.__name__.rpartition('.')[2]}-{make.__name__}": make
            for module in (caffe2, cntk, gluon, pytorch, tensorflow, paddle) for make in module.NETWORKS}
QUICK = ("caffe2-shufflenet_v1", "cntk-mnist_8", "pytorch-shufflenet_v2_10", "tensorflow-keras_mobilenet")


def relative(got, want):
    return np.abs(np.asarray(got).reshape(np.shape(want)) - want).max() / np.abs(want).max()


def imported(name, folder):
    """The network, images (N, C, H, W), and ONNX Runtime's scores image by image."""
    model = NETWORKS[name]()
    path = str(folder / "net.onnx")
    onnx.save(model, path)
    net = import_onnx(path, channels_first=True)
    x = np.random.RandomState(1).uniform(-1, 1, (3, *net.input_shape[1:])).astype("float32")
    own = x.transpose(0, 2, 3, 1) if name.startswith("tensorflow") else x
    want = np.concatenate([judged_by_name(model, own[index:index + 1]) for index in range(len(x))])
    return net, x, want


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_imported_like_onnxruntime(name, tmp_path):
    net, x, want = imported(name, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in ("eager", "hybridized"):
            got = net(mx.nd.array(x)).asnumpy()
            assert got.shape == want.shape
            assert relative(got, want) < 1e-5
            net.hybridize()


def deployed(name, folder):
    """Float: lowered like ONNX Runtime. Integers: simulated, the engine's and ncnn's scores are the same."""
    ncnn = pytest.importorskip("ncnn")
    assert ncnn
    from deploy.targets.ncnn import TARGET
    net, x, want = imported(name, folder)
    shape = x.shape[1:]
    assert relative(engine.run(lower(net, shape, quantized=False), x).outputs[0], want) < 1e-5
    convert_model(net, target="ncnn", example_input=mx.nd.array(x[:1]))
    calibrator = CALIBRATORS.get("minmax")()
    calibrate(net, observe(net, [mx.nd.array(x)], calibrator), calibrator)
    net.quantize_input(enable=True, online=False)
    fix_params(net)
    simulated = net(mx.nd.array(x)).asnumpy()
    assert simulated.shape == want.shape and relative(simulated, want) < 0.3
    model = lower(net, shape, arithmetic=TARGET.arithmetic)
    (folder / "out").mkdir()
    TARGET.write(model, str(folder / "out"))
    ours, theirs = engine.run(model, x).outputs[0], TARGET.run(str(folder / "out"), x)[0]
    assert relative(theirs, ours) < 0.02 and relative(ours, simulated) < 0.02


@pytest.mark.parametrize("name", QUICK)
def test_deployed(name, tmp_path):
    deployed(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NETWORKS) - set(QUICK)))
def test_deployed_all(name, tmp_path):
    deployed(name, tmp_path)
