# SPDX-License-Identifier: MIT
"""Runs several computations of one network on the same images and compares them blob by blob with the integer engine.

Nothing here knows a target's engine or MXNet: each side is handed in as a function from images to what it computed.
Only one part of the images is in memory at a time.
"""

import contextlib
from dataclasses import dataclass, field
from typing import Callable, Dict, Iterable, List, Mapping, Optional, Tuple

import numpy as np

from deploy import engine
from deploy.arithmetic import Arithmetic
from deploy.ir import Grid, Model, Rounding, consumers, integers, quantized
from deploy.proof.compare import Difference, Observed
from quantize.errors import DeployError

JUDGE = "engine"
MEMORY = 64 * 2 ** 20  # bytes of blobs that one side may hold at a time


@dataclass
class Verification:
    """What the comparison has found.

    Attributes
    ----------
    images : int
    codes : dict
        Node that computes in integers -> side -> Difference of the codes of its input, in LSB; likewise each
        `ir.Rounding` that no such node reads.
    reals : dict
        Blob -> side -> Difference of its real values.
    top1 : dict
        Side (the judge too) -> class of each image, of the model's first output.
    accumulators : dict
        Node -> largest |integer sum| on these images.
    """

    images: int = 0
    codes: Dict[str, Dict[str, Difference]] = field(default_factory=dict)
    reals: Dict[str, Dict[str, Difference]] = field(default_factory=dict)
    top1: Dict[str, List[int]] = field(default_factory=dict)
    accumulators: Dict[str, int] = field(default_factory=dict)

    def agreement(self, side: str) -> int:
        """Images for which a side names the judge's class."""
        return int(np.sum(np.asarray(self.top1[side]) == np.asarray(self.top1[JUDGE])))

    def total(self, side: str) -> Difference:
        """The codes of all layers together."""
        found = [of_sides[side] for of_sides in self.codes.values()]
        return Difference(sum(d.elements for d in found), sum(d.identical for d in found),
                          max((d.largest for d in found), default=0.0))

    def first_deviation(self, side: str) -> Optional[str]:
        """The first node, in the model's order, whose input codes differ; None where all are identical."""
        return next((name for name, of_sides in self.codes.items() if not of_sides[side].exact), None)

    def worst_real(self, side: str) -> Optional[str]:
        """The blob with the largest relative difference; None where no blob was compared."""
        found = {blob: of_sides[side].relative for blob, of_sides in self.reals.items() if side in of_sides}
        return max(found, key=lambda blob: found[blob]) if found else None


def verify(model: Model, arithmetic: Arithmetic, sides: Mapping[str, Callable[[np.ndarray], Observed]],
           batches: Iterable[np.ndarray], progress: Optional[Callable[[int], None]] = None) -> Verification:
    """Compare what each side computes with the integer engine, over all batches.

    Parameters
    ----------
    model : Model
        With at least one layer that computes in integers.
    arithmetic : Arithmetic
        The target's.
    sides : dict
        Name -> function from images to `Observed`.
    batches : iterable of array of float32, (images, ...)
    progress : function, optional
        Called with the number of images done since the last call.

    Raises
    ------
    DeployError
        No images, nothing quantized, a side that leaves out a quantized blob or gives another shape.
    """
    run = _Run(model, arithmetic, sides)
    # every blob of every side is in memory at once, so batches are cut by what blobs weigh
    size = part_size(model)
    for batch in batches:
        for start in range(0, len(batch), size):
            part = np.ascontiguousarray(batch[start:start + size], np.float32)
            run.compare(part)
            if progress is not None:
                progress(len(part))
    if not run.found.images:
        raise DeployError("nothing to verify with: there are no images")
    return run.found


def part_size(model: Model) -> int:
    """Images whose blobs fit into `MEMORY`."""
    values = sum(int(np.prod(shape)) for shape in model.shapes.values())
    return max(1, MEMORY // (4 * values))


def _grids(model: Model) -> Dict[str, Tuple[str, Grid]]:
    """Node -> (blob, its grid), of all whose codes are compared, in the model's order."""
    readers, found = consumers(model), {}
    for node in model.nodes:
        quantization = integers(node)
        if quantization is not None:
            found[node.name] = node.inputs[0], quantization.input
        elif isinstance(node, Rounding) and all(integers(reader) is None for reader in readers[node.outputs[0]]):
            found[node.name] = node.outputs[0], node.grid
    return found


class _Run:
    """One comparison, in the middle of its work."""

    def __init__(self, model, arithmetic, sides):
        self.model, self.arithmetic, self.sides = model, arithmetic, sides
        self.nodes = quantized(model)
        if not self.nodes:
            raise DeployError("nothing to verify: no layer of the network is quantized")
        self.grids = _grids(model)
        self.found = Verification(codes={name: {side: Difference() for side in sides} for name in self.grids},
                                  top1={side: [] for side in [JUDGE] + list(sides)},
                                  accumulators={node.name: 0 for node in self.nodes})

    def compare(self, images):
        """All sides on one part of the images."""
        # once for all sides: the judge is the slowest of them
        judged = engine.run(self.model, images, arithmetic=self.arithmetic, keep=engine.ALL, codes=True)
        for name, largest in judged.largest.items():
            self.found.accumulators[name] = max(self.found.accumulators[name], largest)
        self._classes(JUDGE, judged)
        for side, compute in self.sides.items():
            observed = compute(images)
            self._classes(side, observed)
            self._compare_codes(side, observed, judged)
            self._compare_reals(side, observed, judged)
        self.found.images += len(images)

    def _classes(self, side, observed):
        scores = observed.blobs[self.model.outputs[0]]
        self.found.top1[side] += scores.reshape(len(scores), -1).argmax(axis=1).tolist()

    def _compare_codes(self, side, observed, judged):
        for name, (blob, grid) in self.grids.items():
            codes = observed.codes.get(name)
            if codes is None:
                if blob not in observed.blobs:
                    raise DeployError(f"{name}: {side} gives neither its input's codes nor the blob {blob!r}, so "
                                      "that this layer cannot be verified")
                # engines keep integers only between fused layers; elsewhere they round what they read, as this does
                codes = self.arithmetic.quantize(observed.blobs[blob], grid)
            reference = judged.codes.get(name)
            if reference is None:  # of a rounding, whose blob lies on its grid
                reference = self.arithmetic.quantize(judged.blobs[blob], grid)
            if codes.size == reference.size:
                codes = codes.reshape(reference.shape)  # a fully connected layer may see its input flattened
            with _told(side, name):
                self.found.codes[name][side].update(codes, reference)

    def _compare_reals(self, side, observed, judged):
        for blob, values in observed.blobs.items():
            if blob in judged.blobs:
                with _told(side, blob):
                    of_sides = self.found.reals.setdefault(blob, {})
                    of_sides.setdefault(side, Difference()).update(values, judged.blobs[blob])


@contextlib.contextmanager
def _told(side, name):
    """Errors say which side and layer or blob they are about."""
    try:
        yield
    except DeployError as error:
        raise DeployError(f"{side}, {name}: {error}") from None
