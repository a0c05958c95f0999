# SPDX-License-Identifier: MIT
"""Finding targets by name, and handing their rules and problems over; a made-up target stands in for an engine."""

import logging
import types

import pytest

from deploy.targets.ncnn import TARGET
from quantize.convert import convert_model
from quantize.convert.targets import find_target
from quantize.errors import ConfigError


def made_up(problems=(), rules=({"op_types": ["Conv2D", "Dense"], "weight": "int5/channel", "input": "int5"},)):
    seen = []

    def check_plan(layers):
        seen.extend((entry.path, type(block).__name__) for entry, block in layers)
        return list(problems)
    return types.SimpleNamespace(name="made-up", config_list=lambda net: list(rules), check_plan=check_plan, seen=seen)


def problem(text, fatal):
    class Text(str):
        pass
    found = Text(text)
    found.fatal = fatal
    return found


def test_names():
    assert find_target("ncnn") is TARGET and find_target(None) is None and find_target(TARGET) is TARGET
    with pytest.raises(ConfigError, match="unknown target 'nccn'; known: .*ncnn.*; did you mean 'ncnn'"):
        find_target("nccn")
    for name in ("", "ncnn.target", "..ir", "__init__"):
        with pytest.raises(ConfigError, match="unknown target"):
            find_target(name)


def test_a_targets_rules_stand_between_the_defaults_and_the_users(small_net):
    target = made_up()
    net = convert_model(small_net, target=target, config_list=[{"op_names": ["6"], "weight": "int3/channel"}])
    assert [str(entry.weight) for entry in net.plan.entries] == ["int5/channel", "int5/channel", "int3/channel"]
    assert [str(entry.input) for entry in net.plan.entries] == ["int5/layer"] * 3
    assert net.plan.entries[0].reason == "target made-up"
    assert target.seen == [("0", "Conv2D"), ("3", "Conv2D"), ("6", "Dense")]


def test_all_fatal_problems_are_one_error_and_others_are_logged(small_net, caplog):
    target = made_up([problem("0: bad", True), problem("3: odd", False), problem("6: worse", True)])
    with caplog.at_level(logging.WARNING), pytest.raises(ConfigError) as error:
        convert_model(small_net, target=target)
    assert str(error.value) == "target 'made-up' cannot follow the rules of 2 layers: 0: bad; 6: worse"
    assert "3: odd" in caplog.text and not any(hasattr(block, "quantizers") for block in small_net)
