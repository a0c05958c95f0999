# SPDX-License-Identifier: MIT
"""Everything that one page says about a run: what was written, and what a look at some images adds.

>>> from gluon_quantize.runs.report import ReportRequest, report
>>> contents = report(ReportRequest(folder, images=8))
>>> contents["layers"][0]["name"]
'features.0'
"""

import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Tuple

import numpy as np

from calib.calibrators import CALIBRATORS
from calib.observers import HistogramObserver
from deploy.ir import Model, consumers, quantized
from deploy.proof.machine import machine
from deploy.study import Study, costs, study
from gluon_quantize.data.request import ImagesRequest
from gluon_quantize.models.predictions import predictions_of
from gluon_quantize.progress import SILENT, Silent
from gluon_quantize.runs.answers import answers_contents, names_of
from gluon_quantize.runs.distributions import Inputs, input_facts, weight_facts
from gluon_quantize.runs.layers import grid_format, input_grids, layer_rows
from gluon_quantize.runs.material import Material, material
from gluon_quantize.runs.pictures import with_pictures
from gluon_quantize.runs.subject import Subject, scores_of, subject_of
from gluon_quantize.runs.timing import layer_times
from quantize import __version__
from quantize.errors import QuantizeError

FORMAT = "report 2"


@dataclass(frozen=True)
class ReportRequest:
    """What to report on.

    Parameters
    ----------
    subject : str or path
        Folder that `simulate`, `train` or `deploy` has written, or a checkpoint (.qnet).
    data : ImagesRequest
        The images, where those of the run are not to be taken.
    images : int
        Look at so many of them; 0: only at what was written.
    compared : int
        So many of these also run with each layer quantized.
    timed_runs : int
        Time each layer of a deployment in its engine so often; 0: not at all.
    sensitivity : tuple of int
        Measure what quantizing each layer costs at these bits, on the images; empty: what the run has measured.
    """

    subject: str
    data: ImagesRequest = ImagesRequest()
    images: int = 64
    compared: int = 2
    timed_runs: int = 10
    sensitivity: Tuple[int, ...] = ()


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
        "subject": str(request.subject), "result": found.result, "training": found.log.get("epochs", []),
        "before": found.log.get("before") or {}, "certificates": found.certificates, "versions": _versions(),
        "notes": [], "data": "", "layers": [], "edges": [], "collection": None, "images": None, "timing": None,
        "answers": found.result.get("answers"), "class_names": {}, "sensitivity": found.result.get("sensitivity")}
    subject = subject_of(found, request.data)
    if subject is not None:
        contents["data"] = subject.data
        _look(request, found, subject, contents, progress)
        contents["notes"] += subject.notes
    return contents


def _versions() -> Dict[str, str]:
    here = machine()
    return {"gluon-quantize": __version__, "python": str(here["python"]), "numpy": str(here["numpy"])}


def _name(found: Material) -> str:
    settings = found.result.get("settings") or found.log.get("settings") or {}
    if found.model is not None and "name" in found.model.metadata:
        return found.model.metadata["name"]
    return str(next((settings[key] for key in ("model", "onnx", "symbol", "checkpoint") if settings.get(key)),
                    found.stem or found.folder.name))


def _look(request: ReportRequest, found: Material, subject: Subject, contents: Dict[str, Any],
          progress: Silent) -> None:
    """Add what the network itself and some images tell."""
    if found.kind == "checkpoint":
        contents.update(name=subject.name, plan=str(getattr(subject.net, "plan", "") or ""))
    if request.images and subject.images is not None and request.sensitivity:
        contents["sensitivity"] = _sensitivity(request, found, subject, progress)
    if subject.model is None:
        return
    model, seen = subject.model, None
    contents["edges"] = edges(model)
    observers = {node.name: HistogramObserver() for node in quantized(model)}
    if request.images and subject.images is not None:
        seen = _studied(request, found, subject, observers, contents, progress)
    contents["layers"] = layer_rows(model, costs(model), seen, observers if seen else {},
                                    found.result.get("calibration") or {})
    _describe(subject, contents["layers"], observers if seen else {}, progress)
    if contents["timing"] is not None:
        _add_times(contents["layers"], contents["timing"])


def _describe(subject: Subject, rows: List[Dict[str, Any]], observers: Mapping[str, HistogramObserver],
              progress: Silent) -> None:
    """Add distributions to the rows, and the plan's formats where layers could not be lowered with theirs."""
    assert subject.model is not None
    nodes: Dict[str, Any] = {node.name: node for node in subject.model.nodes}
    grids = input_grids(subject.model)
    for row in progress.bar(rows, "distributions", "layer"):
        node = nodes[row["node"]]
        row["weights"] = weight_facts(node)
        if node.name in observers and node.name in grids:
            row["inputs"] = input_facts(grids[node.name], observers[node.name], sorted(CALIBRATORS.names()))
        if row["name"] in subject.formats:
            row["weight_format"], row["input_format"] = subject.formats[row["name"]]


