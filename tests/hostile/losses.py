# SPDX-License-Identifier: MIT
"""What is lost when processes are killed, disks are full, or two write to one folder: tried, survived.

    PYTHONPATH=.:examples python -m tests.hostile.losses KIND TRIES

Survived means: what was there before is whole, or what came after it is, nothing between; and nothing is left over. An
AssertionError ends the run at the first that was not. `full disk` mounts a file system of its own where that is
allowed, else files are cut at a size, which writers cannot tell from it.
"""

import contextlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from gluon_quantize.runs import outputs
from gluon_quantize.runs.ownership import TRAINING
from quantize.errors import DataError, QuantizeError
from quantize.files import write_whole

OLD, NEW = b"old " * 5000, b"new " * 9000
DISK = 2 ** 20
COMMAND = [sys.executable, "-m", "gluon_quantize"]
TRAIN = ["train", "--model", "digits_lenet", "--epochs", "3", "--batch-size", "64", "--no-plots", "--weight-bits", "4",
         "--input-bits", "4", "--calib-images", "64"]
CALIBRATE = ["simulate", "--model", "digits_lenet", "--calib-images", "128", "--num-images", "20"]
ROUND = ["--learn-rounding", "gptq", "--rounding-progress"]
DEPLOY = ["deploy", "--model", "digits_lenet", "--calib-images", "64", "--no-engine"]


def child(work):
    """Run `work` in a process of its own; its exit status as `os.waitpid` has it."""
    process = os.fork()
    if not process:
        try:
            work()
            os._exit(0)
        except DataError:
            os._exit(3)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        os._exit(1)
    return process


def ended(process, seconds):
    """Kill a process after so long; whether it was killed before it was done."""
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)


# ---- kills


def killed_files(tries, moments, place):
    """Files that are replaced again and again until their writer is killed."""
    path, died = place / "result.json", 0
    path.write_bytes(OLD)

    def write():
        for number in range(60):
            write_whole(path, (OLD, NEW)[number % 2])
    for _ in range(tries):
        died += ended(child(write), moments.uniform(0, 0.01))
        assert path.read_bytes() in (OLD, NEW)
    write_whole(path, OLD)
    assert [left.name for left in place.iterdir()] == ["result.json"]
    return f"{died} killed before they were done"


def command(arguments, **more):
    return subprocess.Popen([*COMMAND, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **more)


def finished(arguments):
    """A command that ends well."""
    process = command(arguments)
    said = process.communicate()[1]
    assert process.returncode == 0, said.decode()


def killed_trainings(tries, moments, place):
    """A training killed again and again, and resumed: the same bits as one that nobody disturbed."""
    start = time.monotonic()
    finished([*TRAIN, "--output", place / "alone"])
    length, kills, runs = time.monotonic() - start, 0, 0
    while kills < tries:
        runs += 1
        folder = place / f"killed{runs}"
        while True:
            process = command([*TRAIN, "--output", folder, "--resume"])
            try:
                assert process.wait(moments.uniform(0.3, 1.1) * length) == 0, process.stderr.read().decode()
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
        assert (folder / "final.params").read_bytes() == (place / "alone" / "final.params").read_bytes()
        assert not list(folder.rglob("*.tmp"))
        shutil.rmtree(str(folder))
    return f"{kills} kills in {runs} trainings, each ended with the same bits"


def killed_deployments(tries, moments, place):
    """Deployments with --force over an older one."""
    start, folder, died = time.monotonic(), place / "out", 0
    finished([*DEPLOY, "--output", folder])
    length = time.monotonic() - start
    for _ in range(tries):
        process = command([*DEPLOY, "--output", folder, "--force"])
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert process.wait(moments.uniform(0.3, 1.05) * length) == 0
        died += process.poll() is None
        process.kill()
        process.communicate()
        outputs.check_new(folder, True)  # what the next start does first
        listed = json.loads((folder / "result.json").read_text())["files"]
        assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} >= set(listed)
    finished([*DEPLOY, "--output", folder, "--force"])
    assert [path.name for path in place.iterdir()] == ["out"]
    return f"{died} killed before they were done"


