# SPDX-License-Identifier: MIT
"""Processes that are killed while they replace a folder, see `kills.py`."""

import pathlib
import re
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parent / "kills.py"


@pytest.mark.parametrize("way", ["exchange", "two renames"])
@pytest.mark.parametrize("tries", [25, pytest.param(500, marks=pytest.mark.slow)])
def test_the_folder_is_whole_whenever_the_process_dies(way, tries):
    done = subprocess.run([sys.executable, str(SCRIPT), way, str(tries)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    died, whole = map(int, re.search(r"(\d+) killed before they were done, (\d+) folders whole", done.stdout).groups())
    assert whole == tries and died > tries // 10
