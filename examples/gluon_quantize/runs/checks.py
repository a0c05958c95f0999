# SPDX-License-Identifier: MIT
"""What a deployment is checked with: every blob compared, accuracy counted in each engine, files weighed and timed."""

import dataclasses
from typing import Dict

import mxnet as mx
import numpy as np
from tqdm import tqdm

from deploy.proof.certificate import JSON, TEXT, Circumstances, certificate, file_facts
from deploy.proof.compare import Difference, Observed
from deploy.proof.machine import machine
from deploy.proof.verify import verify
from deploy.targets.ncnn import runner, simulate
from deploy.targets.ncnn.deviations import default_deviations, sum_limits
from deploy.targets.ncnn.side import side
from gluon_quantize.data.batches import batches
from gluon_quantize.models.evaluation import evaluate
from gluon_quantize.report import text as report
from gluon_quantize.runs import calibration
from gluon_quantize.runs.deployment import Deployment

SIMULATION, EXACT, DEFAULT = "simulation", "ncnn exact", "ncnn default"
# for comparison with the float network: Winograd costs a digit
FLOAT = dataclasses.replace(runner.EXACT, winograd=False)
# the number of threads changes no result, and several stall each other where other programs run
ONE_THREAD = runner.Options(threads=1)
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
    options : runner.Options
    """

    def __init__(self, deployed: Deployment, folder, kind, options):
        self.runner = runner.Runner(folder / deployed.files[kind + " param"], folder / deployed.files[kind + " bin"],
                                    options)
        self.output = deployed.quantized.outputs[0]
        self._deployed = deployed

    def __call__(self, images):
        images = self._deployed.ordered(images.asnumpy())
        return mx.nd.array(self.runner.run(images, [self.output])[self.output])

    def seconds(self, image) -> float:
        """Of one run on one image (1, channels, height, width) in the files' order."""
        return float(self.runner.latency(image, [self.output], repeats=1, warmup=0)[0])


def float_scores(net, images):
    """Scores of a float network for all batches, as a list."""
    return [net(part).asnumpy().reshape(len(part), -1) for part, _ in tqdm(
        images, desc="float scores", unit="batch", disable=None)]


def float_export(deployed, folder, images, scores) -> Difference:
    """Scores of the float files in ncnn against those of the float network (see `float_scores`)."""
    export, found = InEngine(deployed, folder, "float", FLOAT), Difference()
    for (part, _), expected in tqdm(zip(images, scores), desc="float files", total=len(scores), unit="batch",
                                    disable=None):
        found.update(export(part).asnumpy().reshape(expected.shape), expected)
    return found


def simulated(net, deployed: Deployment):
    """The exact simulation as a side of the comparison, for images in the files' order: (function, its options)."""
    compute = simulate.side(net, deployed.simulated)
    first = {node.name for node in deployed.simulated.nodes if node.inputs[:1] == deployed.simulated.inputs}

    def reordered(images):
        found = compute(deployed.ordered(images))
        return Observed(found.blobs, {name: deployed.ordered(codes) if name in first else codes
                                      for name, codes in found.codes.items()})
    return {SIMULATION: (reordered, {})}


def in_engine(deployed: Deployment, folder):
    """The int8 files in ncnn as two sides, with exact and with default options."""
    engines = {name: InEngine(deployed, folder, "int8", options).runner
               for name, options in ((EXACT, runner.EXACT), (DEFAULT, ONE_THREAD))}
    return {name: (side(deployed.quantized, engine), engine.options()) for name, engine in engines.items()}


def compared(images, deployed: Deployment, folder, sides, export=None) -> Dict[str, object]:
    """Compare every blob with the integer engine; the contents of the certificate.

    Parameters
    ----------
    images : Batches
        In the order of the Gluon network.
    sides : dict
        Name -> (function, options); see `simulated` and `in_engine`.
    export : Difference, optional
        What `float_export` has found.
    """
    model = deployed.quantized
    with tqdm(total=len(images.indices), desc="verification", unit="image", disable=None) as bar:
        found = verify(model, deployed.target.arithmetic, {name: function for name, (function, _) in sides.items()},
                       (deployed.ordered(part.asnumpy()) for part, _ in images), bar.update)
    versions = dict({"ncnn": runner.version()} if EXACT in sides else {}, mxnet=mx.__version__)
    results = (JSON, TEXT, report.RESULT)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in results)
    stated = Circumstances(deployed.name, dict(versions, **machine()), file_facts(files),
                           calibration.fingerprint(images), {name: options for name, (_, options) in sides.items()},
                           sum_limits(model), {DEFAULT: default_deviations(model)})
    return certificate(model, found, stated, export)


def accuracies(args, task, deployed: Deployment, folder):
    """Predictions of the exact simulation and of the int8 files in ncnn, by name."""
    indices = np.arange(min(args.num_images or len(task.images), len(task.images)))
    images = batches(task.images, task.preprocessing, args.batch_size, indices, args.num_workers)
    with simulate.exact(task.model.net, deployed.simulated) as net:
        found = {"simulated": evaluate(net, images, task.ctx, "simulated")}
    if not args.no_engine:
        found["ncnn int8"] = evaluate(InEngine(deployed, folder, "int8", ONE_THREAD), images, task.ctx, "ncnn int8")
    return found


def sizes(deployed: Deployment, folder) -> Dict[str, object]:
    """Bytes of the weights, and their ratio."""
    found = {kind: (folder / deployed.files[kind + " bin"]).stat().st_size for kind in ("float", "int8")}
    return dict(found, ratio=found["int8"] / found["float"])


def latencies(args, task, deployed: Deployment, folder) -> Dict[str, object]:
    """Milliseconds of one image in one thread, float and int8 in turn, and the ratio of their medians."""
    nets = {kind: InEngine(deployed, folder, kind, ONE_THREAD) for kind in ("float", "int8")}
    image = deployed.ordered(task.preprocessing.apply(task.images.load(0), task.images.origin(0))[None])
    times = {kind: [] for kind in nets}
    for _ in range(WARMUP + args.latency_runs):
        for kind, net in nets.items():
            times[kind].append(net.seconds(image))
    median = {kind: 1e3 * float(np.median(seconds[WARMUP:])) for kind, seconds in times.items()}
    return dict(median, ratio=median["float"] / median["int8"], runs=args.latency_runs, threads=1)
