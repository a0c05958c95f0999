# SPDX-License-Identifier: MIT
"""The steps of a deployment behind calibration: lower the network, write the files."""

import dataclasses
import json
import pathlib
import re
import tempfile
from dataclasses import dataclass
from typing import Collection, List, Optional, Tuple

import numpy as np
from mxnet.gluon import Block

from deploy.ir import Model
from deploy.ir.channels import reverse_channels
from deploy.ir.file import save
from deploy.lower import lower
from deploy.target import Problem, Target, raise_problems
from gluon_quantize.data.preprocess import Preprocessing
from gluon_quantize.models.checkpoint import names_of_classes
from gluon_quantize.models.evaluation import forward
from gluon_quantize.models.inputs import inputs_of
from gluon_quantize.runs import comparison
from gluon_quantize.runs.blob_ranges import blob_ranges
from gluon_quantize.runs.calibration import Calibration, save_table
from gluon_quantize.runs.comparison import FLOAT, INTEGER
from gluon_quantize.runs.observation import Outcome
from gluon_quantize.runs.task import Task
from quantize.errors import ConfigError
from quantize.files import read_text, write_whole

TABLE = "calibration.table"
LONGEST_NAME = 100


@dataclass(frozen=True)
class Deployment:
    """A quantized network in the form that is written.

    Attributes
    ----------
    name : str
        Of the network, fit for file names.
    target : Target
    simulated : Model
        As lowered, for images in the order of the Gluon network.
    quantized, floating : Model
        What is written, with and without integers, for images in the order of `preprocessing`.
    preprocessing : Preprocessing
    bgr : bool
        The files want the other channel order than the Gluon network.
    class_names : tuple of str
        For the programs beside the files; empty where they are not known, or not those of the first output.
    """

    name: str
    target: Target
    simulated: Model
    quantized: Model
    floating: Model
    preprocessing: Preprocessing
    bgr: bool = False
    class_names: Tuple[str, ...] = ()

    @property
    def ir_file(self) -> str:
        """Name of the file that holds the model itself."""
        return self.name + ".ir"

    def stem(self, kind: str) -> str:
        """What the target's files of a kind (`FLOAT`, `INTEGER`) are called."""
        return comparison.stem(self.name, kind)

    def paths(self, folder: pathlib.Path, kind: str) -> Tuple[pathlib.Path, ...]:
        """The target's files of a kind in a folder."""
        return comparison.paths(self.target, self.name, folder, kind)

    def ordered(self, images: np.ndarray) -> np.ndarray:
        """Images of the one channel order in the other, where these are two."""
        return np.ascontiguousarray(images[:, ::-1]) if self.bgr else images


def lowered(target: Target, task: Task, integers: bool) -> Model:
    """The task's network as it is now, lowered, with integers or in float."""
    return lower(task.net, inputs_of(task.net) or task.image_shape, arithmetic=target.arithmetic, quantized=integers)


def check_form(target: Target, task: Task) -> None:
    """DeployError, before any long work, that names all of the network that the target's files could not hold."""
    forward(task.net, task.example(), task.ctx)  # parameters of unknown shape get theirs
    floating = lowered(target, task, integers=False)
    with tempfile.TemporaryDirectory() as folder:  # only writing tells what single layers lack there
        target.write_files(floating, pathlib.Path(folder), FLOAT, integers=False)


def file_name(name: str) -> str:
    """What the files of a network are called: its name, which a file may have said, without what names of files hate.

    >>> file_name("../a b")
    '.._a_b'
    """
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:LONGEST_NAME]


def deployment(target: Target, calibration: Calibration, floating: Model, bgr: bool) -> Deployment:
    """The calibrated network of a task, lowered and settled.

    Parameters
    ----------
    calibration : Calibration
        Of the task, with what decided the ranges.
    floating : Model
        What the network was before its biases were corrected.
    bgr : bool
        Deploy it for BGR images; ConfigError where it does not take RGB ones.
    """
    task = calibration.task
    steps = task.preprocessing
    stated = {"preprocessing": json.dumps(steps.to_dict())}  # targets may want to know what images are
    quantized = dataclasses.replace(lowered(target, task, integers=True), metadata=stated)
    quantized = target.settled(quantized, blob_ranges(calibration))
    written = quantized, floating
    if bgr:
        if len(quantized.inputs) > 1:
            raise ConfigError("--bgr: the network has several inputs, and which of them are images nobody says")
        if steps.colour_order != "RGB":
            raise ConfigError(f"--bgr: the network takes {steps.colour_order} images, not RGB")
        written = reverse_channels(quantized), reverse_channels(floating)
        steps = dataclasses.replace(steps, colour_order="BGR", mean=steps.mean[::-1], std=steps.std[::-1])
    name = file_name(task.model.name)
    metadata = {"name": name, "preprocessing": json.dumps(steps.to_dict()), "dataset": task.dataset,
                "ranges": calibration.decided.method, "target": target.name}
    named = [dataclasses.replace(model, metadata=metadata) for model in written]
    names = names_of_classes(task.model, task.images.class_names) or ()
    outputs = int(np.prod(quantized.shapes[quantized.outputs[0]]))
    return Deployment(name, target, quantized, named[0], named[1], steps, bgr, names if len(names) == outputs else ())


def write_files(folder: pathlib.Path, deployed: Deployment, wanted: Collection[str]) -> List[Problem]:
    """The model and all that the target makes of it; returns what the target warns of.

    Parameters
    ----------
    wanted : collection of str
        Flags of the extras (`deploy.target.Extra`) that are asked for.
    """
    target = deployed.target
    problems = target.check(deployed.quantized)
    raise_problems(problems, target.title or target.name)
    for model, kind in ((deployed.quantized, INTEGER), (deployed.floating, FLOAT)):
        target.write_files(model, folder, deployed.stem(kind), integers=kind == INTEGER)
    save(deployed.quantized, folder / deployed.ir_file)
    if len(deployed.quantized.inputs) == 1:  # the programs read one image
        blob, steps = target.front(deployed.quantized, deployed.preprocessing)
        programs = target.programs(deployed.name, steps, target.files(deployed.stem(INTEGER)),
                                   (blob, deployed.quantized.outputs[0]), deployed.class_names,
                                   deployed.quantized.shapes[blob])
        for name, text in programs.items():
            write_whole(folder / name, text)
    for extra in target.extras():
        if not extra.flag or extra.flag in wanted:
            extra.write(deployed.quantized, folder / extra.file)
    return problems


def write_table(folder: pathlib.Path, net: Block, outcome: Outcome, loaded: Optional[str]) -> None:
    """The table of the ranges: a copy of the one they were `loaded` from, where there is one."""
    if loaded:
        write_whole(folder / TABLE, read_text(loaded))
    else:
        save_table(folder / TABLE, net, outcome)
