# SPDX-License-Identifier: MIT
"""Which layers are quantized in the Winograd domain, of those that rules ask it for."""

from typing import Any, Callable, Optional, Sequence, Tuple, Union

from mxnet.gluon import Block

from quantize.config import Rule
from quantize.errors import ConfigError
from quantize.nn.methods import METHODS
from quantize.nn.winograd import why_not
from quantize.spec import QuantSpec
from quantize.winograd import MAX_BITS, MIN_BITS, NONE, WinogradSpec


def winograd_of(block: Block, asked: Union[None, str, WinogradSpec],
                operands: Tuple[Optional[QuantSpec], Optional[QuantSpec]],
                weight_method: str) -> Tuple[Optional[WinogradSpec], str]:
    """(what the layer gets, a note for the Plan).

    Parameters
    ----------
    block : Block
        The float layer.
    asked : WinogradSpec, "none" or None
    operands : (QuantSpec or None, QuantSpec or None)
        Formats of weight and input.

    Raises
    ------
    ConfigError
        When the layer could be computed so, but not with these formats and this method.
    """
    if not isinstance(asked, WinogradSpec):
        return None, ""
    obstacle = why_not(block)
    weight, data = operands
    if obstacle or weight is None:
        return None, "no Winograd: " + (obstacle or "float weight")
    if not MIN_BITS <= weight.bits <= MAX_BITS:
        raise ConfigError(f"{weight.bits}-bit weights, but in the Winograd domain they have {MIN_BITS} to {MAX_BITS} "
                          "bits")
    # the others squeeze a weight into [-1, 1] by what it is in the spatial domain
    if not METHODS.get(weight_method).weight.keeps_size:
        fitting = [name for name, method in METHODS.items() if method.weight.keeps_size]
        raise ConfigError(f"weight method {weight_method!r} cannot be used in the Winograd domain; use one of "
                          f"{', '.join(fitting)}")
    if asked.inputs and data is None:
        raise ConfigError(f"winograd {asked} rounds input tiles, but the input is float; give it a format, or leave "
                          "out /inputs")
    return asked, ""


def check_winograd(rules: Sequence[Rule], layers: Sequence[Tuple[str, Block]], entries: Sequence[Any],
                   matches: Callable[[Rule, str, Block], bool]) -> None:
    """ConfigError for a rule that asks for Winograd where no layer can take it.

    Parameters
    ----------
    layers : list of (path, Block)
    entries : sequence of PlanEntry
    matches : callable
        ``matches(rule, path, block)``.
    """
    asking = [rule for rule in rules if rule.winograd not in (None, NONE)]
    for rule in asking:
        found = [(path, why_not(block)) for path, block in layers if matches(rule, path, block)]
        if all(obstacle for _, obstacle in found):
            first = f" ({found[0][0]}: {found[0][1]})" if found else ""
            raise ConfigError(f"{rule.reason or 'rule'}: winograd {rule.winograd} for {len(found)} layers, none of "
                              f"which can take it: it is for Conv2D with kernel 3x3, stride 1 and dilation 1{first}")
    if asking and not any(entry.winograd for entry in entries):
        raise ConfigError(f"{asking[0].reason or 'rule'}: winograd {asking[0].winograd} reaches no layer: those that "
                          "could take it are excluded, float, or set to 'none' by later rules")
