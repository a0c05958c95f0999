# SPDX-License-Identifier: MIT
import dataclasses
import logging
import shutil

import numpy as np
import pytest

from deploy import engine, ir
from deploy.target import TARGETS
from deploy.targets.caffe import TARGET, CaffeTarget
from quantize.errors import DeployError
from tests.deploy.targets.caffe import caffe_naive
from tests.deploy.targets.caffe.models import conv, inputs, model, one, quantized_model, real, tiny


def test_it_is_found_by_name():
    assert TARGETS.get("caffe") is CaffeTarget and isinstance(TARGET, CaffeTarget) and TARGET.name == "caffe"


def test_problems_are_those_of_caffe_and_of_ncnn():
    nodes = [ir.Convolution("a b", ("data",), ("x",), "features.0", weight=real(4, 3, 3, 3) * np.nan),
             ir.Padding("pad", ("x",), ("pad",), "features.1", pads=(1, 1, 1, 1))]
    texts = [str(problem) for problem in TARGET.check(model((3, 5, 5), nodes))]
    for says in ("features.0: the name 'a b'", "no finite numbers", "features.1: Caffe has no layer for Padding"):
        assert any(says in text for text in texts), says


def test_127_levels_need_a_promise(tmp_path, caplog):
    case = model((3, 5, 5), [conv("x", "data", (4, 3, 3, 3), largest=2.0, qmax=127)])
    with pytest.raises(DeployError, match="127 levels"):
        CaffeTarget().write(case, tmp_path)
    with caplog.at_level(logging.WARNING):
        assert len(CaffeTarget(winograd=False).write(case, tmp_path)) == 2
    assert "turn them off" in caplog.text
    CaffeTarget().write(quantized_model(), tmp_path)


def test_fatal_problems_leave_no_files(tmp_path):
    with pytest.raises(DeployError, match="the way through Caffe"):
        TARGET.write(one(ir.Padding, (3, 4, 4), pads=(1, 1, 1, 1)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_bgr_files_take_bgr_images(tmp_path):
    batch = inputs(tiny())["data"]
    wanted = engine.run(tiny(), batch).outputs[0]
    for order, images in (("rgb", batch), ("bgr", batch[:, ::-1])):
        CaffeTarget(channel_order=order).write(tiny(), tmp_path)
        np.testing.assert_allclose(caffe_naive.run(tmp_path, {"data": images})["prob"], wanted, atol=1e-6)
    with pytest.raises(DeployError, match="channel order 'bgra': known are rgb, bgr"):
        CaffeTarget(channel_order="bgra")


def test_the_engine_runs_the_files_where_the_tools_are(tmp_path):
    pytest.importorskip("ncnn")
    if shutil.which("caffe2ncnn") is None:
        pytest.skip("caffe2ncnn is not on the PATH")
    case = dataclasses.replace(tiny(), outputs=("prob",))
    TARGET.write(case, tmp_path)
    batch = inputs(case)["data"]
    found, = TARGET.run(tmp_path, batch)
    np.testing.assert_allclose(found, engine.run(case, batch).outputs[0], atol=1e-6)


def test_running_without_the_tool_says_what_is_missing(tmp_path, monkeypatch):
    TARGET.write(tiny(), tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeployError, match="caffe2ncnn is not on the PATH"):
        TARGET.run(tmp_path, inputs(tiny())["data"])
