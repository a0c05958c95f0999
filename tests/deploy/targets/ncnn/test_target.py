# SPDX-License-Identifier: MIT
"""The target is found by name, and tells of what it writes all the same; the rest is in test_guards.py."""

import logging

from deploy.target import TARGETS
from deploy.targets.ncnn import NcnnTarget
from tests.deploy.targets.ncnn import models


def test_it_is_found_by_its_name():
    assert TARGETS.get("ncnn") is NcnnTarget


def test_what_is_not_fatal_is_logged(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        NcnnTarget().write(models.quantized_cases()["grouped"], tmp_path)
    assert "c1: ncnn computes garbage for some int8 group convolutions" in caplog.text
