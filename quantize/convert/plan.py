# SPDX-License-Identifier: MIT
"""The Plan: what is done to each layer, and why."""

from dataclasses import dataclass
from typing import Any, Optional, Tuple

from quantize.spec import QuantSpec
from quantize.winograd import WinogradSpec


@dataclass(frozen=True)
class PlanEntry:
    """What happens to one layer; all specs None: it stays float.

    `norm` is the path of the BatchNorm that alone reads the layer's output, "" where there is none; `fold_bn` says that
    it is folded into the weight. Where `winograd` is set, it replaces the weight's granularity.
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

    @property
    def quantized(self) -> bool:
        """Whether any operand is quantized."""
        return any(spec is not None for spec in (self.weight, self.input, self.output))


@dataclass(frozen=True)
class Plan:
    """Entries for every layer of a convertible type, in the network's order; printable."""

    entries: Tuple[PlanEntry, ...]

    @property
    def folds(self) -> bool:
        """Whether rules ask for BatchNorm folded into weights."""
        return any(entry.fold_bn for entry in self.entries)

    def __str__(self) -> str:
        rows = [("layer", "type", "weight", "activation", "reason")]
        for entry in self.entries:
            activations = [_operand(spec, method) for spec, method in (
                (entry.input, entry.input_method), (entry.output, entry.output_method)) if spec is not None]
            weight = _operand(entry.weight, entry.weight_method)
            if entry.winograd is not None and entry.weight is not None:
                weight = weight.replace("/" + str(entry.weight.granularity), f" {entry.winograd}")
            rows.append((entry.path or "(net)", entry.op_type, weight,
                         " -> ".join(activations).replace("/layer", "") or "-", entry.reason))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def _operand(spec: Optional[QuantSpec], method: str) -> str:
    return "-" if spec is None else str(spec) if method == "ste" else f"{spec} {method}"
