# SPDX-License-Identifier: MIT
"""Processes that train one network together, over MXNet's parameter server: started, watched, and none left behind.

It is used so::

    ended = launch(LaunchRequest(["python", "train_digits.py", "--kvstore", "dist_sync"], workers=2), show=print)
    ended.code, ended.reason
"""

import contextlib
import ctypes
import ipaddress
import logging
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Callable, Dict, Optional, Sequence, Tuple

from quantize.errors import ConfigError

logger = logging.getLogger(__name__)

SERVE = (sys.executable, "-c", (pathlib.Path(__file__).resolve().parent / "server.py").read_text(encoding="utf-8"))
TRUST = ("MXNet's parameter server has no password: whoever can reach {} can read and change what is learned, write "
         "files as you, and end the training. Use it in a network that only your machines are in (a VPN, for instance)")
LIBC = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
PR_SET_PDEATHSIG = 1
POLL = 0.1
FAILED, STUCK = 1, 124


@dataclass(frozen=True)
class LaunchRequest:
    """What to start.

    Attributes
    ----------
    command : sequence of str
        Of each worker.
    workers, here : int
        Processes that train, on all machines together, and on this one.
    address : (str, int)
        Host and port where the scheduler listens; a free port of this machine when None.
    join : bool
        Scheduler and server run on another machine: start workers alone.
    timeout : float or None
        Seconds after which everything is stopped.
    grace : float
        Seconds that the others get once a worker has ended.
    worker_timeout : float
        Seconds that a worker waits for the others before it gives up.
    trust_network : bool
        Also listen on a public address.
    """

    command: Sequence[str]
    workers: int = 2
    here: int = 2
    address: Optional[Tuple[str, int]] = None
    join: bool = False
    timeout: Optional[float] = None
    grace: float = 60
    worker_timeout: float = 600
    trust_network: bool = False


@dataclass(frozen=True)
class Ended:
    """How it ended: exit code (0, a failed process's, or 124 when time was up), and the reason unless it is 0."""

    code: int
    reason: str = ""


def launch(request: LaunchRequest, show: Callable[[str, str], None]) -> Ended:
    """Start everything, wait, and leave nothing behind.

    Parameters
    ----------
    show : callable
        Takes the name of a process and a line that it printed; called from threads.

    Raises
    ------
    ConfigError
        For an address that is not one of a machine, or a public one that is not said to be trusted.
    """
    address = checked_address(request)
    group = Group()
    try:
        if not request.join:
            for role in ("scheduler", "server"):
                group.start(role, SERVE, environment(request, address, role))
        for number in range(request.here):
            group.start(f"worker {number}", request.command, environment(request, address, "worker"))
        group.relay(show)  # threads come after the last fork
        return watch(group, request)
    finally:
        group.stop()


def checked_address(request: LaunchRequest) -> Tuple[str, int]:
    """(IPv4 address, port) where the scheduler listens, on that address alone; a warning for any but loopback."""
    if request.address is None:
        return free_address()
    host, port = request.address
    try:
        found = socket.gethostbyname(host)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--address {host}: no such machine ({error})") from None
    kind = ipaddress.ip_address(found)
    if kind.is_unspecified or kind.is_multicast:
        raise ConfigError(f"--address {host}: name the one address that the other machines use, not all of them")
    if not (kind.is_private or request.trust_network):
        raise ConfigError(f"--address {host}: {found} is a public address. {TRUST.format('it')}; if nobody else can "
                          "reach it, say --trust-network")
    if not kind.is_loopback:
        logger.warning("%s", TRUST.format(f"{found}:{port}"))
    return found, port


def own_address(host: str) -> str:
    """The address of this machine from which another is reached: the only one that a process here listens on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # sends nothing
            return probe.getsockname()[0]
        except OSError as error:
            raise ConfigError(f"--address {host}: cannot be reached from here ({error.strerror or error})") from None


def free_address() -> Tuple[str, int]:
    """The loopback address, with a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "127.0.0.1", probe.getsockname()[1]


def environment(request: LaunchRequest, address: Tuple[str, int], role: str) -> Dict[str, str]:
    """Environment of a process; `role` is scheduler, server or worker."""
    host, port = address
    env = dict(os.environ, DMLC_ROLE=role, DMLC_PS_ROOT_URI=host, DMLC_PS_ROOT_PORT=str(port),
               DMLC_NUM_WORKER=str(request.workers), DMLC_NUM_SERVER="1",
               QUANTIZE_WORKER_TIMEOUT=str(request.worker_timeout), PYTHONUNBUFFERED="1")
    env["DMLC_NODE_HOST"] = host if role == "scheduler" else own_address(host)
    # processes that compete for cores wait for each other in every parallel loop
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // request.here)))
    return env


class Group:
    """Processes that live and die together."""

    def __init__(self):
        self.members = {}
        self._readers = []

    def start(self, name: str, command: Sequence[str], env: Dict[str, str]) -> None:
        """Start a process; `relay` shows what it prints."""
        # a session of its own, so that `stop` reaches what the process has started, too
        process = subprocess.Popen(list(command), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, universal_newlines=True, start_new_session=True,
                                   preexec_fn=_die_with_parent)
        self.members[name] = process

    def relay(self, show: Callable[[str, str], None]) -> None:
        """From now on hand over what the processes print, line by line, with their names."""
        for name, process in self.members.items():
            reader = threading.Thread(target=_relay, args=(name, process.stdout, show), daemon=True)
            reader.start()
            self._readers.append(reader)

    def ended(self, prefix: str = "") -> Dict[str, int]:
        """{name: exit code} of those that have ended."""
        return {name: process.returncode for name, process in self.members.items()
                if name.startswith(prefix) and process.poll() is not None}

    def stop(self) -> None:
        """Kill whatever still runs, and what it has started."""
        for process in self.members.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for reader in self._readers:
            reader.join(timeout=5)


def _die_with_parent():
    """On Linux the kernel kills the process when the launcher dies, however that happens."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _relay(name, stream, show):
    for line in stream:
        show(name, line.rstrip("\n"))


def watch(group: Group, request: LaunchRequest) -> Ended:
    """Wait for the workers."""
    start, first_end = time.monotonic(), None
    while True:
        ended, now = group.ended(), time.monotonic()
        for name, code in ended.items():
            if code:
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                return Ended(code if code > 0 else FAILED, f"{name} ended with {how}; all others are stopped")
        if len(group.ended("worker")) == request.here:
            return Ended(0)
        if ended and first_end is None:
            first_end = now
        if first_end is not None and now - first_end > request.grace:
            return Ended(STUCK, f"{next(iter(ended))} ended, others go on {request.grace:g} seconds later; all are "
                                "stopped")
        if request.timeout is not None and now - start > request.timeout:
            return Ended(STUCK, f"not done after {request.timeout:g} seconds; all are stopped")
        time.sleep(POLL)
