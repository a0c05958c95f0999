# SPDX-License-Identifier: MIT
"""The command `recheck`: do the files of an earlier deployment still compute the same, on this machine?"""

import argparse
from typing import List, Optional

from gluon_quantize.commands import options, running
from gluon_quantize.commands.parser import Parser

PROG = "gluon-quantize recheck"
DESCRIPTION = ("Compare the files of an earlier deployment with the integer engine again, on this machine. It\n"
               "needs the folder and the images, and no network.")
EPILOG = """example:
  {} out
"""


def build_parser(prog: str = PROG) -> Parser:
    """The parser."""
    parser = Parser(prog=prog, description=DESCRIPTION, epilog=EPILOG.format(running.spelled(prog)))
    group = parser.add_argument_group("the files")
    group.add_argument("recheck", metavar="DIR", help="folder of the earlier deployment")
    options.add_output(group, "folder of the new certificate, which appears whole or not at all")
    options.add_data(parser, calibration=False)
    options.add_verify(parser.add_argument_group("the proof"))
    return parser


def work(args: argparse.Namespace) -> None:
    """Compare the files as the options say; print and write the certificate."""
    # MXNet takes seconds to load, which --help need not wait for
    from gluon_quantize.commands.terminal import Terminal, say
    from gluon_quantize.report.deployment import deploy_step_text, verification_text
    from gluon_quantize.runs.recheck import RecheckRequest, recheck
    request = RecheckRequest(args.recheck, options.images_request(args), args.verify_images, args.output, args.force)
    say(verification_text(recheck(request, Terminal(deploy_step_text)).certificate))
    if args.output:
        say(f"\nwritten to {args.output}")


def main(argv: Optional[List[str]] = None, prog: str = PROG) -> int:
    """The command; returns the exit code."""
    return running.run(build_parser(prog), argv, work)
