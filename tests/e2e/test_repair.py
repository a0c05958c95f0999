# SPDX-License-Identifier: MIT
"""The table of docs/measured/repair.md on real data: each row is one run of the command line."""

import json

import numpy as np
import onnx
import pytest

from gluon_quantize.commands import search, simulate
from tests.e2e.mobilenet_v1_1_0 import network as mobilenet_v1_1_0

pytestmark = pytest.mark.slow

ONE_SCALE = "--quant-type layer --equalize --learn-rounding gptq --calib-mode mse --calib-images 300"
LEARNED = "--learn-rounding gptq --weight-bits "
V1, V2 = "mobilenet_v1_0.75_224", "mobilenet_v2_1.0_224_dequantized"
# network, options, Top-1 count in float, least Top-1 count repaired
ROWS = [
    (V1, ONE_SCALE, 494, 470),
    (V2, ONE_SCALE, 498, 440),
    (V1, LEARNED + "4 --calib-mode mse --calib-images 300", 494, 440),
    ("squeezenet_v1.1", LEARNED + "4", 466, 450),
    ("cifar_resnet20", LEARNED + "4 --calib-mode mse", 9173, 9130),
    ("cifar_resnet20", LEARNED + "3 --calib-mode mse", 9173, 9000),
    ("cifar_resnet20", LEARNED + "4 --input-bits 4 --calib-mode mse", 9173, 8950),
    ("mobilenet_v1_1.0", LEARNED + "4", 485, 440),
]


@pytest.fixture
def arguments(shared_data, tmp_path):
    """function(network) -> where the network and its images are."""
    def found(network):
        path = shared_data / network / "model.onnx"
        if network == "mobilenet_v1_1.0":
            path = tmp_path / "mobilenet_v1_1.0.onnx"
            with np.load(str(shared_data / "mobilenet_v1_1.0_224_dequantized/weights.npz")) as weights:
                onnx.save(mobilenet_v1_1_0(dict(weights)), str(path))
        if network == "cifar_resnet20":
            data = ["--data-dir", shared_data, "--num-sample", 50, "--batch-size", 100]
        else:
            data = ["--data-dir", shared_data / "imagenet_val_sample", "--resize", 0, "--batch-size", 32,
                    "--calib-data-dir", shared_data / "imagenet_sample"]
        return [str(word) for word in ["--onnx", path, *data, "--output", tmp_path / "out"]]
    return found


@pytest.mark.parametrize("network, options, float_count, least", ROWS)
def test_what_repair_reaches(arguments, tmp_path, network, options, float_count, least):
    options = ["--exclude-first-conv", "false", "--merge-bn", *options.split()]
    assert simulate.main(arguments(network) + options) == 0
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["float"]["top1_count"] == float_count
    assert result["quantized"]["top1_count"] >= least


@pytest.mark.parametrize("network, least", [("squeezenet_v1.1", 457), (V1, 485)])
def test_60_percent_of_int8_lose_no_more_than_a_point_and_a_half(arguments, tmp_path, network, least):
    assert search.main(arguments(network) + ["--size", "0.6", "--curve-points", "1"]) == 0
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["met"] and result["best"]["share"] <= 0.6 and result["best"]["top1_count"] >= least
