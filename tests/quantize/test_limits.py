# SPDX-License-Identifier: MIT
"""The limit on memory, and the readers that hold themselves to it."""

import io
import zipfile
from typing import List

import numpy as np
import pytest

from quantize.documents import checked, parse_json, read_json
from quantize.errors import ConfigError, DataError
from quantize.files import read_text
from quantize.limits import GIGABYTE, claim, default_limit, limit, memory_limit
from quantize.npz import read_npz


def test_the_limit_is_8_gigabytes_or_half_the_machine_and_can_be_raised():
    assert 0 < default_limit() <= 8 * GIGABYTE
    with memory_limit(3 * default_limit()):
        claim(2 * default_limit(), "x")
        with memory_limit(None):
            assert limit() == 3 * default_limit()
    with pytest.raises(DataError, match="x: would take .* more than the limit of"):
        claim(2 * default_limit(), "x")
    with pytest.raises(ConfigError), memory_limit(-1):
        pass


@pytest.mark.parametrize("text, says", [
    ("[" * 100000, "nested too deep"), ("[1" + "0" * 5000 + "]", "a number of 5001 characters"),
    ("[1." + "0" * 5000 + "]", "a number of"), ("{", "line 1 column 2"), ("", "line 1 column 1")])
def test_json_is_parsed_within_bounds(text, says):
    with pytest.raises(DataError, match=f"f.json: .*{says}"):
        parse_json(text, "f.json")


def test_a_schema_says_where_something_does_not_fit():
    with pytest.raises(ConfigError, match=r"f: Expected `int`, got `str` - at `\$\[1\]`"):
        checked([1, "a"], List[int], "f", ConfigError)


def test_files_larger_than_the_limit_are_not_read(tmp_path):
    (tmp_path / "f").write_text("[1, 2, 3]")
    with memory_limit(5):
        for read in (read_text, read_json):
            with pytest.raises(DataError, match="more than the limit of 5 bytes"):
                read(tmp_path / "f")
        with pytest.raises(DataError, match="it is a device or a pipe"):
            read_text("/dev/zero")
    assert read_json(tmp_path / "f") == [1, 2, 3]


def test_npz_bombs_are_refused_before_they_unpack(tmp_path):
    np.savez_compressed(tmp_path / "b.npz", x=np.zeros(10 ** 7, np.uint8))
    with memory_limit(10 ** 6), pytest.raises(DataError, match="b.npz: unpacks .* would take 9.537 MB"):
        read_npz(tmp_path / "b.npz")


def test_npz_members_hold_what_their_headers_say(tmp_path):
    array = io.BytesIO()
    np.save(array, np.arange(4.0))
    for change, says in ((lambda b: b.replace(b"(4,)", b"(9,)"), "another length"),
                         (lambda b: b.replace(b"<f8", b"|O8"), "not a complete npz file"),
                         (lambda b: b[:-1], "another"),
                         (lambda b: b.replace(b"\x01\x00", b"\x02\x00", 1), "not a complete|version")):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("x.npy", change(array.getvalue()))
        with pytest.raises(DataError, match=says):
            read_npz(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(np.arange(6).reshape(2, 3)), y=np.float32(2))
    found = read_npz(tmp_path / "a.npz")
    assert found["x"].tolist() == [[0, 1, 2], [3, 4, 5]] and found["y"] == 2
    with pytest.raises(DataError, match="no array 'z'; it holds x, y"):
        read_npz(tmp_path / "a.npz", ["z"])


@pytest.mark.parametrize("order", "<>")
def test_texts_in_npz_hold_letters_alone(tmp_path, order):
    """NumPy makes a string of any number, and `json.loads` ends in a SystemError at one that is no letter."""
    for number, whole in ((0x10FFFF, True), (0x110000, False), (0xFFFFFFFF, False)):
        array = np.array(["{}", "abc"], order + "U3")
        array.view(order + "u4")[4] = number
        np.savez(tmp_path / "t.npz", t=array)
        if whole:
            assert read_npz(tmp_path / "t.npz", texts=("t",))["t"].tolist() == ["{}", "a\U0010ffffc"]
        else:
            with pytest.raises(DataError, match="^[^\n]*t.npz: array 't.npy' holds letters that are none$"):
                read_npz(tmp_path / "t.npz", texts=("t",))
    np.savez(tmp_path / "empty.npz", t=np.array("", order + "U1"))
    assert read_npz(tmp_path / "empty.npz", texts=("t",))["t"] == ""
