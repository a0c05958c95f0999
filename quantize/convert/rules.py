# SPDX-License-Identifier: MIT
"""Ordered rules against a network: which layer is quantized how, and why (the Plan)."""

import contextlib
import fnmatch
import logging
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mxnet.gluon import Block

from quantize.config import FLOAT, Format, Rule
from quantize.convert.graph import Graph, batchnorm_partners, inputs_non_negative
from quantize.convert.replace import ACTIVATIONS, CONVERTERS
from quantize.convert.winograd import check_winograd, winograd_of
from quantize.errors import ConfigError, SpecError
from quantize.nn.methods import METHODS, activation_spec, check_options, weight_spec
from quantize.registry import closest
from quantize.spec import QuantSpec
from quantize.tree import paths, walk
from quantize.winograd import WinogradSpec

logger = logging.getLogger(__name__)

DEFAULT_RULES = (Rule(op_types=("Conv2D", "Conv2DTranspose", "Dense"), weight=Format(8, True, "layer"),
                      input=Format(8, None, "layer"), reason="default"),)


@dataclass(frozen=True)
class PlanEntry:
    """What happens to one layer; all specs None: it stays float.

    `norm` is the path of the BatchNorm that alone reads the layer's output, "" where there is none. Where `winograd` is
    set, it replaces the weight's granularity.
    """

    path: str
    op_type: str
    weight: Optional[QuantSpec] = None
    input: Optional[QuantSpec] = None
    output: Optional[QuantSpec] = None
    reason: str = ""
    weight_method: str = "ste"
    input_method: str = "ste"
    output_method: str = "ste"
    options: Tuple[Tuple[str, Any], ...] = ()
    norm: str = ""
    winograd: Optional[WinogradSpec] = None

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
            activations = [_operand(spec, method) for spec, method in (
                (entry.input, entry.input_method), (entry.output, entry.output_method)) if spec is not None]
            weight = _operand(entry.weight, entry.weight_method)
            if entry.winograd is not None:
                weight = weight.replace("/" + str(entry.weight.granularity), f" {entry.winograd}")
            rows.append((entry.path or "(net)", entry.op_type, weight,
                         " -> ".join(activations).replace("/layer", "") or "-", entry.reason))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def _operand(spec, method):
    return "-" if spec is None else str(spec) if method == "ste" else f"{spec} {method}"


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
    norms = {} if graph is None else batchnorm_partners(graph)
    entries = tuple(replace(_entry(path, block, rules, proven), norm=norms.get(path, "")) for path, block in layers)
    check_winograd(rules, layers, entries, _matches)
    if not any(entry.quantized for entry in entries):
        raise ConfigError(f"nothing to quantize: the network has {len(layers)} layers of the types "
                          f"{', '.join(sorted(t.__name__ for t in CONVERTERS))}, and the rules leave all of them float")
    return Plan(tuple(entry for entry in entries if entry.op_type not in ACTIVATIONS or entry.quantized))


def _matches(rule, path, op_type):
    if rule.op_types and op_type not in rule.op_types:
        return False
    return not rule.op_names or any(fnmatch.fnmatchcase(path, pattern) for pattern in rule.op_names)


def _check_matches(rules, layers):
    known = sorted(t.__name__ for t in CONVERTERS)
    for rule in rules:
        for name in rule.op_types:
            if name not in known:
                raise ConfigError(f"{rule.reason or 'rule'}: layer type {name!r} cannot be quantized; known: "
                                  f"{', '.join(known)}{closest(name, known)}")
        for pattern in rule.op_names:
            if not any(fnmatch.fnmatchcase(path, pattern) for path, _ in layers):
                raise ConfigError(f"{rule.reason or 'rule'}: pattern {pattern!r} matches no layer of the network"
                                  f"{closest(pattern, [path for path, _ in layers])}")


