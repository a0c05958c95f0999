# SPDX-License-Identifier: MIT
"""Damaged files of every format: only the project's errors come out, each in one line, and no memory is taken.

    python -m pytest -q -m slow tests/hostile/test_fuzz.py                    50,000 of each format
    PYTHONPATH=.:examples python -m tests.hostile.test_fuzz FIRST COUNT [FORMAT...]  these, with what went wrong

A mutant is made again by its number. What once failed is in `corpus.json` and is tried first.
"""

import base64
import collections
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings

import pytest

from quantize.errors import QuantizeError
from quantize.limits import memory_limit
from tests.hostile import fuzzing
from tests.hostile.fuzzing import generator
from tests.hostile.seeds import formats

QUICK, SLOW = 2000, 50_000
STEP = 1000  # of these at a time, when a run says how far it is
LIMIT = 2 ** 28
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # files on a disk take longer than to read them
CORPUS = pathlib.Path(__file__).resolve().parent / "corpus.json"
NAMES = ("params", "symbol", "onnx", "onnx external", "preprocessing", "npz", "image", "labels", "synset", "state",
         "table", "rules", "nni", "nni config", "simqat", "ncnn table", "ncnn param", "ncnn bin", "ir", "prototxt",
         "checkpoint", "optimizer", "qnet", "certificate", "verification", "deployment", "training", "rounding",
         "ini", "cells", "idx", "cifar", "image list")


def put(form, content, folder):
    """Write a file or a folder of them; its path."""
    if isinstance(content, bytes):
        (folder / form.name).write_bytes(content)
        return folder / form.name
    shutil.rmtree(str(folder / "of"), ignore_errors=True)
    for name, data in content.items():
        path = folder / "of" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder / "of"


def answer(form, content, folder):
    """(What came of a file: "read", "refused" or "failed"; what is wrong with that, "" where nothing is)."""
    path = put(form, content, folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            form.read(path)
    except QuantizeError as error:
        text = str(error)
        several = 1 + 50 * ("model" in text)  # a model's problems, a line for each
        short = len(text) < 4000 and text.count("\n") <= several
        return ("refused", "") if short else ("failed", f"long: {text[:300]}")
    except BaseException as error:
        where = [row for row in traceback.extract_tb(error.__traceback__) if "site-packages" not in row.filename]
        place = f"{where[-1].filename}:{where[-1].lineno}"
        return "failed", f"{type(error).__name__}: {str(error)[:200]} at {place}"
    return "read", ""


def answers(form, first, count, folder):
    """(How many damaged files were answered how, number -> what is wrong)."""
    counts, found = collections.Counter(), {}
    for number in range(first, first + count):
        what, text = answer(form, form.damage(generator(number)), folder)
        counts[what] += 1
        if text:
            found[number] = text
    return counts, found


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(dir=MEMORY) as made:
        yield pathlib.Path(made)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return formats(tmp_path_factory.mktemp("seeds"))


def test_every_format_is_tried(known):
    assert set(known) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_undamaged_file_is_read(known, name, folder):
    """Or the damage would be none: nine of ten mutants of some seed must not fail for the same reason.

    Eighty letters: forty may be advice, which is the same for all reasons."""
    said = {}
    with memory_limit(LIMIT):
        for number in range(60):
            try:
                known[name].read(put(known[name], known[name].damage(generator(number)), folder))
            except QuantizeError as error:
                text = "".join(letter for letter in str(error) if not letter.isdigit())[-80:]
                said[text] = said.get(text, 0) + 1
    assert max(said.values(), default=0) <= 54


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files(known, name, folder):
    with memory_limit(LIMIT):
        assert answers(known[name], 0, QUICK, folder)[1] == {}


@pytest.mark.parametrize("name", NAMES)
def test_texts_of_several_lines_are_quoted_in_one(known, name, folder, monkeypatch):
    """But where a model's problems are listed, each in a line of its own."""
    monkeypatch.setattr(fuzzing, "TEXTS", ("a\nb", "\n", "x\r\ny\nz", "\x1b[2J\n#"))
    with memory_limit(LIMIT):
        for number in range(60):
            try:
                known[name].read(put(known[name], known[name].damage(generator(number)), folder))
            except QuantizeError as error:
                lines = str(error).split("\n")
                assert len(lines) == 1 or lines[0].endswith("not a valid model:") and len(lines) <= 22, (number, lines)


def test_what_once_failed(known, folder):
    with memory_limit(LIMIT):
        for name, content in json.loads(CORPUS.read_text(encoding="utf-8")):
            files = base64.b64decode(content) if isinstance(content, str) else {
                path: base64.b64decode(part) for path, part in content.items()}
            assert answer(known[name], files, folder)[1] == "", name


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_at_length(known, name, folder):
    with memory_limit(LIMIT):
        assert answers(known[name], 10 ** 6, SLOW, folder)[1] == {}


def run(names, first, count):
    """Try damaged files, and say what came of it, a line for each format and each kind of fault.

    How far it is goes to standard error, so that a run which is cut has its figures.
    """
    with tempfile.TemporaryDirectory() as seeds, memory_limit(LIMIT):
        known = formats(pathlib.Path(seeds))
        for name in names or NAMES:
            started, counts, kinds = time.process_time(), collections.Counter(), set()
            with tempfile.TemporaryDirectory(dir=MEMORY) as work:
                for start in range(first, first + count, STEP):
                    more, found = answers(known[name], start, min(STEP, first + count - start), pathlib.Path(work))
                    counts += more
                    show_faults(found, kinds)
                    print(summary(name, first, counts, started), file=sys.stderr, flush=True)
            print(summary(name, first, counts, started), flush=True)


def summary(name, first, counts, started):
    """How many were tried since, and what came of them."""
    return (f"{name}: {sum(counts.values())} tried from {first} on, {counts['read']} read, "
            f"{counts['refused']} refused, {counts['failed']} failed, {time.process_time() - started:.0f} s")


def show_faults(found, kinds):
    """Print the first fault of each kind."""
    for number, reason in sorted(found.items()):
        kind = re.sub(r"\d|/(tmp|dev)\S*", "", reason)[-60:]
        if kind not in kinds:
            print(f"    {number}: {reason}", flush=True)
        kinds.add(kind)


if __name__ == "__main__":
    run(sys.argv[3:], int(sys.argv[1]), int(sys.argv[2]))
