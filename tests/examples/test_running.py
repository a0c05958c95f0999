# SPDX-License-Identifier: MIT
"""Commands whose output goes nowhere end as other Unix tools do; what files say does not speak to the terminal."""

import os
import pathlib
import subprocess
import sys

import pytest

from gluon_quantize.commands.main import COMMANDS

PRINTS = f"{sys.executable} -c 'from gluon_quantize.commands.running import unix_output as u\nwith u(): print(1)'"
EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


def command(text, **env):
    """A shell line with the command in the place of {}."""
    line = text.format(f"{sys.executable} -m gluon_quantize")
    return subprocess.run(["bash", "-o", "pipefail", "-c", line],
                          cwd=str(EXAMPLES), env=dict(os.environ, **env), capture_output=True, text=True)


@pytest.mark.parametrize("line, code, says", [
    ("{} --help | true", (0, 141), ""), ("{} --help >&-", (0,), ""),
    pytest.param(PRINTS + " > /dev/full", (1,), "error: standard output cannot be written: No space left on device\n",
                 marks=pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full"))])
def test_output_that_goes_nowhere(line, code, says):
    done = command(line)
    assert done.returncode in code and done.stderr == says


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("asked", [*(name + " --help" for name in COMMANDS), "--help", "--version", "--completion bash",
                                   "--list-models"])
def test_help_that_goes_nowhere_is_no_success(asked, capsys):
    """argparse keeps such an error to itself."""
    program = (f"import sys; from gluon_quantize.commands.main import main; sys.exit(main({asked.split()!r}))")
    if asked == "--list-models":
        program = program.replace("['--list", "['simulate', '--list")
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", program], cwd=str(EXAMPLES), stdout=full, stderr=subprocess.PIPE,
                              text=True)
    assert (done.returncode, done.stderr) == (1, "error: standard output cannot be written: No space left on device\n")


@pytest.mark.parametrize("arguments, says", [
    ("simulate --model digits_lenet --data-dir $'/no/\\xff\\e[2J'", r"/no/\udcff\x1b[2J: no such folder"),
    ("deploy --model digits_lenet --no-engine --output /tmp/" + "x" * 300, "File name too long"),
    ("simulate --onnx $'a\\nb.onnx'", r"a\nb.onnx: no such ONNX file"),
    ("simulate --model digits_lenet --calib-shard 1/1000001 --save-state a", "from 1 to n (1000000 at most)")])
def test_names_that_nobody_should_have_are_one_line(arguments, says):
    done = command("{} " + arguments, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 2 and says in done.stderr and "\x1b" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
