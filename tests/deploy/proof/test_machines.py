# SPDX-License-Identifier: MIT
"""Certificates of several machines: their names, the table, and what is said of differences."""

import json

import pytest

from deploy.proof import machines
from deploy.proof.certificate import FORMAT, JSON, UNEXPLAINED
from quantize.errors import DataError

X86 = {"ncnn": "1.0.20261020", "cpu": "AMD EPYC", "architecture": "x86_64", "flags": ["avx2", "fma"], "numpy": "1.23.5"}
ARM = {"ncnn": "1.0.20261020", "cpu": "Cortex-A76", "architecture": "aarch64", "flags": ["asimd", "asimddp"],
       "numpy": "2.1.0"}


def contents(machine, identical=10, top1=2, reasons=None):
    codes = {"elements": 10, "identical": identical, "share": identical / 10, "largest": float(identical < 10)}
    side = {"codes": codes, "top1_agreement": top1, "first_deviation": None, "largest_real_difference": None}
    return {"format": FORMAT, "machine": machine, "images": 2, "sides": {"ncnn exact": side},
            "layers": [{"reasons": reasons or {}}]}


def test_a_machine_has_one_name():
    assert machines.machine_name(X86) == machines.machine_name(dict(X86, numpy="2.0.0", ncnn="1"))
    assert machines.machine_name(ARM).startswith("aarch64-cortex-a76-")
    assert machines.machine_name(ARM) != machines.machine_name(dict(ARM, flags=["asimd"]))
    assert "/" not in machines.machine_name(dict(ARM, cpu="../../x")) and machines.machine_name({})


def test_rows_are_machines(tmp_path):
    (tmp_path / JSON).write_text(json.dumps(contents(X86)))
    path = machines.keep_certificate(tmp_path, contents(ARM, identical=9))
    assert path.parent.name == "certificates" and path == machines.keep_certificate(tmp_path, contents(ARM))
    (path.parent / "other.json").write_text("{}")
    (path.parent / "broken.json").write_text("{")
    found = machines.certificates(tmp_path)
    assert [item["machine"]["cpu"] for item in found] == ["AMD EPYC", "Cortex-A76"]
    rows = machines.machines_text(found).splitlines()
    assert len(rows) == 4 and "aarch64, Cortex-A76" in rows[3] and "100 %, 0" in rows[3] and "2/2" in rows[3]
    assert (path.parent / "machines.md").read_text().endswith(machines.machines_text(found) + "\n")


def test_sides_that_a_machine_has_not_got():
    other = contents(ARM)
    other["sides"]["ncnn default"] = other["sides"]["ncnn exact"]
    assert "| - " in machines.machines_text([contents(X86), other]).splitlines()[2]


def test_a_file_in_its_place(tmp_path):
    (tmp_path / "certificates").write_text("")
    with pytest.raises(DataError, match="--output DIR"):
        machines.keep_certificate(tmp_path, contents(ARM))


def test_what_differs():
    assert machines.changes(X86, X86) == machines.changes(X86, dict(X86, cpu="Intel", numpy="2")) == []
    assert machines.changes(X86, dict(X86, ncnn="1.1")) == [
        "ncnn is 1.1 here, the certificate was made with 1.0.20261020"]
    assert "has no fma, which" in machines.changes(X86, dict(X86, flags=["avx2"]))[0]
    assert machines.changes(X86, ARM) == []


@pytest.mark.parametrize("identical, top1, why, reproduced", [
    (10, 2, None, True), (9, 2, None, False), (10, 1, None, False), (9, 2, "a reason", True),
    (9, 2, UNEXPLAINED, False)])
def test_reproduced(identical, top1, why, reproduced):
    reasons = {"ncnn exact": {"from": "a", "why": why}} if why else {}
    assert machines.reproduced(contents(ARM, identical, top1, reasons), "ncnn exact") == reproduced
