# SPDX-License-Identifier: MIT
"""The command `deploy`: quantize a CNN, write an engine's files, prove that the engine computes what was simulated."""

import argparse
from typing import TYPE_CHECKING, List, Optional

from deploy.target import TARGETS, Target, find
from gluon_quantize.commands import options, recheck, reporting, running
from gluon_quantize.commands.parser import Parser, whole
from gluon_quantize.report.settings import settings_text
from gluon_quantize.runs.requests import QuantizationRequest
from quantize.errors import ConfigError

if TYPE_CHECKING:
    from gluon_quantize.runs.deploy import DeployRequest

PROG = "deploy_ncnn.py"
TARGET = "ncnn"  # what is deployed for where nothing else is said
DESCRIPTION = ("Quantize a CNN for an engine, write the files that the engine runs in int8, and prove that it\n"
               "computes what was simulated.")
EPILOG = """example:
  {} --model digits_lenet --output out
"""


def build_parser(prog: str = PROG, target: Optional[Target] = None) -> Parser:
    """The parser, with what a target offers; that of `TARGET` where none is given."""
    target = target or find(TARGET)
    parser = Parser(prog=prog, description=DESCRIPTION, epilog=EPILOG.format(running.spelled(prog)))
    options.add_model(parser)
    options.add_data(parser)
    options.add_choice_of_layers(parser)
    options.add_fixed_calibration(parser)
    options.add_repair(parser)
    options.add_goal(parser)
    _add_files(parser, target)
    _add_proof(parser, target)
    group = parser.add_argument_group("the run")
    reporting.add_report(group)
    options.add_seed(group)
    options.add_verbose(group)
    return parser


def _add_files(parser: Parser, target: Target) -> None:
    group = parser.add_argument_group("the files")
    _add_target(group, target.name)
    options.add_output(group, "folder of the results, which appears whole or not at all")
    options.add_target_options(group, target)
    group.add_argument("--bgr", action="store_true",
                       help="the network takes BGR images: its first layer's weights are reordered")
    for extra in target.extras():
        if extra.flag:
            group.add_argument(extra.flag, action="store_true", help=extra.help)


def _add_target(group: argparse._ActionsContainer, name: str) -> None:
    group.add_argument("--target", metavar="NAME", default=name,
                       help=f"the engine, one of {', '.join(TARGETS.names())}; what else it offers is listed by "
                            f"--target NAME --help (default: {TARGET})")


def _add_proof(parser: Parser, target: Target) -> None:
    group = parser.add_argument_group("the proof")
    options.add_verify(group)
    group.add_argument("--latency-runs", type=whole(1), default=20, metavar="N",
                       help="timed runs of the float and the int8 files (default: %(default)s)")
    for report in target.reports():
        group.add_argument(report.flag, action="store_true", help=report.help)
    group.add_argument("--recheck", metavar="DIR",
                       help="only compare the files of an earlier run again, on this machine: needs its folder and "
                            "images, no network; --output DIR takes the new certificate")
    group.add_argument("--no-engine", action="store_true",
                       help=f"write the files without running them in {target.name} (needs no {target.name} package)")


def chosen_target(prog: str, argv: Optional[List[str]]) -> Target:
    """The target that a command line names: it says which options there are, so it is read before them."""
    parser = Parser(prog=prog, add_help=False, allow_abbrev=False)
    _add_target(parser, TARGET)
    try:
        return find(parser.parse_known_args(argv)[0].target)
    except ConfigError as error:
        parser.error(f"--target: {error}")


def check(parser: Parser, args: argparse.Namespace) -> None:
    """Options that are needed."""
    if not args.output and not args.list_models:
        parser.error("--output DIR is needed")


def request_of(args: argparse.Namespace) -> "DeployRequest":
    """What the options stand for."""
    from gluon_quantize.runs.deploy import DeployRequest
    target = options.told_target(args, args.target)
    offered = [extra.flag for extra in target.extras() if extra.flag] + [report.flag for report in target.reports()]
    return DeployRequest(
        options.network_request(args), options.images_request(args),
        QuantizationRequest(target=target, merge_bn=True, exclude_first=args.exclude_first_conv == "true",
                            config=args.config),
        options.calibration_request(args), options.run_request(args), options.repair_request(args),
        output=args.output, force=args.force, bgr=args.bgr, use_engine=not args.no_engine,
        verify_images=args.verify_images, latency_runs=args.latency_runs,
        goal=options.goal_request(args), wanted=tuple(flag for flag in offered if options.given(args, flag)))


def work(args: argparse.Namespace) -> int:
    """Deploy as the options say; print and write what comes of it. Returns the exit code."""
    # MXNet takes seconds to load, which --help need not wait for
    from gluon_quantize.commands.terminal import Terminal, say
    from gluon_quantize.report import deployment
    from gluon_quantize.runs.deploy import deploy
    if args.verbose:
        say(settings_text(options.settings(args)))
    if args.report:
        reporting.require()
    terminal = Terminal(lambda step: deployment.deploy_step_text(step, args.print_model))
    result = deploy(request_of(args), terminal, lambda folder, found: deployment.write_result(
        folder, options.settings(args), found))
    say("\n" + deployment.worth_text(result))
    say(f"\nwritten to {args.output}")
    if args.report:
        say("\n".join(reporting.beside(args.output, options.images_request(args))))
    return running.kept(result.reached is None or result.reached.holds,
                        "nothing that was tried reaches the goal; the best is what was deployed")


def main(argv: Optional[List[str]] = None, prog: str = PROG) -> int:
    """The command; returns the exit code."""
    parser = build_parser(prog, chosen_target(prog, argv))

    def chosen(args):
        if args.recheck:
            return recheck.work(args)
        if not (args.model or args.onnx or args.symbol or args.checkpoint):
            print(running.NO_MODEL.format(prog=running.spelled(parser.prog)))
        else:
            check(parser, args)
            return work(args)
        return 0
    return running.run(parser, argv, chosen)
