# SPDX-License-Identifier: MIT
"""What every command line does around its work."""

import contextlib
import logging
import os
import shlex
import signal
import sys
from typing import Callable, Iterator, List, Optional

from gluon_quantize.commands.parser import Parser
from quantize.errors import QuantizeError
from quantize.escape import shown
from quantize.limits import GIGABYTE, memory_limit

PACKAGES = ("quantize", "calib", "deploy", "gluon_quantize")
NOT_KEPT = 1  # exit code: the best result is there, but not what was asked for
NO_MODEL = """Name a network to quantize, in one of five ways:

  --model digits_lenet       the embedded example: a LeNet of 40 thousand weights on 8x8 handwritten digits; evaluates
                             364 test images in float and in int8 within seconds and needs no download
  --model mobilenet1.0       any classification network of gluoncv (--list-models prints them); its pretrained
                             weights are downloaded, or read from --params FILE
  --onnx FILE                a CNN in an ONNX file
  --symbol FILE              a network exported by Gluon: NAME-symbol.json, with --params NAME-0000.params
  CHECKPOINT                 what one of these commands has written: its .qnet file, or its --output folder

Try:  {prog} --model digits_lenet
      {prog} --help
"""


def spelled(prog: str) -> str:
    """How a command is started: the installed one by its name, a script of the examples by Python."""
    return f"python {prog}" if prog.endswith(".py") else prog


@contextlib.contextmanager
def unix_output() -> Iterator[None]:
    """Context that ends the process as Unix tools do when its output goes nowhere: nobody reads it, or a disk is full.

    With ``| head`` it ends as SIGPIPE would end it, with a full disk with one line and exit code 1. The signal itself
    stays ignored, as Python has it: it would also end the process for a lost network connection. Letters that the
    terminal does not know are shown escaped.
    """
    if sys.stdout is None:  # closed before the process began (>&-)
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for the life of the process)
    elif hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.filename is not None:
            raise
        _drop_output()
        print(f"error: standard output cannot be written: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)


def _drop_output():
    """Or the interpreter would try to write the rest when it ends, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Shown(logging.Formatter):
    """Log lines whose names from files do not speak to the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return shown(super().format(record), keep="\n")


def _fail(text):
    """One line on standard error (several where an error has them), and the exit code."""
    print("error: " + shown(text, keep="\n"), file=sys.stderr)
    return 2


def _named(error, given):
    """The text of an error; what was given on the command line has no line ends in it."""
    text = str(error)
    for word in given:
        if "\n" in word:
            text = text.replace(word, shown(word))
    return text


def kept(holds: bool, what: str) -> int:
    """The exit code for a limit that the user gave: 0, or one line on standard error and 1 where it is not kept."""
    if not holds:
        print(f"error: {what}", file=sys.stderr)
    return 0 if holds else NOT_KEPT


def log_shown() -> None:
    """Warnings on standard error, unless a program that calls the command has its own log."""
    handler = logging.StreamHandler()
    handler.setFormatter(Shown("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


@contextlib.contextmanager
def told_more(verbose: bool) -> Iterator[None]:
    """Context in which this program's own log lines are shown where somebody asks for more: one for each phase."""
    loggers = [logging.getLogger(name) for name in PACKAGES if verbose]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.INFO)
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def run(parser: Parser, argv: Optional[List[str]], work: Callable) -> int:
    """Parse, work, and return the exit code: the work's, 2 for anything wrong with what was given, 130 if interrupted.

    Parameters
    ----------
    parser : Parser
        Its --list-models, where it has that, is answered here.
    work : function of the parsed arguments
        What it returns is the exit code; None is 0.
    """
    with unix_output():
        args = parser.parse_args(argv)
        given = sys.argv[1:] if argv is None else argv
        if given:  # results say how they were made
            args.command_line = " ".join(map(shlex.quote, [*spelled(parser.prog).split(), *given]))
        log_shown()
        try:
            if getattr(args, "list_models", False):
                from gluon_quantize.models.loading import list_models
                print("\n".join(list_models()))
            else:
                stated = getattr(args, "max_memory", None)
                with memory_limit(stated and int(stated * GIGABYTE)), told_more(getattr(args, "verbose", False)):
                    return work(args) or 0
        except QuantizeError as error:
            return _fail(_named(error, given))
        except MemoryError as error:
            return _fail(f"this needs more memory than there is{f' ({error})' if str(error) else ''}")
        except OSError as error:  # a folder without permission, a name that is too long
            if error.filename is None:
                raise
            return _fail(f"{os.fsdecode(error.filename)}: {error.strerror or error}")
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
