# SPDX-License-Identifier: MIT
"""What a method of rounding is given of a layer, and what it gives back."""

from dataclasses import dataclass
from typing import NamedTuple, Optional

import numpy as np

from quantize.reference import round_half_away
from quantize.registry import Registry
from quantize.spec import PerGroup, PerTensor, QuantSpec

ROUNDINGS: Registry = Registry("method of rounding")


@dataclass(frozen=True)
class Problem:
    """A layer's weight, and what its inputs and wanted outputs have been on calibration images.

    Inputs are those that the layer gets in the quantized network, wanted outputs what it puts out in the float network:
    so a layer can make up for what those before it do wrong (Li et al., "GPTAQ", arXiv:2504.02692). The bias is free.

    Parameters
    ----------
    weight : array of float64, (groups, rows, columns)
        A row makes an output channel; groups read different inputs.
    gram : array of float64, (groups, columns, columns)
        Covariance of the inputs.
    cross : array of float64, (groups, rows, columns)
        Covariance of the wanted outputs with the inputs.
    input_mean, output_mean : array of float64, (groups, columns) and (groups, rows)
    output_variance : array of float64, (groups, rows)
        Of the wanted outputs.
    spec : QuantSpec
        Of the weight; symmetric, mid_tread.
    inputs, outputs : array of float32, (groups, samples, columns) and (groups, samples, rows), or None
        Some of what the moments were taken of, for methods that ask for it.
    rectified : bool
        Whether nothing but a ReLU (or ReLU6) reads the output.
    """

    weight: np.ndarray
    gram: np.ndarray
    cross: np.ndarray
    input_mean: np.ndarray
    output_mean: np.ndarray
    output_variance: np.ndarray
    spec: QuantSpec
    inputs: Optional[np.ndarray] = None
    outputs: Optional[np.ndarray] = None
    rectified: bool = False

    def parts(self) -> np.ndarray:
        """(groups, rows): which of the scales each row has."""
        groups, rows, _ = self.weight.shape
        numbers = np.arange(groups * rows).reshape(groups, rows)
        if isinstance(self.spec.granularity, PerTensor):
            return np.zeros_like(numbers)
        if isinstance(self.spec.granularity, PerGroup):
            return numbers // (groups * rows // self.spec.granularity.groups)
        return numbers

    def largest(self, weight: np.ndarray) -> np.ndarray:
        """(scales,): the largest magnitude in each part of a weight."""
        parts = self.parts().ravel()
        found = np.zeros(parts.max() + 1)
        np.maximum.at(found, parts, np.abs(weight).max(-1).ravel())
        return found

    def codes(self, weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Codes nearest to (a part of) a weight; `scale` broadcasts against it."""
        return np.clip(round_half_away(weight / scale), self.spec.qmin, self.spec.qmax)

    def error(self, weight: np.ndarray) -> np.ndarray:
        """(groups, rows): mean square by which a weight's outputs miss the wanted ones, with the best bias."""
        return self.output_variance + ((weight @ self.gram - 2 * self.cross) * weight).sum(-1)

    def bias(self, weight: np.ndarray) -> np.ndarray:
        """(groups, rows): the bias with which the outputs of a weight have the wanted means."""
        return self.output_mean - (weight @ self.input_mean[..., None])[..., 0]


class Solution(NamedTuple):
    """A rounded layer.

    Parameters
    ----------
    codes : array of float64, (groups, rows, columns)
        Whole numbers of the grid.
    scale : array of float32, (scales,)
    bias : array of float64, (groups, rows)
    error, nearest_error : float
        Mean square error of the outputs over their variance: with these codes, and with the nearest ones.
    """

    codes: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    error: float
    nearest_error: float


class Rounding:
    """A method: a frozen dataclass with ``solve``.

    Attributes
    ----------
    name : str
        The method's published name.
    samples : int
        How many of the samples themselves it wants beside their moments.
    """

    name = ""
    samples = 0

    def solve(self, problem: Problem, seed: int = 0) -> Solution:
        """The rounded layer; the same one for the same seed."""
        raise NotImplementedError
