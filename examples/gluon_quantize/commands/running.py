# SPDX-License-Identifier: MIT
"""What every command line does around its work."""

import logging
import sys

from gluon_quantize.commands.options import NO_MODEL
from quantize.errors import QuantizeError


def run(parser, argv, work) -> int:
    """Parse, work, and return the exit code: 0, 2 for anything wrong with what was given, 130 when interrupted.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        With --list-models, which is answered here.
    work : function of the parsed arguments
    """
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        if args.list_models:
            from gluon_quantize.models.loading import list_models
            print("\n".join(list_models()))
        else:
            work(args)
    except QuantizeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def run_if_asked(parser, argv, check, work) -> int:
    """`run`, but without any option say how a network is named; `check(parser, args)` comes before the work."""
    def checked(args):
        if args == parser.parse_args([]):
            print(NO_MODEL.format(prog=parser.prog))
        else:
            check(parser, args)
            work(args)
    return run(parser, argv, checked)
