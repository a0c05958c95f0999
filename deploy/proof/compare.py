# SPDX-License-Identifier: MIT
"""What one side of a comparison has computed, and how far two computations of one tensor are apart."""

from dataclasses import dataclass
from typing import Mapping, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from quantize.errors import DeployError


class Observed(NamedTuple):
    """What one side computed from a batch.

    Attributes
    ----------
    blobs : dict
        Blob -> real values (images, ...), the first output of the model among them. Others may be missing.
    codes : dict
        Node that computes in integers -> codes of its input (images, ...). Where one is missing, the codes are those
        of the values of its input blob, which must then be there.
    """

    blobs: Mapping[str, np.ndarray]
    codes: Mapping[str, np.ndarray]


@dataclass
class Difference:
    """What comparing a tensor with its reference has found so far.

    Attributes
    ----------
    elements : int
        Compared.
    identical : int
        Of these, equal; reals must have the same bits, but 0 equals -0.
    largest : float
        Largest |value - reference|: in LSB for codes; infinity where a value is no number and its reference is one.
    magnitude : float
        Largest |reference|.
    """

    elements: int = 0
    identical: int = 0
    largest: float = 0.0
    magnitude: float = 0.0

    def update(self, values: ArrayLike, reference: ArrayLike) -> None:
        """Count one batch; both arrays have the same shape, and both hold codes or both reals."""
        values, reference = np.asarray(values), np.asarray(reference)
        if values.shape != reference.shape:
            raise DeployError(f"a tensor of shape {values.shape} is compared with one of shape {reference.shape}")
        self.elements += values.size
        equal = (values == reference) | (np.isnan(values) & np.isnan(reference))
        count = int(equal.sum())
        self.identical += count
        if values.size:
            self.magnitude = max(self.magnitude, _largest(reference))
        if count < values.size:
            there = ~equal  # infinities that are equal must not be subtracted
            self.largest = max(self.largest, _largest(values[there].astype(np.float64) - reference[there]))

    @property
    def exact(self) -> bool:
        """Whether every element is identical."""
        return self.identical == self.elements

    @property
    def share(self) -> float:
        """Identical elements; 1 where there are none."""
        return self.identical / self.elements if self.elements else 1.0

    @property
    def relative(self) -> float:
        """Largest difference by the reference's largest magnitude."""
        if self.largest == 0:
            return 0.0
        return self.largest / self.magnitude if self.magnitude else float("inf")


def _largest(values) -> float:
    """Largest magnitude; infinity where one is no number."""
    largest = float(np.abs(values.astype(np.float64)).max())
    return float("inf") if np.isnan(largest) else largest
