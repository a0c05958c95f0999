# SPDX-License-Identifier: MIT
"""The benchmarks work; how fast anything is decides nothing here."""

import pathlib
import re
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).resolve().parent


def run(script, *arguments):
    return subprocess.run([sys.executable, str(FOLDER / script)] + list(arguments), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True)


def test_simulation():
    names = ["mobilenet0.25", "cifar_resnet20_v1"]
    done = run("bench_simulation.py", "--networks", *names, "--rounds", "1", "--batch-size", "2")
    assert done.returncode == 0, done.stderr
    title, _, *rows = done.stdout.splitlines()
    assert title == "2 images per batch, 1 threads, median of 1 rounds"
    assert [row.split()[0] for row in rows] == names
    for row in rows:
        fast, simulated, online, ratio, online_ratio = (float(number) for number in row.split()[1:])
        assert 0 < fast and ratio == pytest.approx(simulated / fast, rel=0.1)
        assert online_ratio == pytest.approx(online / fast, rel=0.1)


@pytest.mark.parametrize("arguments", [("--rounds", "0"), ("--batch-size", "none")])
def test_simulation_refuses(arguments):
    done = run("bench_simulation.py", *arguments)
    assert done.returncode == 2 and re.search("error: .*{}".format(arguments[0]), done.stderr)
    assert "Traceback" not in done.stderr


def test_simulation_help():
    done = run("bench_simulation.py", "--help")
    assert done.returncode == 0
    assert {"--networks", "--rounds", "--batch-size", "--threads"} <= set(re.findall("--[a-z-]+", done.stdout))
