# SPDX-License-Identifier: MIT
"""The command `gluon-quantize`: a table of its subcommands, each in a module that is loaded when it is named."""

import argparse
import importlib
import sys
from types import ModuleType
from typing import List, NamedTuple, Optional

from gluon_quantize.commands.running import Parser, unix_output
from quantize import __version__
from quantize.registry import closest

PROG = "gluon-quantize"
DESCRIPTION = "Take a trained Gluon CNN to a low-bit network that can be trusted."
SHELLS = ("bash", "zsh", "tcsh")


class Command(NamedTuple):
    """A subcommand.

    Its module has ``main(argv, prog)``, which returns the exit code, and ``build_parser(prog)``.
    """

    module: str
    help: str


COMMANDS = {
    "simulate": Command("simulate", "quantize a network on this machine and say what it loses"),
    "search": Command("search", "search bits for each layer: the best network of a size, or the smallest that is good"),
    "train": Command("train", "retrain it with fake quantization, so that it gets back what rounding costs"),
    "train-distributed": Command("train_distributed", "train in several processes or on several machines"),
    "n2d2": Command("n2d2", "train and test what an INI file of N2D2 describes"),
    "deploy": Command("deploy", "write the files that ncnn runs in int8, and prove that they compute the same"),
    "recheck": Command("recheck", "compare the files of an earlier deployment again, on this machine"),
    "report": Command("report", "one page about a simulation, a training or a deployment, to look at"),
}
EPILOG = """examples:
  {prog} simulate --model digits_lenet
  {prog} train --model digits_lenet --weight-bits 4 --input-bits 4 --epochs 3 --output trained
  {prog} train-distributed --workers 2 -- train --model digits_lenet --output trained
  {prog} deploy --onnx model.onnx --data-dir images --output out

{prog} COMMAND --help lists the options of a command.
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of what stands before a subcommand."""
    rows = "\n".join(f"  {name:18} {command.help}" for name, command in COMMANDS.items())
    parser = Parser(prog=PROG, usage=f"{PROG} [--help] [--version] COMMAND ...",
                    description=f"{DESCRIPTION}\n\ncommands:\n{rows}", epilog=EPILOG.format(prog=PROG),
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    parser.add_argument("--completion", choices=SHELLS, metavar="SHELL",
                        help=f"print what completes the options in a shell ({', '.join(SHELLS)}), and exit")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    return parser


def module_of(name: str) -> ModuleType:
    """The module of a subcommand; loading it takes no MXNet."""
    return importlib.import_module(f"gluon_quantize.commands.{COMMANDS[name].module}")


def full_parser() -> argparse.ArgumentParser:
    """One parser with those of all subcommands, for what reads them as a whole."""
    parser = argparse.ArgumentParser(prog=PROG, description=DESCRIPTION)
    subparsers = parser.add_subparsers(dest="command")
    for name, command in COMMANDS.items():
        subparsers.add_parser(name, help=command.help, add_help=False,
                              parents=[module_of(name).build_parser(f"{PROG} {name}")])
    return parser


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script with which a shell completes subcommands and options."""
    try:
        import shtab
    except ImportError:
        parser.error("--completion needs shtab: pip install shtab")
    return shtab.complete(full_parser(), shell)


def main(argv: Optional[List[str]] = None) -> int:
    """The command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv and argv[0] in COMMANDS:
        return module_of(argv[0]).main(argv[1:], f"{PROG} {argv[0]}")
    with unix_output():
        parser = build_parser()
        args = parser.parse_args(argv[:1] if argv and not argv[0].startswith("-") else argv)
        if args.command:
            parser.error(f"unknown command {args.command!r}; known: {', '.join(COMMANDS)}"
                         f"{closest(args.command, COMMANDS)}")
        if args.completion:
            print(completion(parser, args.completion))
        else:
            parser.print_help()
    return 0
