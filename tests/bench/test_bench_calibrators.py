# SPDX-License-Identifier: MIT
"""The benchmark of the calibrators works; how fast anything is decides nothing here."""

import pathlib
import subprocess
import sys

SCRIPT = pathlib.Path(__file__).resolve().parent / "bench_calibrators.py"


def run(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT)] + list(arguments), capture_output=True,
                          text=True)


def test_it_prints_every_search_and_observer():
    done = run("--layers", "1", "--values", "10000", "--skip-naive")
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines() if line]
    assert names.count("kl-ncnn") == names.count("kl-mxnet") == 2
    assert {"histogram", "minmax", "moments", "np.bincount", "np.histogram"} <= set(names)


def test_it_refuses_nonsense():
    done = run("--layers", "0")
    assert done.returncode == 2 and "--layers" in done.stderr and "Traceback" not in done.stderr
