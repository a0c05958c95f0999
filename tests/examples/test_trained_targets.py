# SPDX-License-Identifier: MIT
"""Networks that were retrained, or whose rounding was learned, in ONNX Runtime and in MXNet's int8."""

import json

import pytest

from deploy.targets.mxnet.runner import exact_products
from gluon_quantize.commands import deploy, train

FEW = ("--num-images", "40", "--verify-images", "10", "--latency-runs", "1")
TRAINED = ("--model", "digits_lenet", "--epochs", "1", "--num-train-images", "200", "--lr", "0.002", "--calib-images",
           "50", "--no-plots", "--method", "lsq")
# the way of each engine that computes every code
EXACT = {"onnx": "onnx exact", "mxnet": "mxnet default"}


def every_code(target, folder, *source):
    """Deploys; the certificate's side, in which all codes must be the integer engine's."""
    if target == "onnx":
        pytest.importorskip("onnxruntime")
    assert deploy.main([str(word) for word in (*source, "--target", target, *FEW, "--output", folder)]) == 0
    side = json.loads((folder / "certificate.json").read_text())["sides"][EXACT[target]]
    if target == "onnx" or exact_products():
        assert side["codes"]["identical"] == side["codes"]["elements"] > 3000
        assert side["top1_agreement"] == 10


@pytest.mark.parametrize("target", list(EXACT))
def test_a_retrained_network_is_proved(target, tmp_path, caplog):
    assert train.main([*TRAINED, "--target", target, "--output", str(tmp_path / "trained")]) == 0
    every_code(target, tmp_path / "out", tmp_path / "trained")
    # LSQ's steps are not those that MXNet derives from the weights
    said = "weight codes are others in MXNet, where the largest of each output channel is 127"
    assert (said in caplog.text) == (target == "mxnet")


@pytest.mark.parametrize("target", list(EXACT))
def test_learned_rounding_is_proved(target, tmp_path):
    every_code(target, tmp_path / "out", "--model", "digits_lenet", "--learn-rounding", "gptq", "--calib-images", "50")
