# SPDX-License-Identifier: MIT
"""What ncnn's 16-bit floats, its default on ARM processors that have them, cost a network, and in which layers.

The files can keep single layers from them (`network.without_16_bits`). Which are worth it is measured where the files
run: layers are kept from them one after the other, those first whose codes suffer most from rounding their inputs to 16
bits, until scores and classes are close enough to the exact ones.
"""

import fnmatch
import pathlib
import tempfile
from typing import Callable, Dict, Iterator, List, Sequence, Tuple

import numpy as np

from deploy import engine
from deploy.ir import Grid, Model, quantized
from deploy.target import Problem
from deploy.targets.ncnn.aarch64 import Aarch64Arithmetic, nearest_codes
from deploy.targets.ncnn.arithmetic import multiplier
from deploy.targets.ncnn.network import without_16_bits
from deploy.targets.ncnn.param import format_param, parse_param
from deploy.targets.ncnn.runner import EXACT_AARCH64, Options, Runner
from quantize.files import read_text
from quantize.registry import closest

TOLERANCE = 0.01  # of the largest score
DEFAULT = Options(threads=1)
FLAG = "--no-fp16-layers"
Scores = Callable[[Sequence[str]], np.ndarray]  # layers that are kept from 16 bits -> (images, scores)


def matching(model: Model, patterns: Sequence[str]) -> List[str]:
    """Nodes whose names are, or fit, one of the patterns."""
    return [node.name for node in model.nodes
            if any(name == node.name or fnmatch.fnmatchcase(node.name, name) for name in patterns)]


def check_layers(model: Model, patterns: Sequence[str]) -> List[Problem]:
    """A problem for each pattern that no node fits."""
    names = [node.name for node in model.nodes]
    return [Problem(name, f"{FLAG} names a layer that is not there{closest(name, names)}; the certificate, and "
                          "--print-model, list the layers")
            for name in patterns if not matching(model, [name])]


def advice(model: Model, files: Sequence[pathlib.Path], images: np.ndarray) -> List[str]:
    """Which layers to keep from 16 bits, in a sentence; none where these cost little on the images.

    Parameters
    ----------
    files : (path, path)
        The .param and the .bin, in integers.
    images : array of float32, (images, ...)
    """
    param, weights = files
    network, (output, *_) = parse_param(read_text(param), str(param)), model.outputs
    exact = _scores(Runner(param, weights, EXACT_AARCH64), images, output)
    with tempfile.TemporaryDirectory() as folder:
        def scores(kept: Sequence[str]) -> np.ndarray:
            changed = pathlib.Path(folder) / "kept.param"
            changed.write_text(format_param(without_16_bits(network, kept)), encoding="utf-8")
            return _scores(Runner(changed, weights, DEFAULT), images, output)
        return recommended(exact, scores, own_shares(model, images))


def recommended(exact: np.ndarray, scores: Scores, shares: Dict[str, float]) -> List[str]:
    """The advice.

    Parameters
    ----------
    exact : array, (images, scores)
        Without 16 bits.
    scores : function
    shares : dict
        See `own_shares`: the order in which layers are tried, 1, 2, 4, ... of them.
    """
    before = _cost(exact, scores(()))
    if _fine(before):
        return []
    order = sorted(shares, key=lambda name: -shares[name])
    for kept in _growing(order):
        after = _cost(exact, scores(kept))
        if _fine(after):
            return [f"16-bit floats, ncnn's default here, change {_words(before)}. With {len(kept)} of {len(order)} "
                    f"layers kept from them it is {_words(after)}: deploy again with {FLAG} {' '.join(kept)}"]
    return [f"16-bit floats, ncnn's default here, change {_words(before)}, and no few layers alone: set the exact "
            "options, as run_ncnn.cpp does, or deploy again with --no-fp16"]


def _growing(order) -> Iterator[List[str]]:
    """The first 1, 2, 4, ... and at last half of the layers; beyond that the switch for all is simpler."""
    count = 1
    while count <= (len(order) + 1) // 2:
        yield order[:count]
        count *= 2


def own_shares(model: Model, images: np.ndarray) -> Dict[str, float]:
    """Quantized layer -> share of its codes that are others where exact inputs are quantized with 16 bits.

    Layers that read codes are left out: these are not rounded.
    """
    arithmetic = Aarch64Arithmetic().bound(model)
    layers = [node for node in quantized(model) if not _reads_codes(node, model, arithmetic)]
    blobs = engine.run(model, images, arithmetic=Aarch64Arithmetic(), keep={node.inputs[0] for node in layers}).blobs
    found = {}
    for node in layers:
        values, grid = blobs[node.inputs[0]], node.quantization.input
        found[node.name] = float(np.mean(codes_with_16_bits(values, grid) != arithmetic.quantize(values, grid)))
    return found


def codes_with_16_bits(values: np.ndarray, grid: Grid) -> np.ndarray:
    """Codes (int32) as ncnn has them with 16-bit arithmetic: numbers, multiplier, and their product are rounded to 16.

    A product near 100 has steps of 1/16 there, so that it is the product that moves codes, more than the numbers.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        products = values.astype(np.float16) * np.float16(multiplier(grid.scale))
    return nearest_codes(products.astype(np.float32))


def _reads_codes(node, model, arithmetic):
    return any(node.inputs[0] in other.outputs and other.name in arithmetic.handed_on for other in model.nodes)


def _scores(runner: Runner, images: np.ndarray, output: str) -> np.ndarray:
    return runner.run(images, [output])[output].reshape(len(images), -1)


def _cost(exact, found) -> Tuple[float, int, int]:
    """(Largest relative difference of a score, images of another class, images)."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = float(np.abs(found - exact).max() / (np.abs(exact).max() or 1))
    classes = int((found.argmax(axis=1) != exact.argmax(axis=1)).sum())
    return (difference if np.isfinite(difference) else np.inf), classes, len(exact)


def _fine(cost) -> bool:
    difference, classes, _ = cost
    return difference <= TOLERANCE and not classes


def _words(cost) -> str:
    difference, classes, images = cost
    return f"the scores by {difference:.2g} of the largest and the class of {classes} of {images} images"
