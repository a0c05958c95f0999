# SPDX-License-Identifier: MIT
"""Evaluate a quantized network in an engine's integers instead of in float, and say how far its codes are from that.

The exact simulation, that it is compared with, is the network as it was converted: the integer engine's sums, and
everything between the layers in float32. An engine rounds at more places (the outputs of convolutions, additions), so
that its codes may be others.
"""

import pathlib
import tempfile
from dataclasses import dataclass
from typing import Any, Dict, List, Tuple

import mxnet as mx
import numpy as np

from deploy import engine
from deploy.arithmetic import Arithmetic
from deploy.ir import quantized
from deploy.ir.packed import unpacked
from deploy.proof.compare import Difference
from deploy.target import Target, find, raise_problems
from gluon_quantize.data.batches import requested
from gluon_quantize.models.evaluation import Answers, evaluate
from gluon_quantize.runs.blob_ranges import blob_ranges
from gluon_quantize.runs.calibration import Calibration
from gluon_quantize.runs.deployment import lowered
from gluon_quantize.runs.requests import BACKENDS

IMAGES = 4  # the exact simulation is not fast


@dataclass(frozen=True)
class Nearness:
    """How far an engine's codes are from those of the exact simulation.

    Attributes
    ----------
    backend : str
    versions : dict
        Of the engine.
    images : int
        On which they were compared.
    codes : dict
        Layer -> Difference of the codes of its input, in LSB.
    """

    backend: str
    versions: Dict[str, str]
    images: int
    codes: Dict[str, Difference]

    @property
    def total(self) -> Difference:
        """Of all layers."""
        found = self.codes.values()
        return Difference(sum(one.elements for one in found), sum(one.identical for one in found),
                          max(one.largest for one in found))


class _Exact(Arithmetic):
    """The converted network's own rounding, with halves to the even code as its formats say."""

    rounding = "half_even"


class _Network:
    """Files in an engine as a network: a function from images to scores (NDArrays)."""

    def __init__(self, session: Any, model: Any):
        self._session, self._model = session, model

    def __call__(self, images: mx.nd.NDArray) -> List[mx.nd.NDArray]:
        """What the engine computes of images, in the order of the network's outputs."""
        given = images.asnumpy()
        found = self._session.run(given if len(self._model.inputs) == 1 else unpacked(self._model, given),
                                  self._model.outputs)
        return [mx.nd.array(found[name]) for name in self._model.outputs]


def evaluated(calibration: Calibration, backend: str) -> Tuple[Answers, Nearness]:
    """Answers of a calibrated network in a back end's integers, and how near they are.

    Raises
    ------
    DeployError
        Naming everything that the engine cannot hold, or that it is not installed.
    """
    task, request, progress = calibration.task, calibration.request, calibration.progress
    target: Target = find(BACKENDS[backend])
    assert target.engine is not None
    target.engine.require()
    simulated = lowered(target, task, integers=True)
    model = target.settled(simulated, blob_ranges(calibration))
    raise_problems(target.check(model), target.title)
    with tempfile.TemporaryDirectory() as name:
        files = target.write_files(model, pathlib.Path(name))
        session = target.engine.open(files, target.engine.ways[-1])
    images = requested(request.images, task.images, task.preprocessing)
    answers = evaluate(_Network(session, model), images, task.ctx, "quantized", progress, task.classifies)
    part, _ = next(iter(images.of(images.indices[:IMAGES])))
    found = _compared(target.engine.side(model, session)(part.asnumpy()).codes, simulated, part.asnumpy())
    return answers, Nearness(backend, target.engine.versions(), len(part), found)


def _compared(codes: Any, simulated: Any, images: np.ndarray) -> Dict[str, Difference]:
    wanted = engine.run(simulated, images, arithmetic=_Exact(), codes=True).codes
    found = {}
    for node in quantized(simulated):
        difference = found[node.path or node.name] = Difference()
        difference.update(codes[node.name].reshape(wanted[node.name].shape), wanted[node.name])
    return found
