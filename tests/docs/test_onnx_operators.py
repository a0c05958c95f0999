# SPDX-License-Identifier: MIT
"""The table of ONNX operators is what happens."""

import runpy

import pytest

from quantize.importers.onnx import OPERATORS
from tests.docs.pages import ROOT


@pytest.mark.filterwarnings("ignore")
def test_the_table_is_what_happens():
    pytest.importorskip("ncnn")
    made = runpy.run_path(str(ROOT / "docs" / "tools" / "make_onnx_operators.py"))
    assert made["PAGE"].read_text(encoding="utf-8") == made["page"](), "run: python docs/tools/make_onnx_operators.py"


def test_every_operator_has_a_row():
    page = (ROOT / "docs" / "onnx-operators.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")} - {"operator"}
    assert rows == set(OPERATORS) - {"Constant"}
