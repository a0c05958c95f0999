# SPDX-License-Identifier: MIT
"""What does OpenVINO compute from the file of an ONNX deployment?

Takes the options of ``gluon-quantize deploy`` with which `--output DIR` was made (the target is onnx), and prints how
far the outputs are from ONNX Runtime's by the largest of them, Top-1 of both, and on how many images they name the
same class; the same with OpenVINO's integers switched off. Needs `pip install openvino`, or, where that wants another
NumPy, `pip install --target FOLDER --no-deps openvino openvino-telemetry` and FOLDER in PYTHONPATH.
"""

import pathlib
import sys

import numpy as np
import openvino

from deploy.target import find
from deploy.targets.onnx.runner import Options, Runner
from gluon_quantize.commands import deploy as command
from gluon_quantize.data.batches import requested
from gluon_quantize.runs.task import open_task

SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
WAYS = {"OpenVINO": {}, "OpenVINO, integers off": {"LP_TRANSFORMS_MODE": "NO"}}


def main(argv=None):
    """Run, and print."""
    parser = command.build_parser("bench_openvino.py", find("onnx"))
    args = parser.parse_args(["--target", "onnx"] + list(sys.argv[1:] if argv is None else argv))
    request = command.request_of(args)
    task = open_task(request)
    path = next(pathlib.Path(args.output).glob("*-int8.onnx"))
    images = requested(request.images, task.images, task.preprocessing)
    runner = Runner(path, Options(exact_products=False))
    compiled = {name: openvino.Core().compile_model(str(path), "CPU", dict(SETTINGS, **settings))
                for name, settings in WAYS.items()}
    wanted, found, labels = [], {name: [] for name in WAYS}, []
    for part, names in images:
        wanted.append(scores(runner.run(part.asnumpy(), runner.outputs[:1])[runner.outputs[0]]))
        for name, network in compiled.items():
            found[name].append(scores(network(part.asnumpy())[network.output(0)]))
        labels.append(names)
    report(np.concatenate(wanted), {name: np.concatenate(parts) for name, parts in found.items()},
           np.concatenate(labels))


def scores(output):
    """(images, classes)."""
    return np.asarray(output).reshape(len(output), -1)


def report(wanted, found, labels):
    """A line for each way."""
    classes = wanted.argmax(axis=1)
    print(f"openvino {openvino.__version__}: {len(labels)} images")
    print(f"ONNX Runtime: Top-1 {(classes == labels).sum()}")
    for name, values in found.items():
        own = values.argmax(axis=1)
        print(f"{name}: Top-1 {(own == labels).sum()}, the same class for {(own == classes).sum()}; outputs "
              f"{np.abs(values - wanted).max() / np.abs(wanted).max():.2g} apart by the largest")


if __name__ == "__main__":
    main()
