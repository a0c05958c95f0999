# SPDX-License-Identifier: MIT
"""The command lines' parser, and the types of their arguments."""

import argparse
import math
import sys
from typing import IO, Any, Callable, NoReturn, Optional, Sequence, Tuple

from calib.calibrators import CALIBRATORS, named_calibrator
from gluon_quantize.runs.methods import EASYQUANT
from quantize.errors import ConfigError
from quantize.escape import shown
from quantize.limits import MOST_SHARDS

MODES = sorted(CALIBRATORS.names() + [EASYQUANT])


class Help(argparse.RawDescriptionHelpFormatter):
    """Says the default of every option that does not say it itself."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if "default: " in text or action.default is argparse.SUPPRESS or action.required:
            return text
        usual = "no" if action.default is False else "none" if action.default is None else "%(default)s"
        return f"{text} (default: {usual})"


class Asking(argparse.Action):
    """Stores a value, as argparse does, and notes that it was asked for: the option's name is added to `asking`.

    Parameters
    ----------
    switch : bool
        The option takes no value and stores True.
    """

    def __init__(self, option_strings: Sequence[str], dest: str, switch: bool = False, **options: Any) -> None:
        super().__init__(option_strings, dest, **(dict({"default": False}, **options, nargs=0) if switch else options))

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: Optional[str] = None) -> None:
        """See the class."""
        setattr(namespace, self.dest, True if self.nargs == 0 else values)
        namespace.asking = (*getattr(namespace, "asking", ()), option_string)


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors and every default in its help."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **dict({"formatter_class": Help}, **options))

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, shown(f"error: {message} (see {self.prog} --help)") + "\n")

    def _print_message(self, message: str, file: Optional[IO[str]] = None) -> None:
        """Unlike argparse's own, which keeps it to itself that a help text has gone nowhere."""
        if message:
            (file or sys.stderr).write(message)


def whole(low: int, high: Optional[int] = None) -> Callable[[str], int]:
    """Argument type: a whole number in a range."""
    def parse(text):
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < low or (high is not None and value > high):
            allowed = f"at least {low}" if high is None else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"{value} is not allowed, it must be {allowed}")
        return value
    return parse


def number(low: float = 0.0, high: float = math.inf) -> Callable[[str], float]:
    """Argument type: a finite number in [low, high]."""
    def parse(text):
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not (low <= value <= high and math.isfinite(value)):
            raise argparse.ArgumentTypeError(f"{text} is not allowed, it must be a number from {low} to {high}")
        return value
    return parse


def shard(text: str) -> Tuple[int, int]:
    """Argument type: i/n, with 1 <= i <= n, and n as states may have it."""
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count) <= MOST_SHARDS):
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not of the form i/n with i from 1 to n ({MOST_SHARDS} at "
                                         "most), such as 2/4")
    return int(number), int(count)


def calibration_method(*others: str) -> Callable[[str], str]:
    """Argument type: a calibrator with or without parameters (`calib.calibrators.named`), or one of `others`."""
    def parse(text):
        name, colon, values = text.partition(":")
        if name in others and colon:
            raise argparse.ArgumentTypeError(f"{name!r} has no parameters; leave out {colon + values!r}")
        if text not in others:
            try:
                named_calibrator(text)
            except ConfigError as error:
                also = f" (and: {', '.join(others)})" if others and not colon else ""
                raise argparse.ArgumentTypeError(f"{error}{also}") from None
        return text
    return parse
