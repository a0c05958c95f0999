# SPDX-License-Identifier: MIT
"""Whether ncnn's int8 Winograd could overflow in this network, on these images, and the better cure.

Beyond a sum of `WINOGRAD_EXACT` ncnn's F(4,3) may be one too small, beyond `WINOGRAD_LIMIT` it gives garbage. There
are two cures: 31 levels of the weights instead of 127, as ncnn2table does, or 127 levels and a mark in the file (31=64)
that keeps the layer from Winograd.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Dict, Iterable, List, Tuple

import numpy as np

from deploy import engine
from deploy.engine.integer import bound
from deploy.ir import Convolution, Model
from deploy.proof.certificate import table
from deploy.targets.ncnn.arithmetic import NcnnArithmetic
from deploy.targets.ncnn.constraints import QMAX, WINOGRAD_EXACT, WINOGRAD_LIMIT, WINOGRAD_QMAX
from deploy.targets.ncnn.winograd import WinogradArithmetic, fits_winograd
from quantize.errors import DataError, DeployError

DIRECT, BARE, FEW = "127 levels with 31=64", "127 levels by Winograd", "31 levels by Winograd"


@dataclass
class LayerHeadroom:
    """The sums of one layer with one number of weight levels.

    Attributes
    ----------
    name : str
    bound : int
        No sum can be larger in magnitude, whatever the input.
    largest : int
        On the images.
    sums, inexact, overflowing : int
        How many there were, how many of them beyond `WINOGRAD_EXACT`, and how many beyond `WINOGRAD_LIMIT`.
    """

    name: str
    bound: int
    largest: int = 0
    sums: int = 0
    inexact: int = 0
    overflowing: int = 0

    @property
    def verdict(self) -> str:
        """never: no input can go wrong; not here: an input could, none of these did; off by one; overflows."""
        if self.overflowing:
            return "overflows"
        if self.inexact:
            return "off by one"
        return "never" if self.bound <= WINOGRAD_EXACT else "not here"


@dataclass
class HeadroomReport:
    """What `headroom` has found.

    Attributes
    ----------
    images : int
    layers : dict
        Number of levels (127, 31) -> LayerHeadroom of each layer that ncnn could compute by Winograd.
    correct : dict
        `DIRECT`, `BARE` and `FEW` -> images whose class is right.
    """

    images: int
    layers: Dict[int, List[LayerHeadroom]]
    correct: Dict[str, int]

    @property
    def cure(self) -> str:
        """`FEW` where it is safe and names more classes right than `DIRECT`, which is always exact; else that."""
        safe = all(layer.verdict in ("never", "not here") for layer in self.layers[WINOGRAD_QMAX])
        return FEW if safe and self.correct[FEW] > self.correct[DIRECT] else DIRECT


def headroom(model: Model, floating: Model, batches: Iterable[Tuple[np.ndarray, np.ndarray]]) -> HeadroomReport:
    """Count sums and right classes in the integer engine, with 127 and with 31 levels.

    Parameters
    ----------
    model : Model
        Quantized for ncnn, with any number of levels.
    floating : Model
        The same nodes with float weights, from which both numbers of levels are made.
    batches : iterable of (array of float32 (images, ...), labels)

    Raises
    ------
    DeployError
        When ncnn would compute no layer by Winograd.
    DataError
        For no images.
    """
    models = {levels: with_levels(model, floating, levels) for levels in (QMAX, WINOGRAD_QMAX)}
    counts = {QMAX: _Counting(models[QMAX], NcnnArithmetic()),
              WINOGRAD_QMAX: _Counting(models[WINOGRAD_QMAX], WinogradArithmetic())}
    if not counts[QMAX].layers:
        raise DeployError("no quantized layer of this network has a shape that ncnn computes by Winograd (3x3, stride "
                          "1, dilation 1, more than 8 channels)")
    ways = {DIRECT: (models[QMAX], counts[QMAX]), BARE: (models[QMAX], WinogradArithmetic(everywhere=True)),
            FEW: (models[WINOGRAD_QMAX], counts[WINOGRAD_QMAX])}
    correct, images = {way: 0 for way in ways}, 0
    for batch, labels in batches:
        for way, (of_way, arithmetic) in ways.items():
            scores = engine.run(of_way, batch, arithmetic=arithmetic).outputs[0]
            classes = scores.reshape(len(scores), -1).argmax(axis=1)
            correct[way] += int((classes == np.asarray(labels)).sum())
        images += len(batch)
    if not images:
        raise DataError("there are no images to count sums on")
    return HeadroomReport(images, {levels: list(found.layers.values()) for levels, found in counts.items()}, correct)


def with_levels(model: Model, floating: Model, levels: int) -> Model:
    """The model with so many weight levels on each side in the layers that ncnn could compute by Winograd.

    The step of each output is its largest weight / levels, as ncnn2table has it.
    """
    weights = {node.name: node.weight for node in floating.nodes
               if isinstance(node, Convolution) and fits_winograd(node)}

    def changed(node):
        if not fits_winograd(node) or node.quantization is None:
            return node
        weight = weights[node.name]
        largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
        scale = np.where(largest > 0, largest / np.float32(levels), np.float32(1)).astype(np.float32)
        codes = NcnnArithmetic().quantize_weight(weight, scale, levels)
        return replace(node, quantization=replace(node.quantization, weight_q=codes, weight_scale=scale,
                                                  weight_qmax=levels))
    return replace(model, nodes=tuple(changed(node) for node in model.nodes))


class _Counting(NcnnArithmetic):
    """An arithmetic that counts the sums that come by."""

    def __init__(self, model, arithmetic):
        self.arithmetic = arithmetic
        self.layers = {node.name: LayerHeadroom(node.name, bound(node)) for node in model.nodes
                       if fits_winograd(node) and node.quantization is not None}

    def dequantize(self, accumulator, node) -> np.ndarray:
        """See `NcnnArithmetic.dequantize`."""
        found = self.layers.get(node.name)
        if found is not None:
            sizes = np.abs(accumulator)
            found.largest = max(found.largest, int(sizes.max(initial=0)))
            found.sums += sizes.size
            found.inexact += int((sizes > WINOGRAD_EXACT).sum())
            found.overflowing += int((sizes > WINOGRAD_LIMIT).sum())
        return self.arithmetic.dequantize(accumulator, node)


# ---- for people and for files


def report(model: Model, floating: Model,
           batches: Iterable[Tuple[np.ndarray, np.ndarray]]) -> Tuple[str, Dict[str, Any]]:
    """What `headroom` finds: (text, contents of a JSON file)."""
    found = headroom(model, floating, batches)
    layers = {levels: [dict(asdict(layer), verdict=layer.verdict) for layer in of_levels]
              for levels, of_levels in found.layers.items()}
    return headroom_text(found), {"images": found.images, "layers": layers, "correct": found.correct,
                                  "cure": found.cure}


def headroom_text(found: HeadroomReport) -> str:
    """A line for each layer, then what each way of computing gets right."""
    rows = [("layer", "levels", "largest sum", "it can be", "beyond exact", "overflowing", "verdict")]
    for pair in zip(*found.layers.values()):
        for levels, layer in zip(found.layers, pair):
            rows.append((layer.name, str(levels), f"{layer.largest:,}", f"{layer.bound:,}",
                         f"{layer.inexact / layer.sums:.3%}", f"{layer.overflowing / layer.sums:.3%}",
                         layer.verdict))
    lines = [f"Sums of the convolutions that ncnn could compute by Winograd F(4,3), {found.images} images",
             table(rows)]
    lines += [f"{way:<24} right on {correct}/{found.images}" for way, correct in found.correct.items()]
    return "\n".join(lines + [f"better cure: {found.cure}"])
