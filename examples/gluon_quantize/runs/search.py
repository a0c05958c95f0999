# SPDX-License-Identifier: MIT
"""Search bits for each layer: the best network of a size, or the smallest that loses no more than it may.

>>> from gluon_quantize.runs.search import SearchRequest, ImagesRequest, NetworkRequest, search
>>> result = search(SearchRequest(NetworkRequest(model="digits_lenet"), ImagesRequest(count=50), size=0.6))
>>> result.met, result.best.attempt.size <= 0.6 * result.full_size
(True, True)
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Optional, Tuple

from calib.budget import Allocation, allocate, changed, curve, neighbours, steps_up
from calib.sensitivity import INPUT, WEIGHT, Effect, Sensitivities
from gluon_quantize.models.evaluation import Answers
from gluon_quantize.progress import SILENT, Silent
from gluon_quantize.runs.attempt import Attempt, attempt, calibrated, float_predictions, layer_size
from gluon_quantize.runs.goal import missing
from gluon_quantize.runs.requests import (
    CalibrationRequest,
    GoalRequest,
    ImagesRequest,
    NetworkRequest,
    PostTrainingRequest,
    QuantizationRequest,
    RepairRequest,
    SensitivityRequest,
)
from gluon_quantize.runs.sensitivity import measure
from quantize.config import rules_from_config
from quantize.errors import ConfigError
from quantize.modes import quantized_layers

__all__ = ["CalibrationRequest", "ImagesRequest", "NetworkRequest", "QuantizationRequest", "RepairRequest",
           "SearchRequest", "SearchResult", "search"]

FULL = 8


@dataclass(frozen=True)
class SearchRequest(PostTrainingRequest):
    """Which bits to search, and for what.

    Parameters
    ----------
    size, operations : float, optional
        Bytes of the parameters, or bit operations, of the int8 network's: 0.6. One of the four limits is given.
    drop : float, optional
        Points of Top-1 that the smallest network may lose.
    agreement : float, optional
        Share of the images that must get the float network's class in the smallest network; needs no labels.
    bits : tuple of int
        Of weights; of inputs too, where operations are limited.
    points : int
        Of the curve of accuracy over size, so many are evaluated.
    trials : int
        Images on which sensitivities are measured.
    refinements : int
        With a limit of the size or of operations: so many neighbours of what the integer program chose are evaluated,
        too, each of the best so far; the best of all is chosen.
    """

    quantization: QuantizationRequest = QuantizationRequest(merge_bn=True, exclude_first=False)
    calibration: CalibrationRequest = CalibrationRequest()
    repair: RepairRequest = RepairRequest(rounding="gptq")
    size: Optional[float] = None
    operations: Optional[float] = None
    drop: Optional[float] = None
    agreement: Optional[float] = None
    bits: Tuple[int, ...] = (3, 4, 5, 6, 8)
    points: int = 3
    trials: int = 32
    refinements: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [limit for limit in (self.size, self.operations, self.drop, self.agreement) if limit is not None]
        if len(given) != 1 or not 0 <= given[0] < math.inf:
            raise ConfigError("give one limit: --size or --operations as a share of the int8 network's (0.6), "
                              "--accuracy-drop in points, or --agreement as a share of the images (0.98)")
        if self.drop is not None or self.agreement is not None:
            GoalRequest(self.drop, self.agreement)
        if self.quantization.target:
            raise ConfigError("bits are searched for the simulation; engines have bits of their own: no target")


@dataclass(frozen=True)
class Point:
    """An allocation, and what it is worth where it was evaluated."""

    allocation: Allocation
    attempt: Optional[Attempt] = None


@dataclass(frozen=True)
class SearchResult:
    """What was found.

    Attributes
    ----------
    best : Point
    met : bool
        Whether the limit is kept; else `best` is what comes nearest.
    rules : list of dict
        The bits as a config list, for --config.
    curve : list of Point
        From the smallest to the largest.
    float : Predictions or Responses
    full_size : int
        Bytes (or bit operations) of the int8 network.
    sensitivities : Sensitivities
    """

    best: Point
    met: bool
    rules: List[Dict[str, Any]]
    curve: List[Point]
    float: Answers
    full_size: int
    sensitivities: Sensitivities = field(repr=False)


def search(request: SearchRequest, progress: Silent = SILENT) -> SearchResult:
    """The best allocation of bits within a limit, chosen from sensitivities, and evaluated.

    Parameters
    ----------
    progress : Silent
        Is told Task, Sensitivities and each Attempt.
    """
    before = float_predictions(request, progress, request.drop is not None)
    work = _Search(request, before, progress)
    points = {id(a): Point(a) for a in work.allocations()}
    if request.drop is None and request.agreement is None:
        limit = (request.size or request.operations or 0) * work.full
        best, seen = work.refined(allocate(*work.tables, cost=limit), limit)
        met = best.allocation.met
        points.update((id(point.allocation), point) for point in seen)
    else:
        best, met, seen = work.cheapest([point.allocation for point in points.values()])
        points.update((id(point.allocation), point) for point in seen)
    for allocation in work.spread(list(points.values())):
        points[id(allocation)] = work.evaluated(allocation)
    points[id(best.allocation)] = best
    ordered = sorted(points.values(), key=lambda point: point.allocation.cost)
    return SearchResult(best, met, work.rules(best.allocation), ordered, before, int(work.full), work.found)


def _worth(point: Point) -> Tuple[float, float]:
    """What one of two networks within a limit has more of; of equal ones the first stays."""
    assert point.attempt is not None
    drop = point.attempt.drop
    return (0.0 if drop is None else -drop), point.attempt.agreement


class _Search:
    """The tables of one search, and the evaluation of what they suggest."""

    def __init__(self, request: SearchRequest, before: Answers, progress: Silent):
        self._request, self._before, self._progress = request, before, progress
        plain = replace(request, repair=replace(request.repair, rounding="none"))
        work = calibrated(plain, before, progress)
        self._classes = work.task.model.classifies
        both = request.operations is not None
        bits = tuple(sorted({*request.bits, FULL}))
        asked = SensitivityRequest(bits, request.trials, (WEIGHT, INPUT) if both else (WEIGHT,))
        self.found = measure(request, asked, work.task, work.calibration.decided, progress)
        progress.tell(self.found)
        layers = dict(quantized_layers(work.task.net))
        weights, inputs = self.found.table(WEIGHT), self.found.table(INPUT)
        losses: Dict[str, Dict[Tuple[int, int], float]] = {}
        costs: Dict[str, Dict[Tuple[int, int], float]] = {}
        for path, of_layer in weights.items():
            size = layer_size(layers[path], self.found.products[path])
            choices = [(w, a) for w in bits for a in (bits if both else (FULL,))]
            losses[path] = {(w, a): self._loss(of_layer[w]) + (self._loss(inputs[path][a]) if both else 0)
                            for w, a in choices}
            costs[path] = {choice: float(size.operations(choice) if both else size.size(choice)) for choice in choices}
        self.tables = losses, costs
        self.full = sum(of_layer[FULL, FULL] for of_layer in costs.values())

    def _loss(self, effect: Effect) -> float:
        """Divergence of the class probabilities; where there are no classes, the noise's share of the outputs."""
        return effect.divergence if self._classes else 10 ** (-effect.sqnr / 10)

    def allocations(self) -> List[Allocation]:
        """What the sensitivities suggest for budgets of all sizes."""
        return curve(*self.tables)

    def rules(self, allocation: Allocation) -> List[Dict[str, Any]]:
        """A config list."""
        shape = self._request.quantization.usual_granularity
        return [{"op_names": [path], "weight": f"int{w}/{shape}", "input": f"auto{a}"}
                for path, (w, a) in allocation.bits.items()]

    def evaluated(self, allocation: Allocation) -> Point:
        """An allocation with what it is worth."""
        quantization = self._request.quantization
        rules = quantization.rules + tuple(rules_from_config(self.rules(allocation)))
        request = replace(self._request, quantization=replace(quantization, rules=rules))
        share = allocation.cost / self.full
        tried = attempt(f"{share:.1%} of int8", request, self._before, self._progress)
        self._progress.tell(tried)
        return Point(allocation, tried)

    def refined(self, allocation: Allocation, limit: float) -> Tuple[Point, List[Point]]:
        """(the best, all that were evaluated): the allocation, and neighbours of the best so far, likely ones first."""
        best = self.evaluated(allocation)
        seen = [best]
        while allocation.met and len(seen) <= self._request.refinements:
            known = [point.allocation.bits for point in seen]
            rest = [near for near in neighbours(best.allocation, *self.tables, limit) if near.bits not in known]
            if not rest:
                break
            seen.append(self.evaluated(rest[0]))
            best = max(best, seen[-1], key=_worth)
        return best, seen

    def cheapest(self, allocations: List[Allocation]) -> Tuple[Point, bool, List[Point]]:
        """(the cheapest that keeps the drop, whether it does, all that were evaluated): bisection, then small steps."""
        low, high = 0, len(allocations) - 1
        seen: List[Any] = []
        best = self.evaluated(allocations[high])
        seen.append(best)
        if not self._holds(best):
            return best, False, seen
        failed = None
        while low < high:
            middle = (low + high) // 2
            point = self.evaluated(allocations[middle])
            seen.append(point)
            if self._holds(point):
                best, high = point, middle
            else:
                failed, low = point, middle + 1
        if failed is not None:
            mended = self.evaluated(self._mended(failed.allocation, best.allocation))
            seen.append(mended)
            if self._holds(mended) and mended.allocation.cost < best.allocation.cost:
                best = mended
        return best, True, seen

    def _holds(self, point):
        return missing(GoalRequest(self._request.drop, self._request.agreement), point.attempt) <= 0

    def _mended(self, allocation, above):
        """An allocation that loses too much, with the bits that save most for their cost, half the way up."""
        middle = (allocation.cost + above.cost) / 2
        for path, bits in steps_up(allocation, *self.tables):
            if self.tables[1][path][bits] > self.tables[1][path][allocation.bits[path]]:
                better = changed(allocation, path, bits, self.tables)
                if better.cost <= middle:
                    allocation = better
        return allocation

    def spread(self, points: List[Point]) -> List[Allocation]:
        """Some more to evaluate, so that the curve has enough points."""
        done = sum(point.attempt is not None for point in points)
        rest = [point.allocation for point in points if point.attempt is None]
        missing = min(max(self._request.points - done, 0), len(rest))
        return [rest[(2 * number + 1) * len(rest) // (2 * missing)] for number in range(missing)]
