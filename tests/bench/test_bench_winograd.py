# SPDX-License-Identifier: MIT
"""The benchmark of the Winograd domain works; how fast anything is decides nothing here."""

import pathlib
import re
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parent / "bench_winograd.py"


@pytest.mark.parametrize("backend", ["composed", "native"])
def test_rows_and_ratios(backend):
    from quantize.ops import native
    if backend == "native" and native.why_not():
        pytest.skip(native.why_not())
    done = subprocess.run([sys.executable, str(SCRIPT), "--shapes", "16,16,40", "--networks", "--rounds", "1",
                           "--batch-size", "8", "--variants", "F43", "--backend", backend],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [re.split("  +", line.strip()) for line in done.stdout.splitlines()[3:]]
    variants = ["float", "direct"] + [f"{variant}/{rest}" for variant in ("F43",) for rest in (
        "channel weights", "position weights", "position inputs")]
    assert [row[:3] for row in rows] == [["16x40x40 to 16", variant, backend] for variant in variants]
    for row in rows:
        for cell, reference in zip(row[4:], (rows[1], rows[0])):
            assert float(cell) == pytest.approx(float(row[3]) / float(reference[3]), abs=0.02, rel=0.1)
