# SPDX-License-Identifier: MIT
"""Evaluate a quantized network in integers instead of in float, and say how far its codes are from that.

Either an engine computes, or the integer engine with the arithmetic of a target. What both are compared with is the
network as it was converted, computed exactly: the integer engine's sums, and everything between the layers in float32.
An engine rounds at more places (the outputs of convolutions, additions), so that its codes may be others.
"""

import pathlib
import tempfile
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Tuple

import mxnet as mx
import numpy as np

from deploy import engine
from deploy.arithmetic import Arithmetic
from deploy.ir import Model, quantized
from deploy.ir.packed import unpacked
from deploy.proof.compare import Difference
from deploy.target import Target, find, raise_problems
from gluon_quantize.data.batches import requested
from gluon_quantize.models.evaluation import Answers, evaluate
from gluon_quantize.runs.blob_ranges import blob_ranges
from gluon_quantize.runs.calibration import Calibration
from gluon_quantize.runs.deployment import lowered
from gluon_quantize.runs.judge import Judge
from gluon_quantize.runs.requests import BACKENDS, EXACT
from quantize.errors import ConfigError

IMAGES = 4  # the integer engine is not fast


@dataclass(frozen=True)
class Nearness:
    """How far an engine's codes are from those of the network as it was converted.

    Attributes
    ----------
    backend : str
    versions : dict
        Of the engine, or the target's name.
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


class _Plain(Arithmetic):
    """The converted network's own rounding."""

    def __init__(self, rounding: str) -> None:
        self.rounding = rounding


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
    ConfigError
        Where no target is known.
    DeployError
        Naming everything that the engine cannot hold, or that it is not installed.
    """
    task, request, progress = calibration.task, calibration.request, calibration.progress
    target = _target(task, request.quantization.target, backend)
    if backend != EXACT:
        assert target.engine is not None
        target.engine.require()
    simulated = lowered(target, task, integers=True)
    model = target.settled(simulated, blob_ranges(calibration))
    raise_problems(target.check(model), target.title or target.name)
    network, side, versions = (_judge if backend == EXACT else _engine)(target, model)
    images = requested(request.images, task.images, task.preprocessing)
    answers = evaluate(network, images, task.ctx, "quantized", progress, task.classifies)
    part, _ = next(iter(images.of(images.indices[:IMAGES])))
    # a target that takes reals knows only now on which grids
    reference = model if target.arithmetic.takes_reals else simulated
    found = _compared(side(part.asnumpy()).codes, reference, part.asnumpy(), target.arithmetic.rounding)
    return answers, Nearness(backend, versions, len(part), found)


def _target(task: Any, chosen: Any, backend: str) -> Target:
    """The one that a back end computes as: its own, the chosen one, or the one a checkpoint was made for."""
    target: Any = BACKENDS[backend] or chosen or getattr(task.net, "target", None)
    if target is None:
        raise ConfigError(f"--backend {backend} computes as a target does, and the network was made for none: name one "
                          "with --target")
    return find(target) if isinstance(target, str) else target


def _engine(target: Target, model: Model) -> Tuple[Callable, Callable, Dict[str, str]]:
    """The network in the target's engine, its side of a comparison, and its versions."""
    engine: Any = target.engine
    with tempfile.TemporaryDirectory() as name:
        files = target.write_files(model, pathlib.Path(name))
        session = engine.open(files, engine.ways[-1])
    return _Network(session, model), engine.side(model, session), engine.versions()


def _judge(target: Target, model: Model) -> Tuple[Callable, Callable, Dict[str, str]]:
    """The same of the integer engine."""
    judge = Judge(model, target.arithmetic_here())
    return judge, judge.observed, {"target": target.name}


def _compared(codes: Any, reference: Model, images: np.ndarray, rounding: str) -> Dict[str, Difference]:
    wanted = engine.run(reference, images, arithmetic=_Plain(rounding), codes=True).codes
    found = {}
    for node in quantized(reference):
        difference = found[node.path or node.name] = Difference()
        difference.update(codes[node.name].reshape(wanted[node.name].shape), wanted[node.name])
    return found
