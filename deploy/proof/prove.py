# SPDX-License-Identifier: MIT
"""The proof of a deployment: asks the target for its engine's sides, compares them, and states the circumstances."""

import pathlib
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, Mapping, Optional, Sequence

import numpy as np

from deploy.ir import Model
from deploy.proof.certificate import Circumstances, certificate, file_facts
from deploy.proof.compare import Difference, Observed
from deploy.proof.machine import machine
from deploy.proof.verify import verify
from deploy.target import Target
from quantize.errors import DeployError

SIMULATION = "simulation"


@dataclass(frozen=True)
class Side:
    """One computation that is compared with the integer engine.

    Parameters
    ----------
    compute : function
        From images to `Observed`.
    options : dict
        With which it ran.
    deviations : dict
        Node -> why its output is known to differ.
    """

    compute: Callable[[np.ndarray], Observed]
    options: Mapping[str, object] = field(default_factory=dict)
    deviations: Mapping[str, str] = field(default_factory=dict)


def way_name(target: Target, way: str) -> str:
    """What a side of the certificate is called: ``ncnn exact``."""
    return f"{target.name} {way}"


def engine_sides(target: Target, model: Model, files: Sequence[pathlib.Path]) -> Dict[str, Side]:
    """The written files in the target's engine, a side for each of its ways; none where it has no engine."""
    found: Dict[str, Side] = {}
    engine = target.engine
    if engine is not None:
        for way in engine.ways:
            session = engine.open(files, way)
            found[way_name(target, way.name)] = Side(engine.side(model, session), session.options(),
                                                     engine.deviations(model, way))
    return found


@dataclass(frozen=True)
class Subject:
    """What a proof is about.

    Parameters
    ----------
    name : str
        Of the network.
    target : Target
    model : Model
        As it was written.
    files : sequence of path
        Of the whole deployment, for their checksums.
    data : str
        Fingerprint of the images.
    """

    name: str
    target: Target
    model: Model
    files: Sequence[pathlib.Path] = ()
    data: str = "-"


def _numbers(images):
    """The images; DeployError where they hold anything that is not finite."""
    if not np.isfinite(images).all():
        raise DeployError("an image holds values that are infinite or no numbers after its preprocessing: comparing "
                          "what comes of them would prove nothing")
    return images


def prove(subject: Subject, sides: Mapping[str, Side], batches: Iterable[np.ndarray], *,
          versions: Optional[Mapping[str, str]] = None, export: Optional[Difference] = None,
          progress: Optional[Callable[[int], None]] = None) -> Dict[str, Any]:
    """The contents of the certificate, after comparing every side with the integer engine on all batches.

    Parameters
    ----------
    sides : dict
        Name -> Side; see `engine_sides`.
    batches : iterable of array of float32, (images, ...)
        In the order of channels that the files want.
    versions : dict, optional
        Of what else computes, beside the target's engine.
    export : Difference, optional
        Outputs of the float files in the engine against those of the float network.
    progress : function, optional
        Called with the number of images done since the last call.

    Raises
    ------
    DeployError
        See `deploy.proof.verify.verify`; also for images that are no numbers, of which any two computations agree.
    """
    model, target = subject.model, subject.target
    computing = {name: side.compute for name, side in sides.items()}
    found = verify(model, target.arithmetic_here(), computing, map(_numbers, batches), progress)
    engine = target.engine
    # a version is stated only of what has computed: without the engine there may be none to ask
    ran = engine is not None and any(way_name(target, way.name) in sides for way in engine.ways)
    facts: Dict[str, object] = dict(engine.versions()) if engine is not None and ran else {}
    facts.update(versions or {}, **machine())
    stated = Circumstances(subject.name, facts, file_facts(subject.files), subject.data,
                           {name: side.options for name, side in sides.items()}, target.sum_limits(model),
                           {name: side.deviations for name, side in sides.items() if side.deviations})
    return certificate(model, found, stated, export)
