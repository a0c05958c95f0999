# SPDX-License-Identifier: MIT
"""Milliseconds of every layer in the real engine, float and int8, timed blob by blob."""

from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional

import numpy as np

from deploy.ir import Model
from deploy.proof.machine import machine
from deploy.target import Engine, Profile, Session
from gluon_quantize.runs.comparison import FLOAT, INTEGER, paths, target_of
from gluon_quantize.runs.material import Material

KINDS = (FLOAT, INTEGER)
QUARTERS = (25, 50, 75)


def layer_times(found: Material, image: np.ndarray, runs: int,
                progress: Callable[[Iterable], Iterable] = iter) -> Optional[Dict[str, Any]]:
    """Times of a deployment's files on this machine; None where its engine is not here or cannot tell.

    Parameters
    ----------
    image : array of float32, (1, ...)
    runs : int
        Of the float and the int8 files, in turn: whatever else the machine does meanwhile slows both.

    Returns
    -------
    dict
        `layers`: node -> kind -> quartiles in milliseconds; `sum`, `whole`: kind -> quartiles of all layers together
        and of runs in one piece; `engine`, `cpu`, `runs`, `threads`.
    """
    model = found.model
    assert model is not None
    target = target_of(model)
    files = {kind: paths(target, found.stem, found.folder, kind) for kind in KINDS}
    if target.engine is None or not all(path.is_file() for both in files.values() for path in both):
        return None
    target.engine.require()
    sessions = {kind: target.engine.open(names, target.engine.ways[-1]) for kind, names in files.items()}
    profiles: Dict[str, List[Profile]] = {kind: [] for kind in KINDS}
    for _ in progress(range(runs)):
        for kind, session in sessions.items():
            profile = session.profile(image, model.outputs, repeats=1, warmup=1)
            if profile is None:
                return None
            profiles[kind].append(profile)
    return _summed(model, target.engine, sessions, profiles)


def _summed(model: Model, engine: Engine, sessions: Mapping[str, Session],
            profiles: Mapping[str, List[Profile]]) -> Dict[str, Any]:
    nodes: Dict[str, Dict[str, List[float]]] = {}
    total = {}
    for kind, runs in profiles.items():
        times = by_node(model, [run.blobs for run in runs])
        for name, seconds in times.items():
            nodes.setdefault(name, {})[kind] = _quarters(seconds)
        total[kind] = _quarters(np.sum(list(times.values()), axis=0))
    versions = " ".join(f"{name} {version}" for name, version in engine.versions().items())
    return {"layers": nodes, "sum": total, "runs": len(profiles[FLOAT]), "engine": versions,
            "whole": {kind: _quarters(np.concatenate([run.whole for run in runs])) for kind, runs in profiles.items()},
            "threads": sessions[INTEGER].options().get("num_threads"), "cpu": str(machine()["cpu"])}


def by_node(model: Model, runs: List[Mapping[str, np.ndarray]]) -> Dict[str, np.ndarray]:
    """Node -> seconds, (runs,): what the engine computes on the way to a node's output counts as the node's."""
    writers = {blob: node.name for node in model.nodes for blob in node.outputs}
    found: Dict[str, np.ndarray] = {}
    waiting: Any = 0.0
    last = None
    for blob in runs[0]:
        waiting = waiting + np.array([float(run[blob][0]) for run in runs])
        last = writers.get(blob)
        if last is not None:
            found[last], waiting = found.get(last, 0.0) + waiting, 0.0
    if last is None and found:  # behind the last blob that has a name in the model
        found[next(reversed(list(found)))] += waiting
    return found


def _quarters(seconds: np.ndarray) -> List[float]:
    return [1e3 * float(value) for value in np.percentile(seconds, QUARTERS)]
