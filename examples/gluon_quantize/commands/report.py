# SPDX-License-Identifier: MIT
"""The command `report`: one page about a simulation, a training or a deployment, for people to look at."""

import argparse
from typing import List, Optional

from gluon_quantize.commands import options, reporting, running
from gluon_quantize.commands.parser import Parser, whole
from gluon_quantize.runs import outputs
from gluon_quantize.runs.ownership import PAGE

PROG = "gluon-quantize report"
DESCRIPTION = ("One self-contained HTML page about what simulate, train or deploy has written, and a JSON file with\n"
               "everything it shows. Some images are looked at, layer by layer; no browser, no network is needed.")
EPILOG = """example:
  {0} out --output report.html
"""


def build_parser(prog: str = PROG) -> Parser:
    """The parser."""
    parser = Parser(prog=prog, description=DESCRIPTION, epilog=EPILOG.format(running.spelled(prog)))
    group = parser.add_argument_group("the report")
    group.add_argument("subject", metavar="SUBJECT",
                       help="folder that simulate, train or deploy has written (--output), or a checkpoint (.qnet)")
    group.add_argument("--output", default=PAGE, metavar="FILE", help="the page (default: %(default)s)")
    group.add_argument("--report-images", type=whole(0), default=64, metavar="N",
                       help="look at so many images, 0: at none (default: %(default)s)")
    group.add_argument("--compared-images", type=whole(0), default=2, metavar="N",
                       help="so many of them also with each layer quantized alone (default: %(default)s)")
    group.add_argument("--timed-runs", type=whole(0), default=10, metavar="N",
                       help="time each layer of a deployment in its engine, float and int8, in so many runs, 0: do not "
                            "(default: %(default)s)")
    options.add_sensitivity(group, "run has measured")
    options.add_data(parser, calibration=False)
    return parser


def work(args: argparse.Namespace) -> None:
    """Collect, write the page and say where it is."""
    # the engine and NumPy take a moment to load, which --help need not wait for
    from gluon_quantize.commands.terminal import say
    from gluon_quantize.runs.report import ReportRequest
    request = ReportRequest(args.subject, options.images_request(args), args.report_images, args.compared_images,
                            args.timed_runs, options.sensitivity_bits(args) or ())
    outputs.check_file(args.output)
    reporting.require()
    for line in reporting.write(request, args.output):
        say(line)


def main(argv: Optional[List[str]] = None, prog: str = PROG) -> int:
    """The command; returns the exit code."""
    return running.run(build_parser(prog), argv, work)
