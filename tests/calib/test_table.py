# SPDX-License-Identifier: MIT
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.table import (
    MAGIC,
    Row,
    Table,
    add_fingerprints,
    data_fingerprint,
    parse_table,
    read_table,
    row_of,
    write_table,
)
from quantize.errors import CalibrationError, DataError, QuantizeError
from quantize.spec import PerChannel, QParams, QuantSpec

ROWS = (Row("features.0", "input", "kl-ncnn", 8, True, (2.64,), (), 200, "5be1f0c2a91d77e0"),
        Row("features.0", "weight", "minmax", 8, True, (0.5, 0.25), (), 200, "5be1f0c2a91d77e0"),
        Row("features.3", "input", "mse", 4, False, (5.25,), (3,), 200, "-", False))
TABLE = Table(ROWS)
TEXT = """calibration-table 1
# layer tensor method bits sign samples data zero_point threshold...
features.0 input kl-ncnn 8 signed 200 5be1f0c2a91d77e0 - 2.64
features.0 weight minmax 8 signed 200 5be1f0c2a91d77e0 - 0.5 0.25
#features.3 input mse 4 unsigned 200 - 3 5.25
end 3
"""


def test_the_text_is_the_documented_one_and_comes_back(tmp_path):
    assert str(TABLE) == TEXT and parse_table(TEXT) == TABLE
    write_table(tmp_path / "t", TABLE)
    assert (tmp_path / "t").read_bytes() == TEXT.encode() and read_table(tmp_path / "t") == TABLE
    assert TABLE.float_layers == ["features.3"]


def test_people_may_edit_it():
    edited = TEXT.replace("#features.3", "  #  features.3").replace(" input", "\t input ").replace("\n", "\r\n")
    edited = edited.replace("end 3", "\r\n# a remark\r\n# input\r\nend  3\r\n")
    assert parse_table(edited) == TABLE
    assert parse_table(TEXT.replace("features.0 i", "# features.0 i")).float_layers == ["features.0", "features.3"]


@pytest.mark.parametrize("old, new, says", [
    (MAGIC, "calibration-table 2", "line 1: not a calibration table"),
    ("kl-ncnn 8 signed", "kl-ncnn 17 signed", "line 3 column 26: expected a whole number from 1 to 16, got '17'"),
    ("kl-ncnn 8 signed", "kl-ncnn eight signed", "line 3 column 26.*'eight'"),
    ("8 signed 200 5be1f0c2a91d77e0 - 2.64", "8 sined 200 - - 2.64", "line 3 column 28: expected signed or unsigned"),
    ("features.0 input", "features.0 imput", "line 3 column 12: expected input or output or weight, got 'imput'"),
    ("2.64", "-2.64", "line 3 column 58: expected a number above 0"), ("2.64", "nan", "above 0"),
    ("2.64", "inf", "above 0"), ("2.64", "0", "above 0"), ("2.64", "1e39", "above 0"), ("2.64", "2,64", "above 0"),
    (" - 2.64", " 2.64", "line 3: 8 fields"), ("- 2.64", "1,2 2.64", "line 3 column 56.*as many zero points"),
    ("5be1f0c2a91d77e0 - 2.64", "5be1 - 2.64", "line 3 column 39: expected 16 hex"),
    ("features.0 weight", "features.0 input", "line 4: features.0 input has a line already, line 3"),
    ("end 3\n", "", "'end' line is missing"), ("end 3", "end 4", "3 lines of layers, but 'end' says 4"),
    ("#features.3 input mse 4 unsigned 200 - 3 5.25\n", "", "instead of deleting"),
    ("end 3\n", "end 3\nfeatures.9 input", "line 7: text after"), ("200 - 3", "2x0 - 3", "line 5 column 34.*'2x0'"),
    ("- 3 5.25", "- 3.5 5.25", "line 5.*'3.5'")])
def test_what_is_wrong_is_named_with_line_and_column(old, new, says):
    assert TEXT.count(old) >= 1
    with pytest.raises(CalibrationError, match=says):
        parse_table(TEXT.replace(old, new, 1))


def test_files(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="absent"):
        read_table(tmp_path / "absent")
    (tmp_path / "t").write_bytes(b"calibration-table 1\n\xff\n")
    with pytest.raises(DataError, match="byte 20 is no UTF-8"):
        read_table(tmp_path / "t")

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(DataError, match="No space"):
        write_table(tmp_path / "t", TABLE)
    assert [path.name for path in tmp_path.iterdir()] == ["t"] and b"\xff" in (tmp_path / "t").read_bytes()


@pytest.mark.parametrize("part", range(0, len(TEXT) - 1, 7))
def test_a_file_that_was_cut_off_is_refused(part):
    with pytest.raises(CalibrationError):
        parse_table(TEXT[:part])


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_is_refused_politely(text):
    with pytest.raises(QuantizeError):
        parse_table(text)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(TEXT) - 1), st.integers(0, 12), st.text(alphabet=st.characters(codec="utf-8"), max_size=6))
def test_a_damaged_table_is_refused_or_still_says_something_definite(start, length, insert):
    text = TEXT[:start] + insert + TEXT[start + length:]
    try:
        table = parse_table(text)
    except QuantizeError:
        return
    assert len(table.rows) == 3 and parse_table(str(table)) == table


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(2.0 ** -100, 2.0 ** 100, width=32), min_size=1, max_size=5), st.sampled_from([
    QuantSpec(8), QuantSpec(4, signed=False), QuantSpec(8, narrow=False), QuantSpec(16), QuantSpec(3, grid="mid_rise"),
    QuantSpec(8, signed=False, symmetric=False), QuantSpec(8, levels=63)]))
def test_scales_come_back_bit_for_bit(scales, spec):
    scale = np.array(scales, np.float32).reshape(-1, 1)
    qparams = QParams(scale, np.zeros(scale.shape, np.int32) + (0 if spec.symmetric else 7))
    row = row_of("a.input_quantizer", spec.with_(granularity=PerChannel(0)), qparams, "mse")
    again = parse_table(str(Table((row,)))).rows[0]
    assert again == row
    back = again.qparams(spec, scale.shape)
    np.testing.assert_array_equal(back.scale, scale)
    np.testing.assert_array_equal(back.zero_point, qparams.zero_point)


def test_a_threshold_is_written_short():
    scale = np.float32([2.64 / 127])
    assert str(row_of("a.input_quantizer", QuantSpec(8), QParams.symmetric(scale), "kl")).endswith(" 2.64")


@pytest.mark.parametrize("spec, shape, says", [
    (QuantSpec(4), (1,), "8 bits signed, the network int4"), (QuantSpec(8, signed=False), (1,), "signed"),
    (QuantSpec(8, symmetric=False), (1,), "no zero point"),
    (QuantSpec(8), (2, 1), "1 thresholds in the table.*needs 2")])
def test_a_row_of_another_format_is_refused(spec, shape, says):
    with pytest.raises(CalibrationError, match="features.0 input: .*" + says):
        ROWS[0].qparams(spec, shape)


def test_fingerprints_do_not_depend_on_order_and_add_up():
    images = [f"{i}.png {i % 3}" for i in range(10)]
    whole = data_fingerprint(images)
    assert whole == data_fingerprint(reversed(images)) and len(whole) == 16
    assert add_fingerprints([data_fingerprint(images[i::4]) for i in range(4)]) == whole
    assert data_fingerprint(images[:9]) != whole != data_fingerprint(images[:9] + ["9.png 1"])
