# SPDX-License-Identifier: MIT
"""Train and test what an INI file of N2D2 describes."""

import argparse
import pathlib
from typing import List, Optional

from gluon_quantize.commands import running
from gluon_quantize.commands.options import add_max_memory
from gluon_quantize.commands.parser import Parser
from gluon_quantize.commands.terminal import Terminal, say

PROG = "n2d2.py"
# those of runs.n2d2, which takes seconds to load
METRICS = ("Sensitivity", "Specificity", "Precision", "Accuracy", "F1Score", "Informedness", "RecognitionRate")
EPILOG = """examples:
  {prog} LeNet.ini -learn-epoch 100 --data-dir mnist
  {prog} LeNet.ini -learn-epoch 100 -w weights_clamped --data-dir mnist
  {prog} LeNet.ini -test -w weights --data-dir mnist
"""


def build_parser(prog: str = PROG) -> Parser:
    """The parser; its options are N2D2's, and three of our own."""
    parser = Parser(prog=prog, description=__doc__, epilog=EPILOG.format(prog=running.spelled(prog)),
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ini", metavar="FILE.ini", help="database, transformations and cells, as N2D2 writes them")
    parser.add_argument("-learn-epoch", type=int, default=0, metavar="N", help="train so many epochs (default: none)")
    parser.add_argument("-w", dest="weights", metavar="FOLDER",
                        help="start from the numbers that an earlier run wrote into this folder, its weights "
                             "(default: none)")
    parser.add_argument("-test", action="store_true", help="test only, without training (default: no)")
    parser.add_argument("-qat-sat", action="store_true",
                        help="fuse the network to whole numbers, and say in every scaling how many codes stay "
                             "(default: no)")
    parser.add_argument("-valid-metric", choices=METRICS, metavar="NAME",
                        help=f"keep the epoch that has most of it: {', '.join(METRICS)} (default: RecognitionRate, "
                             "where the file keeps validation images; else the last epoch)")
    parser.add_argument("-seed", type=int, default=1, metavar="N", help="of all random numbers (default: 1)")
    parser.add_argument("--data-dir", metavar="FOLDER",
                        help="folder of the images (default: DataPath of the file, or the data set's in $N2D2_DATA)")
    parser.add_argument("--output", default=".", metavar="FOLDER",
                        help="where weights and figures go (default: the current folder)")
    add_max_memory(parser)
    return parser


def work(args: argparse.Namespace) -> None:
    """Run, and print N2D2's closing lines."""
    from quantize.errors import ConfigError
    if args.test and args.learn_epoch:
        raise ConfigError("-test trains nothing; leave out -learn-epoch, or -test")
    if not args.test and not args.learn_epoch:
        raise ConfigError("say what to do: -learn-epoch N trains, -test tests")
    if args.test and not args.weights:
        raise ConfigError("-test needs the numbers of a training: name their folder with -w")
    # MXNet takes seconds to load, which --help need not wait for
    from gluon_quantize.models.request import RunRequest
    from gluon_quantize.report import n2d2 as report
    from gluon_quantize.runs import n2d2 as runs
    request = runs.IniRequest(args.ini, args.output, args.learn_epoch, args.data_dir, args.weights, args.valid_metric,
                              args.qat_sat, run=RunRequest(seed=args.seed))
    result = runs.run_ini(request, Terminal(report.step_text))
    say(report.closing_text(result.scores))
    if result.fused:
        say(report.fused_text(result.fused))
    say(f"written to {pathlib.Path(args.output) / runs.WEIGHTS}")


def main(argv: Optional[List[str]] = None, prog: str = PROG) -> int:
    """The command; returns the exit code."""
    return running.run(build_parser(prog), argv, work)
