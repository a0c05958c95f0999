# SPDX-License-Identifier: MIT
"""Ordered rules against a network: which layer is quantized how, and why."""

import contextlib
import fnmatch
import logging
from dataclasses import replace
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple, Union

from mxnet.gluon import Block

from quantize.config import FLOAT, Format, Rule
from quantize.convert.graph import Graph, batchnorm_partners, inputs_non_negative
from quantize.convert.layers import DEFAULT_TYPES, NAMES, QUANTIZABLE, quantizable
from quantize.convert.places import places_non_negative
from quantize.convert.plan import Plan, PlanEntry
from quantize.convert.unquantized import float_entries, size_of
from quantize.convert.winograd import check_winograd, winograd_of
from quantize.errors import ConfigError, SpecError
from quantize.nn.methods import METHODS, activation_spec, check_options, weight_spec
from quantize.registry import closest
from quantize.spec import QuantSpec
from quantize.tree import paths, walk

logger = logging.getLogger(__name__)

DEFAULT_RULES = (Rule(op_types=DEFAULT_TYPES, weight=Format(8, True, "layer"),
                      input=Format(8, None, "layer"), reason="default"),)


def resolve(net: Block, rules: Sequence[Rule], graph: Optional[Graph], required: bool = True) -> Plan:
    """The Plan that rules make for a network.

    Parameters
    ----------
    graph : Graph or None
        None when the network cannot be traced: `auto` inputs are then signed.
    required : bool
        Something is to be quantized.

    Raises
    ------
    ConfigError
        When a pattern or type of a rule matches no layer, or nothing at all would be quantized.
    """
    layers = [(path, block) for path, block in walk(net) if quantizable(block)]
    _check_matches(rules, layers)
    proven = None if graph is None else {**inputs_non_negative(graph), **places_non_negative(graph, layers)}
    norms = {} if graph is None else batchnorm_partners(graph)
    entries = tuple(replace(_entry(path, block, rules, proven), norm=norms.get(path, "")) for path, block in layers)
    check_winograd(rules, layers, entries, _matches)
    if required and not any(entry.quantized for entry in entries):
        raise ConfigError(f"nothing to quantize: the network has {len(layers)} layers of the types {', '.join(NAMES)}, "
                          "and the rules leave all of them float")
    kept = tuple(replace(entry, weights=0 if row.operator == "" else size_of(block.weight))
                 for entry, (_, block) in zip(entries, layers) for row in [QUANTIZABLE[type(block)]]
                 if entry.quantized or row.has_weight)
    return Plan(kept, float_entries(net, graph))


def _matches(rule: Rule, path: str, block: Block) -> bool:
    if rule.op_types and type(block).__name__ not in rule.op_types:
        return False
    if rule.kernel and kernel_of(block) != rule.kernel:
        return False
    return not rule.op_names or any(fnmatch.fnmatchcase(path, pattern) for pattern in rule.op_names)


def kernel_of(block: Block) -> Tuple[int, ...]:
    """The shape of a convolution's kernel; () for other layers."""
    return tuple(getattr(block, "_kwargs", {}).get("kernel", ()))


def _check_matches(rules: Sequence[Rule], layers: Sequence[Tuple[str, Block]]) -> None:
    for rule in rules:
        for name in rule.op_types:
            if name not in NAMES:
                raise ConfigError(f"{rule.reason or 'rule'}: layer type {name!r} cannot be quantized; known: "
                                  f"{', '.join(NAMES)}{closest(name, NAMES)}")
        for pattern in rule.op_names:
            if not any(fnmatch.fnmatchcase(path, pattern) for path, _ in layers):
                raise ConfigError(f"{rule.reason or 'rule'}: pattern {pattern!r} matches no layer of the network"
                                  f"{closest(pattern, [path for path, _ in layers])}")
        if rule.kernel and not any(_matches(rule, path, block) for path, block in layers):
            known = sorted({kernel_of(block) for _, block in layers} - {()})
            raise ConfigError(f"{rule.reason or 'rule'}: no layer that the rule names has the kernel "
                              f"{list(rule.kernel)}; kernels of the network: "
                              f"{', '.join(str(list(kernel)) for kernel in known) or 'none'}")


def _entry(path: str, block: Block, rules: Sequence[Rule], proven: Optional[Dict[str, bool]]) -> PlanEntry:
    op_type = type(block).__name__
    merged, reasons = _merged([rule for rule in rules if _matches(rule, path, block)])
    if merged.exclude:
        return PlanEntry(path, op_type, reason="excluded: " + reasons["exclude"])
    where = f"{path} ({reasons.get('weight_method') or reasons.get('input_method') or 'rules'})"
    with _located(where):
        check_options(dict(merged.options))
        if QUANTIZABLE[type(block)].has_weight:
            return _layer_entry(path, block, merged, reasons, proven)
        return _activation_entry(path, block, merged, reasons, bool(proven and proven.get(path)))


# what a layer is that no rule says anything of
_UNSAID = Rule(exclude=False, weight=FLOAT, input=FLOAT, output=FLOAT, weight_method="ste", input_method="ste",
               output_method="ste", fold_bn=False)


