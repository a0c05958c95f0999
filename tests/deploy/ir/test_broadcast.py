# SPDX-License-Identifier: MIT
"""Shapes meet from the right, and a constant's shape says whether it has a batch axis."""

import numpy as np
import pytest

from deploy.ir.broadcast import aligned, broadcast, constant_shape
from quantize.errors import DeployError


@pytest.mark.parametrize("shape, rank, wanted", [
    ((), 3, (1, 1, 1)), ((5,), 3, (1, 1, 5)), ((4, 5), 3, (1, 4, 5)), ((3, 1, 1), 3, (3, 1, 1)),
    ((1, 3, 1, 1), 3, (3, 1, 1)), ((1, 5), 1, (5,)), ((5,), 1, (5,)), ((1, 1, 8), 3, (1, 1, 8)),
    ((1, 8), 3, (1, 1, 8))])
def test_the_axes_of_a_constant(shape, rank, wanted):
    assert constant_shape(shape, rank) == wanted
    batch = np.zeros((2,) + (1,) * rank) + np.zeros(shape)
    assert (batch.shape[1:] or (1,)) == (wanted or (1,))  # what NumPy makes of it with the batch in front


@pytest.mark.parametrize("shape, rank, says", [
    ((2, 3, 1, 1), 3, "something else for each image"), ((1, 1, 1, 7), 1, "more axes than the tensor it meets")])
def test_constants_that_no_blob_can_meet(shape, rank, says):
    with pytest.raises(DeployError, match=says):
        constant_shape(shape, rank)


def test_blobs_meet_from_the_right():
    assert aligned((4, 5), 3) == (1, 4, 5)
    assert broadcast((3, 1, 1), (4, 5), (5,)) == (3, 4, 5)
    with pytest.raises(DeployError, match=r"blobs of the shapes \(\(3, 4\), \(3,\)\) do not fit together"):
        broadcast((3, 4), (3,))
