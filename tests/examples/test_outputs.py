# SPDX-License-Identifier: MIT
"""Output folders appear whole or not at all."""

import errno
import json
import os
import signal
import subprocess
import sys

import mxnet as mx
import pytest

from deploy.proof.certificate import FORMAT
from gluon_quantize.models.params import save_params
from gluon_quantize.runs import outputs, ownership
from gluon_quantize.runs.outputs import check_new, claimed, reserved, staged
from gluon_quantize.runs.ownership import TRAINING
from quantize.errors import DataError, ModelFileError
from quantize.params_file import read_params


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


def test_sigterm_before_anything_is_written_leaves_no_lock(tmp_path):
    with pytest.raises(SystemExit), reserved(tmp_path / "a" / "out", force=False):
        assert tree(tmp_path) == ["a", "a/.out.lock"]
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the process went on")
    assert tree(tmp_path) == []


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


def deployment_in(folder, *names):
    """A folder as a deployment leaves it: these files, and result.json that lists them."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("old")
    (folder / "result.json").write_text(json.dumps({"accuracy": {}, "files": list(names)}))


@pytest.fixture(params=["exchange", "two renames"])
def ways(request, monkeypatch):
    """With and without a system that can exchange two folders in one step."""
    if request.param == "two renames":
        monkeypatch.setattr(outputs, "exchange", lambda one, other: False)


def test_what_is_there_is_kept_without_force_and_replaced_with_it(tmp_path, ways):
    deployment_in(tmp_path / "out", "b")
    with pytest.raises(DataError, match="not empty; --force"), staged(tmp_path / "out", force=False):
        pass
    with pytest.raises(ValueError), staged(tmp_path / "out", force=True):
        raise ValueError
    assert tree(tmp_path) == ["out", "out/b", "out/result.json"]
    with staged(tmp_path / "out", force=True) as folder:
        (folder / "a").write_text("new")
        assert "out/b" in tree(tmp_path)
    assert tree(tmp_path) == ["out", "out/a"]


@pytest.mark.parametrize("make, says", [
    (lambda folder: folder.mkdir(), "is no folder of a deployment, so --force does not replace it"),
    (lambda folder: deployment_in(folder, "b"), "holds mine, which no deployment has written"),
    (lambda folder: (deployment_in(folder), (folder / "result.json").write_text('{"quantized": {}}')), "is no folder")])
def test_force_replaces_nothing_of_others(tmp_path, make, says):
    make(tmp_path / "out")
    (tmp_path / "out" / "mine").write_text("precious")
    before = tree(tmp_path)
    with pytest.raises(DataError, match=says):
        check_new(tmp_path / "out", force=True)
    with pytest.raises(DataError, match=says), reserved(tmp_path / "out", force=True):
        pass
    assert tree(tmp_path) == before


def test_certificates_that_recheck_keeps_go_with_their_deployment(tmp_path):
    deployment_in(tmp_path / "out", "b")
    kept = tmp_path / "out" / "certificates"
    kept.mkdir()
    (kept / "machines.md").write_text("")
    (kept / "x86.json").write_text(json.dumps({"format": FORMAT}))
    check_new(tmp_path / "out", force=True)
    (kept / "mine.json").write_text("{}")
    with pytest.raises(DataError, match="holds certificates/mine.json"):
        check_new(tmp_path / "out", force=True)


def test_what_comes_to_lie_there_meanwhile_is_kept(tmp_path, ways):
    deployment_in(tmp_path / "out", "b")
    with pytest.raises(DataError, match="holds mine"), staged(tmp_path / "out", force=True) as folder:
        (folder / "a").write_text("new")
        (tmp_path / "out" / "mine").write_text("precious")
    assert tree(tmp_path) == ["out", "out/b", "out/mine", "out/result.json"]


KILLED = """
import os, signal, sys
from gluon_quantize.runs import outputs
outputs.exchange = lambda one, other: False
rename = os.replace
def once(source, target):
    rename(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
os.replace = once
with outputs.reserved(sys.argv[1], True), outputs.staged(sys.argv[1], True) as folder:
    (folder / "a").write_text("new")
"""


def test_killed_between_two_renames_the_old_folder_comes_back(tmp_path):
    deployment_in(tmp_path / "out", "b")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out")])
    assert done.returncode == -signal.SIGKILL and not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="not empty; --force"):
        check_new(tmp_path / "out", force=False)
    assert (tmp_path / "out" / "b").read_text() == "old"
    with reserved(tmp_path / "out", force=True), staged(tmp_path / "out", force=True) as folder:
        (folder / "a").write_text("newer")
    assert tree(tmp_path) == ["out", "out/a"]  # nor is anything left of what was killed


def test_leftovers_of_others_stay(tmp_path):
    (tmp_path / "out.tmp").mkdir()
    (tmp_path / "out.1.tmp").mkdir()  # of a process that lives
    (tmp_path / f"out.1.{'0' * 16}.tmp").mkdir()
    with reserved(tmp_path / "out", force=False):
        pass
    assert tree(tmp_path) == [f"out.1.{'0' * 16}.tmp", "out.1.tmp", "out.tmp"]


# ---- one at a time

HOLD = """
import sys, time
from gluon_quantize.runs import outputs
with {context}:
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("context, again", [
    ("outputs.reserved(sys.argv[1], False)", lambda folder: reserved(folder, False)),
    ("outputs.claimed(sys.argv[1], 'training')", lambda folder: claimed(folder, "training")),
    ("outputs.claimed(sys.argv[1], 'simulation')", lambda folder: claimed(folder, "simulation"))])
def test_the_second_process_is_refused_until_the_first_is_dead(tmp_path, context, again):
    folder = tmp_path / "new" / "out"
    process = subprocess.Popen([sys.executable, "-c", HOLD.format(context=context), str(folder)],
                               stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(DataError, match=f"process {process.pid} writes there"), again(folder):
            pytest.fail("two at a time")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    with again(folder):
        pass
    assert not list((tmp_path / "new").rglob("*lock")) if (tmp_path / "new").exists() else True


def test_a_claimed_folder_that_stays_empty_goes_again(tmp_path):
    with pytest.raises(ValueError), claimed(tmp_path / "a" / "b", "training"):
        assert (tmp_path / "a" / "b").is_dir()
        raise ValueError
    assert tree(tmp_path) == []
    with claimed(tmp_path / "a" / "b", "training"):
        (tmp_path / "a" / "b" / "log.json").write_text("{}")
    assert tree(tmp_path) == ["a", "a/b", "a/b/log.json"]


def test_folders_of_other_commands_are_refused(tmp_path):
    deployment_in(tmp_path / "deployed")
    (tmp_path / "trained" / "checkpoints").mkdir(parents=True)
    (tmp_path / "simulated").mkdir()
    (tmp_path / "simulated" / "result.json").write_text('{"quantized": {}}')
    for name, kind, words in (("deployed", "training", "a deployment"), ("deployed", "simulation", "a deployment"),
                              ("trained", "simulation", "a training"), ("simulated", "training", "a simulation")):
        with pytest.raises(DataError, match=f"holds the results of {words}"), claimed(tmp_path / name, kind):
            pass
    for name, kind in (("trained", "training"), ("simulated", "simulation")):
        with claimed(tmp_path / name, kind):
            pass


def test_what_a_killed_training_left_half_written_goes(tmp_path):
    (tmp_path / "checkpoints" / "epoch-3.tmp").mkdir(parents=True)
    (tmp_path / "checkpoints" / "epoch-2").mkdir()
    (tmp_path / "checkpoints" / f"epoch-3.{'0' * 16}.tmp").mkdir()
    for name in (".best.params.77.tmp", "log.json.77.tmp", f"final.qnet.{'0' * 16}.tmp", "mine.tmp", "best.params"):
        (tmp_path / name).write_text("")
    with claimed(tmp_path, "training"):
        pass
    assert tree(tmp_path) == ["best.params", "checkpoints", "checkpoints/epoch-2", "mine.tmp"]


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b'{"files": 3, "accuracy": 1}', b"\xff", b"[" * 100000])
def test_damaged_manifests_make_no_deployment(tmp_path, content):
    for name in ("result.json", "certificate.json"):
        (tmp_path / name).write_bytes(content)
    assert ownership.kind_of(tmp_path) is None


