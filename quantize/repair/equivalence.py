# SPDX-License-Identifier: MIT
"""How far a changed float network is from what it was, on images."""

from typing import Iterable, List, NamedTuple, Tuple

import mxnet as mx
import numpy as np

from quantize.errors import CalibrationError
from quantize.repair.statistics import COMPARED_IMAGES, output_of
from quantize.stages import LayerGraph


class Equivalence(NamedTuple):
    """What a change did to the outputs.

    Attributes
    ----------
    images : int
        How many the network was run on before and after.
    agreement : int
        Those of them whose largest output stayed the same.
    deviation : float
        Root mean square by which outputs differ, over their own root mean square; 1e-6 is float32's rounding.
    """

    images: int
    agreement: int
    deviation: float


def compared(graph: LayerGraph, before: List[Tuple[mx.nd.NDArray, np.ndarray]]) -> Equivalence:
    """The network as it is now beside [(images, outputs it had for them)]."""
    old = np.concatenate([outputs for _, outputs in before]).astype(np.float64)
    new = np.concatenate([output_of(graph, images) for images, _ in before]).astype(np.float64)
    deviation = np.sqrt(np.square(new - old).mean() / max(np.square(old).mean(), 1e-300))
    return Equivalence(len(old), int((old.argmax(1) == new.argmax(1)).sum()), float(deviation))


def remembered(graph: LayerGraph, batches: Iterable[mx.nd.NDArray]) -> List[Tuple[mx.nd.NDArray, np.ndarray]]:
    """The first images with their outputs, for `compared`."""
    found: List[Tuple[mx.nd.NDArray, np.ndarray]] = []
    for batch in batches:
        part = batch[:COMPARED_IMAGES - sum(len(images) for images, _ in found)]
        found.append((part, output_of(graph, part)))
        if sum(len(images) for images, _ in found) == COMPARED_IMAGES:
            break
    if not found:
        raise CalibrationError("a changed network is compared with the old one on images: no batch came")
    return found
