# SPDX-License-Identifier: MIT
"""Nothing is lost when processes are killed, disks are full, or two write to one folder; see `losses.py`."""

import os
import pathlib
import re
import resource
import signal
import subprocess
import sys

import pytest

from gluon_quantize.runs.lock import locked
from quantize.errors import DataError

ROOT = pathlib.Path(__file__).resolve().parents[2]
SLOW = pytest.mark.slow


@pytest.mark.parametrize("kind, tries", [
    ("killed files", 40), ("two at once", 10), pytest.param("killed files", 2000, marks=SLOW),
    pytest.param("two at once", 300, marks=SLOW), pytest.param("full disk", 600, marks=SLOW),
    pytest.param("killed trainings", 20, marks=SLOW), pytest.param("killed deployments", 15, marks=SLOW),
    pytest.param("killed calibrations", 120, marks=SLOW)])
def test_nothing_is_lost(kind, tries):
    path = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "tests.hostile.losses", kind, str(tries)], cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{kind}: {tries} tried, {tries} survived" in done.stdout


@pytest.mark.parametrize("count", [60, pytest.param(6000, marks=SLOW)])
def test_the_engine_lives_with_what_the_readers_let_pass(count):
    pytest.importorskip("ncnn")
    path = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "tests.hostile.engine", "0", str(count)], cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(f"{count} tried from 0 on: computed [1-9]", done.stdout)


@pytest.mark.parametrize("count", [1000, pytest.param(50_000, marks=SLOW)])
def test_no_node_of_an_onnx_file_ends_the_process(count):
    path = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "tests.hostile.nodes", "0", str(count)], cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{count} tried from 0 on" in done.stdout


def test_a_lock_that_does_not_fit_on_the_disk_is_nobodys(tmp_path):
    path, before = tmp_path / ".out.lock", resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(DataError, match="out: cannot be written: File too large") as caught, locked(path, "out"):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not path.exists()
    with locked(path, "out"):  # while the error, and what it refers to, is still there
        assert path.read_text().strip() == str(os.getpid())
    assert caught.value