def forked(arguments):
    """A command in a process of its own, which has loaded everything already: kills meet its work."""
    from gluon_quantize.commands.main import main

    def work():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        assert main([str(argument) for argument in arguments]) == 0
    return child(work)


def seconds(arguments):
    """How long a command takes that nobody disturbs, and that ends well."""
    start = time.monotonic()
    assert os.waitpid(forked(arguments), 0)[1] == 0, arguments
    return time.monotonic() - start


def written_file(name, arguments, place):
    """Tries of a command that writes one file: the old one or the new one is there, and in the end the new one."""
    path, alone = place / name, place / f"alone.{name}"
    length = seconds([*arguments, alone])
    path.write_bytes(OLD)

    def attempt(moments):
        died = ended(forked([*arguments, path]), moments.uniform(0, length))
        assert path.read_bytes() in (OLD, alone.read_bytes())
        return died

    def finish():
        seconds([*arguments, path])
        assert path.read_bytes() == alone.read_bytes()
    return attempt, finish


def resumed(name, arguments, place):
    """Tries of a command that keeps layers whose rounding is learned, until it ends: the same as of one undisturbed."""
    from quantize.storage.container import read

    def into(folder):
        return [*arguments, *ROUND, folder / "progress", "--output", folder / "out"]

    def found(folder):
        (network,) = (folder / "out").glob("*.qnet")
        return [(path.name, path.read_bytes()) for path in sorted((folder / "progress").iterdir())], {
            key: array.tobytes() for key, array in read(network).arrays.items()}
    length, folder = seconds(into(place / f"alone.{name}")), place / name

    def attempt(moments):
        died = ended(forked(into(folder)), moments.uniform(0.2, 1.1) * length)
        if not died:
            finish()
        return died

    def finish():
        seconds(into(folder))
        assert found(folder) == found(place / f"alone.{name}")
        assert sorted(path.name for path in folder.iterdir()) == ["out", "progress"]
        shutil.rmtree(str(folder))
    return attempt, finish


def killed_calibrations(tries, moments, place):
    """Calibrations: states of shards, their merging into a table, learned rounding that goes on, alone and deployed."""
    states = [place / f"{number}.state" for number in (1, 2)]
    shards = [[*CALIBRATE, "--calib-shard", f"{number}/2", "--save-state"] for number in (1, 2)]
    for arguments, path in zip(shards, states):
        seconds([*arguments, path])
    works = {"state": written_file("a.state", shards[0], place),
             "table": written_file("a.table", [*CALIBRATE, "--calib-mode", "mse", "--merge-states", *states,
                                               "--save-table"], place),
             "simulation": resumed("simulated", [*CALIBRATE, "--quant-type", "channel", "--weight-bits", "3"], place),
             "deployment": resumed("deployed", [*DEPLOY, "--num-images", "20", "--force"], place)}
    died = dict.fromkeys(works, 0)
    while sum(died.values()) < tries:
        name = min(works, key=lambda name: died[name])
        died[name] += works[name][0](moments)
    for _, finish in works.values():
        finish()
    assert not [path for path in place.rglob("*") if path.name.endswith((".tmp", ".old"))]
    return ", ".join(f"{name} {count}" for name, count in died.items()) + " killed before they were done"


# ---- full disks


