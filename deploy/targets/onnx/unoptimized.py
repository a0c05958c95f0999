# SPDX-License-Identifier: MIT
"""The report on ONNX Runtime without its optimizations: every code foreseen by `floats`, and how far integers are."""

import logging
import pathlib
from itertools import islice
from typing import Any, Dict, Iterable, List, Tuple

import numpy as np

from deploy import engine
from deploy.ir import Model, Rounding
from deploy.proof.compare import Difference
from deploy.targets.onnx import writer
from deploy.targets.onnx.arithmetic import OrtArithmetic
from deploy.targets.onnx.floats import FloatSums, dequantized
from deploy.targets.onnx.runner import Options, Runner, side

LOG = logging.getLogger(__name__)
IMAGES = 4  # seconds for each: float sums in a given order are no work for BLAS
FORESEEN, EXACT = "float sums", "integers"


def report(model: Model, floating: Model,
           batches: Iterable[Tuple[np.ndarray, np.ndarray]]) -> Tuple[str, Dict[str, Any]]:
    """(Text, contents of the file): the first few images of the batches, compared code by code."""
    images = _first(batches, IMAGES)
    runner = Runner(pathlib.Path("model.onnx"), Options(optimized=False), writer.render(model))
    found = side(model, runner)(images).codes
    LOG.info("float sums of %d images, in ONNX Runtime's order", len(images))
    foreseen = engine.run(dequantized(model), images, arithmetic=FloatSums(), keep=engine.ALL).blobs
    integer = engine.run(model, images, arithmetic=OrtArithmetic(), keep=engine.ALL).blobs
    layers: Dict[str, Dict[str, Any]] = {}
    totals = {FORESEEN: Difference(), EXACT: Difference()}
    for node in model.nodes:
        if isinstance(node, Rounding):
            layers[node.inputs[0]] = {}
            for name, blobs in ((FORESEEN, foreseen), (EXACT, integer)):
                codes = OrtArithmetic().quantize(blobs[node.outputs[0]], node.grid)
                own = Difference()
                for difference in (own, totals[name]):
                    difference.update(found[node.name], codes)
                layers[node.inputs[0]][name] = _numbers(own)
    contents = {"images": len(images), "total": {name: _numbers(total) for name, total in totals.items()},
                "blobs": layers}
    return _text(contents), contents


def _first(batches: Iterable[Tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    images: List[np.ndarray] = []
    for part, _ in batches:
        images += list(islice(part, count - len(images)))
        if len(images) == count:
            break
    if len(images) == 1:  # a matrix with one row is multiplied in another order
        images *= 2
    return np.asarray(images, np.float32)


def _numbers(difference: Difference) -> Dict[str, Any]:
    return {"codes": difference.elements, "identical": difference.identical, "largest": difference.largest}


def _text(contents: Dict[str, Any]) -> str:
    lines = [f"ONNX Runtime without optimizations, {contents['images']} images:"]
    for name, total in contents["total"].items():
        lines.append(f"  {total['identical']:,} of {total['codes']:,} codes are those of {name}; the others differ by "
                     f"{total['largest']:g} at most")
    return "\n".join(lines)
