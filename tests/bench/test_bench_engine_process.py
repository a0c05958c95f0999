# SPDX-License-Identifier: MIT
"""The benchmark of the engine's own process runs, and its ratio is that of its rows."""

import pathlib
import re
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).resolve().with_name("bench_engine_process.py")


def run(*options):
    return subprocess.run([sys.executable, "-m", "tests.bench.bench_engine_process", *options], capture_output=True,
                          text=True, cwd=str(SCRIPT.parent.parent.parent), check=False)


def test_rows_and_ratio():
    pytest.importorskip("ncnn")
    done = run("--network", "mobilenet0.25", "--size", "32", "--images", "2", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    title, here, apart, share, started = done.stdout.splitlines()
    assert title == "mobilenet0.25, 2 images of 32x32, 29 blobs, median of 1 rounds"
    one, other, ratio = (float(number) for row in (here, apart) for number in re.findall(r" ([\d.]+)", row))
    assert ratio == pytest.approx(other / one, rel=0.1)
    assert re.search(r"[+-] *[\d.]+ %", share) and started.startswith("start and load")


def test_refuses():
    done = run("--rounds", "0")
    assert done.returncode == 2 and "--rounds" in done.stderr and "Traceback" not in done.stderr
