# SPDX-License-Identifier: MIT
"""The Plan: what is done to each layer, and why."""

from dataclasses import dataclass, replace
from typing import Any, Collection, Optional, Tuple

from quantize.spec import QuantSpec
from quantize.winograd import WinogradSpec


@dataclass(frozen=True)
class PlanEntry:
    """What happens to one layer; all specs None: it stays float.

    `norm` is the path of the BatchNorm that alone reads the layer's output, "" where there is none; `fold_bn` says that
    it is folded into the weight. Where `winograd` is set, it replaces the weight's granularity. `weights` counts its
    values; `macs` are its multiply-adds for one input, None where the input's shape was not known.
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
    fold_bn: bool = False
    weights: int = 0
    macs: Optional[int] = None

    @property
    def quantized(self) -> bool:
        """Whether any operand is quantized."""
        return any(spec is not None for spec in (self.weight, self.input, self.output))


@dataclass(frozen=True)
class Plan:
    """Every layer with weights, in the network's order; printable, with the share that is quantized below.

    Attributes
    ----------
    entries : tuple of PlanEntry
        Layers that rules can reach.
    floats : tuple of PlanEntry
        What else has weights: layers of other types, functions, recurrent and embedded networks.
    """

    entries: Tuple[PlanEntry, ...]
    floats: Tuple[PlanEntry, ...] = ()

    def left_float(self, paths: Collection[str], reason: str) -> "Plan":
        """The plan after the layers of these paths were switched to float by something else than rules."""
        entries = tuple(replace(entry, weight=None, input=None, output=None, winograd=None, reason=f"float: {reason}")
                        if entry.path in paths else entry for entry in self.entries)
        return replace(self, entries=entries)

    def share(self, field: str) -> Optional[Tuple[int, int]]:
        """(of layers with quantized weights, of all) `weights` or `macs`; None where these are not known."""
        counted = [(getattr(entry, field), entry.weight is not None) for entry in self.entries + self.floats
                   if entry.weights or entry.macs]
        if not counted or any(value is None for value, _ in counted):
            return None
        return sum(value for value, quantized in counted if quantized), sum(value for value, _ in counted)

    @property
    def shares_text(self) -> str:
        """One line: how much of the weights and of the multiply-adds is quantized; "" where nothing was counted."""
        parts = [f"{part / whole:.1%} of {_short(whole)} {name}" for field, name in SHARES.items()
                 for part, whole in [self.share(field) or (0, 0)] if whole]
        return "quantized: " + ", ".join(parts) if parts else ""

    @property
    def folds(self) -> bool:
        """Whether rules ask for BatchNorm folded into weights."""
        return any(entry.fold_bn for entry in self.entries)

    def __str__(self) -> str:
        rows = [("layer", "type", "weight", "activation", "reason")]
        for entry in self.entries + self.floats:
            activations = [_operand(spec, method) for spec, method in (
                (entry.input, entry.input_method), (entry.output, entry.output_method)) if spec is not None]
            weight = _operand(entry.weight, entry.weight_method)
            if entry.winograd is not None and entry.weight is not None:
                weight = weight.replace("/" + str(entry.weight.granularity), f" {entry.winograd}")
            rows.append((entry.path or "(net)", entry.op_type, weight,
                         " -> ".join(activations).replace("/layer", "") or "-", entry.reason))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        return "\n".join(lines + [self.shares_text] * bool(self.shares_text))


SHARES = {"weights": "weights", "macs": "multiply-adds"}


def _short(count: int) -> str:
    """A count in thousands or millions."""
    for unit, size in (("G", 10 ** 9), ("M", 10 ** 6), ("k", 10 ** 3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _operand(spec: Optional[QuantSpec], method: str) -> str:
    return "-" if spec is None else str(spec) if method == "ste" else f"{spec} {method}"
