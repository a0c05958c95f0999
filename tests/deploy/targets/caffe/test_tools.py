# SPDX-License-Identifier: MIT
import dataclasses
import shutil

import numpy as np
import pytest

from deploy import ir
from deploy.targets.caffe import tools, writer
from deploy.targets.caffe.weights import that_becomes_codes
from deploy.targets.ncnn import scales
from deploy.targets.ncnn import writer as direct
from deploy.targets.ncnn.table import NcnnScales, write_ncnn_table
from quantize.errors import DeployError
from tests.deploy.targets.caffe.models import accepted, conv, inputs, model, quantized_model, real, tiny

CASES = accepted()


@pytest.fixture
def ncnn_tools():
    """ncnn's tools on the PATH and its wheel; skips, saying which is missing."""
    pytest.importorskip("ncnn")
    for tool in ("caffe2ncnn", "ncnnoptimize", "ncnn2int8"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not on the PATH")


@pytest.mark.parametrize("name", CASES)
def test_caffe2ncnn_makes_the_network_of_the_direct_writer(name, ncnn_tools, tmp_path):
    case = CASES[name]
    writer.write(case, tmp_path)
    found = tools.compare(case, tmp_path, inputs(case))
    assert set(case.outputs) <= set(found)
    assert max(found.values()) < 1e-5, found


def with_table(case, folder):
    """The files for the tools, and the path of the table."""
    writer.write(case, folder)
    table = {name: NcnnScales(tuple(map(float, weight)), float(blob))
             for name, (weight, blob) in scales.table_scales(case).items()}
    write_ncnn_table(folder / "x.table", table)
    return folder / "x.table"


def clipped(case):
    """The model with weights that are partly outside of their grids, and partly not what was rounded to the codes."""
    def node(old):
        if getattr(old, "quantization", None) is None:
            return old
        weight = old.weight.copy()
        weight.reshape(-1)[::3] *= 5
        weight.reshape(-1)[1::5] = 0.01
        return dataclasses.replace(old, weight=weight)
    return dataclasses.replace(case, nodes=tuple(map(node, case.nodes)))


@pytest.mark.parametrize("change", [lambda case: case, clipped])
def test_ncnn2int8_makes_the_integers_of_the_direct_writer(change, ncnn_tools, tmp_path):
    case = change(quantized_model())
    table = with_table(case, tmp_path)
    found = tools.compare(case, tmp_path, inputs(case), table)
    assert set(found.values()) == {0} and {"c", "dw", "pw", "side", "sum", "relu", "fc"} <= set(found)
    made = tools.ncnnoptimize(*tools.caffe2ncnn(tmp_path, tmp_path), tmp_path)
    made = tools.ncnn2int8(*made, table, tmp_path)
    assert made[1].read_bytes() == direct.write(case, tmp_path)[1].read_bytes()


def test_a_layer_that_stays_float_is_stored_by_ncnn2int8_in_16_bits(ncnn_tools, tmp_path):
    case = quantized_model()
    nodes = [dataclasses.replace(node, quantization=None) if node.name == "side" else node for node in case.nodes]
    case = dataclasses.replace(case, nodes=tuple(nodes))
    found = tools.compare(case, tmp_path, inputs(case), with_table(case, tmp_path))
    assert found["pw"] == 0 and 0 < found["side"] < 1e-3


def test_another_network_in_the_folder_is_noticed(ncnn_tools, tmp_path):
    writer.write(tiny(), tmp_path)
    other = model((3, 7, 4), [conv("other", "data", (4, 3, 3, 3))])
    with pytest.raises(DeployError, match="lacks the outputs other"):
        tools.compare(other, tmp_path, inputs(other))


def test_a_missing_tool_and_missing_files_are_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeployError, match="model.prototxt: there is no such file"):
        tools.caffe2ncnn(tmp_path, tmp_path)
    writer.write(tiny(), tmp_path)
    with pytest.raises(DeployError, match="caffe2ncnn is not on the PATH.*target 'ncnn'"):
        tools.caffe2ncnn(tmp_path, tmp_path)


@pytest.mark.parametrize("script, says", [
    ("echo cannot parse >&2; exit 3", r"failed \(exit code 3\) on a.param:\ncannot parse"),
    ("echo 'this layer need to be quantized, but no scale param!' >&2", r"exit code 0.*\n.*no scale param"),
    ("kill -SEGV $$", "exit code -11"),
])
def test_a_tool_that_fails_is_told_even_if_it_does_not_say_so(script, says, monkeypatch, tmp_path):
    tool = tmp_path / "ncnn2int8"
    tool.write_text("#!/bin/sh\n" + script + "\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeployError, match=says):
        tools.ncnn2int8("a.param", "a.bin", "a.table", tmp_path)


def test_differences_are_relative_and_no_number_is_the_largest():
    assert tools._difference(np.array([1.0, 2.5]), np.array([1.0, -5.0])) == 1.5
    assert tools._difference(np.array([np.nan]), np.array([1.0])) == np.inf
    assert tools._difference(np.zeros(2), np.zeros(2)) == 0


# ---- the weights that ncnn2int8 codes

def test_only_weights_that_would_get_other_codes_are_replaced():
    case = quantized_model()
    for node in case.nodes:
        if getattr(node, "quantization", None) is not None:
            np.testing.assert_array_equal(that_becomes_codes(node), node.weight)
    weight = np.array([[0.3, 1.0, -9.0], [0.1, 0.1, 0.1]], np.float32)
    codes = np.array([[3, 10, -31], [1, 2, 1]], np.int8)
    node = ir.InnerProduct("x", ("data",), ("x",), weight=weight, quantization=ir.Quantization(
        ir.Grid(0.1), codes, np.array([0.1, 0.1], np.float32), 31))
    np.testing.assert_allclose(that_becomes_codes(node), [[0.3, 1.0, -3.1], [0.1, 0.2, 0.1]], rtol=1e-6)


def test_every_code_survives_for_any_step():
    codes = np.tile(np.arange(-127, 128, dtype=np.int8), (1000, 1))
    steps = np.exp(real(1000, low=-20, high=20))
    far = np.repeat(1000 * steps[:, None], codes.shape[1], axis=1)
    node = ir.InnerProduct("x", ("data",), ("x",), weight=far, quantization=ir.Quantization(ir.Grid(0.1), codes, steps))
    coded = np.rint(that_becomes_codes(node) * (np.float32(1) / steps)[:, None])
    np.testing.assert_array_equal(np.clip(coded, -127, 127), codes)
