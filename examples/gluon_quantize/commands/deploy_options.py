# SPDX-License-Identifier: MIT
"""The command line of `deploy_ncnn.py`."""

from deploy.target import find
from gluon_quantize.commands.options import (
    add_choice_of_layers,
    add_data,
    add_fixed_calibration,
    add_model,
    add_seed,
    whole,
)
from gluon_quantize.commands.options import build_parser as simulation_parser
from gluon_quantize.commands.running import Parser, spelled

PROG = "deploy_ncnn.py"
ENGINE = "ncnn"  # what is deployed for where nothing else is said
DESCRIPTION = ("Quantize a CNN for ncnn, write the files that ncnn runs in int8, and prove that it computes what was "
               "simulated.")
EPILOG = """example:
  {} --model digits_lenet --output out
"""


def build_parser(prog: str = PROG) -> Parser:
    """The parser; what `simulate_quantization.py` offers too comes from there, and what it alone offers has a value."""
    parser, offered = _offered(prog), settings()
    parser.set_defaults(**{name: value for name, value in vars(simulation_parser().parse_args([])).items()
                           if name not in offered})
    parser.set_defaults(merge_bn=True, quantize_input_offline=True)
    return parser


def settings(args=None):
    """The options that this command offers and their values, in alphabetical order."""
    defaults = vars(_offered().parse_args([]))
    given = defaults if args is None else vars(args)
    return {name: given[name] for name in sorted(defaults)}


def _offered(prog=PROG):
    parser = Parser(prog=prog, description=DESCRIPTION, epilog=EPILOG.format(spelled(prog)))
    add_model(parser)
    add_data(parser)
    add_choice_of_layers(parser)
    add_fixed_calibration(parser, "mse")
    _add_files(parser)
    _add_proof(parser)
    add_seed(parser.add_argument_group("the run"))
    return parser


def _add_files(parser):
    group = parser.add_argument_group("the files")
    group.add_argument("--output", metavar="DIR", help="folder of the results, which appears whole or not at all")
    group.add_argument("--force", action="store_true", help="replace the folder if it is there")
    target = find(ENGINE)
    for option in target.options:
        group.add_argument(option.flag, action="store_true", help=option.help)
    group.add_argument("--bgr", action="store_true",
                       help="the network takes BGR images: its first layer's weights are reordered")
    for extra in target.extras():
        if extra.flag:
            group.add_argument(extra.flag, action="store_true", help=extra.help)


def _add_proof(parser):
    group = parser.add_argument_group("the proof")
    group.add_argument("--verify-images", type=whole(0), default=50, metavar="N",
                       help="images on which every blob is compared, 0: all that are evaluated (default: %(default)s)")
    group.add_argument("--latency-runs", type=whole(1), default=20, metavar="N",
                       help="timed runs of the float and the int8 files (default: %(default)s)")
    for report in find(ENGINE).reports():
        group.add_argument(report.flag, action="store_true", help=report.help)
    group.add_argument("--recheck", metavar="DIR",
                       help="only compare the files of an earlier run again, on this machine: needs its folder and "
                            "images, no network; --output DIR takes the new certificate")
    group.add_argument("--no-engine", action="store_true",
                       help="write the files without running them in ncnn (needs no ncnn package)")


def check(parser, args):
    """Options that are needed."""
    if not args.output and not args.list_models:
        parser.error("--output DIR is needed")
