# SPDX-License-Identifier: MIT
"""The blocks of the pages run, in order, in a fresh folder for each page, and print what the page says.

A ``text`` block behind a block is part of its output: its lines follow one another there, ``...`` stands for any
lines or words, and numbers may differ by two percent (other processors round differently). A block whose first line is
``# not run in the tests: REASON`` is not run; the options it gives to ``gluon-quantize`` must exist all the same.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys

import pytest

from gluon_quantize.commands.main import COMMANDS, main, module_of
from tests.docs.pages import PAGES, ROOT, blocks, name_of, prose

RUNNABLE = ("python", "sh")
WITH_BLOCKS = [page for page in PAGES if any(block.language in RUNNABLE for block in blocks(page))]
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def commands(text):
    """The command lines of a ``sh`` block, continuations joined, comments left out."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


def run_shell(line):
    """Standard output of one command line; ``gluon-quantize`` runs in this process, which spares it MXNet's start."""
    words = shlex.split(line, comments=True)
    if words[0] == "gluon-quantize" and not {"|", ">", "<", "&&"} & set(words):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words[1:])
        assert code == 0, f"{line}\nexit code {code}\n{err.getvalue()}"
        return out.getvalue()
    # `python` is this one, which sees the tree
    command = f'gluon-quantize() {{ "{sys.executable}" -m gluon_quantize "$@"; }}; set -o pipefail; {line}'
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "examples")]),
                       PATH=os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\nexit code {done.returncode}\n{done.stderr}"
    return done.stdout


def run_python(text, namespace, where):
    """Standard output of a block; names that it defines stay for the blocks that follow."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(text, where, "exec"), namespace)
    return out.getvalue()


def alike(expected, actual):
    """Whether two lines have the same words, and numbers that differ by two percent at most."""
    return _match(expected.split(), actual.split())


def _match(expected, actual):
    if not expected:
        return not actual
    if expected[0] == "...":
        return any(_match(expected[1:], actual[start:]) for start in range(len(actual) + 1))
    return bool(actual) and _alike_words(expected[0], actual[0]) and _match(expected[1:], actual[1:])


def _alike_words(expected, actual):
    if set(expected) | set(actual) <= set("-|:"):
        return True  # rules of tables
    if _NUMBER.sub("0", expected) != _NUMBER.sub("0", actual):
        return False
    pairs = zip(*([float(number.replace(",", "")) for number in _NUMBER.findall(word)] for word in (expected, actual)))
    return all(abs(first - second) <= 0.02 * max(abs(first), abs(second)) for first, second in pairs)


def missing(expected, actual):
    """The first lines of `expected` that do not follow in `actual`, an empty string where all do."""
    left = [line for line in actual.splitlines() if line.strip()]
    for part in re.split(r"^ *\.\.\. *\n?", expected, flags=re.MULTILINE):
        wanted = [line for line in part.splitlines() if line.strip()]
        starts = (start for start in range(len(left) - len(wanted) + 1)
                  if all(map(alike, wanted, left[start:start + len(wanted)])))
        start = next(starts, None)
        if start is None:
            return part
        left = left[start + len(wanted):]
    return ""


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=name_of)
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for block in blocks(page):
        if block.language not in RUNNABLE or block.reason is not None:
            continue
        where = f"{name_of(page)}:{block.line}"
        if block.language == "python":
            out = run_python(block.text, namespace, where)
        else:
            out = "".join(run_shell(line) for line in commands(block.text))
        if block.output is not None:
            lacking = missing(block.output, out)
            if lacking:
                pytest.fail(f"{where} does not print\n{lacking}\nbut\n{out[-4000:]}", pytrace=False)


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=name_of)
def test_blocks_that_do_not_run_have_a_reason_and_options_that_exist(page):
    for block in blocks(page):
        if block.reason is None:
            continue
        assert block.reason, f"{name_of(page)}:{block.line}"
        if block.language == "python":
            compile(block.text, f"{name_of(page)}:{block.line}", "exec")
            continue
        for line in commands(block.text):
            words = shlex.split(line, comments=True)
            if words[0] == "gluon-quantize" and words[1] in COMMANDS:
                module_of(words[1]).build_parser().parse_args(words[2:])


@pytest.mark.parametrize("expected, actual, found", [
    ("a 1.00\n...\nc\n", "x\na 1.01\nb\nc\n", True), ("a 1.00\nc\n", "a 1.00\nb\nc\n", False),
    ("a 1.00\n", "a 1.03\n", False), ("size 1,000:\n", "size   1,001:\n", True), ("a\n", "ab\n", False),
    ("| a |\n|---|\n", "| a |\n|-----|\n", True), ("a ... d\n", "a b c d\n", True), ("a ... d\n", "a b c\n", False),
    ("...\nb\n", "b\na\n", True), ("a\n...\nb\n", "b\na\n", False)])
def test_output_is_compared(expected, actual, found):
    assert (missing(expected, actual) == "") == found


# ---- measured pages abbreviate commands: "`S` stands for `gluon-quantize simulate`"

PLACEHOLDERS = {"METHOD": "ste", "MODE": "kl", "CORRECTION": "parallel", "N": "4", "W": "4"}
MEASURED = [page for page in PAGES if "measured" in page.parts]


def abbreviated(page):
    """Word lists of the abbreviated commands of a page."""
    text = prose(page)
    meaning = dict(re.findall(r"`([A-Z])`(?:\s+stands)?(?:\s+for|\s+is)?\s+`([^`]+)`", text))
    for command in re.findall(r"`([A-Z] [^`]+)`", text):
        words = command.split()
        while any(word in meaning for word in words):
            words = [part for word in words for part in meaning.get(word, word).split()]
        yield [PLACEHOLDERS.get(word, word) for word in words]


@pytest.mark.parametrize("page", MEASURED, ids=name_of)
def test_measured_commands_have_options_that_exist(page):
    for words in abbreviated(page):
        assert words[:1] == ["gluon-quantize"] and words[1] in COMMANDS, words
        module_of(words[1]).build_parser().parse_args(words[2:] + ["--output", "out"])


def test_there_are_measured_commands():
    assert sum(len(list(abbreviated(page))) for page in MEASURED) > 20
