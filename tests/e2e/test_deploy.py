# SPDX-License-Identifier: MIT
"""Deployment of whole networks to ncnn: every quantized blob of simulation, integer engine and ncnn is identical.

The ONNX files hold published weights and are compared on all evaluation images; gluoncv's networks have random weights
(statistics of the norms from real images) and are compared on a few. Calibration on 200 images of `imagenet_sample` for
`imagenet_val_sample`, on 1000 training images for CIFAR-10; a tenth of that for random weights.
"""

import json

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

import deploy_ncnn
from gluon_quantize.data.batches import batches
from gluon_quantize.data.datasets import open_dataset
from gluon_quantize.models import zoo

pytestmark = pytest.mark.slow

# network, calibration, least Top-1 count of int8 in ncnn: the best of ncnn2table's kl and aciq on the same images
# (shared/reference/ptq_baselines.md: 464, 483, 497, 9163), less two images of 634 and ten of 10000, which are chance
ONNX = [
    ("squeezenet_v1.1", "--calib-mode minmax --bias-correction sequential", 462),
    ("mobilenet_v1_0.75_224", "--calib-mode mse --bias-correction sequential", 483),
    ("mobilenet_v2_1.0_224_dequantized", "--calib-mode mse --bias-correction none", 495),
    ("cifar_resnet20", "--calib-mode kl --bias-correction sequential", 9153),
]
RANDOM = ["mobilenet1.0", "mobilenetv2_1.0", "resnet18_v1", "resnet50_v1", "squeezenet1.1", "cifar_resnet56_v1",
          "densenet121"]
SMALLER = 0.27  # bytes of int8 weights, of the float ones


def options(shared_data, cifar, calibration):
    """Where the images are."""
    if cifar:
        return ["--data-dir", shared_data, "--num-sample", calibration, "--batch-size", 100, "-j", 1]
    return ["--data-dir", shared_data / "imagenet_val_sample", "--calib-data-dir", shared_data / "imagenet_sample",
            "--resize", 0, "--num-sample", 1, "--num-calib-images", 2 * calibration, "--batch-size", 25, "-j", 1]


def deployed(folder, arguments):
    """(certificate, result.json)."""
    assert deploy_ncnn.main([str(argument) for argument in arguments + ["--output", folder]]) == 0
    return tuple(json.loads((folder / name).read_text()) for name in ("certificate.json", "result.json"))


def assert_identical(certificate):
    """Simulation, engine and ncnn agree in every element and for every image; float files to 1e-5."""
    for side in ("simulation", "ncnn exact"):
        facts = certificate["sides"][side]
        assert facts["codes"]["identical"] == facts["codes"]["elements"] > 0, facts["first_deviation"]
        assert facts["top1_agreement"] == certificate["images"]
    assert certificate["float_export"]["relative"] <= 1e-5
    # what deviates with default options is explained
    assert not [layer["node"] for layer in certificate["layers"] for reason in layer["reasons"].values()
                if reason["why"] == "unexplained"]


@pytest.mark.parametrize("network, calibration, least", ONNX)
def test_published_weights(shared_data, tmp_path, network, calibration, least):
    pytest.importorskip("ncnn")
    arguments = ["--onnx", shared_data / network / "model.onnx", "--verify-images", 0] + calibration.split()
    certificate, result = deployed(tmp_path / "out", arguments + options(shared_data, network.startswith("cifar"), 100))
    assert_identical(certificate)
    assert result["accuracy"]["ncnn int8"]["top1_count"] >= least
    assert result["sizes"]["ratio"] <= SMALLER


@pytest.fixture
def parameters(shared_data, tmp_path):
    """function(name) -> parameter file of a network of gluoncv: random weights, norms that have seen images."""
    def make(name):
        mx.random.seed(1)
        np.random.seed(1)
        name, net = zoo.build(name, {})
        net.initialize(mx.init.MSRAPrelu())
        dataset, steps = zoo.preset(name)
        folder = shared_data if dataset == "cifar10" else shared_data / "imagenet_sample"
        images = open_dataset(dataset, folder, "train")
        for _ in range(3):
            for part, _ in batches(images, steps, 16, range(64), 1):
                with autograd.train_mode():
                    net(part)
        path = tmp_path / (name + ".params")
        mx.nd.waitall()
        net.save_parameters(str(path))
        return path
    return make


@pytest.mark.parametrize("name", RANDOM)
def test_random_weights(shared_data, tmp_path, parameters, name):
    pytest.importorskip("ncnn")
    arguments = ["--model", name, "--params", parameters(name), "--num-images", 8]
    certificate, result = deployed(tmp_path / "out", arguments + options(shared_data, name.startswith("cifar"), 5))
    assert_identical(certificate)
    if name.startswith("mobilenet"):
        assert result["sizes"]["ratio"] <= SMALLER
