# SPDX-License-Identifier: MIT
"""Bits for each layer: the least loss within a budget, or the least cost within a loss, as an integer program."""

from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from quantize.errors import ConfigError

Bits = Tuple[int, int]
Table = Mapping[str, Mapping[Bits, float]]


@dataclass(frozen=True)
class LayerSize:
    """What the bits of a layer cost.

    Parameters
    ----------
    weights : int
        Numbers of the weight.
    others : int
        Numbers that stay 32 bit: scales and biases.
    products : int
        Multiply-adds for one image.
    """

    weights: int
    others: int
    products: int

    def size(self, bits: Bits) -> int:
        """Bytes of the layer's parameters."""
        return -(-self.weights * bits[0] // 8) + 4 * self.others

    def operations(self, bits: Bits) -> int:
        """Bit operations for one image: multiply-adds times bits of weights times bits of inputs."""
        return self.products * bits[0] * bits[1]


@dataclass(frozen=True)
class Allocation:
    """Bits for each layer.

    Attributes
    ----------
    bits : dict
        Layer -> (bits of the weight, bits of the input).
    cost, loss : float
        Sums over the layers; the loss is what the sensitivities predict.
    met : bool
        Whether the budget is kept; where none can keep it, this is the allocation that comes closest.
    """

    bits: Dict[str, Bits]
    cost: float
    loss: float
    met: bool = True


def allocate(losses: Table, costs: Table, *, cost: Optional[float] = None, loss: Optional[float] = None) -> Allocation:
    """The allocation that loses least and costs no more than `cost`, or the cheapest that loses no more than `loss`.

    An integer program, solved by SciPy's `milp` (HiGHS): one choice for each layer, losses and costs add up.

    Parameters
    ----------
    losses, costs : dict
        Layer -> (weight bits, input bits) -> number; the same choices in both.

    Raises
    ------
    ConfigError
        When not exactly one limit is given, or the tables do not fit.
    """
    if (cost is None) == (loss is None):
        raise ConfigError("give exactly one limit: of the cost, or of the loss")
    choices = _choices(losses, costs)
    minimized, limited = (losses, costs) if loss is None else (costs, losses)
    limit = float(cost if cost is not None else loss or 0)
    least = {path: min((limited[path][bits], minimized[path][bits], bits) for bits in of_layer)[2]
             for path, of_layer in choices.items()}
    if sum(limited[path][bits] for path, bits in least.items()) > limit:
        return _allocation(least, losses, costs, met=False)
    return _allocation(_solved(choices, minimized, limited, limit) or least, losses, costs)


def curve(losses: Table, costs: Table, points: int = 9) -> List[Allocation]:
    """The best allocations for budgets from the smallest cost to the largest, cheapest first; equal ones come once."""
    low = sum(min(of_layer.values()) for of_layer in costs.values())
    high = sum(max(of_layer.values()) for of_layer in costs.values())
    found: List[Allocation] = []
    for budget in np.linspace(low, high, points):
        best = allocate(losses, costs, cost=float(budget) * (1 + 1e-9))
        if not found or best.bits != found[-1].bits:
            found.append(best)
    return found


def neighbours(allocation: Allocation, losses: Table, costs: Table, cost: float) -> List[Allocation]:
    """The best allocations within a cost that give one layer other bits than this one does; least loss first.

    Losses are estimates that add up only roughly: one of these may turn out to be better.
    """
    found: Dict[Tuple, Allocation] = {}
    for path, bits in allocation.bits.items():
        for other in losses[path]:
            if other != bits:
                best = allocate(_fixed(losses, path, other), _fixed(costs, path, other), cost=cost)
                if best.met:
                    found[tuple(best.bits.items())] = best
    return sorted(found.values(), key=lambda best: best.loss)


def steps_up(allocation: Allocation, losses: Table, costs: Table) -> List[Tuple[str, Bits]]:
    """(layer, more bits), what saves most loss for its cost first: how a plan that loses too much is mended."""
    found = []
    for path, bits in allocation.bits.items():
        for other, after in losses[path].items():
            saved, spent = losses[path][bits] - after, costs[path][other] - costs[path][bits]
            if saved > 0 and spent > 0:
                found.append((saved / spent, path, other))
    return [(path, bits) for _, path, bits in sorted(found, key=lambda item: (-item[0], item[1], item[2]))]


def changed(allocation: Allocation, path: str, bits: Bits, tables: Sequence[Table]) -> Allocation:
    """The allocation with other bits for one layer; `tables` are (losses, costs)."""
    losses, costs = tables
    return _allocation(dict(allocation.bits, **{path: bits}), losses, costs, allocation.met)


def _fixed(table, path, bits):
    """The table with one choice for a layer."""
    return {**table, path: {bits: table[path][bits]}}


def _choices(losses, costs):
    if not losses:
        raise ConfigError("there is no layer to allocate bits to")
    for path, of_layer in losses.items():
        if path not in costs or set(costs[path]) != set(of_layer) or not of_layer:
            raise ConfigError(f"{path}: losses and costs must have the same choices of bits, and at least one")
    return {path: sorted(of_layer) for path, of_layer in losses.items()}


def _allocation(bits, losses, costs, met=True):
    return Allocation(dict(bits), float(sum(costs[path][b] for path, b in bits.items())),
                      float(sum(losses[path][b] for path, b in bits.items())), met)


def _solved(choices, minimized, limited, limit):
    """{layer: bits} of the optimum; None where the solver finds none (rounding at the very limit)."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # takes a second to load
    flat = [(path, bits) for path, of_layer in choices.items() for bits in of_layer]
    goal = np.array([minimized[path][bits] for path, bits in flat], np.float64)
    weights = np.array([limited[path][bits] for path, bits in flat], np.float64)
    # HiGHS works to absolute tolerances: numbers near 1
    goal, room = goal / max(np.abs(goal).max(), 1e-300), max(abs(limit), 1e-300)
    one_each = np.array([[float(path == layer) for path, _ in flat] for layer in choices])
    result = milp(goal, integrality=np.ones(len(flat)), bounds=Bounds(0, 1), constraints=[
        LinearConstraint(one_each, 1, 1), LinearConstraint(weights[None] / room, -np.inf, limit / room)])
    if result.x is None:
        return None
    chosen = {}
    for path, of_layer in choices.items():
        chosen[path] = max((result.x[flat.index((path, bits))], bits) for bits in of_layer)[1]
    kept = sum(limited[path][bits] for path, bits in chosen.items()) <= limit * (1 + 1e-9) + 1e-12
    return chosen if kept else None