def _merged(rules: Sequence[Rule]) -> Tuple[Rule, Dict[str, str]]:
    """(what the rules that match a layer say together, {field: reason of the rule that it came from})."""
    merged, reasons = _UNSAID, {}
    for rule in rules:
        merged = merged.then(rule)
        reasons.update(dict.fromkeys(rule.settings(), rule.reason))
    return merged, reasons


@contextlib.contextmanager
def _located(where: str) -> Iterator[None]:
    """Errors about formats and methods say of which layer and rule."""
    try:
        yield
    except (SpecError, ConfigError) as error:
        raise ConfigError(f"{where}: {error}") from None


def _activation_entry(path: str, block: Block, merged: Rule, reasons: Dict[str, str], proven: bool) -> PlanEntry:
    # a sign takes the activation's place, so that it sees negative values whatever the activation is
    replaced = METHODS.get(_name(merged.output_method)).replaces_activation
    method, spec, note = _output_spec(merged, not replaced and (proven or _act_non_negative(block)))
    return PlanEntry(path, type(block).__name__, output=spec, output_method=method, options=merged.options,
                     reason=", ".join(part for part in (reasons.get("output", ""), note) if part))


def _output_spec(merged: Rule, non_negative: Optional[bool]) -> Tuple[str, Optional[QuantSpec], str]:
    method = _name(merged.output_method)
    spec, note = _activation_spec(merged.output, non_negative)
    if spec is not None:
        method, spec, note = activation_spec(method, spec, _undecided(merged.output))
    return method, spec, note


def _layer_entry(path: str, block: Block, merged: Rule, reasons: Dict[str, str],
                 proven: Optional[Dict[str, bool]]) -> PlanEntry:
    weight_method = _name(merged.weight_method)
    weight = None if merged.weight == FLOAT else weight_spec(weight_method, _weight_spec(merged.weight, block))
    spec, note = _activation_spec(merged.input, None if proven is None else proven.get(path, False))
    clips = spec is not None and spec.symmetric and not spec.signed
    if clips and isinstance(merged.input, Format) and merged.input.signed is False and proven and not proven.get(path):
        logger.warning("%s: its input can be negative, but rules force unsigned: everything below zero is clipped (use "
                       "'auto')", path)
        note = "unsigned forced on an input that can be negative"
    method, why = _name(merged.input_method), ""
    if spec is not None:
        method, spec, why = activation_spec(method, spec, _undecided(merged.input))
    winograd, obstacle = winograd_of(block, merged.winograd, (weight, spec), weight_method)
    output_method, output, _ = _output_spec(merged, block.act is not None and _act_non_negative(block.act))
    rule = reasons.get("weight") or reasons.get("input") or reasons.get("output")
    return PlanEntry(path, type(block).__name__, weight, spec, output, weight_method=weight_method,
                     input_method=method, output_method=output_method, options=merged.options, winograd=winograd,
                     fold_bn=bool(merged.fold_bn and weight is not None),
                     reason=", ".join(part for part in (rule, note, why, obstacle) if part))


def _name(method: Optional[str]) -> str:
    assert method is not None  # `_UNSAID` names one for every operand
    return method


def _undecided(form: Any) -> bool:
    """Whether the sign is left to the graph."""
    return form.signed is None


def _weight_spec(form: Any, block: Block) -> QuantSpec:
    quantized = QUANTIZABLE[type(block)].quantized
    assert quantized is not None  # the table of what can be quantized holds no others
    if quantized.groups_are_channels and form.granularity == "group":
        form = replace(form, granularity="channel")
    return form.spec(groups=quantized.groups_of(block), axis=quantized.channel_axis)


def _activation_spec(form: Any, non_negative: Optional[bool]) -> Tuple[Optional[QuantSpec], str]:
    if form == FLOAT:
        return None, ""
    if form.signed is None and non_negative is None:
        return form.spec(signed=True), "not traced: signed"
    return form.spec(signed=not non_negative), ""


def _act_non_negative(block: Block) -> bool:
    return block._act_type in ("relu", "sigmoid", "softrelu")


def exclusions(net: Block, exclude: Iterable[Union[str, Block]]) -> List[Rule]:
    """Rules for the `exclude` argument: blocks of the network (with everything in them) or path patterns."""
    known = paths(net)
    names: List[str] = []
    for item in exclude:
        if isinstance(item, str):
            names.append(item)
        elif isinstance(item, Block) and id(item) in known:
            names.extend(path for path, block in walk(item, known[id(item)]) if quantizable(block))
        else:
            name = item.name if isinstance(item, Block) else item
            raise ConfigError(f"exclude: {name!r} is neither a block of this network nor a path pattern")
    return [Rule(op_names=tuple(names), exclude=True, reason="exclude")] if names else []


def excluded_blocks(net: Block, exclude: Iterable[Union[str, Block]]) -> Set[int]:
    """ids of all blocks that the `exclude` argument names, with everything in them."""
    if isinstance(exclude, (str, Block)):
        raise ConfigError("exclude takes a list of blocks or patterns, got "
                          f"{exclude if isinstance(exclude, str) else exclude.name!r}")
    found: Set[int] = set()
    items = list(exclude)
    for path, block in walk(net):
        if any(block is item or (isinstance(item, str) and path and fnmatch.fnmatchcase(path, item)) for item in items):
            found.update(id(part) for _, part in walk(block))
    return found
