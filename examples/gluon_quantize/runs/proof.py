# SPDX-License-Identifier: MIT
"""The proof of a deployment: every blob compared, accuracy counted in each engine, files weighed and timed."""

import contextlib
import pathlib
from typing import Any, ContextManager, Dict, List, Optional, Union

import mxnet as mx
import numpy as np

from deploy.ir.packed import unpacked
from deploy.proof.compare import Difference, Observed
from deploy.proof.prove import SIMULATION, Side
from deploy.proof.samples import COUNT, write_samples
from deploy.target import Engine, Way
from gluon_quantize.data.batches import Batches
from gluon_quantize.models.evaluation import Answers, evaluate, first_output
from gluon_quantize.progress import Silent
from gluon_quantize.runs.comparison import FLOAT, INTEGER, Compared, compare
from gluon_quantize.runs.deployment import Deployment
from gluon_quantize.runs.judge import Judge
from gluon_quantize.runs.observation import fingerprint
from gluon_quantize.runs.task import Task

WARMUP = 3


def _engine(deployed: Deployment) -> Engine:
    assert deployed.target.engine is not None  # nothing is compared in the engine of a target that has none
    return deployed.target.engine


class InEngine:
    """The written files as a network: a function from images in the task's order to scores (NDArrays).

    Parameters
    ----------
    deployed : Deployment
    folder : pathlib.Path
    kind : {"float", "int8"}
    way : Way
        One of the engine's, which the target must have.
    """

    def __init__(self, deployed: Deployment, folder: pathlib.Path, kind: str, way: Way):
        self.session = _engine(deployed).open(deployed.paths(folder, kind), way)
        self.outputs = list(deployed.quantized.outputs)
        self._deployed = deployed

    def __call__(self, images: mx.nd.NDArray) -> Union[mx.nd.NDArray, List[mx.nd.NDArray]]:
        """What the engine computes of images, in the order of the network's outputs."""
        found = self.session.run(self._inputs(self._deployed.ordered(images.asnumpy())), self.outputs)
        scores = [mx.nd.array(found[name]) for name in self.outputs]
        return scores[0] if len(scores) == 1 else scores

    def seconds(self, image: np.ndarray) -> float:
        """Of one run on one image (1, channels, height, width) in the files' order."""
        return float(self.session.latency(self._inputs(image), self.outputs, repeats=1, warmup=0)[0])

    def _inputs(self, images):
        model = self._deployed.quantized
        return images if len(model.inputs) == 1 else unpacked(model, images)


def float_scores(net: mx.gluon.Block, images: Batches, progress: Silent) -> List[np.ndarray]:
    """Scores, the first output, of a float network for all batches."""
    bar = progress.bar(images, "float scores")
    return [first_output(net(part)).asnumpy().reshape(len(part), -1) for part, _ in bar]


def float_export(deployed: Deployment, folder: pathlib.Path, images: Batches, scores: List[np.ndarray],
                 progress: Silent) -> Difference:
    """Scores of the float files in the engine against those of the float network (see `float_scores`)."""
    export, found = InEngine(deployed, folder, FLOAT, _engine(deployed).float_way), Difference()
    for (part, _), expected in progress.bar(zip(images, scores), "float files", total=len(scores)):
        found.update(first_output(export(part)).asnumpy().reshape(expected.shape), expected)
    return found


def simulated(net: mx.gluon.Block, deployed: Deployment) -> Dict[str, Side]:
    """The exact simulation as a side of the comparison, for images in the files' order; none where there is none."""
    if deployed.target.simulation is None:
        return {}
    compute = deployed.target.simulation.side(net, deployed.simulated)
    first = {node.name for node in deployed.simulated.nodes if node.inputs[:1] == deployed.simulated.inputs[:1]}

    def reordered(images):
        found = compute(deployed.ordered(images))
        return Observed(found.blobs, {name: deployed.ordered(codes) if name in first else codes
                                      for name, codes in found.codes.items()})
    return {SIMULATION: Side(reordered)}


