# SPDX-License-Identifier: MIT
"""gluoncv's networks that do not classify, with random weights: converted whole, simulated, deployed or refused."""

import numpy as np
import pytest
from PIL import Image

from gluon_quantize.models.detection import SIZES, other_models, preset_of
from gluon_quantize.progress import Silent
from gluon_quantize.runs.deploy import DeployRequest, deploy
from gluon_quantize.runs.simulate import (
    CalibrationRequest,
    ImagesRequest,
    NetworkRequest,
    QuantizationRequest,
    SimulateRequest,
    simulate,
)
from quantize.errors import ConfigError, DeployError

# name, side of small images, what its plan leaves float
NETWORKS = [("simple_pose_resnet18_v1b", 64, 0), ("ssd_300_mobilenet0.25_voc", 96, 0),
            ("yolo3_mobilenet0.25_voc", 64, 0),
            pytest.param("fcn_resnet50_voc", 64, 0, marks=pytest.mark.slow),
            pytest.param("deeplab_resnet50_ade", 64, 0, marks=pytest.mark.slow),
            pytest.param("center_net_resnet18_v1b_voc", 64, 0, marks=pytest.mark.slow),
            pytest.param("center_net_resnet18_v1b_dcnv2_voc", 64, 9, marks=pytest.mark.slow)]
MISSING = {"ssd": "_contrib_box_nms", "yolo3": "batch axis", "center_net": "topk"}


@pytest.fixture
def folder(tmp_path):
    """Pictures without labels."""
    random = np.random.RandomState(4)
    for number in range(3):
        Image.fromarray(random.randint(0, 256, (100, 100, 3), dtype=np.uint8)).save(str(tmp_path / f"{number}.png"))
    return str(tmp_path)


@pytest.mark.parametrize("name, side, floats", NETWORKS)
def test_networks_are_converted_whole_and_simulated(name, side, floats, folder):
    result = simulate(SimulateRequest(
        NetworkRequest(model=name, pretrained=False),
        ImagesRequest(folder=folder, resize=side, crop=side, batch_size=2),
        QuantizationRequest(merge_bn=True, exclude_first=False), CalibrationRequest(method="minmax", folder=folder)))
    assert all(entry.quantized for entry in result.plan.entries) and len(result.plan.floats) == floats
    assert not result.quantized.classifies and len(result.quantized.sqnr(result.float)) == len(result.float.samples)


def test_a_pose_network_is_deployed(folder, tmp_path):
    pytest.importorskip("ncnn")
    result = deploy(DeployRequest(
        NetworkRequest(model="simple_pose_resnet18_v1b", pretrained=False),
        ImagesRequest(folder=folder, resize=64, crop=64, batch_size=3), calibration=CalibrationRequest(
            method="minmax", folder=folder), output=str(tmp_path / "out"), verify_images=2, latency_runs=1))
    # its transposed convolutions stay float, and ncnn adds up their products in an order of its own
    assert result.certificate["sides"]["ncnn exact"]["codes"]["share"] > 0.9999
    assert min(result.accuracy["ncnn int8"].sqnr(result.float)) > 5


def test_what_the_engine_lacks_is_said(folder, tmp_path):
    pytest.importorskip("ncnn")
    request = DeployRequest(
        NetworkRequest(model="ssd_300_mobilenet0.25_voc", pretrained=False),
        ImagesRequest(folder=folder, resize=96, crop=96, batch_size=3), calibration=CalibrationRequest(
            method="minmax", folder=folder), output=str(tmp_path / "out"))
    told = Silent()
    told.tell = told.bar = None  # nothing is opened, evaluated or calibrated before
    with pytest.raises(DeployError, match=MISSING["ssd"]):
        deploy(request, told)
    assert not (tmp_path / "out").exists()


def test_every_one_has_a_size_and_no_options(folder):
    names = other_models()
    assert len(names) > 60 and {name for name in names if name.startswith(tuple(SIZES))} == set(names)
    assert preset_of("simple_pose_resnet18_v1b")[1] == (3, 256, 192)
    assert preset_of("yolo3_darknet53_voc")[0].crop == (416, 416)
    with pytest.raises(ConfigError, match="for classifiers"):
        simulate(SimulateRequest(NetworkRequest(model="fcn_resnet50_voc", options={"use_gn": True})))
