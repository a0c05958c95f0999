# SPDX-License-Identifier: MIT
"""The engines that `convert_model` can convert for. They live above this package and are looked up by name."""

import importlib
import logging
import pkgutil
from dataclasses import replace
from typing import List

from mxnet.gluon import Block

from quantize.config import Rule, rules_from_config
from quantize.convert.rules import Plan
from quantize.errors import ConfigError
from quantize.registry import closest
from quantize.tree import walk

logger = logging.getLogger(__name__)

PACKAGE = "deploy.targets"


def find_target(target):
    """The target called so; one that is no name, and None, are returned as they are.

    The package of a target registers it when it is imported.
    """
    if not isinstance(target, str):
        return target
    known = [module.name for module in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__)]
    if target not in known:
        raise ConfigError("unknown target {!r}; known: {}{}".format(target, ", ".join(known), closest(target, known)))
    return importlib.import_module(f"{PACKAGE}.{target}").TARGET


def target_rules(target, net: Block) -> List[Rule]:
    """The rules that a target sets for a network; none where there is no target."""
    if target is None:
        return []
    return [replace(rule, reason="target " + target.name) for rule in rules_from_config(target.config_list(net))]


def check_plan(target, net: Block, plan: Plan):
    """ConfigError with all problems that a target has with a plan; what is not fatal is logged."""
    if target is None:
        return
    blocks = dict(walk(net))
    problems = target.check_plan((entry, blocks[entry.path]) for entry in plan.entries)
    fatal = [str(problem) for problem in problems if problem.fatal]
    for problem in problems:
        if not problem.fatal:
            logger.warning("%s", problem)
    if fatal:
        raise ConfigError("target {!r} cannot follow the rules of {} layers: {}".format(
            target.name, len(fatal), "; ".join(fatal)))
