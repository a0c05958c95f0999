# SPDX-License-Identifier: MIT
"""What a deployment is checked with: every blob compared, accuracy counted in each engine, files weighed and timed."""

import contextlib
from typing import Dict

import mxnet as mx
import numpy as np
from tqdm import tqdm

from deploy.proof.certificate import JSON, TEXT
from deploy.proof.compare import Difference, Observed
from deploy.proof.prove import SIMULATION, Side, Subject, engine_sides, prove
from deploy.target import Way
from gluon_quantize.data.batches import batches
from gluon_quantize.models.evaluation import evaluate
from gluon_quantize.report import text as report
from gluon_quantize.runs import calibration
from gluon_quantize.runs.deployment import FLOAT, INTEGER, Deployment

WARMUP = 3


def verification_batches(args, images, preprocessing):
    """The images on which everything is compared."""
    count = min(args.num_images or len(images), args.verify_images or len(images), len(images))
    return batches(images, preprocessing, args.batch_size, np.arange(count), args.num_workers)


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

    def __init__(self, deployed: Deployment, folder, kind, way: Way):
        self.session = deployed.target.engine.open(deployed.paths(folder, kind), way)
        self.output = deployed.quantized.outputs[0]
        self._deployed = deployed

    def __call__(self, images):
        images = self._deployed.ordered(images.asnumpy())
        return mx.nd.array(self.session.run(images, [self.output])[self.output])

    def seconds(self, image) -> float:
        """Of one run on one image (1, channels, height, width) in the files' order."""
        return float(self.session.latency(image, [self.output], repeats=1, warmup=0)[0])


def float_scores(net, images):
    """Scores of a float network for all batches, as a list."""
    return [net(part).asnumpy().reshape(len(part), -1) for part, _ in tqdm(
        images, desc="float scores", unit="batch", disable=None)]


def float_export(deployed, folder, images, scores) -> Difference:
    """Scores of the float files in the engine against those of the float network (see `float_scores`)."""
    export, found = InEngine(deployed, folder, FLOAT, deployed.target.engine.float_way), Difference()
    for (part, _), expected in tqdm(zip(images, scores), desc="float files", total=len(scores), unit="batch",
                                    disable=None):
        found.update(export(part).asnumpy().reshape(expected.shape), expected)
    return found


def simulated(net, deployed: Deployment) -> Dict[str, Side]:
    """The exact simulation as a side of the comparison, for images in the files' order; none where there is none."""
    if deployed.target.simulation is None:
        return {}
    compute = deployed.target.simulation.side(net, deployed.simulated)
    first = {node.name for node in deployed.simulated.nodes if node.inputs[:1] == deployed.simulated.inputs}

    def reordered(images):
        found = compute(deployed.ordered(images))
        return Observed(found.blobs, {name: deployed.ordered(codes) if name in first else codes
                                      for name, codes in found.codes.items()})
    return {SIMULATION: Side(reordered)}


def in_engine(deployed: Deployment, folder) -> Dict[str, Side]:
    """The int8 files in the engine, a side for each of its ways."""
    return engine_sides(deployed.target, deployed.quantized, deployed.paths(folder, INTEGER))


def compared(images, deployed: Deployment, folder, sides, export=None) -> Dict[str, object]:
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
    results = (JSON, TEXT, report.RESULT)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in results)
    subject = Subject(deployed.name, deployed.target, deployed.quantized, files, calibration.fingerprint(images))
    with tqdm(total=len(images.indices), desc="verification", unit="image", disable=None) as bar:
        return prove(subject, sides, (deployed.ordered(part.asnumpy()) for part, _ in images),
                     versions={"mxnet": mx.__version__}, export=export, progress=bar.update)


def accuracies(args, task, deployed: Deployment, folder):
    """Predictions of the exact simulation and of the int8 files in the engine, by name."""
    indices = np.arange(min(args.num_images or len(task.images), len(task.images)))
    images = batches(task.images, task.preprocessing, args.batch_size, indices, args.num_workers)
    target, net = deployed.target, task.model.net
    with contextlib.nullcontext(net) if target.simulation is None else target.simulation.exact(
            net, deployed.simulated) as exact:
        found = {"simulated": evaluate(exact, images, task.ctx, "simulated")}
    if not args.no_engine and target.engine is not None:
        name = f"{target.name} {INTEGER}"
        found[name] = evaluate(InEngine(deployed, folder, INTEGER, target.engine.ways[-1]), images, task.ctx, name)
    return found


def sizes(deployed: Deployment, folder) -> Dict[str, object]:
    """Bytes of the weights, and their ratio."""
    found = {kind: (folder / (deployed.stem(kind) + deployed.target.weights_suffix)).stat().st_size
             for kind in (FLOAT, INTEGER)}
    return dict(found, ratio=found[INTEGER] / found[FLOAT])


def latencies(args, task, deployed: Deployment, folder) -> Dict[str, object]:
    """Milliseconds of one image in one thread, float and int8 in turn, and the ratio of their medians."""
    nets = {kind: InEngine(deployed, folder, kind, deployed.target.engine.ways[-1]) for kind in (FLOAT, INTEGER)}
    image = deployed.ordered(task.preprocessing.apply(task.images.load(0), task.images.origin(0))[None])
    times = {kind: [] for kind in nets}
    # in turn: whatever else the machine does meanwhile slows both
    for _ in range(WARMUP + args.latency_runs):
        for kind, net in nets.items():
            times[kind].append(net.seconds(image))
    median = {kind: 1e3 * float(np.median(seconds[WARMUP:])) for kind, seconds in times.items()}
    return dict(median, ratio=median[FLOAT] / median[INTEGER], runs=args.latency_runs, threads=1)
