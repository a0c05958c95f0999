# SPDX-License-Identifier: MIT
"""`simulate_quantization.py --target`: an engine's formats, and what contradicts them."""

import json
import re

import pytest

DIGITS = ("--model", "digits_lenet", "--exclude-first-conv", "false", "--num-images", 40)


def test_the_engines_formats(cli):
    run = cli(*DIGITS, "--target", "ncnn")
    assert run.code in (0, None), run.err
    rows = re.findall(r"^(\S+) +(?:Conv2D|Dense) +(\S+) +(\S+) +target ncnn$", run.out, re.MULTILINE)
    assert rows == [(path, "int8/channel", "int8") for path in (
        "features.0", "features.4", "features.8", "features.12", "output")]


@pytest.mark.parametrize("arguments, says", [
    (("--target", "nccn"), "unknown target 'nccn'; known: "),
    (("--target", "ncnn", "--quant-type", "channel"), "--target ncnn: the engine decides the formats; leave out "
     "--quant-type"),
    (("--target", "ncnn", "--weight-bits-width", 4), "leave out --weight-bits"),
])
def test_contradictions_are_one_line(cli, arguments, says):
    code, out, err = cli(*DIGITS, *arguments)
    assert code == 2 and re.fullmatch("error: [^\n]*\n", err) and says in err
    assert "Top-1" not in out


def test_rules_that_the_engine_cannot_follow(cli, tmp_path):
    path = tmp_path / "rules.json"
    path.write_text(json.dumps([{"op_names": ["features.8"], "input": "auto8"},
                                {"op_names": ["output"], "weight": "int9/channel"}]))
    code, _, err = cli(*DIGITS, "--target", "ncnn", "--config", path)
    assert code == 2 and re.fullmatch("error: [^\n]*\n", err)
    assert "features.8: input uint8, but ncnn takes int8" in err and "output: weight int9/channel" in err
