# SPDX-License-Identifier: MIT
"""What a target says about a conversion: its rules before, and its objections after."""

import logging
from dataclasses import replace
from typing import List, Optional, Union

from mxnet.gluon import Block

from quantize.config import Rule, rules_from_config
from quantize.convert.plan import Plan
from quantize.errors import ConfigError
from quantize.targets import PlanTarget, find
from quantize.tree import walk

logger = logging.getLogger(__name__)


def find_target(target: Union[None, str, PlanTarget]) -> Optional[PlanTarget]:
    """The target called so; one that is no name, and None, are returned as they are."""
    return find(target) if isinstance(target, str) else target


def target_rules(target: Optional[PlanTarget], net: Block) -> List[Rule]:
    """The rules that a target sets for a network; none where there is no target."""
    if target is None:
        return []
    return [replace(rule, reason="target " + target.name) for rule in rules_from_config(target.config_list(net))]


def check_plan(target: Optional[PlanTarget], net: Block, plan: Plan) -> None:
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
        raise ConfigError(f"target {target.name!r} cannot follow the rules of {len(fatal)} layers: {'; '.join(fatal)}")
