# SPDX-License-Identifier: MIT
import json

import numpy as np
import pytest

from calib.observers import EMAObserver, HistogramObserver, MinMaxObserver, MomentsObserver
from calib.stability import ChannelActivity
from calib.state import CalibrationState, merge_states, read_state, write_state
from calib.table import data_fingerprint
from quantize.errors import CalibrationError, DataError

EXACT = (HistogramObserver, MinMaxObserver, MomentsObserver, ChannelActivity)
IMAGES = np.maximum(np.random.RandomState(0).randn(40, 6, 4, 4), -1).astype(np.float32)


def state_of(indices, shards=1, have=(0,), kinds=EXACT, batch=8, **changes):
    observers = {}
    for path in ("0.input_quantizer", "3.input_quantizer"):
        observers[path] = {kind.name: kind() for kind in kinds}
        for start in range(0, len(indices), batch):
            for observer in observers[path].values():
                observer.update(IMAGES[indices[start:start + batch]])
    return CalibrationState(**dict(dict(
        observers=observers, network="n1", settings={"dataset": "digits"}, samples=len(indices), shards=shards,
        data=data_fingerprint(map(str, indices)), have=have), **changes))


def shards_of(count, **options):
    return [(f"s{i}", state_of(np.arange(40)[i::count], count, (i,), **options)) for i in range(count)]


@pytest.mark.parametrize("count, batch, order", [(4, 1, 1), (4, 64, -1), (3, 7, -1), (1, 40, 1)])
def test_shards_in_any_order_give_the_bytes_of_one_process(tmp_path, count, batch, order):
    write_state(tmp_path / "whole", state_of(np.random.RandomState(1).permutation(40)))
    for name, state in shards_of(count, batch=batch):
        write_state(tmp_path / name, state)
    parts = [(name, read_state(tmp_path / name)) for name, _ in shards_of(count)][::order]
    write_state(tmp_path / "merged", merge_states(parts))
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes()


def test_merging_leaves_the_parts_alone_and_can_go_on():
    parts = shards_of(4)
    before = [state.observers["0.input_quantizer"]["histogram"].state() for _, state in parts]
    half = merge_states(parts[:2])
    assert not half.complete and half.missing == (2, 3)
    whole = merge_states([("half", half)] + parts[2:])
    assert whole.complete and whole.samples == 40 and whole.data == state_of(np.arange(40)).data
    assert [state.observers["0.input_quantizer"]["histogram"].state() for _, state in parts] == before


def test_moving_averages_merge_alike_in_any_order():
    parts = shards_of(4, kinds=(EMAObserver,))
    states = [merge_states(order).observers["0.input_quantizer"]["ema"].state() for order in (parts, parts[::-1])]
    assert states[0] == states[1]


@pytest.mark.parametrize("changes, says", [
    ({"network": "n2"}, "s1: the state is of another network than s0"),
    ({"settings": {"dataset": "mnist"}}, "s1: made with dataset 'mnist', but s0 with 'digits'"),
    ({"settings": {"dataset": "digits", "passes": 3}}, "passes 3, but s0 with None"),
    ({"kinds": (MinMaxObserver,)}, "s1: 0.input_quantizer holds other observers \\(minmax\\) than s0 \\(activity"),
    ({"shards": 5}, "s1: one of 5 shards, but s0 is one of 4"), ({"have": (0,)}, "s0 and s1: both hold shard 1/4")])
def test_states_that_do_not_fit_are_refused(changes, says):
    options = dict({"shards": 4, "have": (1,)}, **changes)
    with pytest.raises(CalibrationError, match=says):
        merge_states([shards_of(4)[0], ("s1", state_of(np.arange(40)[1::4], **options))])


def test_nothing_to_merge():
    with pytest.raises(CalibrationError, match="no states"):
        merge_states([])


@pytest.fixture
def written(tmp_path):
    write_state(tmp_path / "state", state_of(np.arange(40)))
    return tmp_path / "state"


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(written, part):
    text = written.read_text()
    written.write_text(text[:int(len(text) * part)])
    with pytest.raises(CalibrationError, match="state: not a whole calibration state"):
        read_state(written)


@pytest.mark.parametrize("change, says", [
    (lambda c: c.update(samples=41), "checksum"), (lambda c: c.pop("network"), "not a calibration state"),
    (lambda c: c.update(version=9), "version 9, this program reads version 1"),
    (lambda c: c["observers"]["3.input_quantizer"]["minmax"].update(high=9.0), "checksum")])
def test_a_changed_file_is_refused(written, change, says):
    content = json.loads(written.read_text())
    change(content)
    written.write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match=says):
        read_state(written)


@pytest.mark.parametrize("text", ["[]", "3", "{}", "[" * 100000, '{"a": NaN}', "\x00"])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "x").write_text(text)
    with pytest.raises(CalibrationError, match="x: not a"):
        read_state(tmp_path / "x")
    with pytest.raises(DataError, match="absent"):
        read_state(tmp_path / "absent")


@pytest.mark.parametrize("state", [{"observer": "activity"}, {"observer": "activity", "samples": 1, "channels": 2,
                                                              "silent": [True]}, {}])
def test_damaged_activity_is_refused(state):
    with pytest.raises(CalibrationError, match="not the state of an activity observer"):
        ChannelActivity.from_state(state)
