# SPDX-License-Identifier: MIT
"""The network that a report looks into: of a deployment what was written, of a checkpoint what is lowered from it."""

import contextlib
import dataclasses
import logging
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from deploy.arithmetic import Arithmetic
from deploy.ir import Model
from deploy.study import costs
from gluon_quantize.data.datasets import open_images
from gluon_quantize.data.image_set import ImageSet
from gluon_quantize.data.preprocess import Preprocessing
from gluon_quantize.data.request import ImagesRequest
from gluon_quantize.data.steps import steps_for
from gluon_quantize.runs.comparison import INTEGER, paths, target_of
from gluon_quantize.runs.material import Material
from quantize.documents import parse_json
from quantize.errors import DataError, DeployError, QuantizeError

LOG = logging.getLogger(__name__)
Scores = Callable[[np.ndarray], np.ndarray]
PART = 16  # images that a Gluon network takes at a time


@dataclasses.dataclass
class Images:
    """The images of a report, and how they are prepared."""

    images: ImageSet
    steps: Preprocessing

    def prepared(self, count: int) -> List[np.ndarray]:
        """The first so many, as the network takes them."""
        return [np.asarray(self.images.prepared(index, self.steps), np.float32)
                for index in range(min(count, len(self.images)))]


@dataclasses.dataclass
class Subject:
    """A network, in the form that can be looked into layer by layer.

    Attributes
    ----------
    name : str
    model : Model or None
        None where the network could not be lowered, not even in float.
    arithmetic : Arithmetic
    images : Images or None
    data : str
        Which they are, in words; empty where there are none.
    net : Block or None
        Of a checkpoint, as it is left.
    formats : dict
        Layer -> (weight, input) as the plan has them, where `model` is in float since the quantized network has no
        integer form.
    whole : bool
        False where `model` ends in front of operators that cannot be lowered: its outputs are not the network's.
    notes : list of str
        What could not be had, and why.
    """

    name: str
    model: Optional[Model] = None
    arithmetic: Arithmetic = Arithmetic()
    images: Optional[Images] = None
    data: str = ""
    net: Any = None
    formats: Any = dataclasses.field(default_factory=dict)
    whole: bool = True
    notes: List[str] = dataclasses.field(default_factory=list)


def subject_of(found: Material, request: ImagesRequest) -> Optional[Subject]:
    """What a report can look into; None where a folder holds results alone."""
    if found.model is not None:
        subject = Subject(str(found.model.metadata.get("name", found.stem)), found.model,
                          target_of(found.model).arithmetic_here())
        _open_images(subject, _asked(found, request), *_said_of_images(found))
        return subject
    return None if found.checkpoint is None else checkpoint_of(found, request)


def _asked(found: Material, request: ImagesRequest) -> ImagesRequest:
    """The images of the request, with the folder that the command had where it names none.

    A function that gave the images (--data) is not taken from a file: it would be run.
    """
    settings = found.result.get("settings") or found.log.get("settings") or {}
    folder = settings.get("data_dir")
    if request.folder or request.loader or not isinstance(folder, str):
        return request
    return dataclasses.replace(request, folder=folder)


def _said_of_images(found: Material) -> Tuple[Optional[Preprocessing], Optional[str]]:
    assert found.model is not None
    said = found.model.metadata
    try:
        return Preprocessing.from_onnx_metadata(parse_json(said["preprocessing"], "preprocessing")), said["dataset"]
    except (KeyError, TypeError, ValueError, QuantizeError):
        return None, None


def _open_images(subject: Subject, request: ImagesRequest, steps: Optional[Preprocessing],
                 dataset: Optional[str], labels: bool = False) -> None:
    """Give a subject its images, or a note why it has none."""
    try:
        name = request.dataset_for(dataset)
        if not request.loader and ":" in name:
            raise DataError(f"they come from the function {name}; name it again: --data {name}")
        images = open_images(request, name, "test", labels=labels)
        subject.images = Images(images, steps_for(request, name, steps))
        subject.data = name if not request.folder or request.loader else f"{name}, {request.folder}"
    except QuantizeError as error:
        subject.notes.append(f"No images were looked at: {error}")


