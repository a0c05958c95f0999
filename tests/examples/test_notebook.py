# SPDX-License-Identifier: MIT
"""The notebook runs, and holds what a run shows."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

import deploy_ncnn
from deploy.targets.ncnn.table import read_ncnn_table

PATH = pathlib.Path(deploy_ncnn.__file__).with_name("deploy_ncnn.ipynb")
LARGEST = 400 * 1024


@pytest.fixture(scope="module")
def cells():
    """The code cells."""
    notebook = json.loads(PATH.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def printed(cell):
    return "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")


def without_numbers(text):
    """Another processor rounds sums of floats elsewhere."""
    return re.sub("[0-9]+", "0", text)


def test_it_was_executed_from_top_to_bottom(cells):
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}
    assert all(output["name"] == "stdout" for output in outputs if output["output_type"] == "stream")
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    assert PATH.stat().st_size < LARGEST


def test_it_shows_the_parts_of_the_report(cells):
    pages = ["".join(output["data"]["text/html"]) for cell in cells for output in cell["outputs"]
             if "text/html" in output.get("data", {})]
    assert len(pages) == 1 and "<script" not in pages[0]
    for part in ("At a glance", "The network with the formats on its edges", 'id="table"', "SQNR of each layer",
                 "Images</h2>"):
        assert part in pages[0]


def test_its_code_runs_and_prints_what_it_holds(cells):
    pytest.importorskip("ncnn")
    pytest.importorskip("matplotlib")
    mark = "\n<end of a cell>\n"
    script = "".join(f"{''.join(cell['source'])}\nprint({mark!r}, end='', flush=True)\n" for cell in cells)
    environment = dict(os.environ, MPLBACKEND="Agg", OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, "-"], input=script, cwd=str(PATH.parent), env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = done.stdout.split(mark)[:-1]
    assert len(found) == len(cells)
    for cell, text in zip(cells, found):
        if "Certificate" not in text:  # which names the machine
            assert without_numbers(text) == without_numbers(printed(cell))
    for side in ("simulation", "ncnn exact"):
        assert f"| {side:26} | 100 % " in done.stdout


CAFFE = PATH.with_name("mobilenet_gluon2ncnn.ipynb")


@pytest.fixture(scope="module")
def caffe_cells():
    """The code cells of the way through Caffe."""
    notebook = json.loads(CAFFE.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_way_through_caffe_was_executed(caffe_cells):
    assert [cell["execution_count"] for cell in caffe_cells] == list(range(1, len(caffe_cells) + 1))
    text = "".join(printed(cell) for cell in caffe_cells)
    for part in ("28 ranges", 'name: "', "features.0_param_0 ", "output "):
        assert part in text


@pytest.mark.slow
def test_the_way_through_caffe_runs(caffe_cells, tmp_path):
    """Without ncnn's tools on the PATH the last cell names the first that is missing."""
    script = "\n".join("".join(cell["source"]) for cell in caffe_cells)
    environment = dict(os.environ, OMP_NUM_THREADS="1", TMPDIR=str(tmp_path), PATH=str(tmp_path))
    done = subprocess.run([sys.executable, "-"], input=script, cwd=str(CAFFE.parent), env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert without_numbers(done.stdout) == without_numbers("".join(printed(cell) for cell in caffe_cells))
    folder = next(tmp_path.glob("tmp*"))
    assert {path.name for path in folder.iterdir()} == {"model.prototxt", "model.caffemodel", "ncnn.table"}
    assert len(read_ncnn_table(folder / "ncnn.table")) == 28
