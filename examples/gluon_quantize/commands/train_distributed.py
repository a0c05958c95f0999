# SPDX-License-Identifier: MIT
"""Start a training in several processes that train one network (MXNet's parameter server, dist_sync).

A scheduler, a server and the workers run on this machine; when one of them fails, all are stopped.
"""

import argparse
import pathlib
import signal
import sys
from typing import List, Optional

from gluon_quantize.commands.parser import Parser
from gluon_quantize.commands.running import log_shown, spelled, unix_output
from gluon_quantize.runs.distributed import LaunchRequest, launch
from quantize.errors import QuantizeError
from quantize.escape import shown

PROG = "train_distributed.py"
EPILOG = """examples:
  {prog} --workers 2 train_digits.py --epochs 3 --kvstore dist_sync
  {prog} --workers 2 -- train --model digits_lenet --output out
      (the command of gluon-quantize, which gets --kvstore dist_sync by itself)
  {prog} --workers 4 --here 2 --address 10.0.0.1:9000 train_qat.py ... --kvstore dist_sync
  {prog} --workers 4 --here 2 --address 10.0.0.1:9000 --join train_qat.py ... --kvstore dist_sync
      (the same on a second machine)
"""
TRAIN, SCRIPTS = "train", ("train_qat.py", "train_digits.py")


def build_parser(prog: str = PROG) -> Parser:
    """The parser of the options."""
    parser = Parser(prog=prog, description=__doc__, epilog=EPILOG.format(prog=spelled(prog)))
    parser.add_argument("--workers", type=int, default=2, metavar="N",
                        help="processes that train, on all machines together (default: %(default)s)")
    parser.add_argument("--here", type=int, metavar="N", help="how many of them on this machine (default: all)")
    parser.add_argument("--address", metavar="HOST:PORT",
                        help="where the scheduler listens, and nowhere else; an address of a network that only your "
                             "machines are in (default: 127.0.0.1 and a free port)")
    parser.add_argument("--trust-network", action="store_true",
                        help="also listen on a public address: MXNet's parameter server has no password, so whoever "
                             "can reach it can change what is learned (default: no)")
    parser.add_argument("--join", action="store_true",
                        help="scheduler and server run on another machine, at --address: start workers alone")
    parser.add_argument("--timeout", type=float, metavar="SECONDS",
                        help="stop everything after so long (default: never)")
    parser.add_argument("--grace", type=float, default=60, metavar="SECONDS",
                        help="once a worker has ended, the others get so long to end too (default: %(default)s)")
    parser.add_argument("--worker-timeout", type=float, default=600, metavar="SECONDS",
                        help="a worker that waits so long for the others gives up (default: %(default)s)")
    parser.add_argument("script", help="training script, or train: the command; with its own options behind it")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def parse(argv: Optional[List[str]], prog: str = PROG) -> LaunchRequest:
    """What the command line asks for."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    here = args.workers if args.here is None else args.here
    if not 1 <= here <= args.workers:
        parser.error("--here must be from 1 to the number of --workers")
    if (args.join or here < args.workers) and not args.address:
        parser.error("--address is needed when workers run on several machines")
    host, _, port = (args.address or "").rpartition(":")
    if args.address and (not host or not port.isdigit()):
        parser.error(f"--address {args.address}: write HOST:PORT")
    return LaunchRequest(worker_command(args.script, args.arguments), args.workers, here,
                         (host, int(port)) if args.address else None, args.join, args.timeout, args.grace,
                         args.worker_timeout, args.trust_network)


def worker_command(script: str, arguments: List[str]) -> List[str]:
    """The command of a worker: a script's, or that of the command `train`; ours are told to train together."""
    said = any(argument.startswith("--kvstore") for argument in arguments)
    ours = script == TRAIN or pathlib.Path(script).name in SCRIPTS
    together = ["--kvstore", "dist_sync"] if ours and not said else []
    command = ["-m", "gluon_quantize", TRAIN] if script == TRAIN else [script]
    return [sys.executable, *command, *arguments, *together]


def show(name: str, line: str) -> None:
    """Print a worker's line, with its name in front."""
    sys.stdout.write(f"{name} | {shown(line)}\n")
    sys.stdout.flush()


def main(argv: Optional[List[str]] = None, prog: str = PROG) -> int:
    """The command; returns the exit code: 0, a failed worker's, 124 when time was up, 130 when interrupted."""
    with unix_output():
        request = parse(argv, prog)
        # as an exception, so that the workers are stopped
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        log_shown()
        try:
            ended = launch(request, show)
        except QuantizeError as error:
            print(f"error: {shown(error)}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
    if ended.reason:
        print(f"error: {ended.reason}", file=sys.stderr)
    return ended.code