def test_a_folder_that_fills_while_we_work_is_kept(tmp_path):
    with pytest.raises(DataError, match="cannot be written"), staged(tmp_path / "out", force=False) as folder:
        (folder / "a").write_text("new")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("precious")
    assert tree(tmp_path) == ["out", "out/mine"]


def test_a_failing_move_brings_the_old_folder_back(tmp_path, ways):
    deployment_in(tmp_path / "out", "b")
    with pytest.raises(DataError, match="cannot be written"), staged(tmp_path / "out", force=True) as folder:
        folder.rmdir()  # nothing to move any more
    assert tree(tmp_path) == ["out", "out/b", "out/result.json"]


def test_a_file_in_its_place(tmp_path):
    (tmp_path / "out").write_text("")
    for force in (False, True):
        with pytest.raises(DataError, match="is a file"):
            check_new(tmp_path / "out", force)
    with pytest.raises(DataError, match="cannot be made"):
        check_new(tmp_path / "out" / "below", False)


def test_a_full_disk_leaves_the_old_result(tmp_path, ways):
    deployment_in(tmp_path / "out", "b")
    with pytest.raises(DataError, match="No space left on device"), staged(tmp_path / "out", force=True) as folder:
        (folder / "a").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert tree(tmp_path) == ["out", "out/b", "out/result.json"] and (tmp_path / "out" / "b").read_text() == "old"


def test_names_that_mxnet_cannot_open_are_refused_before_anything_is_trained(tmp_path):
    folder = tmp_path / "\udcff"
    with pytest.raises(DataError, match=r"\\udcff': MXNet cannot open files whose names are no UTF-8") as caught, \
            outputs.claimed(folder, TRAINING):
        pass
    assert not folder.exists() and len(str(caught.value).splitlines()) == 1
    net = mx.gluon.nn.Dense(1, in_units=1)
    net.initialize()
    folder.mkdir()
    with pytest.raises(DataError, match="no UTF-8"):
        save_params(net, folder / "net.params")
    assert list(folder.iterdir()) == []
    (folder / "net.params").write_bytes(b"x")
    with pytest.raises(ModelFileError, match="no UTF-8"):
        read_params(folder / "net.params")
