# SPDX-License-Identifier: MIT
"""How far work is: bars on a terminal, few lines in a log; a comparison ends with the best."""

import io
import json
import sys

import numpy as np
import pytest

from gluon_quantize.commands.main import main
from gluon_quantize.commands.terminal import SECONDS, Lines, Terminal
from gluon_quantize.models.evaluation import Predictions
from gluon_quantize.report.calibration import comparison_text
from gluon_quantize.runs.calibration import Compared, Comparison


class Clock:
    """Seconds that pass when they are told to."""

    now = 100.0

    def __call__(self):
        return self.now


def test_lines_of_a_log_are_few_and_say_how_long_it_takes(capsys):
    clock = Clock()
    lines = Lines(100, "epoch 3", "step", clock)
    for _ in range(100):
        clock.now += 0.625
        lines.add(1, loss="0.5")
    lines.end()
    err = capsys.readouterr().err.splitlines()
    assert 62 / SECONDS - 2 < len(err) < 62 / SECONDS + 2
    assert err[0] == "epoch 3: 16/100 step, 16%, about 00:52 left, loss 0.5"
    assert err[-1] == "epoch 3: 100/100 step in 01:02"


def test_what_is_quick_says_nothing(capsys):
    terminal = Terminal()
    assert list(terminal.bar(range(5), "work")) == list(range(5))
    assert list(terminal.bar(iter("ab"), "work")) == ["a", "b"]
    with terminal.counter(3, "work", "image") as count:
        count(3, loss="1")
    assert capsys.readouterr() == ("", "")


def test_unknown_totals(capsys):
    clock = Clock()
    lines = Lines(None, "reading", "file", clock)
    clock.now += 11
    lines.add(4)
    assert capsys.readouterr().err == "reading: 4 file\n"


def test_a_terminal_gets_a_bar(monkeypatch):
    class Screen(io.StringIO):
        def isatty(self):
            return True
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    assert list(Terminal().bar(range(3), "work")) == [0, 1, 2]
    with Terminal().counter(3, "more", "image") as count:
        count(3)
    assert "work: 100%" in screen.getvalue() and "more" in screen.getvalue()


# ---- comparison


def predictions(*classes):
    return Predictions(np.array(classes)[:, None], np.array([0, 0, 1]), 1.0, 3)


def test_a_comparison_is_sorted_and_ends_with_the_best():
    rows = {name: Compared(predictions(*classes), {}, 1.0) for name, classes in (
        ("good", (0, 1, 1)), ("b equal", (0, 1, 1)), ("bad", (2, 2, 2)), ("lucky", (0, 0, 1)))}
    before = predictions(0, 1, 1)
    assert Comparison(rows, before, "good").ranking == ["bad", "lucky", "b equal", "good"]
    assert Comparison(rows, before, "bad").best == "b equal"
    text = comparison_text(Comparison(rows, before, "good")).splitlines()
    assert [line.split()[0] for line in text[3:]] == ["bad", "lucky", "b", "good", "best:"] and text[-1] == "best: good"


@pytest.mark.parametrize("chosen, taken", [((), None), (("--calib-mode", "kl-predecessor"), "kl-predecessor")])
def test_the_run_ends_with_the_best_unless_another_is_named(tmp_path, capsys, chosen, taken):
    assert main(["simulate", "--model", "digits_lenet", "-j", "1", "--input-bits", "3", "--compare-calibrators",
                 "--output", str(tmp_path), *chosen]) == 0
    out = capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    best = out.split("\nbest: ")[1].split()[0]
    assert result["calibration"]["method"] == (taken or best) and f"Thresholds by {taken or best}, " in out
    counts = {name: row["agreement_count"] for name, row in result["comparison"].items()}
    assert counts[best] == max(counts.values())
    assert result["agreement_count"] == counts[taken or best]
