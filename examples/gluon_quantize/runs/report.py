# SPDX-License-Identifier: MIT
"""Everything that one page says about a run: what was written, and what a look at some images adds.

>>> from gluon_quantize.runs.report import ReportRequest, report
>>> contents = report(ReportRequest(folder, images=8))
>>> contents["layers"][0]["name"]
'features.0'
"""

import logging
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from calib.calibrators import CALIBRATORS
from calib.observers import HistogramObserver
from deploy import engine
from deploy.ir import Model, consumers, integers, quantized
from deploy.study import Study, costs, in_float, sampled, study
from gluon_quantize.data.request import ImagesRequest
from gluon_quantize.progress import SILENT, Silent
from gluon_quantize.runs.comparison import INTEGER, paths, target_of
from gluon_quantize.runs.distributions import input_facts, weight_facts
from gluon_quantize.runs.layers import layer_rows
from gluon_quantize.runs.material import Images, Material, images_of, material
from gluon_quantize.runs.pictures import changed_images, confusion
from quantize import __version__
from quantize.errors import QuantizeError

LOG = logging.getLogger(__name__)
FORMAT = "report 1"
TIMED = 3  # images: enough for a ratio of seconds


@dataclass(frozen=True)
class ReportRequest:
    """What to report on.

    Parameters
    ----------
    subject : str or path
        Folder that `simulate`, `train` or `deploy` has written.
    data : ImagesRequest
        The images, where a deployment's own are not to be taken.
    images : int
        Look at so many of them; 0: only at what was written.
    compared : int
        So many of these also run with each layer quantized.
    """

    subject: str
    data: ImagesRequest = ImagesRequest()
    images: int = 64
    compared: int = 2


def report(request: ReportRequest, progress: Silent = SILENT) -> Dict[str, Any]:
    """All that the page shows, as values that JSON can hold.

    Raises
    ------
    DataError, ModelFileError
        For a folder that no command has written, or whose files are damaged.
    """
    found = material(request.subject)
    contents: Dict[str, Any] = {
        "format": FORMAT, "kind": found.kind, "name": _name(found), "folder": str(found.folder), "plan": found.plan,
        "result": found.result, "training": found.log.get("epochs", []), "certificates": found.certificates,
        "versions": {"gluon-quantize": __version__}, "notes": [], "layers": [], "edges": [],
        "collection": None, "images": None, "confusion": None, "timing": None}
    if found.model is not None:
        contents.update(edges=edges(found.model))
        _look(request, found, contents, progress)
    return contents


def _name(found: Material) -> str:
    settings = found.result.get("settings", {})
    if found.model is not None and "name" in found.model.metadata:
        return found.model.metadata["name"]
    return str(next((settings[key] for key in ("model", "onnx", "symbol") if settings.get(key)), found.folder.name))


def _look(request: ReportRequest, found: Material, contents: Dict[str, Any], progress: Silent) -> None:
    """Add what the model itself and some images tell."""
    assert found.model is not None
    model, seen = found.model, None
    observers = {node.name: HistogramObserver() for node in quantized(model)}
    try:
        images = images_of(found, request.data) if request.images else None
    except QuantizeError as error:
        contents["notes"].append(f"no images were looked at: {error}")
        images = None
    if images is not None:
        seen = _studied(request, found, images, observers, contents, progress)
    contents["layers"] = layer_rows(model, costs(model), seen, observers if seen else {}, _trust(found))
    for row in contents["layers"]:
        node = next(item for item in model.nodes if item.name == row["node"])
        row["weights"] = weight_facts(node)
        if seen is not None and integers(node) is not None:
            row["inputs"] = input_facts(node, observers[node.name], sorted(CALIBRATORS.names()))


def _trust(found: Material) -> Mapping[str, Any]:
    return found.result.get("calibration") or {}


def _studied(request: ReportRequest, found: Material, images: Images, observers: Mapping[str, HistogramObserver],
             contents: Dict[str, Any], progress: Silent) -> Study:
    """Run the images, and add what they show."""
    assert found.model is not None
    model = found.model
    indices = range(min(request.images, len(images.images)))
    batch = np.stack([images.steps.apply(images.images.load(index), images.images.origin(index))
                      for index in indices]).astype(np.float32)

    def see(blobs: Mapping[str, np.ndarray]) -> None:
        for node in quantized(model):
            observers[node.name].update(sampled(blobs[node.inputs[0]]))
    arithmetic = target_of(model).arithmetic_here()
    start = time.perf_counter()
    seen = study(model, arithmetic, batch, request.compared, see,
                 lambda numbers: progress.bar(numbers, "report", "image"))
    contents["collection"] = dict(_cost(model, batch, time.perf_counter() - start), images=len(batch),
                                  compared=len(seen.scores), passes=seen.passes)
    labels = images.images.labels[:len(batch)] if images.images.labelled else None
    scores, by = _scores(found, batch, seen)
    contents["images"] = changed_images(images.images, seen.float_scores, scores, labels)
    contents["confusion"] = confusion(seen.float_scores, scores, by)
    return seen


def _scores(found: Material, batch: np.ndarray, seen: Study) -> Tuple[np.ndarray, str]:
    """Scores of the quantized network and what computed them: the real engine for all images, where it is here."""
    assert found.model is not None
    model, target = found.model, target_of(found.model)
    files = paths(target, found.stem, found.folder, INTEGER)
    if target.engine is None or not all(path.is_file() for path in files):
        return seen.scores, "the integer engine"
    try:
        target.engine.require()
        session = target.engine.open(files, target.engine.ways[-1])
        return session.run(batch, model.outputs[:1])[model.outputs[0]], target.title or target.name
    except QuantizeError as error:
        LOG.warning("%s", error)
        return seen.scores, "the integer engine"


def _cost(model: Model, batch: np.ndarray, seconds: float) -> Dict[str, float]:
    """Seconds of the collection, and of a float pass over the same images, estimated on a few of them."""
    few, floating = batch[:TIMED], in_float(model)
    start = time.perf_counter()
    for number in range(len(few)):
        engine.run(floating, few[number:number + 1], part=1)
    one_pass = (time.perf_counter() - start) * len(batch) / len(few)
    return {"seconds": seconds, "float_seconds": one_pass, "ratio": seconds / one_pass if one_pass else 0.0}


def edges(model: Model) -> List[Dict[str, Any]]:
    """Blob by blob, which node writes and which reads it, and in which format it arrives there."""
    writers = {blob: node.name for node in model.nodes for blob in node.outputs}
    found = []
    for blob, readers in consumers(model).items():
        for node in readers:
            grids: Optional[Any] = None if node is None else integers(node)
            codes = None if grids is None else grids.input
            found.append({"blob": blob, "from": writers.get(blob, blob), "to": "output" if node is None else node.name,
                          "shape": list(model.shapes[blob]),
                          "format": "float32" if codes is None else _format(codes.qmin, codes.qmax)})
    return found


def _format(qmin: int, qmax: int) -> str:
    steps = qmax - qmin
    return f"{'int' if qmin < 0 else 'uint'}{max(int(np.ceil(np.log2(steps + 1))), 1)}"
