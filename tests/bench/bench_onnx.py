# SPDX-License-Identifier: MIT
"""What is an ONNX deployment worth beside ONNX Runtime's own quantization of the same network?

Takes the options of ``gluon-quantize deploy`` (the target is onnx, and --output DIR is needed), deploys, and prints:
the share of codes that are the integer engine's, for each way of running the file; of codes foreseen without
optimizations; Top-1 of the float network, the simulation and the file; the same of the file that ONNX Runtime's
`quantize_static` makes of our float file (uint8 activations, int8 weights for each channel, minima and maxima of the
same calibration images; needs `pip install ml_dtypes`); and the times of one image in the float file, ours and its
own, in turn, as ratios to float.
"""

import dataclasses
import json
import pathlib
import sys
import time

import numpy as np

from deploy.proof.certificate import share_text
from deploy.target import find
from deploy.targets.onnx.runner import Options, Runner
from gluon_quantize.commands import deploy as command
from gluon_quantize.data.batches import requested
from gluon_quantize.runs.deploy import deploy
from gluon_quantize.runs.task import open_task

FLAG, WARMUP = "--unoptimized-report", 3
WAYS = {"exact": Options(), "default": Options(exact_products=False)}


def main(argv=None):
    """Deploy, and print."""
    arguments = ["--target", "onnx", FLAG] + list(sys.argv[1:] if argv is None else argv)
    parser = command.build_parser("bench_onnx.py", find("onnx"))
    parser.add_argument("--random-weights", action="store_true", help="instead of pretrained ones")
    args = parser.parse_args(arguments)
    request = command.request_of(args)
    if args.random_weights:
        request = dataclasses.replace(request, network=dataclasses.replace(request.network, pretrained=False))
    result = deploy(request)
    folder = pathlib.Path(args.output)
    floating, ours = (next(folder.glob(f"*-{kind}.onnx")) for kind in ("float", "int8"))
    for side, facts in result.certificate["sides"].items():
        print(f"codes, {side}: {share_text(facts['codes'])}, {facts['codes']['largest']:g} LSB")
    total = json.loads((folder / "unoptimized.json").read_text())["total"]["float sums"]
    print(f"codes, unoptimized, foreseen: {total['identical']} of {total['codes']}")
    print(f"Top-1: float {result.float.top1_count}", *(f"{name} {found.top1_count}, same class as float "
                                                       f"{found.agreement_count(result.float)};" for name, found in
                                                       result.accuracy.items()), f"of {len(result.float.labels)}")
    task = open_task(request, wants_ranges=True)
    own = folder / "own.onnx"
    quantize_static(floating, own, task.calibration)
    images = requested(request.images, task.images, task.preprocessing)
    before = classes(floating, WAYS["default"], images)
    for name, options in WAYS.items():
        for title, path in (("ours", ours), ("quantize_static", own)):
            found = classes(path, options, images)
            print(f"Top-1 with the options '{name}', {title}: {(found == result.float.labels).sum()}, same class as "
                  f"float {(found == before).sum()}", flush=True)
        print(f"time of float / time ({name}): {ratios([floating, ours, own], options, images, args.latency_runs)}")


def quantize_static(source, target, batches):
    """ONNX Runtime's own file."""
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):
        def __init__(self):
            self.images = ({"data": image[None]} for part, _ in batches for image in part.asnumpy())

        def get_next(self):
            return next(self.images, None)
    q.quantize_static(str(source), str(target), Reader(), quant_format=q.QuantFormat.QDQ, per_channel=True,
                      activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8)


def classes(path, options, images):
    """What a file says of each image."""
    runner = Runner(path, options)
    return np.concatenate([runner.run(part.asnumpy(), runner.outputs[:1])[runner.outputs[0]].reshape(
        len(part), -1).argmax(axis=1) for part, _ in images])


def ratios(paths, options, images, runs):
    """Median seconds of the first file by those of the others, run in turn on one image."""
    runners = [Runner(path, options) for path in paths]
    image = next(iter(images))[0].asnumpy()[:1]
    times = [[] for _ in runners]
    for _ in range(WARMUP + runs):
        for runner, seconds in zip(runners, times):
            start = time.perf_counter()
            runner.run(image, runner.outputs)
            seconds.append(time.perf_counter() - start)
    medians = [float(np.median(seconds[WARMUP:])) for seconds in times]
    return ", ".join(f"{name} {medians[0] / median:.2f}" for name, median in zip(("ours", "quantize_static"),
                                                                                medians[1:]))


if __name__ == "__main__":
    main()
