# SPDX-License-Identifier: MIT
"""The command `gluon-quantize`: its table of subcommands, its help, and how it behaves among Unix tools."""

import subprocess
import sys

import pytest

from gluon_quantize.commands import main as command
from gluon_quantize.commands.main import COMMANDS, main
from quantize import __version__

RUN = [sys.executable, "-m", "gluon_quantize"]


def stopped(capsys, *arguments):
    """(exit code, output, errors) of a command that ends by itself."""
    try:
        code = main(list(arguments))
    except SystemExit as stop:
        code = stop.code
    return (code, *capsys.readouterr())


def test_help_fits_a_screen_and_names_every_command(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = stopped(capsys, "--help")
    assert code == 0 and len(out.splitlines()) <= 30
    assert max(map(len, out.splitlines())) <= 120
    for name, row in COMMANDS.items():
        assert f"  {name} " in out and row.help in out
    assert stopped(capsys) == (0, out, "")


def test_help_does_not_load_mxnet():
    names = [["--help"], ["--version"]] + [[name, "--help"] for name in COMMANDS]
    script = ("import contextlib, io, sys\nfrom gluon_quantize.commands.main import main\n"
              f"for arguments in {names!r}:\n"
              "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
              "        main(arguments)\n"
              "print(sorted({'mxnet', 'gluoncv', 'onnx', 'matplotlib'} & set(sys.modules)))\n")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_subcommands_speak_of_themselves(capsys, name):
    code, out, _ = stopped(capsys, name, "--help")
    assert code == 0 and out.startswith(f"usage: gluon-quantize {name} ") and "python " not in out
    code, out, err = stopped(capsys, name, "--no-such-option")
    assert code == 2 and out == "" and f"gluon-quantize {name}" in err
    parser = command.module_of(name).build_parser()
    if name in ("recheck", "search", "report"):  # which have no scripts of their own
        assert parser.prog == f"gluon-quantize {name}"
    else:
        assert parser.prog.endswith(".py") and f"python {parser.prog}" in parser.format_help() or name == "simulate"


def test_version(capsys):
    assert stopped(capsys, "--version") == (0, f"gluon-quantize {__version__}\n", "")


def test_unknown_command(capsys):
    code, _, err = stopped(capsys, "simulat", "--model", "digits_lenet")
    assert code == 2 and err.count("\n") == 1
    assert "unknown command 'simulat'" in err and "did you mean 'simulate'" in err


@pytest.mark.parametrize("name", ["simulate", "train"])
def test_without_a_network_it_says_how_to_name_one(capsys, name):
    code, out, _ = stopped(capsys, name)
    assert code == 0 and f"\nTry:  gluon-quantize {name} --model digits_lenet\n" in out
    parser = command.module_of(name).build_parser()
    assert command.module_of(name).main([]) == 0
    assert f"\nTry:  python {parser.prog} --model digits_lenet\n" in capsys.readouterr().out


def test_completion_knows_the_options(capsys):
    parser = command.full_parser()
    args = parser.parse_args(["train", "--model", "digits_lenet", "--lr", "0.5"])
    assert (args.command, args.lr) == ("train", 0.5)
    pytest.importorskip("shtab")
    code, out, _ = stopped(capsys, "--completion", "bash")
    assert code == 0 and "--quantize-input-offline" in out and "train-distributed" in out


def test_completion_without_shtab(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    code, _, err = stopped(capsys, "--completion", "bash")
    assert code == 2 and "pip install shtab" in err


def test_a_reader_that_goes_away_ends_it_quietly():
    """As `| head` does; the exit code is that of a process which SIGPIPE ends."""
    process = subprocess.Popen(RUN + ["simulate", "--list-models"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141 and errors == b""
