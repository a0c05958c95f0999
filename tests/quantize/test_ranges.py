# SPDX-License-Identifier: MIT
"""What a `Range` of N2D2 means in each place where it can be given: the table of docs/simulate.md, and every number."""

import pathlib
import re

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from quantize.config import parse_format
from quantize.convert import convert_model
from quantize.interfaces.n2d2.quantizer import LSQAct, LSQCell, SATAct, SATCell
from quantize.spec import QuantSpec

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "simulate.md"
FORMAT = re.compile(r"`(u?int\S+?)`")


def rows():
    """(Formats, method, lowest code, highest code, steps) of the page's table."""
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        match = re.match(r"\| (`u?int.*?) \| (-?[\d.]+) (?:to|and) ([\d.]+) \| (\d+) \|", line)
        if match:
            text, low, high, steps = match.groups()
            method = re.search(r"`(sat)`", text)
            found.append((FORMAT.findall(text), method and method.group(1), float(low), float(high), int(steps)))
    return found


def spec_of(text, method):
    """The grid of a weight in that format (of an activation, where it is unsigned)."""
    if text.startswith("u"):
        return parse_format(text).spec()
    net = nn.HybridSequential()
    net.add(nn.Dense(4, in_units=3))
    net.initialize()
    rule = {"op_types": ["Dense"], "weight": text, "weight_method": method or "ste", "input": "float"}
    return convert_model(net, config_list=[rule], example_input=mx.nd.ones((1, 3)))[0].weight_quantizer.spec


def ends(spec):
    middle = 0.5 if spec.grid == "mid_rise" else 0
    return spec.qmin + middle, spec.qmax + middle


def test_the_page_says_what_15_is():
    table = rows()
    assert [steps for *_, steps in table] == [15, 15, 15, 14, 14, 1]
    for formats, method, low, high, steps in table:
        assert high - low == steps
        for text in formats:
            assert ends(spec_of(text, method)) == (low, high), text


@pytest.mark.parametrize("steps", [3, 7, 15, 255, 5, 9, 99])
def test_n2d2s_quantizers_have_as_many_steps_as_their_range_says(steps):
    for chosen in (SATAct(range=steps), LSQAct(range=steps)):
        assert ends(chosen.rule("a").output.spec()) == (0, steps)
    low, high = ends(LSQCell(range=steps).rule("c").weight.spec())
    assert (low, high) == (-(steps + 1) / 2, (steps - 1) / 2)
    low, high = ends(spec_of(f"int({steps})", "sat"))
    assert (low, high) == (-steps / 2, steps / 2)
    x = mx.nd.array(np.linspace(-2, 2, 40 * steps).reshape(1, -1))
    net = nn.HybridSequential()
    net.add(nn.Dense(1, in_units=40 * steps))
    net.initialize()
    rule = SATCell(range=steps).rule("0")
    made = convert_model(net, config_list=[rule], example_input=x)[0].weight_quantizer
    assert len(np.unique(made(x).asnumpy())) == steps + 1


@pytest.mark.parametrize("steps", range(2, 20))
def test_a_full_grid_has_exactly_its_steps_and_a_narrow_one_two_equal_sides(steps):
    full = QuantSpec(5, levels=steps, narrow=False)
    assert full.qmax - full.qmin == steps and full.qmax == steps // 2
    narrow = QuantSpec(5, levels=steps)
    assert (narrow.qmin, narrow.qmax) == (-(steps // 2), steps // 2)
    unsigned = QuantSpec(5, False, levels=steps)
    assert (unsigned.qmin, unsigned.qmax) == (0, steps)
