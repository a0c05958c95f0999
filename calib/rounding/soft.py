# SPDX-License-Identifier: MIT
"""AdaRound's soft rounding: each weight between the two codes around it, and what drives it to one of them."""

from typing import Tuple

import numpy as np

STRETCH = 1.2
SHIFT = 0.1
BETAS = (20.0, 2.0)
WARM_UP = 0.2


def opened(fraction: np.ndarray) -> np.ndarray:
    """The variables V with ``h(V)`` = fraction, which is kept in (0, 1)."""
    inside = (np.clip(fraction, 0.001, 0.999) + SHIFT) / STRETCH
    return np.log(inside / (1 - inside))


def rectified_sigmoid(v: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """(h, dh/dv) of ``h(v) = clip(1.2 sigmoid(v) - 0.1, 0, 1)``: Nagel et al., arXiv:2004.10568, equation 23."""
    sigmoid = 1 / (1 + np.exp(-v))
    h = STRETCH * sigmoid - SHIFT
    return np.clip(h, 0, 1), np.where((h > 0) & (h < 1), STRETCH * sigmoid * (1 - sigmoid), 0).astype(v.dtype)


def beta_at(share: float) -> float:
    """The regulariser's exponent when a share of the iterations is done; 0: it is not on yet (equation 24)."""
    if share < WARM_UP:
        return 0.0
    return BETAS[1] + (BETAS[0] - BETAS[1]) * (1 - (share - WARM_UP) / (1 - WARM_UP))


def regulariser_gradient(h: np.ndarray, beta: float) -> np.ndarray:
    """d/dh of ``1 - |2 h - 1|^beta`` (equation 24), which is least at 0 and at 1."""
    distance = 2 * h - 1
    return -2 * beta * np.sign(distance) * np.abs(distance) ** (beta - 1)


class Adam:
    """Adam (Kingma and Ba, arXiv:1412.6980) on one array, in place."""

    def __init__(self, values: np.ndarray, rate: float):
        self.values, self._rate, self._turn = values, rate, 0
        self._mean, self._square = np.zeros_like(values), np.zeros_like(values)

    def step(self, gradient: np.ndarray) -> None:
        """One step down a gradient."""
        self._turn += 1
        self._mean += 0.1 * (gradient - self._mean)
        self._square += 0.001 * (np.square(gradient) - self._square)
        mean, square = self._mean / (1 - 0.9 ** self._turn), self._square / (1 - 0.999 ** self._turn)
        self.values -= self._rate * mean / (np.sqrt(square) + 1e-8)
