# SPDX-License-Identifier: MIT
"""The command `recheck`: whether the files of an earlier deployment still compute the same, on this machine."""

import argparse
import sys
from typing import List, Optional

from gluon_quantize.commands import options, running
from gluon_quantize.commands.parser import Parser

PROG = "gluon-quantize recheck"
DESCRIPTION = ("Compare the files of an earlier deployment with the integer engine again, on this machine: it needs\n"
               "the folder, Python, NumPy and the engine, no MXNet and no network. Without --dataset or --data-dir\non "
               "the few images that are stored in the folder. The certificate is kept there, beside those of\nother "
               "machines. The exit code is 1 where results deviate and nobody knows why.")
EPILOG = """example:
  {} out
"""
DEVIATES = 1


def build_parser(prog: str = PROG) -> Parser:
    """The parser."""
    parser = Parser(prog=prog, description=DESCRIPTION, epilog=EPILOG.format(running.spelled(prog)))
    group = parser.add_argument_group("the files")
    group.add_argument("recheck", metavar="DIR", help="folder of the earlier deployment")
    options.add_output(group, "folder of the new certificate, which appears whole or not at all, instead of keeping it "
                              "in DIR/certificates")
    options.add_data(parser, calibration=False)
    options.add_verify(parser.add_argument_group("the proof"))
    return parser


def work(args: argparse.Namespace) -> int:
    """Compare the files as the options say; print and write the certificate. Returns the exit code."""
    # the engine takes a while to load, which --help need not wait for
    from gluon_quantize.commands.terminal import Terminal, say
    from gluon_quantize.report.verification import recheck_text
    from gluon_quantize.runs.recheck import RecheckRequest, recheck
    request = RecheckRequest(args.recheck, options.images_request(args), args.verify_images, args.output, args.force)
    result = recheck(request, Terminal())
    say(recheck_text(result.certificate, result.machines, result.notes))
    say(f"\nwritten to {args.output or args.recheck + '/certificates'}")
    if not result.reproduced:
        print("error: this machine computes something else than the integer engine, and it is not known why",
              file=sys.stderr)
    return 0 if result.reproduced else DEVIATES


def main(argv: Optional[List[str]] = None, prog: str = PROG) -> int:
    """The command; returns the exit code."""
    return running.run(build_parser(prog), argv, work)
