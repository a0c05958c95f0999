# SPDX-License-Identifier: MIT
import shutil

import numpy as np
import pytest

from deploy.lower import lower
from deploy.targets.caffe import TARGET, tools, writer
from quantize.importers.onnx import import_onnx
from tests.deploy.targets.caffe import caffe_naive


@pytest.mark.parametrize("merge", [True, False])
def test_a_gluon_network_with_norms_merged_or_as_batch_norm_and_scale(merge, small_net, images, tmp_path):
    model = lower(small_net, (3, 8, 8), quantized=False, merge_norms=merge)
    TARGET.write(model, tmp_path)
    found = caffe_naive.run(tmp_path, {"data": images.asnumpy()})[model.outputs[0]]
    np.testing.assert_allclose(found, small_net(images).asnumpy(), atol=1e-5)
    layers = caffe_naive.read_text((tmp_path / writer.PROTOTXT).read_text())["layer"]
    epsilons = [layer["batch_norm_param"][0]["eps"][0] for layer in layers if layer["type"] == ["BatchNorm"]]
    assert epsilons == ([] if merge else ["0.001", "1e-05"])
    assert sum(layer["type"] == ["Scale"] for layer in layers) == len(epsilons)


REFUSED = {"mobilenet_v1_0.75_224": (224, "conv1: padding (top 0, left 0, bottom 1, right 1)"),
           "cifar_resnet20": (32, "layer2_0_shortcut_slice: pooling 32x32 to 16x16")}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_real_networks_that_caffe_cannot_hold(name, shared_data, tmp_path):
    size, says = REFUSED[name]
    model = lower(import_onnx(str(shared_data / name / "model.onnx")), (3, size, size))
    assert str(TARGET.check(model)[0]).startswith(says)


@pytest.mark.slow
def test_a_real_network_through_caffe2ncnn(shared_data, tmp_path):
    pytest.importorskip("ncnn")
    if shutil.which("caffe2ncnn") is None:
        pytest.skip("caffe2ncnn is not on the PATH")
    model = lower(import_onnx(str(shared_data / "squeezenet_v1.1" / "model.onnx")), (3, 227, 227))
    TARGET.write(model, tmp_path)
    x = np.random.RandomState(2).uniform(-100, 100, (1, 3, 227, 227)).astype(np.float32)
    assert max(tools.compare(model, tmp_path, x).values()) < 1e-5
