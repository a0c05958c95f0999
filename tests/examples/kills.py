# SPDX-License-Identifier: MIT
"""Processes that are killed while they replace a folder: afterwards it is whole, the old one or the new one.

    PYTHONPATH=.:examples python tests/examples/kills.py "exchange" 500

A script of its own, since it forks, which a process with MXNet in it does not like.
"""

import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import time

from gluon_quantize.runs import outputs
from gluon_quantize.runs.ownership import manifest

WAYS = ("exchange", "two renames")
FILES = [f"file{number}" for number in range(12)]
LONGEST = 0.15  # seconds until the kill: some come too late


def replace_folder(folder, number):
    """A small deployment with --force; each of its files says its number."""
    with outputs.reserved(folder, True), outputs.staged(folder, True) as made:
        for name in FILES:
            (made / name).write_text(str(number))
            time.sleep(0.001)
        (made / "result.json").write_text(json.dumps({"accuracy": {}, "files": FILES}))


def number_of(folder):
    """The one number that all files of a whole folder say."""
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "result.json"])
    assert manifest(folder) >= set(FILES)
    numbers = {(folder / name).read_text() for name in FILES}
    assert len(numbers) == 1, numbers
    return int(numbers.pop())


def killed(folder, number, seconds):
    """Replace the folder in a process that is killed after so long; whether it was killed before it was done."""
    process = os.fork()
    if not process:
        try:
            replace_folder(folder, number)
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr)
        os._exit(1)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)


def main(way, tries):
    """Kill so often; says how many folders were whole afterwards. An AssertionError for the first that was not."""
    if way == WAYS[1]:
        outputs.exchange = lambda one, other: False
    with tempfile.TemporaryDirectory() as place:
        folder, moments = pathlib.Path(place) / "out", random.Random(7)
        replace_folder(folder, 0)
        died = 0
        for number in range(1, tries + 1):
            before = number_of(folder)
            died += killed(folder, number, moments.uniform(0, LONGEST))
            outputs.check_new(folder, True)  # what the next start does first
            assert number_of(folder) in (before, number)
        with outputs.reserved(folder, True):
            pass
        assert [path.name for path in pathlib.Path(place).iterdir()] == ["out"]
    print(f"{tries} tried, {died} killed before they were done, {tries} folders whole")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
