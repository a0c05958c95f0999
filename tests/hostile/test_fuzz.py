# SPDX-License-Identifier: MIT
"""Damaged files of every format: only the project's errors come out, each in one line, and no memory is taken.

    python -m pytest -q -m slow tests/hostile/test_fuzz.py         50,000 of each format
    python -m tests.hostile.test_fuzz FORMAT FIRST COUNT           these alone, with what went wrong

A mutant is made again by its number. What once failed is in `corpus/` and is tried first.
"""

import base64
import json
import pathlib
import sys
import tempfile
import traceback
import warnings

import pytest

from quantize.errors import QuantizeError
from quantize.limits import memory_limit
from tests.hostile.fuzzing import generator
from tests.hostile.seeds import formats

QUICK, SLOW = 240, 50_000  # the quick number is divided by what a format costs
LIMIT = 2 ** 28
CORPUS = pathlib.Path(__file__).resolve().parent / "corpus.json"
NAMES = ("params", "symbol", "onnx", "preprocessing", "npz", "image", "labels", "synset", "state", "table",
         "ncnn table", "ncnn param", "ncnn bin", "ir", "rules", "nni", "prototxt")


def fault(form, content, folder):
    """What is wrong with how a file is answered; "" where nothing is."""
    path = folder / form.name
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            form.read(path)
    except QuantizeError as error:
        text = str(error)
        return "" if len(text) < 4000 and text.count("\n") <= 1 + 50 * (form.name == "m.ir") else f"long: {text[:300]}"
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
            path = tmp_path / known[name].name
            path.write_bytes(known[name].damage(generator(number)))
            try:
                known[name].read(path)
            except QuantizeError as error:
                text = "".join(letter for letter in str(error) if not letter.isdigit())[-40:]
                said[text] = said.get(text, 0) + 1
    assert max(said.values(), default=0) <= 54


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files(known, name, tmp_path):
    with memory_limit(LIMIT):
        assert faults(known[name], 0, max(QUICK // known[name].cost, 12), tmp_path) == {}


def test_what_once_failed(known, tmp_path):
    with memory_limit(LIMIT):
        for name, content in json.loads(CORPUS.read_text(encoding="utf-8")):
            assert fault(known[name], base64.b64decode(content), tmp_path) == "", name


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_at_length(known, name, tmp_path):
    with memory_limit(LIMIT):
        assert faults(known[name], 10 ** 6, SLOW, tmp_path) == {}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as seeds, tempfile.TemporaryDirectory() as work, memory_limit(LIMIT):
        chosen = formats(pathlib.Path(seeds))[sys.argv[1]]
        for mutant, reason in faults(chosen, int(sys.argv[2]), int(sys.argv[3]), pathlib.Path(work)).items():
            print(mutant, reason)
