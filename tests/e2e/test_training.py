# SPDX-License-Identifier: MIT
"""Retraining on real data, in few epochs; docs/measured/retraining.md has the long runs."""

import json

import pytest

import train_qat

pytestmark = pytest.mark.slow


def trained(data, folder, *arguments):
    """(final network's right answers, folder) of a training of mnist_lenet on all of MNIST."""
    common = ("--model", "mnist_lenet", "--data-dir", data, "--epochs", "2", "--no-plots", "--output", folder)
    assert train_qat.main([str(argument) for argument in common + arguments]) == 0
    return json.loads((folder / "result.json").read_text())["final"]["top1_count"]


def test_two_stages_of_sat(shared_data, tmp_path):
    clamped, rounded = tmp_path / "clamped", tmp_path / "rounded"
    assert trained(shared_data, clamped, "--method", "sat", "--clamp-only", "--lr", "0.1") >= 9890
    assert trained(shared_data, rounded, "--method", "sat", "--weight-bits", "4", "--input-bits", "4", "--lr", "0.05",
                   "-w", clamped / "final.params") >= 9900


def test_binary(shared_data, tmp_path):
    assert trained(shared_data, tmp_path / "binary", "--method", "bnn", "--weight-bits", "1", "--input-bits", "1",
                   "--optimizer", "adam", "--lr", "0.005", "--wd", "0") >= 9650


def test_a_hundred_steps_of_four_bits(shared_data, tmp_path):
    """Calibrated alone cifar_resnet20 gets 8875 images right with these formats, in float 9173."""
    assert train_qat.main([str(argument) for argument in (
        "--onnx", shared_data / "cifar_resnet20" / "model.onnx", "--data-dir", shared_data, "--weight-bits", "4",
        "--input-bits", "4", "--distill", "1", "--lr", "0.003", "--num-train-images", "12800", "--epochs", "1",
        "--no-plots", "--output", tmp_path)]) == 0
    assert json.loads((tmp_path / "result.json").read_text())["final"]["top1_count"] >= 9060
