# SPDX-License-Identifier: MIT
import numpy as np
import pytest

from calib.calibrators import MinMax
from calib.observers import MinMaxObserver
from calib.stability import (
    ChannelActivity,
    movements,
    never_active,
    silent_channels,
    stability_text,
    zero_channels,
)
from quantize.spec import QuantSpec


def observers(**largest):
    found = {}
    for path, value in largest.items():
        found[path] = {"minmax": MinMaxObserver()}
        found[path]["minmax"].update(np.float32([[0, value]]))
    return found


def test_movement_is_the_largest_distance_to_the_whole():
    specs = {"a": QuantSpec(8), "b": QuantSpec(8, signed=False), "c": QuantSpec(8)}
    found = movements([observers(a=4, b=10, c=2), observers(a=3, b=9.5, c=2)], observers(a=4, b=10, c=2), MinMax(),
                      specs)
    assert [item.path for item in found] == ["a", "b", "c"]
    assert [item.share for item in found] == pytest.approx([0.25, 0.05, 0], abs=1e-6)
    text = stability_text(found)
    assert "5.0% (median) and 25.0% (most)" in text
    assert "warning: a moves by 25%: 4 from all images, 4, 3 from parts" in text and "warning: b" not in text
    assert "warning: b" in stability_text(found, limit=0.04)
    assert "nothing" in stability_text([])


def test_inputs_that_never_were_active():
    assert never_active(observers(a=0, b=1)) == ["a"]


def test_channels_that_never_were_active():
    x = np.zeros((3, 5, 2, 2), np.float32)
    x[0, 1], x[2, 3, 1, 1], x[1, 4, 0, 0] = 1, -1, 2
    activity, parts = ChannelActivity(), [ChannelActivity(), ChannelActivity()]
    activity.update(x)
    assert activity.silent == [0, 2] and activity.samples == 3
    assert silent_channels({"a": {"activity": activity}}) == {"a": 2}
    parts[0].update(x[:1])
    parts[1].update(x[1:])
    empty = ChannelActivity()
    for part in parts:
        empty.merge(part)
    assert empty.state() == activity.state() == ChannelActivity.from_state(activity.state()).state()
    dense = ChannelActivity()
    dense.update(np.float32([[0, 1, 0]]))
    assert dense.silent == [0, 2]


def test_weights_that_are_all_zero():
    weight = np.ones((3, 2, 1, 1), np.float32)
    weight[1] = 0
    assert zero_channels({"a": weight, "b": weight + 1}, {"a": 0, "b": 0}) == {"a": 1}
    assert zero_channels({"a": weight}, {"a": 1}) == {}
