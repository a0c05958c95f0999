# SPDX-License-Identifier: MIT
"""The files: both or none, the same bytes each time, and those of ncnn's own tools."""

import base64
import json
import pathlib
import shutil
import subprocess

import pytest

from deploy.targets.ncnn import writer
from deploy.targets.ncnn.param import parse_param
from deploy.targets.ncnn.scales import table_scales
from deploy.targets.ncnn.table import NcnnScales, write_ncnn_table
from quantize.errors import DataError
from tests.deploy.targets.ncnn import models

QUANTIZED, FLOAT = models.quantized_cases(), models.float_cases()
GOLDEN = json.loads((pathlib.Path(__file__).parents[3] / "golden" / "ncnn_int8.json").read_text())


@pytest.fixture
def ncnn2int8():
    path = shutil.which("ncnn2int8")
    if path is None:
        pytest.skip("ncnn2int8 is not on the PATH")
    return path


def of_the_tool(ncnn2int8, case, folder):
    """(.param, .bin) that ncnn2int8 makes of a model's float files and its calibration table."""
    param, weights = writer.write(case, folder, "float", integers=False)
    scales = {name: NcnnScales(tuple(map(float, weight)), float(blob)) for name, (weight, blob)
              in table_scales(case).items()}
    write_ncnn_table(folder / "table", scales)
    made = folder / "tool.param", folder / "tool.bin"
    subprocess.run([ncnn2int8, str(param), str(weights), *map(str, made), str(folder / "table")], check=True,
                   stderr=subprocess.DEVNULL)
    return made[0].read_text(), made[1].read_bytes()


def assert_same_network(ours, tool):
    """ncnn2int8 writes seven digits, leaves out what is its engine's default, and forgets parameter 31."""
    ours, tool = parse_param(ours), parse_param(tool)
    assert len(ours.layers) == len(tool.layers)
    for mine, its in zip(ours.layers, tool.layers):
        assert (mine.type, mine.name, mine.inputs, mine.outputs) == (its.type, its.name, its.inputs, its.outputs)
        assert {number: seven_digits(mine.parameters.get(number)) for number in its.parameters} == \
            {number: seven_digits(value) for number, value in its.parameters.items()}
        left_out = {number: value for number, value in mine.parameters.items() if number not in its.parameters}
        assert all(isinstance(value, float) or (number, value) == (31, 64) for number, value in left_out.items())


def seven_digits(value):
    if isinstance(value, tuple):
        return tuple(map(seven_digits, value))
    return f"{value:e}" if isinstance(value, float) else value


@pytest.mark.parametrize("name", QUANTIZED)
def test_the_files_are_those_that_ncnn2int8_made(name):
    param, weights = writer.render(QUANTIZED[name])
    assert_same_network(param, GOLDEN[name]["param"])
    assert weights == base64.b64decode(GOLDEN[name]["bin"])


def test_the_files_are_those_that_ncnn2int8_makes(ncnn2int8, tmp_path):
    for case in QUANTIZED.values():
        param, weights = of_the_tool(ncnn2int8, case, tmp_path)
        ours = writer.render(case)
        assert ours[1] == weights
        assert_same_network(ours[0], param)


def test_ncnn2int8_understands_every_layer_as_it_is_meant(ncnn2int8, tmp_path):
    for case in FLOAT.values():
        assert_same_network(writer.render(case)[0], of_the_tool(ncnn2int8, case, tmp_path)[0])


def test_the_same_model_gives_the_same_bytes(tmp_path):
    case = models.quantized_cases()["fire"]
    again = models.quantized_cases()["fire"]
    assert case is not again and writer.render(case) == writer.render(again)
    paths = writer.write(case, tmp_path, "net")
    assert [path.name for path in paths] == ["net.param", "net.bin"]
    assert (paths[0].read_text(), paths[1].read_bytes()) == writer.render(case)


def test_both_files_or_none(tmp_path):
    (tmp_path / "model.param").mkdir()  # in the way of the second file
    with pytest.raises(DataError, match="model.param: cannot be written"):
        writer.write(QUANTIZED["chain"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.param"]
    with pytest.raises(DataError, match="model.bin: cannot be written"):
        writer.write(QUANTIZED["chain"], tmp_path / "missing")


def test_int8_weights_take_a_quarter(tmp_path):
    case = models.model((64, 8, 8), [models.conv("x", "data", (128, 64, 3, 3), largest=2)])
    assert len(writer.render(case)[1]) < 0.27 * len(writer.render(case, integers=False)[1])
