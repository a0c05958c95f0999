# SPDX-License-Identifier: MIT
"""Start a training script in several processes that train one network (MXNet's parameter server, dist_sync).

A scheduler, a server and the workers run on this machine; when one of them fails, all are stopped.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time

EPILOG = """examples:
  python train_distributed.py --workers 2 train_digits.py --epochs 3 --kvstore dist_sync
  python train_distributed.py --workers 4 --here 2 --address 10.0.0.1:9000 train_qat.py ... --kvstore dist_sync
  python train_distributed.py --workers 4 --here 2 --address 10.0.0.1:9000 --join train_qat.py ... --kvstore dist_sync
      (the same on a second machine)
"""
SERVE = [sys.executable, "-c", "import mxnet"]  # with their roles in the environment, that is all they need
LIBC = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
PR_SET_PDEATHSIG = 1
POLL = 0.1
FAILED, STUCK = 1, 124


def parse_args(argv=None):
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, metavar="N",
                        help="processes that train, on all machines together (default: %(default)s)")
    parser.add_argument("--here", type=int, metavar="N", help="how many of them on this machine (default: all)")
    parser.add_argument("--address", metavar="HOST:PORT",
                        help="where the scheduler listens (default: 127.0.0.1 and a free port)")
    parser.add_argument("--join", action="store_true",
                        help="scheduler and server run on another machine, at --address: start workers alone")
    parser.add_argument("--timeout", type=float, metavar="SECONDS",
                        help="stop everything after so long (default: never)")
    parser.add_argument("--grace", type=float, default=60, metavar="SECONDS",
                        help="once a worker has ended, the others get so long to end too (default: %(default)s)")
    parser.add_argument("--worker-timeout", type=float, default=600, metavar="SECONDS",
                        help="a worker that waits so long for the others gives up (default: %(default)s)")
    parser.add_argument("script", help="training script, with its own options behind it")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.here = args.workers if args.here is None else args.here
    if not 1 <= args.here <= args.workers:
        parser.error("--here must be from 1 to the number of --workers")
    if (args.join or args.here < args.workers) and not args.address:
        parser.error("--address is needed when workers run on several machines")
    return args


def environment(args, role):
    """Environment of a process; `role` is scheduler, server or worker."""
    host, port = address(args)
    env = dict(os.environ, DMLC_ROLE=role, DMLC_PS_ROOT_URI=host, DMLC_PS_ROOT_PORT=str(port),
               DMLC_NUM_WORKER=str(args.workers), DMLC_NUM_SERVER="1",
               QUANTIZE_WORKER_TIMEOUT=str(args.worker_timeout), PYTHONUNBUFFERED="1")
    if host == "127.0.0.1":
        env["DMLC_NODE_HOST"] = host
    # processes that compete for cores wait for each other in every parallel loop
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // args.here)))
    return env


def address(args):
    """(host, port) of the scheduler; a free port is chosen once."""
    if not args.address:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            args.address = f"127.0.0.1:{probe.getsockname()[1]}"
    host, _, port = args.address.rpartition(":")
    if not host or not port.isdigit():
        sys.exit(f"error: --address {args.address}: write HOST:PORT")
    return host, int(port)


class Group:
    """Processes that live and die together."""

    def __init__(self):
        self.members = {}
        self._readers = []

    def start(self, name, command, env):
        """Start a process; `relay` shows what it prints."""
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, universal_newlines=True, start_new_session=True,
                                   preexec_fn=_die_with_parent)
        self.members[name] = process

    def relay(self):
        """From now on print what the processes print, line by line, with their names in front."""
        for name, process in self.members.items():
            reader = threading.Thread(target=_relay, args=(name, process.stdout), daemon=True)
            reader.start()
            self._readers.append(reader)

    def ended(self, prefix=""):
        """{name: exit code} of those that have ended."""
        return {name: process.returncode for name, process in self.members.items()
                if name.startswith(prefix) and process.poll() is not None}

    def stop(self):
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


def _relay(name, stream):
    for line in stream:
        sys.stdout.write(f"{name} | {line}")
        sys.stdout.flush()


def watch(group, args):
    """Wait for the workers; returns the exit code: 0, a failed process's, or 124 when time is up."""
    start, first_end = time.monotonic(), None
    while True:
        failed = {name: code for name, code in group.ended().items() if code}
        if failed:
            name, code = next(iter(failed.items()))
            print("error: {} ended with {}; all others are stopped".format(
                name, f"signal {-code}" if code < 0 else f"exit code {code}"), file=sys.stderr)
            return code if code > 0 else FAILED
        done = group.ended("worker")
        if len(done) == args.here:
            return 0
        now = time.monotonic()
        if group.ended() and first_end is None:
            first_end = now
        if first_end is not None and now - first_end > args.grace:
            print(f"error: {next(iter(group.ended()))} ended, others go on {args.grace:g} seconds later; all are "
                  "stopped", file=sys.stderr)
            return STUCK
        if args.timeout is not None and now - start > args.timeout:
            print(f"error: not done after {args.timeout:g} seconds; all are stopped", file=sys.stderr)
            return STUCK
        time.sleep(POLL)


def main(argv=None) -> int:
    """Start everything, wait, and leave nothing behind."""
    args = parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    group = Group()
    try:
        if not args.join:
            for role in ("scheduler", "server"):
                group.start(role, SERVE, environment(args, role))
        for number in range(args.here):
            group.start(f"worker {number}", [sys.executable, args.script] + args.arguments,
                        environment(args, "worker"))
        group.relay()  # threads come after the last fork
        return watch(group, args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        group.stop()
