# SPDX-License-Identifier: MIT
"""A few inputs stored with a deployment, so that its proof can be repeated where there are no images.

`verification.npz` holds them as the network gets them, and for every arithmetic that the target's engine has on some
processor: a digest of the codes that each quantized layer reads, and the outputs, as the integer engine computed them.
"""

import hashlib
import json
import pathlib
from dataclasses import dataclass
from typing import Mapping

import numpy as np

from deploy import engine
from deploy.arithmetic import Arithmetic
from deploy.ir import Model
from deploy.ir.packed import packed_shape
from deploy.target import Target
from quantize.documents import parse_json
from quantize.errors import DataError, DeployError
from quantize.files import PathLike, whole_file
from quantize.limits import limit, memory_limit
from quantize.npz import read_npz

FILE = "verification.npz"
COUNT = 4  # images that are stored
LIMIT = 1 << 28  # bytes that a file may unpack to
INPUTS, DIGESTS, OUTPUTS = "inputs", "digests", "outputs "


@dataclass(frozen=True)
class Samples:
    """What the file holds.

    Attributes
    ----------
    inputs : array of float32, (images, ...)
    digests : dict
        Name of an arithmetic -> node -> digest of its codes.
    outputs : dict
        Name of an arithmetic -> float32 outputs.
    """

    inputs: np.ndarray
    digests: Mapping[str, Mapping[str, str]]
    outputs: Mapping[str, np.ndarray]


def code_digest(codes: np.ndarray) -> str:
    """Of the codes of one layer, as bytes (int8)."""
    return hashlib.sha256(np.ascontiguousarray(codes, np.int8).tobytes()).hexdigest()[:32]


def write_samples(folder: PathLike, target: Target, model: Model, inputs: np.ndarray) -> None:
    """`verification.npz` in a folder, of the first few inputs (images, ...) in the order of channels of the files."""
    inputs = np.ascontiguousarray(inputs[:COUNT], np.float32)
    digests, arrays = {}, {INPUTS: inputs}
    for arithmetic in target.arithmetics():
        digests[arithmetic.name], arrays[OUTPUTS + arithmetic.name] = _judged(model, arithmetic, inputs)
    arrays[DIGESTS] = np.array(json.dumps(digests, sort_keys=True))
    with whole_file(pathlib.Path(folder) / FILE) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def _judged(model, arithmetic, inputs):
    """Digests of the codes, and the first output, that the integer engine computes."""
    found = engine.run(model, inputs, arithmetic=arithmetic, codes=True)
    return {name: code_digest(codes) for name, codes in found.codes.items()}, found.outputs[0]


def read_samples(path: PathLike, model: Model) -> Samples:
    """What `verification.npz` holds; DataError for a file that is none, or not of this model."""
    try:
        with memory_limit(min(LIMIT, limit())):
            arrays = read_npz(path, texts=(DIGESTS,))
        digests = parse_json(str(arrays[DIGESTS]), DIGESTS)
        inputs = arrays[INPUTS]
    except KeyError as error:
        raise DataError(f"{path}: holds no {error}; deploy again, or name images with --data-dir") from None
    except (DataError, ValueError) as error:  # letters that are none
        said = str(error) if str(error).startswith(str(path)) else f"{path}: {error}"
        raise DataError(f"{said}; deploy again, or name images with --data-dir") from None
    outputs = {name[len(OUTPUTS):]: values for name, values in arrays.items() if name.startswith(OUTPUTS)}
    shape = packed_shape(model)
    if inputs.dtype != np.float32 or inputs.shape[1:] != shape or not len(inputs):
        raise DataError(f"{path}: holds inputs of the shape {inputs.shape}, the network takes (n, "
                        f"{', '.join(map(str, shape))})")
    if not isinstance(digests, dict) or not all(isinstance(item, dict) for item in digests.values()):
        raise DataError(f"{path}: its digests are no table")
    return Samples(inputs, digests, outputs)


def check_samples(samples: Samples, model: Model, arithmetic: Arithmetic) -> bool:
    """Whether the integer engine was stored for this arithmetic; DeployError where it computes something else here.

    Parameters
    ----------
    arithmetic : Arithmetic
        This machine's.
    """
    if arithmetic.name not in samples.digests:
        return False
    digests, outputs = _judged(model, arithmetic, samples.inputs)
    stated = samples.digests[arithmetic.name]
    wrong = next((name for name, digest in digests.items() if stated.get(name) != digest), None)
    if wrong is not None:
        raise DeployError(f"the integer engine reads other codes in {wrong} here than where {FILE} was written: this "
                          "program or NumPy computes otherwise, so that nothing can be said of the engine")
    reference = samples.outputs.get(arithmetic.name)
    if reference is None or reference.shape != outputs.shape or not np.allclose(outputs, reference, 1e-5, 1e-6):
        raise DeployError(f"the integer engine gives other outputs here than where {FILE} was written")
    return True
