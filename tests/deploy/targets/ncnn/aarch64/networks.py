# SPDX-License-Identifier: MIT
"""Whole deployed networks on emulated processors: only ncnn is emulated, the judge and the images are this machine's.

    networks.py codes OUT RESULTS.jsonl [--cpus CPU ...] [--images FIRST LAST]    every quantized blob
    networks.py top1 OUT RESULTS.jsonl [--cpus CPU ...] [--images FIRST LAST]     scores alone
    networks.py table RESULTS.jsonl ...                                           what was found

OUT is the folder of a deployment. A line of RESULTS is an image and a side ("cortex-a53 exact"; "float" and "engine"
are computed here); those that are there already are not computed again. Images come from --data-dir, as for `recheck`.
"""

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
from unittest import mock

import numpy as np

from deploy import engine
from deploy.ir import file
from deploy.proof.verify import verify
from deploy.targets.ncnn import TARGET, process, runner
from deploy.targets.ncnn.aarch64 import Aarch64Arithmetic
from gluon_quantize.data.batches import batches
from gluon_quantize.data.datasets import open_dataset
from gluon_quantize.data.preprocess import Preprocessing
from tests.deploy.targets.ncnn.aarch64 import environment

WAYS = {"exact": runner.EXACT_AARCH64, "default": runner.Options(threads=1)}
SIDES = tuple(f"{cpu} exact" for cpu in environment.CPUS) + ("cortex-a76 default",)


def emulated(cpu, files, options):
    """A Runner whose engine is an emulated processor's."""
    def start(stderr):
        words = [*environment.command(cpu), process.worker.__file__, str(os.getpid())]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)
    with mock.patch.object(process, "_start", start), mock.patch.object(process, "_waiting", []):
        return runner.Runner(*files, options)


class Network:
    """A deployment, its images, and what computes them."""

    def __init__(self, folder, data):
        folder = pathlib.Path(folder)
        (path,) = folder.glob("*.ir")
        self.model = file.load(path)
        self.files = {kind: [folder / f"{path.stem}-{kind}{suffix}" for suffix in TARGET.suffixes]
                      for kind in ("int8", "float")}
        steps = Preprocessing.from_onnx_metadata(json.loads(self.model.metadata["preprocessing"]))
        self.images = batches(open_dataset(self.model.metadata["dataset"], data, "test"), steps, 1, workers=1)
        self.runners = {}

    def of(self, side):
        """The Runner of a side."""
        if side not in self.runners:
            if side == "float":
                self.runners[side] = runner.Runner(*self.files["float"], TARGET.engine.float_way.options)
            else:
                cpu, way = side.split()
                self.runners[side] = emulated(cpu, self.files["int8"], WAYS[way])
        return self.runners[side]

    def scores(self, side, image):
        """Of one image (1, ...)."""
        if side == "engine":
            return engine.run(self.model, image, arithmetic=Aarch64Arithmetic()).outputs[0][0]
        (name,) = self.model.outputs
        return self.of(side).run(image, [name])[name][0]

    def compared(self, sides, image):
        """Side -> facts of one image (1, ...)."""
        computing = {side: TARGET.engine.side(self.model, self.of(side)) for side in sides}
        found = verify(self.model, Aarch64Arithmetic(), computing, [image])
        for side in sides:
            total, (output,) = found.total(side), self.model.outputs
            layers = {name: [d[side].elements, d[side].identical, int(d[side].largest)]
                      for name, d in found.codes.items() if not d[side].exact}
            yield side, {"codes": [total.elements, total.identical, int(total.largest)], "layers": layers,
                         "scores": found.reals[output][side].relative, "class": found.top1[side][0]}
        yield "engine", {"class": found.top1["engine"][0]}


def done(path):
    """The lines of a file of results."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def measure(request):
    """Append what is missing."""
    path = pathlib.Path(request.results)
    there = {(line["image"], line["side"]) for line in done(path)}
    network = Network(request.folder, request.data_dir)
    wanted = [side for side in SIDES if side.split()[0] in request.cpus and side.split()[1] in request.ways]
    alone = ["float", *(["engine"] if request.what == "top1" else [])]
    first, last = request.images
    chosen = network.images.of(np.arange(first, min(last, len(network.images.indices))))
    with path.open("a") as stream, contextlib.suppress(KeyboardInterrupt):
        for number, (image, labels) in enumerate(chosen.arrays(), first):
            image = np.ascontiguousarray(image, np.float32)
            missing = [side for side in wanted if (number, side) not in there]
            found = {}
            if request.what == "codes" and missing:
                found.update(network.compared(missing, image))
            found.update({side: {"class": int(network.scores(side, image).argmax())}
                          for side in (alone if request.what == "codes" else missing + alone)
                          if (number, side) not in there})
            for side, facts in found.items():
                if (number, side) not in there:
                    stream.write(json.dumps({"image": number, "label": int(labels[0]), "side": side, **facts}) + "\n")
            stream.flush()
            print(number, {side: facts.get("codes", facts["class"]) for side, facts in found.items()}, flush=True)


def table(paths):
    """Markdown: a row for each side of each file."""
    print("| network | side | images | identical codes | LSB | scores | Top-1 | float's class | exact int8's class |")
    print("|---|---|---|---|---|---|---|---|---|")
    for path in map(pathlib.Path, paths):
        lines = done(path)
        classes = {(line["side"], line["image"]): line["class"] for line in lines}
        for side in dict.fromkeys(line["side"] for line in lines):
            own = [line for line in lines if line["side"] == side]
            codes = np.array([line["codes"] for line in own if "codes" in line] or [[0, 0, 0]])
            total, same, largest = codes[:, 0].sum(), codes[:, 1].sum(), codes[:, 2].max()
            share = f"{same} of {total}" if total else "-"
            real = max((line["scores"] for line in own if "scores" in line), default=0)
            row = [path.stem, side, len(own), share, largest, f"{real:.1e}",
                   sum(line["class"] == line["label"] for line in own)]
            row += [sum(line["class"] == classes.get((other, line["image"])) for line in own)
                    for other in ("float", "engine")]
            print("| " + " | ".join(map(str, row)) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["codes", "top1", "table"])
    parser.add_argument("folder")
    parser.add_argument("results", nargs="*")
    parser.add_argument("--cpus", nargs="+", default=environment.CPUS, choices=environment.CPUS)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--images", nargs=2, type=int, default=(0, 20))
    parser.add_argument("--data-dir", default=None)
    request = parser.parse_args()
    if request.what == "table":
        return table([request.folder, *request.results])
    (request.results,) = request.results
    return measure(request)


if __name__ == "__main__":
    sys.exit(main())
