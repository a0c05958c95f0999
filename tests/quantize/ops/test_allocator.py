# SPDX-License-Identifier: MIT
import logging
import os
import subprocess
import sys

import pytest

from quantize.ops import allocator

MAPPED = """
import ctypes, sys
import mxnet as mx
from quantize.ops import allocator

class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks "
                                                 "keepcost".split()]

mallinfo = ctypes.CDLL(None).mallinfo
mallinfo.restype = Mallinfo
if sys.argv[1] == "tuned":
    assert allocator.tune()
before = mallinfo().hblks
x = mx.nd.ones((64 * 2 ** 20,))
x.wait_to_read()
print(mallinfo().hblks - before)
"""


def test_the_environment_variable_leaves_the_allocator_alone(monkeypatch, caplog):
    monkeypatch.setenv(allocator.KEEP, "1")
    with caplog.at_level(logging.INFO):
        assert allocator.tune() is False
    assert "left alone" in caplog.text


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.delenv(allocator.KEEP, raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert allocator.tune() is False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
@pytest.mark.parametrize("setting, blocks", [("plain", 1), ("tuned", 0)])
def test_large_tensors_come_from_kept_memory(setting, blocks):
    """Blocks that glibc maps for itself, and gives back at once, when a tensor of 256 MiB is made."""
    # importing MXNet beside quantize loads the operators, which tune the allocator where they are allowed to
    environment = dict(os.environ, **({allocator.KEEP: "1"} if setting == "plain" else {}))
    done = subprocess.run([sys.executable, "-c", MAPPED, setting], check=True, stdout=subprocess.PIPE, env=environment)
    assert int(done.stdout) == blocks
