# SPDX-License-Identifier: MIT
"""What a training says: where it began, a picture that can be read, a table."""

import csv
import json

import numpy as np
import pytest

import train_qat
from gluon_quantize.report.curves import draw

SHORT = ("--model", "digits_lenet", "--batch-size", "64", "--num-train-images", "256", "--num-images", "64", "--epochs",
         "2", "--weight-bits", "4", "--input-bits", "4", "--output")


def test_where_it_began_is_said_before_the_first_epoch(tmp_path, capsys):
    assert train_qat.main([*SHORT, str(tmp_path), "--no-plots", "--csv"]) == 0
    out = capsys.readouterr().out
    assert out.index("before     float        Top-1 100.00%") < out.index("before     calibrated   Top-1 ") < out.index(
        "epoch   0")
    log, result = (json.loads((tmp_path / name).read_text()) for name in ("log.json", "result.json"))
    assert log["before"] == result["before"] and set(log["before"]) == {"float", "calibrated"}
    assert log["before"]["float"]["top1"] == 1 and log["before"]["calibrated"]["images"] == 64
    rows = list(csv.DictReader((tmp_path / "epochs.csv").open()))
    assert [float(row["loss"]) for row in rows] == [record["loss"] for record in log["epochs"]]
    assert list(rows[0])[:2] == ["epoch", "loss"] and "range.features.4.input_quantizer" in rows[0]
    # a run that goes on remembers it
    assert train_qat.main([*SHORT, str(tmp_path), "--no-plots", "--resume", "-v"]) == 0
    assert "before     float        Top-1 100.00%" in capsys.readouterr().out


def test_random_weights_and_later_starts_have_nothing_to_compare(tmp_path, capsys):
    for name, options, said in (("random", ("--from-scratch",), []), ("later", ("--float-epochs", "1"), ["float"]),
                                ("float", ("--method", "float"), ["float"])):
        assert train_qat.main([*SHORT, str(tmp_path / name), "--no-plots", *options]) == 0
        out = capsys.readouterr().out
        assert [line.split()[1] for line in out.splitlines() if line.startswith("before ")] == said


def history(epochs, layers):
    ranges = {f"stage{n // 9}.unit{n}.body.0.{kind}_quantizer": n for n in range(layers)
              for kind in ("input", "weight")}
    return [dict({name: 0.5 for name in ("loss", "top1", "f1", "informedness")}, epoch=epoch,
                 ranges={path: 0.1 + n + epoch for path, n in ranges.items()}) for epoch in range(epochs)]


@pytest.mark.parametrize("epochs, layers", [(1, 3), (1, 0), (40, 60), (2, 120)])
def test_the_picture_can_be_read(epochs, layers):
    """Each epoch has a mark, each layer a name, and no name touches another."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure = draw(history(epochs, layers), {"float": {"top1": 0.9}, "calibrated": None})
    figure.canvas.draw()
    losses, scores, *ranges = figure.axes
    assert len(losses.lines[0].get_xdata()) == epochs and losses.lines[0].get_marker() == "o"
    assert [text.get_text() for text in scores.get_legend().get_texts()] == ["top1", "f1", "informedness",
                                                                             "top1, float"]
    assert all(float(tick) == int(tick) for tick in losses.get_xticks()) and len(ranges) == (2 if layers else 0)
    for axes in ranges:
        boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
        assert len(boxes) == layers and all(label.get_fontsize() >= 7 for label in axes.get_yticklabels())
        assert all(upper.y0 >= lower.y1 - 1 for upper, lower in zip(boxes, boxes[1:]))
        assert min(box.x0 for box in boxes) >= 0 and axes.get_window_extent().width > 150
    pyplot.close(figure)


def test_missing_ranges_are_left_out():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    records = history(2, 2)
    records[0]["ranges"] = {}
    records[1]["ranges"]["stage0.unit1.body.0.input_quantizer"] = np.nan
    pyplot.close(draw(records, {}))
