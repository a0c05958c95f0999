# SPDX-License-Identifier: MIT
"""The command `search`: how many bits each layer needs."""

import argparse
from typing import List, Optional

from gluon_quantize.commands import options, running
from gluon_quantize.commands.parser import Parser, whole
from gluon_quantize.runs.requests import QuantizationRequest

PROG = "gluon-quantize search"
DESCRIPTION = ("Search bits for each layer: the best network of a size, or the smallest that loses no more than it\n"
               "may. Sensitivities are measured, an integer program chooses, and what it chose is evaluated. The exit\n"
               "code is 1 where the limit cannot be kept; the nearest to it is written all the same.")
EPILOG = """example:
  {} --model digits_lenet --size 0.6 --output searched
"""


def build_parser(prog: str = PROG) -> Parser:
    """The parser."""
    parser = Parser(prog=prog, description=DESCRIPTION, epilog=EPILOG.format(running.spelled(prog)))
    options.add_model(parser)
    options.add_data(parser)
    options.add_choice_of_layers(parser)
    _add_limit(parser)
    options.add_fixed_calibration(parser)
    options.add_repair(parser)
    parser.set_defaults(learn_rounding="gptq")
    group = parser.add_argument_group("the run")
    options.add_output(group, "folder of rules.json, plan.txt, result.json and curve.png, which appears whole or not "
                              "at all")
    options.add_device(group)
    options.add_seed(group)
    return parser


def _add_limit(parser):
    group = parser.add_argument_group("the limit")
    group.add_argument("--size", type=float, metavar="SHARE",
                       help="bytes of the parameters, as a share of the int8 network's: 0.6 (default: no limit)")
    group.add_argument("--operations", type=float, metavar="SHARE",
                       help="bit operations, as a share of the int8 network's; inputs get fewer bits, too (default: no "
                            "limit)")
    group.add_argument("--accuracy-drop", type=float, metavar="POINTS",
                       help="the smallest network that loses no more points of Top-1 (default: no limit)")
    group.add_argument("--agreement", type=float, metavar="SHARE",
                       help="the smallest network in which so large a share of the images gets the float network's "
                            "class, without labels: 0.98 (default: no limit)")
    group.add_argument("--bits", type=whole(2, 8), nargs="+", default=[3, 4, 5, 6, 8], metavar="N",
                       help="what weights may have (default: 3 4 5 6 8)")
    group.add_argument("--curve-points", type=whole(1), default=3, metavar="N",
                       help="evaluate so many points of the curve of accuracy over size (default: %(default)s)")
    group.add_argument("--refine", type=whole(0), default=1, metavar="N",
                       help="with --size or --operations: evaluate N neighbours of what the integer program chose, "
                            "too, and choose the best (default: %(default)s)")


def work(args: argparse.Namespace) -> int:
    """Search as the options say; print and write what comes of it. Returns the exit code."""
    # MXNet takes seconds to load, which --help need not wait for
    from gluon_quantize.commands.terminal import Terminal, say
    from gluon_quantize.report import search as report
    from gluon_quantize.report.deployment import deploy_step_text
    from gluon_quantize.runs import outputs
    from gluon_quantize.runs.search import SearchRequest, search
    request = SearchRequest(
        options.network_request(args), options.images_request(args),
        QuantizationRequest(merge_bn=True, exclude_first=args.exclude_first_conv == "true", config=args.config),
        options.calibration_request(args), options.run_request(args), options.repair_request(args),
        size=args.size, operations=args.operations, drop=args.accuracy_drop, agreement=args.agreement,
        bits=tuple(args.bits), points=args.curve_points,
        refinements=args.refine)
    with outputs.reserved(args.output, args.force):
        result = search(request, Terminal(deploy_step_text))
        say("\n" + report.search_text(result))
        if args.output:
            with outputs.staged(args.output, args.force) as folder:
                report.write_result(folder, options.settings(args), result)
            say(f"written to {args.output}")
    return running.kept(result.met, "the limit cannot be kept; the nearest to it is what was chosen")


def main(argv: Optional[List[str]] = None, prog: str = PROG) -> int:
    """The command; returns the exit code."""
    return running.run(build_parser(prog), argv, work)
