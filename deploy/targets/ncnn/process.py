# SPDX-License-Identifier: MIT
"""The other side of `deploy.targets.ncnn.server.worker`: starts it, asks it, and knows when it has died or hangs."""

import contextlib
import faulthandler
import json
import mmap
import os
import pathlib
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from typing import Any, Dict, List

from deploy.targets.ncnn.server import worker
from quantize.errors import DeployError

STDERR = 2000  # bytes of what ncnn said last that an error repeats
IDLE = 2       # processes that wait for the next network
ROOM = 1 << 16
MAPPING = 60.0  # seconds in which memory is mapped


class Died(Exception):
    """The engine's process has ended, or was ended because it hung; the text says how, and what ncnn said last."""


class Forked:
    """A child made by fork, with what is needed of `subprocess.Popen`, where no program can be started.

    Under emulation of a process (QEMU in user mode) the kernel does not run the interpreter's file.
    """

    def __init__(self, stderr: Any):
        (its_requests, requests), (replies, its_replies) = os.pipe(), os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        self.returncode: Any = None
        if not self.pid:
            try:
                os.close(requests)
                os.close(replies)
                faulthandler.disable()  # what would be told of a fault is this process's stack
                for fault in (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL):
                    signal.signal(fault, signal.SIG_DFL)  # MXNet makes exit codes of them
                os.dup2(stderr.fileno(), 2)
                os.dup2(2, 1)
                worker.end_with(parent)
                worker.main(os.fdopen(its_requests, "rb"), os.fdopen(its_replies, "wb"))
            finally:
                os._exit(0)
        os.close(its_requests)
        os.close(its_replies)
        self.stdin, self.stdout = os.fdopen(requests, "wb"), os.fdopen(replies, "rb")

    def kill(self) -> None:
        """End it."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code, negative for a signal."""
        if self.returncode is None:
            status = os.waitpid(self.pid, 0)[1]
            self.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return self.returncode


class Process:
    """A running engine."""

    def __init__(self) -> None:
        self.stderr: Any = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        self.child = _start(self.stderr)
        self.owner, self.silent = os.getpid(), 0
        self.memory: Any = None
        self.room = 0
        self.replies: Any = queue.Queue()
        threading.Thread(target=_listen, args=(self.child.stdout, self.replies), daemon=True).start()
        self.close = weakref.finalize(self, _end, self.child, self.owner)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self.close.alive and self.owner == os.getpid()

    def tell(self, do: str, **values: Any) -> None:
        """A request; Died where nobody takes it."""
        self.silent = os.fstat(self.stderr.fileno()).st_size
        try:
            self.child.stdin.write((json.dumps(dict(values, do=do)) + "\n").encode("ascii"))
            self.child.stdin.flush()
        except (OSError, ValueError):
            raise self.died() from None

    def hear(self, seconds: float) -> Dict[str, Any]:
        """A reply; Died where none comes, and no other image is begun, in time."""
        before: Any = None
        while True:
            try:
                line = self.replies.get(timeout=seconds)
                break
            except queue.Empty:
                if self.image == before:
                    self.child.kill()
                    raise self.died(f"did not answer for {seconds:g} s and was ended") from None
                before = self.image
        if not line:
            raise self.died()
        return json.loads(line)

    @property
    def image(self) -> int:
        """The number of the image that is, or was last, computed."""
        return int.from_bytes(self.memory[:worker.PROGRESS], "little") if self.memory else 0

    def reserve(self, size: int) -> mmap.mmap:
        """Memory of at least that many bytes, mapped by both sides; what was in it before may be lost."""
        if self.room < size:
            room = max(size, 2 * self.room, ROOM)
            path, self.memory = _mapped(room)
            try:
                self.tell("memory", path=path, size=room)
                self.hear(MAPPING)
            finally:
                os.unlink(path)  # it lives as long as somebody has it mapped
            self.room = room
        return self.memory

    def said(self) -> str:
        """The end of what ncnn has written to the standard error since the last request, on one line."""
        size = os.fstat(self.stderr.fileno()).st_size
        start = max(self.silent, size - STDERR)
        # its position in the file is the other side's as well, and stays
        text = os.pread(self.stderr.fileno(), size - start, start) if hasattr(os, "pread") else b""
        return " ".join(text.decode("utf-8", "replace").split())

    def died(self, how: str = "") -> Died:
        """What is to be raised of a process that has ended."""
        self.close()
        code = self.child.wait()
        if not how:
            how = f"ended with {_signal(-code)}" if code < 0 else f"ended with exit code {code}"
        said = self.said()
        return Died(how + (f"; it said: {said}" if said else ""))


def _signal(number):
    try:
        return f"{signal.Signals(number).name} ({signal.strsignal(number)})"
    except ValueError:
        return f"signal {number}"


def _start(stderr):
    program = str(pathlib.Path(worker.__file__).resolve())
    # a signal at the end of the *thread* that started it is what Linux has: only the main one lives long enough
    parent = [str(os.getpid())] if threading.current_thread() is threading.main_thread() else []
    try:
        return subprocess.Popen([sys.executable, program, *parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=stderr)
    except OSError:
        if not hasattr(os, "fork"):
            raise
        return Forked(stderr)


def _listen(replies, lines):
    """Hand on lines; an empty one at the end."""
    with replies:
        for line in replies:
            lines.put(line)
    lines.put(b"")


def _end(child, owner):
    if os.getpid() != owner:
        return  # a copy of the process that has forked; the child is not its own
    child.kill()
    child.wait()
    with contextlib.suppress(OSError):  # about what it had not taken yet
        child.stdin.close()


def _mapped(room):
    """(path, map) of a new file of that size, in memory where the system has a folder for it and space in it."""
    for folder in ("/dev/shm", None):
        try:
            handle, path = tempfile.mkstemp(prefix=f"gluon-quantize-{os.getpid()}-", dir=folder)
        except OSError:
            continue
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, room)  # else writing to it could end this process
            else:
                os.truncate(handle, room)
            return path, mmap.mmap(handle, room)
        except OSError as error:
            os.unlink(path)
            problem = error
        finally:
            os.close(handle)
    raise DeployError(f"there is no room for {room} bytes to hand images to the engine: {problem}")


# ---- processes are kept for the next network: starting one takes as long as hundreds of small images

_waiting: List[Process] = []


def take() -> Process:
    """A process without a network."""
    while _waiting:
        process = _waiting.pop()
        if process.alive:
            return process
    return Process()


def give_back(process: Process) -> None:
    """Keep a process for the next network, or end it."""
    if not process.alive:
        return
    try:
        process.tell("unload")
    except Died:
        return
    if len(_waiting) < IDLE:
        _waiting.append(process)
    else:
        process.close()
