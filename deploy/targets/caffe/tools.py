# SPDX-License-Identifier: MIT
"""ncnn's own command line tools, where they are on the PATH, and what they make compared with the direct writer."""

import pathlib
import shutil
import subprocess
import tempfile
from typing import Dict, Optional, Tuple

import numpy as np

from deploy import ir
from deploy.targets.caffe.writer import CAFFEMODEL, PROTOTXT
from deploy.targets.ncnn import writer
from deploy.targets.ncnn.runner import EXACT, Runner
from quantize.errors import DeployError
from quantize.files import PathLike

Paths = Tuple[pathlib.Path, pathlib.Path]
# ncnn2int8 says this, leaves all later layers of the type float, and ends as if nothing were wrong
INCOMPLETE_TABLE = "no scale param"


def find(tool: str) -> str:
    """The path of a tool; DeployError where it is not on the PATH."""
    path = shutil.which(tool)
    if path is None:
        raise DeployError(f"{tool} is not on the PATH: build it with ncnn (cmake -DNCNN_BUILD_TOOLS=ON), or use the "
                          "target 'ncnn', which needs no tools")
    return path


def _run(tool: str, *arguments):
    done = subprocess.run([find(tool)] + [str(argument) for argument in arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode or INCOMPLETE_TABLE in done.stdout:
        raise DeployError(f"{tool} failed (exit code {done.returncode}) on "
                          f"{arguments[0]}:\n{done.stdout[-2000:].strip()}")


def caffe2ncnn(folder: PathLike, to: PathLike) -> Paths:
    """`caffe.param` and `caffe.bin` in the folder `to`, from the files that the target has written into `folder`."""
    sources = [pathlib.Path(folder) / name for name in (PROTOTXT, CAFFEMODEL)]
    for path in sources:
        if not path.is_file():
            raise DeployError(f"{path}: there is no such file")
    made = pathlib.Path(to) / "caffe.param", pathlib.Path(to) / "caffe.bin"
    _run("caffe2ncnn", *(sources + list(made)))
    return made


def ncnnoptimize(param: PathLike, weights: PathLike, to: PathLike) -> Paths:
    """`optimized.param` and `optimized.bin` in float32: activations become part of the layers before them."""
    made = pathlib.Path(to) / "optimized.param", pathlib.Path(to) / "optimized.bin"
    _run("ncnnoptimize", param, weights, *(made + (0,)))
    return made


def ncnn2int8(param: PathLike, weights: PathLike, table: PathLike, to: PathLike) -> Paths:
    """`int8.param` and `int8.bin`, quantized as the table says."""
    made = pathlib.Path(to) / "int8.param", pathlib.Path(to) / "int8.bin"
    _run("ncnn2int8", param, weights, *(made + (table,)))
    return made


def compare(model: ir.Model, folder: PathLike, inputs: np.ndarray,
            table: Optional[PathLike] = None) -> Dict[str, float]:
    """How far blobs of the network that ncnn's tools make are from those of the direct writer's network.

    Parameters
    ----------
    folder
        Where the model was written for Caffe, in the channel order of `inputs`.
    inputs : array of float32, (n, ...)
    table : path, optional
        ncnn's calibration table: the tools are caffe2ncnn, ncnnoptimize and ncnn2int8, and the direct writer writes
        integers. Without: caffe2ncnn alone, and everything is float.

    Returns
    -------
    dict
        Blob -> largest difference, relative to the largest magnitude in the direct writer's blob; for every blob that
        both networks have, the outputs among them. Blobs that hold integers are compared as integers.
    """
    integers = table is not None
    with tempfile.TemporaryDirectory() as scratch:
        made = caffe2ncnn(folder, scratch)
        if table is not None:
            made = ncnn2int8(*ncnnoptimize(*made, scratch), table, scratch)
        theirs = Runner(*made, options=EXACT)
        ours = Runner(*writer.write(model, scratch, integers=integers), options=EXACT)
        names = [name for node in model.nodes for name in node.outputs if name in theirs.blobs and name in ours.blobs]
        if not set(model.outputs) <= set(names):
            raise DeployError("the network that the tools have made lacks the outputs "
                              f"{', '.join(sorted(set(model.outputs) - set(names)))}: was another one written to "
                              f"{folder}?")
        one, other = (runner.run(inputs, names, model.shapes) for runner in (theirs, ours))
    return {name: _difference(one[name], other[name]) for name in names}


def _difference(values, reference) -> float:
    """Largest difference in units of the largest reference value; infinite where something is no number."""
    difference = float(np.abs(values - reference).max()) / max(float(np.abs(reference).max()), 1e-30)
    return difference if np.isfinite(difference) else float("inf")
