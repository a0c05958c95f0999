# SPDX-License-Identifier: MIT
"""The table of docs/measured/accuracy.md on real data: each row is one run of the command line."""

import json

import pytest

import simulate_quantization

pytestmark = pytest.mark.slow

ALL_LAYERS = "--exclude-first-conv false "
CHANNEL = ALL_LAYERS + "--quant-type channel "
# network, options, Top-1 count in float, least (or, for a collapse, most) Top-1 count quantized
ROWS = [
    ("mobilenet_v1_0.75_224", CHANNEL + "--merge-bn", 494, 485, None),
    ("mobilenet_v1_0.75_224", CHANNEL + "--merge-bn --quantize-input-offline", 494, 485, None),
    ("mobilenet_v1_0.75_224", ALL_LAYERS + "--merge-bn", 494, 0, 95),
    ("mobilenet_v1_0.75_224", ALL_LAYERS, 494, 460, None),
    ("mobilenet_v1_0.75_224", CHANNEL, 494, 485, None),
    ("mobilenet_v1_0.75_224", CHANNEL + "--input-signed false", 494, 0, 400),
    ("squeezenet_v1.1", CHANNEL, 466, 458, None),
    ("mobilenet_v2_1.0_224_dequantized", CHANNEL, 498, 495, None),
    ("cifar_resnet20", CHANNEL + "--merge-bn", 9173, 9150, None),
]


@pytest.mark.parametrize("network, options, float_count, least, most", ROWS)
def test_top1_counts(shared_data, tmp_path, network, options, float_count, least, most):
    if network.startswith("cifar"):
        data = ["--data-dir", str(shared_data)]
    else:
        data = ["--data-dir", str(shared_data / "imagenet_val_sample"), "--resize", "0",
                "--calib-data-dir", str(shared_data / "imagenet_sample")]
    argv = ["--onnx", str(shared_data / network / "model.onnx"), "--output", str(tmp_path)] + data + options.split()
    assert simulate_quantization.main(argv) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["float"]["top1_count"] == float_count
    assert result["quantized"]["top1_count"] >= least
    if most is not None:
        assert result["quantized"]["top1_count"] <= most
