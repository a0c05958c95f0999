# SPDX-License-Identifier: MIT
"""The traps of reference/ncnn.md, section 4, each a clear error."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.table import Row, Table
from deploy.targets.ncnn.table import (
    NcnnScales,
    format_ncnn_table,
    from_ncnn,
    parse_ncnn_table,
    read_ncnn_table,
    to_ncnn,
    write_ncnn_table,
)
from quantize.errors import CalibrationError, QuantizeError

TEXT = "conv1_param_0 127.5 63.0 \nfc_param_0 20.25\nconv1 48.5\nfc 12.0\n"
SCALES = {"conv1": NcnnScales((127.5, 63.0), 48.5), "fc": NcnnScales((20.25,), 12.0)}
COUNTS = {"conv1": 2, "fc": 1}


def test_a_table_of_ncnn2table_is_read():
    assert parse_ncnn_table(TEXT, COUNTS) == SCALES
    assert parse_ncnn_table(TEXT.replace("\n", "\r\n"), COUNTS) == SCALES
    assert parse_ncnn_table(TEXT[:-1]) == SCALES


def test_written_tables_come_back(tmp_path):
    write_ncnn_table(tmp_path / "t", SCALES)
    assert read_ncnn_table(tmp_path / "t", COUNTS) == SCALES
    assert (tmp_path / "t").read_text() == TEXT.replace("63.0 ", "63.0")


def test_a_layer_without_an_input_line_stays_float():
    for text in (TEXT.replace("conv1 48.5\n", ""), TEXT.replace("conv1 48.5", "#conv1 48.5")):
        assert parse_ncnn_table(text, COUNTS)["conv1"] == NcnnScales((127.5, 63.0), None)
    assert format_ncnn_table({"conv1": NcnnScales((1.0,), None)}) == "conv1_param_0 1.0\n"


@pytest.mark.parametrize("old, new, says", [
    ("fc_param_0", "\nfc_param_0", "line 2: a blank line"),
    ("conv1 48.5\n", "conv1 48.5\n  \n", "line 4: a blank line"),
    ("conv1_param_0 ", "#conv1_param_0 ", "conv1 has an input scale, but no line conv1_param_0.*input line"),
    ("127.5 63.0 ", "127.5", "conv1 has 1 weight scales, the layer needs 2"),
    ("20.25", "20.25 20.25", "fc has 2 weight scales, the layer needs 1"), ("conv1 48.5", "conv1 48.5 3.0", "2 input"),
    ("fc", "fd", "fd is no layer"), ("48.5", "inf", "line 3 column 7: expected a scale above 0, got 'inf'"),
    ("127.5", "0.0", "line 1 column 15.*use 1.0"), ("63.0", "-63.0", "line 1 column 21"), ("48.5", "nan", "'nan'"),
    ("conv1 48.5", "conv1  48.5", "line 3 column 7"), ("conv1 48.5", " conv1 48.5", "column 1"),
    ("conv1 48.5", "conv1", "has no scales"), ("fc 12.0", "conv1 12.0", "line 4: conv1 comes twice"),
    ("conv1 48.5", "x" * 256 + " 1.0", "255 bytes"), ("conv1 48.5", "lstm_param_1 4.0", "several weights")])
def test_traps(old, new, says):
    with pytest.raises(CalibrationError, match=says):
        parse_ncnn_table(TEXT.replace(old, new) if old == "fc" else TEXT.replace(old, new, 1), COUNTS)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(TEXT) - 1), st.integers(0, 9), st.text(max_size=5))
def test_a_damaged_table_is_refused_or_complete(start, length, insert):
    try:
        found = parse_ncnn_table(TEXT[:start] + insert + TEXT[start + length:], COUNTS)
    except QuantizeError:
        return
    assert all(len(item.weight) == COUNTS[layer] for layer, item in found.items())


def test_to_and_from_our_table():
    table = Table((Row("0", "input", "kl-ncnn", 8, True, (127 / 48.5,)), Row("0", "weight", "mse", 6, True, (.5, 2.)),
                   Row("1", "input", "kl-ncnn", 8, True, (2.0,), enabled=False),
                   Row("1", "weight", "minmax", 8, True, (1.0,))))
    scales = to_ncnn(table.rows, {"0": "conv1", "1": "fc"})
    assert scales == {"conv1": NcnnScales((62.0, 15.5), 48.5), "fc": NcnnScales((127.0,), None)}
    ranges = from_ncnn(parse_ncnn_table(format_ncnn_table(scales)), {"conv1": "0", "fc": "1"}, {"conv1": 31})
    back = Table(tuple(Row(*found) for found in ranges))
    assert back.float_layers == ["1"]
    assert [(row.layer, row.tensor, row.bits) for row in back.rows] == [
        ("0", "input", 8), ("0", "weight", 6), ("1", "input", 8), ("1", "weight", 8)]
    assert back.rows[0].thresholds == pytest.approx((127 / 48.5,)) and back.rows[1].thresholds == (.5, 2.)


@pytest.mark.parametrize("row, says", [
    (Row("0", "input", "kl", 8, False, (1.0,)), "0 input: ncnn holds signed.*--input-signed true"),
    (Row("0", "input", "kl", 8, True, (1.0,), (3,)), "symmetric"), (Row("0", "input", "kl", 9, True, (1.0,)), "8 bits"),
    (Row("0", "input", "kl", 8, True, (1.0, 2.0)), "ncnn knows one"), (None, "0: no line for its input")])
def test_what_ncnn_cannot_hold(row, says):
    weight = Row("0", "weight", "minmax", 8, True, (1.0,))
    with pytest.raises(CalibrationError, match=says):
        to_ncnn((weight,) + ((row,) if row else ()), {"0": "conv1"})


def test_layers_of_another_network():
    with pytest.raises(CalibrationError, match="conv1: is no layer"):
        from_ncnn(SCALES, {"fc": "1"}, {})
    with pytest.raises(CalibrationError, match="0: no name for ncnn"):
        to_ncnn((Row("0", "input", "kl", 8, True, (1.0,)),), {})