def in_engine(deployed: Deployment, folder: pathlib.Path) -> Dict[str, Side]:
    """The int8 files in the engine, a side for each of its ways."""
    return _compared(deployed, folder).in_engine()


def _compared(deployed, folder):
    return Compared(deployed.name, deployed.target, deployed.quantized, folder)


def store_samples(images: Batches, deployed: Deployment, folder: pathlib.Path) -> None:
    """The first images, and what the integer engine computes from them, in `verification.npz`."""
    part, _ = next(iter(images.of(images.indices[:COUNT])))
    write_samples(folder, deployed.target, deployed.quantized, deployed.ordered(part.asnumpy()))


def compared(images: Batches, deployed: Deployment, folder: pathlib.Path, sides: Dict[str, Side], progress: Silent,
             export: Optional[Difference] = None) -> Dict[str, Any]:
    """Compare every blob with the integer engine; the contents of the certificate.

    Parameters
    ----------
    images : Batches
        In the order of the Gluon network.
    sides : dict
        Name -> Side; see `simulated` and `in_engine`.
    export : Difference, optional
        What `float_export` has found.
    """
    batches = (deployed.ordered(part.asnumpy()) for part, _ in images)
    return compare(_compared(deployed, folder), sides, batches, (fingerprint(images), len(images.indices)), progress,
                   versions={"mxnet": mx.__version__}, export=export)


def accuracies(task: Task, images: Batches, deployed: Deployment, folder: Optional[pathlib.Path],
               progress: Silent) -> Dict[str, Answers]:
    """Predictions of the exact simulation and, with a `folder`, of its int8 files in the engine, by name."""
    target = deployed.target
    with _exact(task.net, deployed) as exact:
        found = {"simulated": evaluate(exact, images, task.ctx, "simulated", progress, task.classifies)}
    if folder is not None:
        name = f"{target.name} {INTEGER}"
        found[name] = evaluate(InEngine(deployed, folder, INTEGER, _engine(deployed).ways[-1]), images, task.ctx, name,
                               progress, task.classifies)
    return found


def _exact(net: mx.gluon.Block, deployed: Deployment) -> ContextManager:
    """The network as the engine computes it: the target's own simulation, or the integer engine where it has none."""
    target = deployed.target
    if target.simulation is None:
        return contextlib.nullcontext(Judge(deployed.simulated, target.arithmetic_here()))
    return target.simulation.exact(net, deployed.simulated)


def sizes(deployed: Deployment, folder: pathlib.Path) -> Dict[str, object]:
    """Bytes of the weights, and their ratio."""
    found = {kind: deployed.target.weight_bytes(deployed.paths(folder, kind)) for kind in (FLOAT, INTEGER)}
    return dict(found, ratio=found[INTEGER] / found[FLOAT])


def latencies(task: Task, deployed: Deployment, folder: pathlib.Path, runs: int,
              progress: Silent) -> Dict[str, Any]:
    """Milliseconds of one image in one thread, float and int8 in turn: medians, their ratio, and the middle half."""
    nets = {kind: InEngine(deployed, folder, kind, _engine(deployed).ways[-1]) for kind in (FLOAT, INTEGER)}
    image = deployed.ordered(task.images.prepared(0, task.preprocessing)[None])
    times: Dict[str, List[float]] = {kind: [] for kind in nets}
    # in turn: whatever else the machine does meanwhile slows both
    for _ in progress.bar(range(WARMUP + runs), "latency", "run"):
        for kind, net in nets.items():
            times[kind].append(net.seconds(image))
    median = {kind: 1e3 * float(np.median(seconds[WARMUP:])) for kind, seconds in times.items()}
    spread = {kind: [1e3 * float(value) for value in np.percentile(seconds[WARMUP:], (25, 75))]
              for kind, seconds in times.items()}
    return dict(median, ratio=median[FLOAT] / median[INTEGER], runs=runs, threads=1, spread=spread)
