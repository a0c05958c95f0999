# SPDX-License-Identifier: MIT
"""What a report can be made of: the folder of a deployment, of a simulation or of a training."""

import json
import pathlib
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from deploy.ir import Model
from deploy.ir.file import load
from deploy.proof.machines import certificates
from gluon_quantize.data.datasets import open_dataset
from gluon_quantize.data.image_set import ImageSet
from gluon_quantize.data.preprocess import Preprocessing
from gluon_quantize.data.request import ImagesRequest
from gluon_quantize.data.steps import steps_for
from quantize.errors import DataError, QuantizeError
from quantize.files import read_text

RESULT, LOG, PLAN = "result.json", "log.json", "plan.txt"


@dataclass(frozen=True)
class Material:
    """What lies in a folder.

    Attributes
    ----------
    kind : {"deployment", "training", "simulation"}
    result, log : dict
        As the command wrote them; empty where there is none.
    plan : str
    certificates : list of dict
        One for each machine that compared the files.
    model : Model or None
    stem : str
        What the deployment's files are called.
    """

    kind: str
    folder: pathlib.Path
    result: Dict[str, Any] = field(default_factory=dict)
    log: Dict[str, Any] = field(default_factory=dict)
    plan: str = ""
    certificates: List[Dict[str, Any]] = field(default_factory=list)
    model: Optional[Model] = None
    stem: str = ""


def material(path: Any) -> Material:
    """What lies in a folder, or in the folder of its `result.json`; DataError where no command wrote one."""
    folder = pathlib.Path(path)
    folder = folder.parent if folder.is_file() else folder
    models = sorted(folder.glob("*.ir"))
    result, log = _json(folder / RESULT), _json(folder / LOG)
    if not (result or log or models):
        raise DataError(f"{path}: holds no {RESULT}; name a folder that simulate, train or deploy has written "
                        "(--output)")
    plan = read_text(folder / PLAN) if (folder / PLAN).is_file() else ""
    if models:
        # files are found by the name of this one: what stands in it could lead elsewhere
        return Material("deployment", folder, result, log, plan, certificates(folder), load(models[0]), models[0].stem)
    return Material("training" if log else "simulation", folder, result, log, plan)


def _json(path: pathlib.Path) -> Dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        contents = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON ({error}); it was changed or damaged") from None
    if not isinstance(contents, dict):
        raise DataError(f"{path}: is no result of this program")
    return contents


@dataclass(frozen=True)
class Images:
    """The images of a report, and how they are prepared."""

    images: ImageSet
    steps: Preprocessing
    dataset: str


def images_of(found: Material, request: ImagesRequest) -> Images:
    """The images that a deployment was checked with, or those of the request; DataError where they cannot be had."""
    assert found.model is not None
    said = found.model.metadata
    try:
        steps = Preprocessing.from_onnx_metadata(json.loads(said["preprocessing"]))
        dataset = request.dataset or said["dataset"]
    except (KeyError, TypeError, ValueError, QuantizeError) as error:
        raise DataError(f"{found.folder}: says not how images are preprocessed: {error!r}") from None
    folder = request.folder or found.result.get("settings", {}).get("data_dir")
    return Images(open_dataset(dataset, folder, "test"), steps_for(request, dataset, steps), dataset)