def checkpoint_of(found: Material, request: ImagesRequest) -> Subject:
    """The network of a folder's checkpoint, lowered as its formats allow."""
    # MXNet takes seconds to load, and deployments are reported on without
    from gluon_quantize.models.loading import open_model
    from gluon_quantize.models.request import NetworkRequest
    opened = open_model(NetworkRequest(checkpoint=str(found.checkpoint)))
    subject = Subject(opened.name, net=opened.net)
    _open_images(subject, _asked(found, request), opened.preprocessing, opened.dataset_hint)
    target = getattr(opened.net, "target", None)
    if target is not None:
        subject.arithmetic = target.arithmetic_here()
    if subject.images is not None:
        _lower(subject, tuple(subject.images.prepared(1)[0].shape))
    return subject


def _lower(subject: Subject, shape: Tuple[int, ...]) -> None:
    """Give a subject its model: quantized where that has an integer form, else in float, else what can be lowered."""
    from deploy.lower import lower
    from gluon_quantize.training.loop import fixed_ranges
    try:
        with fixed_ranges(subject.net):
            subject.model = lower(subject.net, shape, arithmetic=subject.arithmetic)
        return
    except QuantizeError as failed:
        error = failed
    try:
        subject.model = lower(subject.net, shape, quantized=False)
    except QuantizeError as failed:  # said once: what fails in float is what failed before
        _lower_front(subject, shape, failed)
        return
    subject.notes.append(f"Layers are shown in float, since the quantized network has no integer form: {error}")
    subject.formats = _planned_formats(subject.net)


def _lower_front(subject: Subject, shape: Tuple[int, ...], error: QuantizeError) -> None:
    """Give a subject the part of its network in front of what cannot be lowered, in integers if that is as large."""
    from deploy.lower import lower_front
    from gluon_quantize.training.loop import fixed_ranges
    try:
        floating = lower_front(subject.net, shape, quantized=False)
    except QuantizeError as failed:
        subject.notes.append(f"Layers are not shown: {failed}")
        return
    subject.notes.append(f"Layers are shown as far as the network can be lowered; for the rest, {error}")
    subject.whole = False
    with fixed_ranges(subject.net), contextlib.suppress(QuantizeError):
        model = lower_front(subject.net, shape, subject.arithmetic)
        if len(costs(model)) == len(costs(floating)):
            subject.model = model
            return
    subject.model, subject.formats = floating, _planned_formats(subject.net)


def _planned_formats(net: Any) -> Dict[str, Tuple[str, str]]:
    return {entry.path: (str(entry.weight or "float32"), str(entry.input or "float32")) for entry in net.plan.entries}


# ---- who computes the quantized network's scores


def scores_of(found: Material, subject: Subject) -> Optional[Tuple[Scores, str]]:
    """A function from prepared images to the quantized network's first output, and what it computes with."""
    if subject.net is not None:
        return _simulated(subject.net), "the simulation"
    return _in_engine(found, subject)


def _in_engine(found: Material, subject: Subject) -> Optional[Tuple[Scores, str]]:
    model = subject.model
    assert model is not None
    target = target_of(model)
    files = paths(target, found.stem, found.folder, INTEGER)
    if target.engine is None or not all(path.is_file() for path in files):
        return None
    try:
        target.engine.require()
        session = target.engine.open(files, target.engine.ways[-1])
    except DeployError as error:
        LOG.warning("%s", error)
        return None
    return lambda images: session.run(images, model.outputs[:1])[model.outputs[0]], target.title or target.name


def _simulated(net: Any) -> Scores:
    import mxnet as mx

    from gluon_quantize.models.evaluation import first_output
    from gluon_quantize.training.loop import fixed_ranges

    def scores(images: np.ndarray) -> np.ndarray:
        with fixed_ranges(net):
            parts = [first_output(net(mx.nd.array(images[start:start + PART]))).asnumpy()
                     for start in range(0, len(images), PART)]
        return np.concatenate(parts)
    return scores
