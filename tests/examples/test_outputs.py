# SPDX-License-Identifier: MIT
"""Output folders appear whole or not at all."""

import errno
import os
import signal

import pytest

from gluon_quantize.runs.outputs import check_new, staged
from quantize.errors import DataError


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("make", [lambda folder: None, lambda folder: folder.mkdir()])
def test_a_new_or_empty_folder(tmp_path, make):
    make(tmp_path / "out")
    with staged(tmp_path / "out", force=False) as folder:
        (folder / "a").write_text("new")
        assert "out/a" not in tree(tmp_path)
    assert tree(tmp_path) == ["out", "out/a"]


def test_missing_parents_are_made(tmp_path):
    with staged(tmp_path / "a" / "b" / "out", force=False) as folder:
        (folder / "x").write_text("")
    assert "a/b/out/x" in tree(tmp_path)


def test_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    with staged(".", force=False) as folder:
        (folder / "x").write_text("")
    assert tree(tmp_path) == ["out", "out/x"]


def test_sigterm_leaves_nothing(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop, staged(tmp_path / "out", force=False) as folder:
        (folder / "x").write_text("")
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the process went on")
    assert stop.value.code == 128 + signal.SIGTERM and tree(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "out", force=False) as folder:
        (folder / "a").write_text("half")
        raise KeyboardInterrupt
    assert tree(tmp_path) == []


def test_a_full_disk(tmp_path):
    refusal = pytest.raises(DataError, match="out: cannot be written: No space left on device")
    with refusal, staged(tmp_path / "out", force=False) as folder:
        (folder / "a").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert tree(tmp_path) == []


def test_what_is_there_is_kept_without_force_and_replaced_with_it(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(DataError, match="not empty; --force"), staged(tmp_path / "out", force=False):
        pass
    with pytest.raises(ValueError), staged(tmp_path / "out", force=True):
        raise ValueError
    assert tree(tmp_path) == ["out", "out/mine"]
    with staged(tmp_path / "out", force=True) as folder:
        (folder / "a").write_text("new")
    assert tree(tmp_path) == ["out", "out/a"]


def test_a_folder_that_fills_while_we_work_is_kept(tmp_path):
    with pytest.raises(DataError, match="cannot be written"), staged(tmp_path / "out", force=False) as folder:
        (folder / "a").write_text("new")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("precious")
    assert tree(tmp_path) == ["out", "out/mine"]


def test_a_failing_move_brings_the_old_folder_back(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(DataError, match="cannot be written"), staged(tmp_path / "out", force=True) as folder:
        folder.rmdir()  # nothing to move any more
    assert tree(tmp_path) == ["out", "out/mine"]


def test_a_file_in_its_place(tmp_path):
    (tmp_path / "out").write_text("")
    for force in (False, True):
        with pytest.raises(DataError, match="is a file"):
            check_new(tmp_path / "out", force)
    with pytest.raises(DataError, match="cannot be made"):
        check_new(tmp_path / "out" / "below", False)
