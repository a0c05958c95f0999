# SPDX-License-Identifier: MIT
"""The command `report`: one page about a simulation, a training or a deployment, for people to look at."""

import argparse
from typing import List, Optional

from gluon_quantize.commands import options, running
from gluon_quantize.commands.parser import Parser, whole

PROG = "gluon-quantize report"
DESCRIPTION = ("One self-contained HTML page about what simulate, train or deploy has written, and a JSON file with\n"
               "everything it shows. Of a deployment some images are looked at, layer by layer.")
EPILOG = """example:
  {0} out --output report.html
"""


def build_parser(prog: str = PROG) -> Parser:
    """The parser."""
    parser = Parser(prog=prog, description=DESCRIPTION, epilog=EPILOG.format(running.spelled(prog)))
    group = parser.add_argument_group("the report")
    group.add_argument("subject", metavar="DIR", help="folder that simulate, train or deploy has written (--output)")
    group.add_argument("--output", default="report.html", metavar="FILE", help="the page (default: %(default)s)")
    group.add_argument("--report-images", type=whole(0), default=64, metavar="N",
                       help="look at so many images of a deployment, 0: at none (default: %(default)s)")
    group.add_argument("--compared-images", type=whole(0), default=2, metavar="N",
                       help="so many of them also with each layer quantized alone (default: %(default)s)")
    options.add_data(parser, calibration=False)
    return parser


def work(args: argparse.Namespace) -> None:
    """Collect, write the page and say where it is."""
    # the engine and NumPy take a moment to load, which --help need not wait for
    from gluon_quantize.commands.terminal import Terminal, say
    from gluon_quantize.report.page import write_page
    from gluon_quantize.report.steps import step_text
    from gluon_quantize.runs.report import ReportRequest, report
    request = ReportRequest(args.subject, options.images_request(args), args.report_images, args.compared_images)
    contents = report(request, Terminal(step_text))
    for path in write_page(args.output, contents):
        say(f"written to {path}")
    collection = contents.get("collection")
    if collection:
        say(f"looked at {collection['images']} images, which took as long as {collection['ratio']:.1f} float passes")


def main(argv: Optional[List[str]] = None, prog: str = PROG) -> int:
    """The command; returns the exit code."""
    return running.run(build_parser(prog), argv, work)