def _entry(path, block, rules, proven):
    op_type = type(block).__name__
    merged, reasons = _merge([rule for rule in rules if _matches(rule, path, op_type)])
    if merged["exclude"]:
        return PlanEntry(path, op_type, reason="excluded: " + reasons["exclude"])
    where = f"{path} ({reasons.get('weight_method') or reasons.get('input_method') or 'rules'})"
    with _located(where):
        check_options(dict(merged["options"]))
        if op_type in ACTIVATIONS:
            return _activation_entry(path, block, merged, reasons)
        return _layer_entry(path, block, merged, reasons, proven)


def _merge(rules):
    """({field: value}, {field: reason of the rule it came from}) of the rules that match a layer."""
    merged: Dict[str, Any] = {"exclude": False, "weight": FLOAT, "input": FLOAT, "output": FLOAT, "options": (),
                              "weight_method": "ste", "input_method": "ste", "output_method": "ste",
                              "winograd": None}
    reasons = {}
    for rule in rules:
        for key in merged:
            value = getattr(rule, key)
            if key == "options":
                merged[key] = tuple(sorted({**dict(merged[key]), **dict(value)}.items()))
            elif value is not None:
                merged[key], reasons[key] = value, rule.reason
    return merged, reasons


@contextlib.contextmanager
def _located(where):
    """Errors about formats and methods say of which layer and rule."""
    try:
        yield
    except (SpecError, ConfigError) as error:
        raise ConfigError(f"{where}: {error}") from None


def _activation_entry(path, block, merged, reasons):
    # a sign takes the activation's place, so that it sees negative values whatever the activation is
    replaced = METHODS.get(merged["output_method"]).replaces_activation
    method, spec, note = _output_spec(merged, not replaced and _act_non_negative(block))
    return PlanEntry(path, type(block).__name__, output=spec, output_method=method, options=merged["options"],
                     reason=", ".join(part for part in (reasons.get("output", ""), note) if part))


def _output_spec(merged, non_negative):
    method = merged["output_method"]
    spec, note = _activation_spec(merged["output"], non_negative)
    if spec is not None:
        method, spec, note = activation_spec(method, spec, merged["output"].signed is None)
    return method, spec, note


def _layer_entry(path, block, merged, reasons, proven):
    weight = None if merged["weight"] == FLOAT else weight_spec(
        merged["weight_method"], _weight_spec(merged["weight"], block))
    spec, note = _activation_spec(merged["input"], None if proven is None else proven.get(path, False))
    clips = spec is not None and spec.symmetric and not spec.signed
    if clips and merged["input"].signed is False and proven and not proven.get(path):
        logger.warning("%s: its input can be negative, but rules force unsigned: everything below zero is clipped "
                       "(use 'auto')", path)
        note = "unsigned forced on an input that can be negative"
    method, why = merged["input_method"], ""
    if spec is not None:
        method, spec, why = activation_spec(method, spec, merged["input"].signed is None)
    winograd, obstacle = winograd_of(block, merged["winograd"], (weight, spec), merged["weight_method"])
    output_method, output, _ = _output_spec(merged, block.act is not None and _act_non_negative(block.act))
    rule = reasons.get("weight") or reasons.get("input") or reasons.get("output")
    return PlanEntry(path, type(block).__name__, weight, spec, output, weight_method=merged["weight_method"],
                     input_method=method, output_method=output_method, options=merged["options"], winograd=winograd,
                     reason=", ".join(part for part in (rule, note, why, obstacle) if part))


def _weight_spec(form, block):
    converter = CONVERTERS[type(block)]
    groups = getattr(block, "_kwargs", {}).get("num_group", 1)
    if type(block).__name__ == "Dense" and form.granularity == "group":
        form = replace(form, granularity="channel")
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
            raise ConfigError(f"exclude: {getattr(item, 'name', item)!r} is neither a block of this network nor a path "
                              "pattern")
    return [Rule(op_names=tuple(names), exclude=True, reason="exclude")] if names else []


def walk_from(block: Block, path: str):
    """(structural path in the whole network, block) below a block that sits at `path`."""
    for inner, child in walk(block):
        yield ".".join(part for part in (path, inner) if part), child
