# SPDX-License-Identifier: MIT
"""The launcher, mostly on scripts that train nothing: `--join` starts workers alone."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import mxnet as mx
import numpy as np
import pytest

from gluon_quantize.commands.train_distributed import parse, worker_command

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
LAUNCHER = [sys.executable, str(EXAMPLES / "train_distributed.py")]
ALONE = ["--join", "--address", "127.0.0.1:9", "--workers", "2"]


def start(*arguments):
    """A launcher that can be interrupted even where these tests run in the background, where SIGINT is ignored."""
    return subprocess.Popen(LAUNCHER + [str(argument) for argument in arguments], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, universal_newlines=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def launch(*arguments, seconds=60):
    """(exit code, what it printed, its errors)."""
    process = start(*arguments)
    try:
        out, errors = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, out, errors


@pytest.fixture
def script(tmp_path):
    """A function that writes a worker's script; each worker leaves its process number in a file first."""
    def write(text):
        path = tmp_path / "script.py"
        path.write_text(f"import os, sys, time\nopen({str(tmp_path)!r} + '/%d.pid' % os.getpid(), "
                        "'w').close()\n" + text)
        return path
    return write


def alive(folder):
    """Process numbers of workers that still run."""
    return [int(path.stem) for path in folder.glob("*.pid") if runs(int(path.stem))]


def runs(number):
    """Whether a process runs and is no zombie."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    status = pathlib.Path(f"/proc/{number}/status")
    return not (status.exists() and re.search(r"State:\s+Z", status.read_text()))


def test_arguments_environment_and_output_pass_through(script):
    path = script("print(sys.argv[1:], os.environ['DMLC_ROLE'], os.environ['DMLC_NUM_WORKER'],\n      "
                  "os.environ['DMLC_PS_ROOT_URI'], os.environ['DMLC_PS_ROOT_PORT'])\n")
    code, out, errors = launch(*ALONE, path, "--workers", "9", "x y")
    assert (code, errors) == (0, "")
    assert sorted(out.splitlines()) == [
        f"worker {number} | ['--workers', '9', 'x y'] worker 2 127.0.0.1 9" for number in range(2)]


def test_the_first_failure_stops_all(script, tmp_path):
    path = script(f"if len(os.listdir({str(tmp_path)!r})) > 2:\n    sys.exit('reason')\ntime.sleep(60)\n")
    begin = time.monotonic()
    code, out, errors = launch(*ALONE, path)
    assert code == 1 and time.monotonic() - begin < 30
    assert "| reason" in out and "ended with exit code 1; all others are stopped" in errors
    assert alive(tmp_path) == []


def test_exit_codes_of_workers_are_kept(script):
    assert launch(*ALONE, script("sys.exit(2)"))[0] == 2


@pytest.mark.parametrize("options, text, expected", [
    (["--timeout", "1"], "time.sleep(60)", "not done after 1 seconds"),
    (["--grace", "1"], "time.sleep(60 if len(os.listdir(os.path.dirname(__file__))) > 2 else 1)",
     "others go on 1 seconds later"),
])
def test_nothing_waits_for_ever(script, tmp_path, options, text, expected):
    code, _, errors = launch(*options, *ALONE, script(text))
    assert code == 124 and expected in errors
    assert alive(tmp_path) == []


@pytest.mark.parametrize("number, code", [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_workers_die_with_the_launcher(script, tmp_path, number, code):
    if number == signal.SIGKILL and not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells a process of its parent's death")
    process = start(*ALONE, script("time.sleep(60)"))
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(alive(tmp_path)) == 2
    process.send_signal(number)
    process.wait(timeout=30)
    assert process.returncode == code
    deadline = time.monotonic() + 10
    while alive(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive(tmp_path) == []
    process.communicate()


@pytest.mark.parametrize("arguments, message", [
    (["--workers", "2", "--here", "3", "x.py"], "--here must be from 1"),
    (["--workers", "2", "--here", "1", "x.py"], "--address is needed"),
    (["--join", "x.py"], "--address is needed"),
    (["--join", "--address", "here", "x.py"], "write HOST:PORT"),
])
def test_bad_options(arguments, message):
    code, _, errors = launch(*arguments)
    assert code != 0 and message in errors


def test_the_command_train_in_place_of_a_script():
    interpreter, *command = worker_command("train", ["--model", "digits_lenet"])
    assert command == ["-m", "gluon_quantize", "train", "--model", "digits_lenet", "--kvstore", "dist_sync"]
    assert worker_command("train", ["--kvstore=dist_device_sync"])[-1] == "--kvstore=dist_device_sync"
    assert worker_command("./train.py", ["a"]) == [interpreter, "./train.py", "a"]
    assert parse(["--workers", "3", "--", "train", "--lr", "1"]).command[3:6] == ["train", "--lr", "1"]


def digits(folder):
    """A short training."""
    return [EXAMPLES / "train_digits.py", "--epochs", "2", "--batch-size", "64", "--kvstore", "dist_sync",
            "--output", folder / "net.params"]


def test_digits_on_two_workers(tmp_path):
    code, out, errors = launch("--workers", "2", *digits(tmp_path), seconds=120)
    assert code == 0, out + errors
    assert len(re.findall(r"net.params: 9\d.\d\d% on 364 test images", out)) == 1


@pytest.mark.slow
def test_digits_on_two_machines(tmp_path):
    """The second launcher joins the first, as on another machine."""
    assert launch("--workers", "2", *digits(tmp_path), seconds=120)[0] == 0
    first = mx.nd.load(str(tmp_path / "net.params"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    machines = [start("--workers", "2", "--here", "1", "--address", address, *option, *digits(tmp_path))
                for option in ((), ("--join",))]
    outputs = [process.communicate(timeout=120) for process in machines]
    assert [process.returncode for process in machines] == [0, 0], outputs
    for name, values in mx.nd.load(str(tmp_path / "net.params")).items():
        np.testing.assert_allclose(values.asnumpy(), first[name].asnumpy(), rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("script", [(EXAMPLES / "train_qat.py", "--kvstore", "dist_sync"), ("--", "train")],
                         ids=["script", "command"])
def test_retraining_on_two_workers(tmp_path, script):
    """Quantization starts within an epoch, when workers' statistics differ."""
    code, out, errors = launch("--workers", "2", *script, "--model", "digits_lenet", "--weight-bits", "4",
                               "--input-bits", "4", "--epochs", "2", "--quant-start-step", "5", "--calib-images", "64",
                               "--no-plots", "--output", tmp_path / "out", seconds=300)
    assert code == 0, out + errors
    assert len(re.findall(r"final  Top-1 3[456]\d/364", out)) == 1
