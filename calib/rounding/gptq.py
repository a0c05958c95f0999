# SPDX-License-Identifier: MIT
"""GPTQ: the rounding error of a weight is made up for by the weights of its row that are still to be rounded."""

from dataclasses import dataclass
from typing import Tuple

import numpy as np

from calib.rounding.problem import ROUNDINGS, Problem, Rounding, Solution
from quantize.errors import ConfigError

BLOCK = 64


@ROUNDINGS.register("gptq")
@dataclass(frozen=True)
class GPTQ(Rounding):
    """Second-order rounding in closed form, on inputs of the quantized and wanted outputs of the float network.

    First the weight is found whose outputs come closest to the wanted ones, by least squares:
    ``W' = W + (C - W H) (H + d)^-1``, H the covariance of the inputs, C that of wanted outputs with them, d = `damping`
    times the mean of H's diagonal. It is rounded column by column; each error is taken back by the columns still to
    come, ``W'_j -= (W'_i - Q_i) U_ij / U_ii``, with U the upper Cholesky factor of (H + d)^-1: Frantar et al., GPTQ,
    arXiv:2210.17323, equations 2 and 3 and section 3.3. That is done for some scales below the one that just covers the
    weight, and the scale with the least error stays. Afterwards the bias gives every output its wanted mean.

    Parameters
    ----------
    damping : float
        More of it trusts the float weight more, the images less.
    lowest : float
        Smallest of the tried scales, as a share of the covering one.
    scales : int
        How many are tried.
    sweeps : int
        Afterwards, so often, each code in turn becomes the best one beside all others.
    """

    damping: float = 0.01
    lowest: float = 0.6
    scales: int = 9
    sweeps: int = 2

    name = "gptq"

    def __post_init__(self):
        if not (self.damping > 0 and 0 < self.lowest <= 1 and self.scales >= 1 and self.sweeps >= 0):
            raise ConfigError("gptq: damping must be positive, lowest in (0, 1], scales at least 1, sweeps at least "
                              f"0, got {self.damping!r}, {self.lowest!r}, {self.scales!r}, {self.sweeps!r}")

    def solve(self, problem: Problem, seed: int = 0) -> Solution:
        """The rounded layer; nothing in it is random."""
        damped, target = best_weight(problem, self.damping)
        covering = problem.largest(target) / problem.spec.qmax
        covering = np.where(covering > 0, covering, 1.0)
        order = upper_factor(damped)
        codes, scale, least = np.zeros_like(target), covering, np.full(covering.shape, np.inf)
        for share in np.linspace(1, self.lowest, self.scales):
            tried = (covering * share).astype(np.float32).astype(np.float64)
            found = feed_back(target, order, tried[problem.parts()], problem)
            error = _by_part(problem, _damped_error(found * tried[problem.parts()][..., None] - target, damped))
            better = error < least
            codes = np.where(better[problem.parts()][..., None], found, codes)
            scale, least = np.where(better, tried, scale), np.where(better, error, least)
        codes = settled(codes, target, scale[problem.parts()], (damped, problem), self.sweeps)
        return finished(problem, codes, scale)


def damping_of(problem: Problem, share: float) -> np.ndarray:
    """(groups, 1, 1): what is added to the diagonal of each group's covariance."""
    mean = np.trace(problem.gram, axis1=1, axis2=2) / problem.gram.shape[-1]
    return (share * mean + 1e-10 * max(mean.max(), 1e-20) + 1e-30)[:, None, None]


def best_weight(problem: Problem, share: float) -> Tuple[np.ndarray, np.ndarray]:
    """(damped covariance, the weight with the least squares, drawn to the float one by the damping)."""
    damped = problem.gram + damping_of(problem, share) * np.eye(problem.gram.shape[-1])
    missing = problem.cross - problem.weight @ problem.gram
    return damped, problem.weight + np.linalg.solve(damped, missing.swapaxes(1, 2)).swapaxes(1, 2)


def upper_factor(damped: np.ndarray) -> np.ndarray:
    """Upper U of each group with ``U^T U`` = the inverse."""
    return np.linalg.cholesky(np.linalg.inv(damped)).swapaxes(1, 2)


def feed_back(target: np.ndarray, upper: np.ndarray, scale: np.ndarray, problem: Problem) -> np.ndarray:
    """Codes of a weight, rounded column by column; `scale` (groups, rows)."""
    rest, codes = target.copy(), np.empty_like(target)
    columns = target.shape[-1]
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        errors = np.empty(target.shape[:2] + (stop - start,))
        for i in range(start, stop):
            codes[..., i] = problem.codes(rest[..., i], scale)
            errors[..., i - start] = (rest[..., i] - codes[..., i] * scale) / upper[:, None, i, i]
            rest[..., i:stop] -= errors[..., i - start, None] * upper[:, None, i, i:stop]
        rest[..., stop:] -= errors @ upper[:, start:stop, stop:]
    return codes


def settled(codes: np.ndarray, target: np.ndarray, scale: np.ndarray, task: Tuple[np.ndarray, Problem], sweeps: int
            ) -> np.ndarray:
    """Codes after some sweeps in which each in turn becomes the best one beside all others: the error only shrinks.

    Parameters
    ----------
    codes, target : array of float64, (groups, rows, columns)
    scale : array of float64, (groups, rows)
    task : (damped covariance, Problem)
    sweeps : int
        At most so many; they end where nothing changes.
    """
    (damped, problem), codes = task, codes.copy()
    gradient = (codes * scale[..., None] - target) @ damped
    for _ in range(sweeps):
        moved = False
        for start in range(0, codes.shape[-1], BLOCK):
            part = slice(start, start + BLOCK)
            before, own = codes[..., part].copy(), damped[:, part, part]
            local = gradient[..., part].copy()
            for i in range(local.shape[-1]):
                weight = codes[..., start + i] * scale - local[..., i] / own[:, None, i, i]
                best = problem.codes(weight, scale)
                local += ((best - codes[..., start + i]) * scale)[..., None] * own[:, None, i]
                codes[..., start + i] = best
            change = codes[..., part] - before
            if change.any():
                gradient, moved = gradient + (change * scale[..., None]) @ damped[:, part], True
        if not moved:
            break
    return codes


def _damped_error(difference, damped):
    return ((difference @ damped) * difference).sum(-1)


def _by_part(problem, errors):
    """Sum over the rows that have a scale in common."""
    return np.bincount(problem.parts().ravel(), weights=errors.ravel())


def finished(problem: Problem, codes: np.ndarray, scale: np.ndarray) -> Solution:
    """The solution of codes and scales, judged beside the nearest codes on the usual grid."""
    weight = codes * scale[problem.parts()][..., None]
    covering = problem.largest(problem.weight) / problem.spec.qmax
    steps = np.where(covering > 0, covering, 1.0)[problem.parts()][..., None]
    nearest = problem.codes(problem.weight, steps) * steps
    power = max(float(problem.output_variance.sum()), 1e-30)
    errors = [max(float(problem.error(w).sum()) / power, 0.0) for w in (weight, nearest)]
    return Solution(codes, scale.astype(np.float32), problem.bias(weight), *errors)
