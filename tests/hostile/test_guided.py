# SPDX-License-Identifier: MIT
"""Damage led by coverage, see `guided.py`: where atheris is installed (Python 3.11; `pip install atheris`)."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from tests.hostile.test_fuzz import NAMES

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUNS = 50_000
GUIDED = ("symbol", "preprocessing", "state", "rules", "nni", "nni config", "simqat", "certificate", "labels", "synset",
          "table", "ncnn table", "ncnn param", "prototxt", "ini", "params", "npz", "image", "onnx", "ncnn bin", "ir",
          "qnet", "optimizer", "verification")
WITHOUT = importlib.util.find_spec("atheris") is None


def test_the_formats_of_one_file_are_guided():
    assert set(NAMES) - set(GUIDED) == {"onnx external", "checkpoint", "deployment", "training", "rounding", "cells",
                                        "idx", "cifar", "image list"}  # folders


@pytest.mark.slow
@pytest.mark.skipif(WITHOUT, reason="atheris is not installed: coverage-guided fuzzing is left out")
@pytest.mark.parametrize("name", GUIDED)
def test_nothing_but_the_projects_errors(name):
    path = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "tests.hostile.guided", name, str(RUNS)], cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert f"Done {RUNS} " in done.stdout + done.stderr