@contextlib.contextmanager
def disk(place):
    """(A folder on a small disk, function(bytes) -> context in which so many bytes are free there)."""
    folder = place / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)], check=False,
                             stderr=subprocess.DEVNULL).returncode == 0

    @contextlib.contextmanager
    def filled(free):
        space = os.statvfs(str(folder))
        (folder / "filler").write_bytes(bytes(max(0, space.f_bavail * space.f_frsize - free)))
        yield
        (folder / "filler").unlink()

    @contextlib.contextmanager
    def cut(free):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (free, before[1]))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    try:
        yield folder, filled if mounted else cut, "a full disk" if mounted else "files cut at a size"
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def writers(folder):
    """Name -> function(number) that writes a result, of the same length each time."""
    import mxnet as mx

    from calib.table import Row, Table, write_table
    from gluon_quantize.models.params import save_params
    from gluon_quantize.training.checkpoints import Checkpoints
    from gluon_quantize.training.loop import Progress
    from quantize import save_quantized
    from tests.hostile.bundles import trained
    net, optimizers = trained(folder / "checkpoints")
    rows = [Row(f"layer{n}", "input", "m", 8, True, (2.64,)) for n in range(400)]

    def parameters(number):
        next(iter(net.collect_params().values())).data()[:] = mx.nd.array([number])
        save_params(net, folder / "net.params")

    def deployment(number):
        with outputs.reserved(folder / "out", True), outputs.staged(folder / "out", True) as made:
            (made / "a.bin").write_bytes(bytes([number % 256]) * 30_000)
            (made / "result.json").write_text(json.dumps({"accuracy": {}, "files": ["a.bin"]}))
    checkpoints = Checkpoints(folder / "checkpoints", {"lr": 0.01})
    return {"result": lambda number: write_whole(folder / "result.json", bytes([number % 256]) * 30_000),
            "table": lambda number: write_table(folder / "t.table", Table(tuple(rows))),
            "parameters": parameters, "deployment": deployment,
            "network": lambda number: save_quantized(net, folder / "n.qnet"),
            "checkpoint": lambda number: checkpoints.save(net, optimizers, Progress(number + 2, 7, 0.5, 0, [], {}))}


def contents(folder):
    """What lies in a folder, but for what fills the disk."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "filler"}


def full_disk(tries, moments, place):
    """Every writer with less room than it needs, or as much: an error and the old result, or the new one."""
    with disk(place) as (folder, room, how):
        known = writers(folder)
        for write in known.values():
            write(0)
        refused = dict.fromkeys(known, 0)
        for number in range(1, tries + 1):
            name = moments.choice(sorted(known))
            before = contents(folder)
            try:
                with room(moments.choice((0, 1, 100, 4096, 8192, 20_000, 40_000, 10 ** 6))):
                    try:
                        known[name](number)
                    except QuantizeError as error:
                        assert len(str(error).splitlines()) == 1, error
                        raise
            except QuantizeError:
                refused[name] += 1
                assert contents(folder) == before, name
                continue
            known[name](number) if name == "parameters" else None  # once more, with room: the same bytes
            whole(folder, name, number)
        return f"{how}: " + ", ".join(f"{name} {count} refused" for name, count in refused.items())


def whole(folder, name, number):
    """Assert that what was written can be read."""
    from calib.table import read_table
    from quantize import load_quantized
    from quantize.params_file import read_params
    if name == "result":
        assert (folder / "result.json").read_bytes() == bytes([number % 256]) * 30_000
    elif name == "table":
        assert len(read_table(folder / "t.table").rows) == 400
    elif name == "parameters":
        read_params(folder / "net.params")
    elif name == "deployment":
        assert (folder / "out" / "a.bin").read_bytes() == bytes([number % 256]) * 30_000
    elif name == "network":
        load_quantized(folder / "n.qnet")
    else:
        assert (folder / "checkpoints" / f"epoch-{number + 2}" / "manifest.json").is_file()


# ---- two at once


def two_at_once(tries, moments, place):
    """Two processes that claim one folder at the same moment: one of them is refused."""
    refused = 0
    for number in range(tries):
        folder, other = place / f"out{number}", place / f"other{number}"

        def work(folder=folder, other=other):
            with outputs.claimed(folder, TRAINING):
                write_whole(folder / "owner", str(os.getpid()))
                while not other.exists():  # until the other one was refused
                    time.sleep(0.001)
                assert (folder / "owner").read_text() == str(os.getpid())
        child(work), child(work)
        codes = [os.WEXITSTATUS(os.wait()[1])]
        other.touch()
        codes.append(os.WEXITSTATUS(os.wait()[1]))
        assert codes == [3, 0], codes
        refused += 1
    return f"{refused} refused, and the other one was alone"


KINDS = {"killed files": killed_files, "killed trainings": killed_trainings, "killed deployments": killed_deployments,
         "killed calibrations": killed_calibrations, "full disk": full_disk, "two at once": two_at_once}


def main(kind, tries):
    """Try so often; prints what came of it."""
    with tempfile.TemporaryDirectory() as place:
        print(f"{kind}: {tries} tried, {tries} survived; {KINDS[kind](tries, random.Random(7), pathlib.Path(place))}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
