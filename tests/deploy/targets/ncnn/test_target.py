# SPDX-License-Identifier: MIT
"""The target is found by name, and tells of what it writes all the same; the rest is in test_guards.py."""

import logging

import numpy as np
import pytest

from deploy.target import TARGETS
from deploy.targets.ncnn import NcnnTarget
from quantize.errors import DataError
from tests.deploy.targets.ncnn import models


def test_it_is_found_by_its_name():
    assert TARGETS.get("ncnn") is NcnnTarget


def test_what_is_not_fatal_is_logged(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        NcnnTarget().write(models.quantized_cases()["grouped"], tmp_path)
    assert "c1: ncnn computes garbage for some int8 group convolutions" in caplog.text


def test_inputs_of_another_shape_are_refused(tmp_path):
    pytest.importorskip("ncnn")
    model = models.quantized_cases()["grouped"]
    NcnnTarget().write(model, tmp_path)
    shape = tuple(model.shapes[model.inputs[0]])
    assert len(NcnnTarget().run(tmp_path, np.zeros((2,) + shape, np.float32))) == 1
    for wrong in ((2, shape[0], shape[1] + 1, shape[2]), (2, shape[0] + 1, *shape[1:]), shape, ()):
        with pytest.raises(DataError, match="wanted are images .n, .*got the shape"):
            NcnnTarget().run(tmp_path, np.zeros(wrong, np.float32))
