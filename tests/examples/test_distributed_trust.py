# SPDX-License-Identifier: MIT
"""Who can reach a distributed training, and what a stranger who can gets it to do."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

from gluon_quantize.runs import distributed
from gluon_quantize.runs.distributed import LaunchRequest, checked_address, environment, launch
from quantize.errors import ConfigError

STRANGER = """
import os, pickle, time
class Code:
    def __reduce__(self):
        return os.system, ("touch {mark}",)
import mxnet as mx
store = mx.kv.create("dist_sync")
store._send_command_to_servers(0, pickle.dumps(Code(), 0).decode("latin1"))
time.sleep(60)
"""
WORKER = "import mxnet as mx, time; mx.kv.create('dist_sync'); time.sleep(60)"


def test_a_stranger_has_nothing_executed(tmp_path):
    """One of two workers is not the launcher's, and sends the server an optimizer that is a program."""
    address = distributed.free_address()
    request = LaunchRequest([sys.executable, "-c", WORKER], workers=2, here=1, address=address,
                            timeout=100)
    mark = tmp_path / "mark"
    env = dict(environment(request, address, "worker"), OMP_NUM_THREADS="1")
    stranger = subprocess.Popen([sys.executable, "-c", STRANGER.format(mark=mark)], env=env)
    said = []
    try:
        ended = launch(request, lambda name, line: said.append(f"{name} {line}"))
    finally:
        stranger.kill()
        stranger.wait()
    assert not mark.exists()
    assert ended.code == 1 and "server ended with exit code 1" in ended.reason
    assert any("server error: the server was sent an optimizer" in line for line in said), said


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="reads Linux's table of sockets")
def test_only_the_address_that_is_given_is_listened_on(tmp_path):
    def listening():
        rows = [row.split() for row in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return {row[1] for row in rows if row[3] == "0A"}

    before, seen = listening(), set()

    def look(name, line):
        if line == "joined":
            seen.update(listening() - before)
    command = [sys.executable, "-c", "import mxnet as mx; s = mx.kv.create('dist_sync'); print('joined', flush=True); "
                                     "s._barrier()"]
    assert launch(LaunchRequest(command, timeout=100), look).code == 0
    assert len([place for place in seen if place.startswith("0100007F:")]) >= 4  # scheduler, server, two workers


def test_addresses(monkeypatch, caplog):
    def address(host, **options):
        return checked_address(LaunchRequest(["x"], address=(host, 9), **options))
    assert address("127.0.0.1") == ("127.0.0.1", 9) and not caplog.records
    assert address("10.0.0.1") == ("10.0.0.1", 9)
    assert "whoever can reach 10.0.0.1:9" in caplog.text
    for host, says in (("0.0.0.0", "not all of them"), ("8.8.8.8", "8.8.8.8 is a public address.*--trust-network"),
                       ("x" * 300, "no such machine"), ("224.0.0.1", "not all of them")):
        with pytest.raises(ConfigError, match=says):
            address(host)
    assert address("8.8.8.8", trust_network=True) == ("8.8.8.8", 9)
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "8.8.8.8")
    with pytest.raises(ConfigError, match="--address server: 8.8.8.8 is a public address"):
        address("server")


def test_processes_are_told_their_own_address():
    env = environment(LaunchRequest(["x"]), ("127.0.0.1", 9), "worker")
    assert env["DMLC_NODE_HOST"] == "127.0.0.1"
