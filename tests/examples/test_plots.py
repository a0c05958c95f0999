# SPDX-License-Identifier: MIT
"""The pictures show what they are given."""

import numpy as np
import pytest

from gluon_quantize.report import plots


@pytest.fixture
def axes():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots()
    yield axes
    pyplot.close(figure)


def test_confusion_matrix():
    matrix = plots.confusion_matrix([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 2, 0], 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


def test_confusion_shows_the_numbers_and_the_errors_only_in_colour(axes):
    plots.confusion(axes, np.array([[7, 2], [0, 5]]), "a title")
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "7", (1, 0): "2", (1, 1): "5"}
    assert axes.images[0].get_array().tolist() == [[0, 2], [0, 0]] and axes.get_title() == "a title"


@pytest.mark.parametrize("values, lines", [([-1.0, 0.5, 2.0], [1.5, -1.5, 2.0, -2.0]), ([0.5, 2.0], [1.5, 2.0])])
def test_distribution_marks_the_thresholds(axes, values, lines):
    plots.distribution(axes, np.array(values), {"a": 1.5, "b": 2.0}, "")
    assert [line.get_xdata()[0] for line in axes.lines] == lines
    assert [text.get_text() for text in axes.get_legend().texts] == ["a 1.5", "b 2"]


def test_layer_bars_start_on_top(axes):
    plots.layer_bars(axes, {"first": 3.0, "second": 1.0}, "dB")
    assert [bar.get_width() for bar in axes.patches] == [3.0, 1.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"] and axes.yaxis_inverted()
