# SPDX-License-Identifier: MIT
"""A network's own (x - mean) / std in front of an integer layer is computed by the programs, with their image's.

The layer cannot take the numbers up: it rounds what it reads to codes. The programs can, since ncnn takes the blob
behind those layers as well as the network's input. A byte has 256 values, so whether all codes stay the same is tried;
where a value lies so near to the middle between two codes that they do not, the mean is moved by a last bit or some.
"""

from typing import Any, List, Optional, Sequence, Tuple

import numpy as np

from deploy import engine
from deploy.arithmetic import Arithmetic
from deploy.image_steps import Front, ImageSteps, Prepared
from deploy.ir import Grid, Model, consumers, integers, producers, quantized
from deploy.ir.affine import composed, steps_before
from deploy.targets.ncnn.arithmetic import multiplier
from deploy.targets.ncnn.fma import fma

BYTES = np.arange(256, dtype=np.float32).reshape(1, 1, 16, 16)
BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))  # becomes 1 in some elements of a plane: see `kernels`
MOVES = sorted(range(-24, 25), key=abs)  # last bits


def front(model: Model, steps: ImageSteps, arithmetics: Sequence[Arithmetic]) -> Front:
    """Where the programs begin: behind what they compute themselves, or at the model's input.

    Parameters
    ----------
    steps : ImageSteps
        What the model's input wants.
    arithmetics : sequence of Arithmetic
        Of the processors on which all codes have to stay the same.
    """
    shape, channels = model.shapes[model.inputs[0]], len(np.atleast_1d(steps.mean))
    layers, grids = _own_steps(model)
    if layers and len(shape) == 3 and shape[0] == channels:
        factor, shift = composed(layers, channels)
        if np.all(factor):
            mean, std = np.asarray(steps.mean, np.float64), np.asarray(steps.std, np.float64)
            mean, std = mean - shift * std / factor, std / factor
            moved = _moved(_through(layers, steps, channels), (mean, std, steps.scale), grids, arithmetics)
            if moved is not None:
                return Front(layers[-1].outputs[0], Prepared(
                    steps.resize, steps.crop, steps.colour_order, steps.scale, tuple(moved.tolist()),
                    tuple(std.tolist()), tuple(layer.name for layer in layers)))
    return Front(model.inputs[0], steps)


def _own_steps(model: Model) -> Tuple[List[Any], List[Grid]]:
    """(Layers of g * x + h behind the input, grids of the integer layers that alone read what comes out)."""
    reading, writers = consumers(model), producers(model)

    def fitting(blob: str) -> bool:
        readers = reading[blob]
        return all(integers(reader) is not None for reader in readers) or len(readers) == 1 and readers[0] is not None

    for node in quantized(model):
        found = [integers(reader) for reader in reading[node.inputs[0]]]
        grids = [quantization.input for quantization in found if quantization is not None]
        if len(reading[model.inputs[0]]) == 1 and len(grids) == len(found):
            layers = steps_before(node.inputs[0], model.inputs, writers.get, fitting)
            if layers and model.shapes[node.inputs[0]] == model.shapes[model.inputs[0]]:
                return layers, grids
    return [], []


def _through(layers: List[Any], steps: ImageSteps, channels: int) -> Any:
    """function(arithmetic) -> what bytes become by the network's steps and its own layers, as certified."""
    blobs = [layers[0].inputs[0]] + [layer.outputs[0] for layer in layers]
    own = Model((blobs[0],), (blobs[-1],), tuple(layers), dict.fromkeys(blobs, (channels, 16, 16)))
    pixels = _ways(np.asarray(steps.mean, np.float64), np.asarray(steps.std, np.float64), steps.scale)[0]
    return lambda arithmetic: engine.run(own, pixels, arithmetic=arithmetic).outputs[0]


def _moved(through, straight, grids, arithmetics) -> Optional[np.ndarray]:
    """The mean with which each byte has the code that it gets through the layers, or None."""
    wanted = [_codes(through(arithmetic), grid, arithmetic) for arithmetic in arithmetics for grid in grids]
    each = [(grid, arithmetic) for arithmetic in arithmetics for grid in grids]
    mean, std, scale = straight
    bit = np.spacing(np.maximum(np.abs(mean), 255 * abs(scale)).astype(np.float32))
    found, missing = mean.copy(), np.ones(len(mean), bool)
    for move in MOVES:
        ways = _ways(mean + move * bit, std, scale)
        same = [(_codes(values, *where) == codes).all(axis=(0, 2, 3)) for values in ways
                for where, codes in zip(each, wanted)]
        new = missing & np.all(same, axis=0)
        found[new] += move * bit[new]
        missing &= ~new
        if not missing.any():
            return found
    return None


def _codes(values: np.ndarray, grid: Grid, arithmetic: Arithmetic) -> np.ndarray:
    """Codes as float32; what has more than one is no number, and equals nothing."""
    codes = arithmetic.quantize(values, grid).astype(np.float32)
    codes[np.abs(values * multiplier(grid.scale)) == BELOW_HALF] = np.nan
    return codes


def _ways(mean: np.ndarray, std: np.ndarray, scale: float) -> List[np.ndarray]:
    """What the programs make of bytes: Python's, then C++'s where ncnn fuses its two operations, and where not."""
    pixels = np.repeat(BYTES, len(mean), axis=1)
    mean, std = mean.reshape(-1, 1, 1), std.reshape(-1, 1, 1)
    norm = np.float32(scale / std)
    shift = -np.float32(mean / scale) * norm
    return [(pixels * np.float32(scale) - np.float32(mean)) / np.float32(std),
            fma(pixels, norm.ravel(), shift.ravel()), pixels * norm + shift]
