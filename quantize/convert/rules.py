# SPDX-License-Identifier: MIT
"""Ordered rules against a network: which layer is quantized how, and why (the Plan)."""

import fnmatch
import logging
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from mxnet.gluon import Block

from quantize.config import FLOAT, Format, Rule
from quantize.convert.graph import Graph, inputs_non_negative
from quantize.convert.replace import CONVERTERS
from quantize.errors import ConfigError
from quantize.registry import closest
from quantize.spec import QuantSpec
from quantize.tree import paths, walk

logger = logging.getLogger(__name__)

DEFAULT_RULES = (Rule(op_types=("Conv2D", "Conv2DTranspose", "Dense"), weight=Format(8, True, "layer"),
                      input=Format(8, None, "layer"), reason="default"),)


@dataclass(frozen=True)
class PlanEntry:
    """What happens to one layer; all specs None: it stays float."""

    path: str
    op_type: str
    weight: Optional[QuantSpec] = None
    input: Optional[QuantSpec] = None
    output: Optional[QuantSpec] = None
    reason: str = ""

    @property
    def quantized(self) -> bool:
        """Whether any operand is quantized."""
        return any(spec is not None for spec in (self.weight, self.input, self.output))


@dataclass(frozen=True)
class Plan:
    """Entries for every layer of a convertible type, in the network's order; printable."""

    entries: Tuple[PlanEntry, ...]

    def __str__(self):
        rows = [("layer", "type", "weight", "activation", "reason")]
        for entry in self.entries:
            activation = entry.input or entry.output
            rows.append((entry.path or "(net)", entry.op_type, str(entry.weight or "-"),
                         str(activation).replace("/layer", "") if activation else "-", entry.reason))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def resolve(net: Block, rules: Sequence[Rule], graph: Optional[Graph]) -> Plan:
    """The Plan that rules make for a network.

    Parameters
    ----------
    graph : Graph or None
        None when the network cannot be traced: `auto` inputs are then signed.

    Raises
    ------
    ConfigError
        When a pattern or type of a rule matches no layer, or nothing at all would be quantized.
    """
    layers = [(path, block) for path, block in walk(net) if type(block) in CONVERTERS]
    _check_matches(rules, layers)
    proven = None if graph is None else inputs_non_negative(graph)
    entries = tuple(_entry(path, block, rules, proven) for path, block in layers)
    if not any(entry.quantized for entry in entries):
        raise ConfigError("nothing to quantize: the network has {} layers of the types {}, and the rules leave all of "
                          "them float".format(len(layers), ", ".join(sorted(t.__name__ for t in CONVERTERS))))
    return Plan(tuple(entry for entry in entries if entry.op_type != "Activation" or entry.quantized))


def _matches(rule, path, op_type):
    if rule.op_types and op_type not in rule.op_types:
        return False
    return not rule.op_names or any(fnmatch.fnmatchcase(path, pattern) for pattern in rule.op_names)


def _check_matches(rules, layers):
    known = sorted(t.__name__ for t in CONVERTERS)
    for rule in rules:
        for name in rule.op_types:
            if name not in known:
                raise ConfigError("{}: layer type {!r} cannot be quantized; known: {}{}".format(
                    rule.reason or "rule", name, ", ".join(known), closest(name, known)))
        for pattern in rule.op_names:
            if not any(fnmatch.fnmatchcase(path, pattern) for path, _ in layers):
                raise ConfigError("{}: pattern {!r} matches no layer of the network{}".format(
                    rule.reason or "rule", pattern, closest(pattern, [path for path, _ in layers])))


def _entry(path, block, rules, proven):
    op_type = type(block).__name__
    merged: Dict[str, object] = {"exclude": False, "weight": FLOAT, "input": FLOAT, "output": FLOAT}
    reasons = {}
    for rule in rules:
        if not _matches(rule, path, op_type):
            continue
        for key in merged:
            if getattr(rule, key) is not None:
                merged[key], reasons[key] = getattr(rule, key), rule.reason
    if merged["exclude"]:
        return PlanEntry(path, op_type, reason="excluded: " + reasons["exclude"])
    if op_type == "Activation":
        return PlanEntry(path, op_type, output=_activation_spec(merged["output"], _act_non_negative(block))[0],
                         reason=reasons.get("output", ""))
    weight = None if merged["weight"] == FLOAT else _weight_spec(merged["weight"], block)
    spec, note = _activation_spec(merged["input"], None if proven is None else proven.get(path, False))
    if spec is not None and not spec.signed and merged["input"].signed is False and proven and not proven.get(path):
        logger.warning("%s: its input can be negative, but rules force unsigned: everything below zero is clipped "
                       "(use 'auto')", path)
        note = "unsigned forced on an input that can be negative"
    return PlanEntry(path, op_type, weight, spec, reason=", ".join(
        part for part in (reasons.get("weight") or reasons.get("input"), note) if part))


def _weight_spec(form, block):
    converter = CONVERTERS[type(block)]
    groups = getattr(block, "_kwargs", {}).get("num_group", 1)
    if type(block).__name__ == "Dense" and form.granularity == "group":
        form = Format(form.bits, form.signed, "channel")
    return form.spec(groups=groups, axis=converter.channel_axis)


def _activation_spec(form, non_negative) -> Tuple[Optional[QuantSpec], str]:
    if form == FLOAT:
        return None, ""
    if form.signed is None and non_negative is None:
        return form.spec(signed=True), "not traced: signed"
    return form.spec(signed=not non_negative), ""


def _act_non_negative(block) -> bool:
    return block._act_type in ("relu", "sigmoid", "softrelu")


def exclusions(net: Block, exclude) -> List[Rule]:
    """Rules for the `exclude` argument: blocks of the network (with everything in them) or path patterns."""
    known = paths(net)
    names = []
    for item in exclude:
        if isinstance(item, str):
            names.append(item)
        elif id(item) in known:
            names.extend(path for path, block in walk_from(item, known[id(item)]) if type(block) in CONVERTERS)
        else:
            raise ConfigError("exclude: {!r} is neither a block of this network nor a path pattern".format(
                getattr(item, "name", item)))
    return [Rule(op_names=tuple(names), exclude=True, reason="exclude")] if names else []


def walk_from(block: Block, path: str):
    """(structural path in the whole network, block) below a block that sits at `path`."""
    for inner, child in walk(block):
        yield ".".join(part for part in (path, inner) if part), child
