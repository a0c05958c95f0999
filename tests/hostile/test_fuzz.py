# SPDX-License-Identifier: MIT
"""Damaged files of every format: only the project's errors come out, each in one line, and no memory is taken.

    python -m pytest -q -m slow tests/hostile/test_fuzz.py                    50,000 of each format
    PYTHONPATH=.:examples python -m tests.hostile.test_fuzz FIRST COUNT [FORMAT...]  these, with what went wrong

A mutant is made again by its number. What once failed is in `corpus/` and is tried first.
"""

import base64
import json
import pathlib
import re
import shutil
import sys
import tempfile
import traceback
import warnings

import pytest

from quantize.errors import QuantizeError
from quantize.limits import memory_limit
from tests.hostile.fuzzing import generator
from tests.hostile.seeds import formats

QUICK, SLOW = 2000, 50_000
LIMIT = 2 ** 28
CORPUS = pathlib.Path(__file__).resolve().parent / "corpus.json"
NAMES = ("params", "symbol", "onnx", "onnx external", "preprocessing", "npz", "image", "labels", "synset", "state",
         "table", "rules", "nni", "nni config", "simqat", "ncnn table", "ncnn param", "ncnn bin", "ir", "prototxt",
         "checkpoint", "optimizer", "qnet", "certificate", "verification", "deployment", "training", "rounding")


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


def fault(form, content, folder):
    """What is wrong with how a file is answered; "" where nothing is."""
    path = put(form, content, folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            form.read(path)
    except QuantizeError as error:
        text = str(error)
        several = 1 + 50 * ("model" in text)  # a model's problems, a line for each
        return "" if len(text) < 4000 and text.count("\n") <= several else f"long: {text[:300]}"
    except BaseException as error:
        where = [row for row in traceback.extract_tb(error.__traceback__) if "site-packages" not in row.filename]
        return f"{type(error).__name__}: {str(error)[:200]} at {where[-1].filename}:{where[-1].lineno}"
    return ""


def faults(form, first, count, folder):
    """Number -> fault of damaged files."""
    found = {}
    for number in range(first, first + count):
        text = fault(form, form.damage(generator(number)), folder)
        if text:
            found[number] = text
    return found


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return formats(tmp_path_factory.mktemp("seeds"))


def test_every_format_is_tried(known):
    assert set(known) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_undamaged_file_is_read(known, name, tmp_path):
    """Or the damage would be none: nine of ten mutants of some seed must not fail for the same reason."""
    said = {}
    with memory_limit(LIMIT):
        for number in range(60):
            try:
                known[name].read(put(known[name], known[name].damage(generator(number)), tmp_path))
            except QuantizeError as error:
                text = "".join(letter for letter in str(error) if not letter.isdigit())[-40:]
                said[text] = said.get(text, 0) + 1
    assert max(said.values(), default=0) <= 54


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files(known, name, tmp_path):
    with memory_limit(LIMIT):
        assert faults(known[name], 0, QUICK, tmp_path) == {}


def test_what_once_failed(known, tmp_path):
    with memory_limit(LIMIT):
        for name, content in json.loads(CORPUS.read_text(encoding="utf-8")):
            files = base64.b64decode(content) if isinstance(content, str) else {
                path: base64.b64decode(part) for path, part in content.items()}
            assert fault(known[name], files, tmp_path) == "", name


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_at_length(known, name, tmp_path):
    with memory_limit(LIMIT):
        assert faults(known[name], 10 ** 6, SLOW, tmp_path) == {}


def run(names, first, count):
    """Try damaged files, and say what came of it, a line for each format and each kind of fault."""
    with tempfile.TemporaryDirectory() as seeds, tempfile.TemporaryDirectory() as work, memory_limit(LIMIT):
        known = formats(pathlib.Path(seeds))
        for name in names or NAMES:
            found = faults(known[name], first, count, pathlib.Path(work))
            print(f"{name}: {count} tried, {len(found)} failed", flush=True)
            kinds = {re.sub(r"\d|/tmp\S*", "", reason)[-60:]: number for number, reason in found.items()}
            for number in sorted(kinds.values()):
                print(f"    {number}: {found[number]}", flush=True)


if __name__ == "__main__":
    run(sys.argv[3:], int(sys.argv[1]), int(sys.argv[2]))
