# SPDX-License-Identifier: MIT
"""Files appear whole, under names that nobody can foresee, with the mode that they had."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from quantize.errors import DataError
from quantize.files import read_bytes, read_text, whole_file, write_together, write_whole


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_a_new_file_has_the_usual_mode_and_an_old_one_keeps_its_own(tmp_path):
    (tmp_path / "usual").touch()
    write_whole(tmp_path / "new", "x")
    assert mode(tmp_path / "new") == mode(tmp_path / "usual")
    for kept in (0o600, 0o644, 0o664):
        (tmp_path / "new").chmod(kept)
        write_whole(tmp_path / "new", "y")
        assert mode(tmp_path / "new") == kept and (tmp_path / "new").read_text() == "y"


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "precious").write_text("old")
    (tmp_path / "result").symlink_to(tmp_path / "precious")
    write_whole(tmp_path / "result", "new")
    assert (tmp_path / "precious").read_text() == "old"
    assert not (tmp_path / "result").is_symlink() and (tmp_path / "result").read_text() == "new"


def test_nothing_is_written_through_a_link_that_was_planted(tmp_path, monkeypatch):
    """Even where the random name is known: the file is made exclusively."""
    monkeypatch.setattr("secrets.token_hex", lambda count: "0" * 16)
    (tmp_path / "precious").write_text("old")
    (tmp_path / f"result.{'0' * 16}.tmp").symlink_to(tmp_path / "precious")
    with pytest.raises(DataError, match="result: cannot be written: File exists"):
        write_whole(tmp_path / "result", "new")
    assert (tmp_path / "precious").read_text() == "old"


def test_temporary_names_are_not_foreseen_and_go(tmp_path):
    seen = []
    for _ in range(2):
        with whole_file(tmp_path / ("n" * 250)) as temporary:
            seen.append(temporary.name)
            assert str(os.getpid()) not in temporary.name.split(".")
    with pytest.raises(RuntimeError), whole_file(tmp_path / "x") as temporary:
        raise RuntimeError
    assert len(set(seen)) == 2 and [path.name for path in tmp_path.iterdir()] == ["n" * 250]


KILLED = """
import os, signal, sys
from quantize.files import whole_file
with whole_file(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), int(sys.argv[2]))
"""


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path):
    """And what one that lives is writing stays."""
    (tmp_path / "result").write_text("old")
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "result"), str(int(signal.SIGKILL))])
    assert len(list(tmp_path.glob("result.*.tmp"))) == 1 and (tmp_path / "result").read_text() == "old"
    (tmp_path / "result.mine.tmp").touch()
    living = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "result"), str(int(signal.SIGSTOP))])
    os.waitpid(living.pid, os.WUNTRACED)
    try:
        write_whole(tmp_path / "result", "new")
        assert len(list(tmp_path.glob("result.*.tmp"))) == 2
    finally:
        living.send_signal(signal.SIGCONT)
        assert living.wait() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result", "result.mine.tmp"]
    assert (tmp_path / "result").read_text() == "half"  # whole for the one that wrote last


@pytest.mark.parametrize("name", ["/", "no/such/folder/x", "x" * 300])
def test_what_cannot_be_written_is_one_line(tmp_path, name):
    with pytest.raises(DataError, match="cannot be written"):
        write_whole(name if name == "/" else tmp_path / name, "x")
    with pytest.raises(DataError, match="cannot be written"):
        write_together({tmp_path / "a": "x", tmp_path / "no" / "b": "y"})
    assert not list(tmp_path.iterdir())


def test_neither_devices_nor_pipes_are_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe"):
        with pytest.raises(DataError, match="it is a device or a pipe, not a file"):
            read_bytes(path)
    done = subprocess.run(["bash", "-c", f"{sys.executable} -c 'import sys; from quantize.files import read_text; "
                           "print(read_text(sys.argv[1]))' <(echo hand)"], stdout=subprocess.PIPE)
    assert done.stdout.strip() == b"hand"


def test_what_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "b").write_bytes(b"\xff")
    for path, says in ((tmp_path, "cannot be read"), (tmp_path / "no", "cannot be read"), ("a\0b", "cannot be read"),
                       (tmp_path / ("x" * 300), "cannot be read"), (tmp_path / "b", "byte 0 is no UTF-8")):
        with pytest.raises(DataError, match=says):
            read_text(path)
    assert read_bytes(tmp_path / "b") == b"\xff"
