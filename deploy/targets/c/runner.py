# SPDX-License-Identifier: MIT
"""The source, compiled on this machine, in a process of its own; and any blob that it computes."""

import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from typing import Any, Callable, Dict, Iterable, List, Mapping, Sequence, Tuple

import numpy as np

from deploy.arithmetic import real
from deploy.ir import Model, Rounding, consumers, integers
from deploy.ir.file import load
from deploy.proof.compare import Observed
from deploy.target import Inputs, Session
from deploy.targets.c.writer import identifier, program_of, rendered, sources
from quantize.errors import DeployError
from quantize.files import read_text

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-pedantic", "-ffp-contract=off")
NUMPY = {"int8_t": np.int8, "uint8_t": np.uint8, "int32_t": np.int32, "float": np.float32}
SECONDS = 600


def compiler() -> str:
    """The path of a C compiler (the variable CC first); DeployError where there is none."""
    for name in (os.environ.get("CC", ""), *COMPILERS):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise DeployError(f"there is no C compiler ({', '.join(COMPILERS)}); install one, or name it in the variable CC")


def compiled(sources: Sequence[pathlib.Path], folder: pathlib.Path, flags: Sequence[str] = FLAGS,
             program: str = "network", cc: str = "") -> pathlib.Path:
    """A program of some sources; DeployError with what the compiler says where it fails, or warns."""
    path = folder / program
    command = [cc or compiler(), *flags, *map(str, sources), "-o", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if found.returncode or found.stderr:
        raise DeployError(f"{sources[0]}: the compiler says: {(found.stderr or found.stdout).strip()[:2000]}")
    return path


class Runner(Session):
    """A network, compiled so that it tells every blob.

    Parameters
    ----------
    files : (source, header, model)
        Source and header are made again from the model first: what is compiled and run is never what somebody else
        wrote. DeployError where they differ, or do not compile.
    """

    def __init__(self, files: Sequence[pathlib.Path]):
        source, header, path = (pathlib.Path(file) for file in files)
        self.model = load(path)
        self._program, self.arithmetic = program_of(self.model)
        self._folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(self._folder.name)
        for file, text in zip((source, header), sources(self.model, source.stem)):
            if read_text(file) != text:
                raise DeployError(f"{file}: is not what this program writes for {path.name}; deploy the network again")
            (folder / file.name).write_text(text, encoding="utf-8")
        values: Dict[str, Any] = {"program": self._program, "prefix": identifier(source.stem), "header": header.name}
        (folder / "trace.c").write_text(rendered("trace.c.txt", values), encoding="utf-8")
        self._path = compiled((folder / source.name, folder / "trace.c"), folder, (*FLAGS, "-DNETWORK_TRACE"))
        self._compiler = pathlib.Path(compiler()).name

    def options(self) -> Dict[str, object]:
        """For the certificate."""
        return {"compiler": self._compiler, "flags": " ".join(FLAGS)}

    def run(self, inputs: Inputs, extract: Iterable[str]) -> Dict[str, np.ndarray]:
        """Blobs of a batch, as real numbers."""
        found = self.numbers(_only(inputs))
        grids = {} if self.arithmetic is None else self.arithmetic.grids
        return {name: real(found[name], grids[name]) if name in grids else found[name] for name in extract}

    def numbers(self, images: np.ndarray) -> Dict[str, np.ndarray]:
        """Every blob but the image, as it lies in memory: codes, or real numbers in float."""
        model, found = self.model, {}
        image = next((node for node in model.nodes if isinstance(node, Rounding) and node.inputs[0] in model.inputs),
                     None)
        fed = np.asarray(images, np.float32)
        if image is not None and self.arithmetic is not None:
            fed = found[image.outputs[0]] = self.arithmetic.quantize(fed, image.grid)
        told = self._told(np.ascontiguousarray(fed, NUMPY[self._program.input.type]))
        for node in model.nodes:
            blob = node.outputs[0]
            if blob not in found:  # what a step does not write is the same numbers under another name
                source = found.get(node.inputs[0], images)
                found[blob] = np.reshape(told.get(blob, source), (len(images),) + tuple(model.shapes[blob]))
        return found

    def _told(self, fed: np.ndarray) -> Dict[str, np.ndarray]:
        """Blob -> (images, elements) of what the steps write."""
        found = subprocess.run([str(self._path)], input=fed.tobytes(), capture_output=True, timeout=SECONDS,
                               check=False)
        layout = [(step.blob, NUMPY[step.y.type], step.y.count) for step in self._program.steps]
        size = sum(count * np.dtype(kind).itemsize for _, kind, count in layout)
        if found.returncode or len(found.stdout) != size * len(fed):
            raise DeployError(f"the compiled network ended with code {found.returncode} after {len(found.stdout)} of "
                              f"{size * len(fed)} bytes")
        return _parted(found.stdout, layout, len(fed))

    def latency(self, inputs: Inputs, extract: Iterable[str], repeats: int = 20, warmup: int = 3) -> np.ndarray:
        """Seconds of single runs on the first image, in increasing order: a process's start is taken off."""
        first, seconds = _only(inputs)[:1], []
        for _ in range(warmup + repeats):
            times = []
            for batch in (np.repeat(first, 2, axis=0), first):
                start = time.perf_counter()
                self.numbers(batch)
                times.append(time.perf_counter() - start)
            seconds.append(max(times[0] - times[1], 1e-9))  # where a busy machine hides it, next to nothing
        return np.sort(seconds[warmup:])


def _only(inputs: Inputs) -> np.ndarray:
    """The images: C source has one input (`constraints`)."""
    return np.asarray(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)


def _parted(data: bytes, layout: List[Tuple[str, Any, int]], images: int) -> Dict[str, np.ndarray]:
    """Blob -> (images, elements), from the bytes of all blobs of one image after the other."""
    rows = np.frombuffer(data, np.uint8).reshape(images, -1)
    found, start = {}, 0
    for blob, kind, count in layout:
        end = start + count * np.dtype(kind).itemsize
        found[blob] = np.ascontiguousarray(rows[:, start:end]).view(kind)
        start = end
    return found


def side(model: Model, runner: Runner) -> Callable[[np.ndarray], Observed]:
    """A function from images to the codes of every rounding and layer, and the outputs, as the program has them."""
    readers = consumers(model)
    assert runner.arithmetic is not None  # codes are compared of integer files only
    grids = runner.arithmetic.grids

    def compute(images: np.ndarray) -> Observed:
        numbers, codes = runner.numbers(images), {}
        for node in model.nodes:
            values = numbers[node.outputs[0]].astype(np.int32)
            if isinstance(node, Rounding):
                codes[node.name] = values
            codes.update((reader.name, values) for reader in readers[node.outputs[0]]
                         if reader is not None and integers(reader) is not None)
        return Observed({blob: real(numbers[blob], grids[blob]) for blob in model.outputs}, codes)
    return compute