def _studied(request: ReportRequest, found: Material, subject: Subject, observers: Mapping[str, HistogramObserver],
             contents: Dict[str, Any], progress: Silent) -> Study:
    """Run the images, and add what they show."""
    assert subject.model is not None and subject.images is not None
    model, images = subject.model, subject.images.prepared(request.images)
    inputs = Inputs(model, observers)
    seen = study(model, subject.arithmetic, images, request.compared, inputs.see,
                 lambda numbers: progress.bar(numbers, "report", "image"))
    # an engine computes in another process, whose time is not this one's
    clock = time.process_time if subject.net is not None or "answers" in found.result else time.perf_counter
    start = clock()
    inputs.count()
    contents["answers"] = _answers(found, subject, np.stack(images), seen)
    if contents["answers"] is not None:
        contents["images"] = with_pictures(subject.images.images, contents["answers"]["changed"])
        contents["class_names"] = names_of(contents["answers"], subject.images.images.class_names or ())
    seconds = seen.seconds + clock() - start
    contents["collection"] = {"images": len(images), "compared": len(seen.scores), "seconds": seconds,
                              "float_seconds": seen.float_seconds, "ratio": seconds / max(seen.float_seconds, 1e-9)}
    if request.timed_runs and found.model is not None:
        contents["timing"] = _timing(request, found, images[0][np.newaxis], contents, progress)
    return seen


def _answers(found: Material, subject: Subject, images: np.ndarray, seen: Study) -> Any:
    """What result.json holds of all that was evaluated, else of the images looked at; None without classes."""
    assert subject.images is not None
    written = found.result.get("answers")
    if isinstance(written, dict):
        return written
    if not subject.whole or not _classifies(found, seen.float_scores):
        return None
    computed = scores_of(found, subject)
    scores, by = (seen.scores, "the integer engine") if computed is None else (computed[0](images), computed[1])
    if not len(scores):
        return None
    labels = subject.images.images.labels[:len(scores)]
    return answers_contents(predictions_of(seen.float_scores[:len(scores)], labels), predictions_of(scores, labels), by)


def _classifies(found: Material, scores: np.ndarray) -> bool:
    """Whether the first output is one score for each class, and the run did not say otherwise."""
    said = found.result.get("float")
    if isinstance(said, dict):
        return "top1_count" in said
    return bool(np.prod(scores.shape[1:]) == max(scores.shape[1:], default=1) > 1)


def _timing(request: ReportRequest, found: Material, image: np.ndarray, contents: Dict[str, Any],
            progress: Silent) -> Any:
    try:
        return layer_times(found, image, request.timed_runs, lambda runs: progress.bar(runs, "timing", "run"))
    except QuantizeError as error:
        contents["notes"].append(f"Layers were not timed: {error}")
        return None


def _add_times(rows: List[Dict[str, Any]], timing: Dict[str, Any]) -> None:
    for row in rows:
        times = timing["layers"].get(row["node"])
        if times is not None:
            row["ms"] = times
            row.update({f"{kind}_ms": quarters[1] for kind, quarters in times.items()},
                       times_as_fast=times["float"][1] / max(times["int8"][1], 1e-9))


def _sensitivity(request: ReportRequest, found: Material, subject: Subject, progress: Silent) -> Any:
    """Measured on the network of the checkpoint, at any bits."""
    from gluon_quantize.runs.sensitivity import of_checkpoint
    if found.checkpoint is None:
        subject.notes.append("Sensitivities were not measured: there is no checkpoint (.qnet) beside the result")
        return None
    try:
        return of_checkpoint(found, request.data, request.images, request.sensitivity, progress)
    except QuantizeError as error:
        subject.notes.append(f"Sensitivities were not measured: {error}")
        return None


def edges(model: Model) -> List[Dict[str, Any]]:
    """Blob by blob, which node writes and which reads it, and in which format it arrives there."""
    writers = {blob: node.name for node in model.nodes for blob in node.outputs}
    found, grids = [], input_grids(model)
    for blob, readers in consumers(model).items():
        for node in readers:
            grid = None if node is None else grids.get(node.name)
            found.append({"blob": blob, "from": writers.get(blob, blob), "to": "output" if node is None else node.name,
                          "shape": list(model.shapes[blob]), "format": "float32" if grid is None else grid_format(
                              grid.qmin, grid.qmax)})
    return found
