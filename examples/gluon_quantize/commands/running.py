# SPDX-License-Identifier: MIT
"""What every command line does around its work."""

import contextlib
import logging
import os
import signal
import sys
from typing import Callable, Iterator, List, Optional

from gluon_quantize.commands.parser import Parser
from quantize.errors import QuantizeError

NO_MODEL = """Name a network to quantize, in one of four ways:

  --model digits_lenet       the embedded example: a LeNet of 40 thousand weights on 8x8 handwritten digits; evaluates
                             364 test images in float and in int8 within seconds and needs no download
  --model mobilenet1.0       any classification network of gluoncv (--list-models prints them); its pretrained
                             weights are downloaded, or read from --params FILE
  --onnx FILE                a CNN in an ONNX file
  --symbol FILE              a network exported by Gluon: NAME-symbol.json, with --params NAME-0000.params

Try:  {prog} --model digits_lenet
      {prog} --help
"""


def spelled(prog: str) -> str:
    """How a command is started: the installed one by its name, a script of the examples by Python."""
    return f"python {prog}" if prog.endswith(".py") else prog


@contextlib.contextmanager
def unix_output() -> Iterator[None]:
    """Context that ends the process when nobody reads its output any more (``| head``), as SIGPIPE ends Unix tools.

    The signal itself stays ignored, as Python has it: it would also end the process for a lost network connection.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # or the interpreter would try to write the rest, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def run(parser: Parser, argv: Optional[List[str]], work: Callable) -> int:
    """Parse, work, and return the exit code: 0, 2 for anything wrong with what was given, 130 when interrupted.

    Parameters
    ----------
    parser : Parser
        Its --list-models, where it has that, is answered here.
    work : function of the parsed arguments
    """
    with unix_output():
        args = parser.parse_args(argv)
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
        try:
            if getattr(args, "list_models", False):
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


def run_if_asked(parser: Parser, argv: Optional[List[str]], check: Callable, work: Callable) -> int:
    """`run`, but without any option say how a network is named; `check(parser, args)` comes before the work."""
    def checked(args):
        if args == parser.parse_args([]):
            print(NO_MODEL.format(prog=spelled(parser.prog)))
        else:
            check(parser, args)
            work(args)
    return run(parser, argv, checked)


def run_request(parser: Parser, argv: Optional[List[str]], request_of: Callable, work: Callable) -> int:
    """`run`, but without any option say how a network is named.

    Parameters
    ----------
    request_of : callable
        (parser, parsed arguments) -> what the options ask for: the arguments go no further.
    work : callable
        Takes that.
    """
    def asked(args):
        if args == parser.parse_args([]):
            print(NO_MODEL.format(prog=spelled(parser.prog)))
        else:
            work(request_of(parser, args))
    return run(parser, argv, asked)
