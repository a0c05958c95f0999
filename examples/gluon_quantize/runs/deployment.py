# SPDX-License-Identifier: MIT
"""The steps of a deployment behind calibration: lower the network, write the files."""

import dataclasses
import json
import pathlib
import re
from dataclasses import dataclass
from typing import List, Tuple

import numpy as np
from tqdm import tqdm

from deploy.ir import Model
from deploy.ir.channels import reverse_channels
from deploy.ir.file import save
from deploy.lower import lower
from deploy.target import TARGETS, Target, find, raise_problems
from gluon_quantize.data.preprocess import Preprocessing
from gluon_quantize.report import text as report
from gluon_quantize.runs import calibration
from quantize.errors import ConfigError
from quantize.files import read_text, write_whole

TABLE = "calibration.table"
ENGINE = "ncnn"  # what --recheck takes files for that do not say it, and what is deployed for
FLOAT, INTEGER = "float", "int8"


def attribute(flag: str) -> str:
    """The attribute in which the command line keeps an option: ``--keep-winograd`` is `keep_winograd`."""
    return flag.lstrip("-").replace("-", "_")


def chosen_target(args, name: str = ENGINE) -> Target:
    """The target of a name, with the options that the command line gave it."""
    return find(name, **{option.name: getattr(args, attribute(option.flag)) for option in TARGETS.get(name).options})


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
    """

    name: str
    target: Target
    simulated: Model
    quantized: Model
    floating: Model
    preprocessing: Preprocessing
    bgr: bool = False

    @property
    def ir_file(self) -> str:
        """Name of the file that holds the model itself."""
        return self.name + ".ir"

    def stem(self, kind: str) -> str:
        """What the target's files of a kind (`FLOAT`, `INTEGER`) are called."""
        return f"{self.name}-{kind}"

    def paths(self, folder, kind: str) -> Tuple[pathlib.Path, ...]:
        """The target's files of a kind in a folder."""
        return tuple(pathlib.Path(folder) / name for name in self.target.files(self.stem(kind)))

    def ordered(self, images) -> np.ndarray:
        """Images of the one channel order in the other, where these are two."""
        return np.ascontiguousarray(images[:, ::-1]) if self.bgr else images


def image_shape(task):
    """(channels, height, width) of a preprocessed image."""
    return task.preprocessing.apply(task.images.load(0), task.images.origin(0)).shape


def lowered(target: Target, task, integers) -> Model:
    """The task's network as it is now, lowered, with integers or in float."""
    return lower(task.model.net, image_shape(task), arithmetic=target.arithmetic, quantized=integers)


def deployment(args, task, floating: Model, outcome) -> Deployment:
    """The calibrated network of a task, lowered; `floating` is what it was before its biases were corrected."""
    quantized = lowered(args.target, task, integers=True)
    steps, written = task.preprocessing, (quantized, floating)
    if args.bgr:
        if steps.colour_order != "RGB":
            raise ConfigError(f"--bgr: the network takes {steps.colour_order} images, not RGB")
        written = reverse_channels(quantized), reverse_channels(floating)
        steps = dataclasses.replace(steps, colour_order="BGR", mean=steps.mean[::-1], std=steps.std[::-1])
    name = re.sub(r"[^A-Za-z0-9._-]", "_", task.model.name)
    metadata = {"name": name, "preprocessing": json.dumps(steps.to_dict()), "dataset": task.dataset,
                "ranges": outcome.method, "target": args.target.name}
    written = [dataclasses.replace(model, metadata=metadata) for model in written]
    return Deployment(name, args.target, quantized, written[0], written[1], steps, args.bgr)


def write_files(args, folder, deployed: Deployment, net, outcome):
    """Everything but what needs the engine; returns what the target warns of."""
    target = deployed.target
    problems = target.check(deployed.quantized)
    raise_problems(problems, target.title or target.name)
    for model, kind in ((deployed.quantized, INTEGER), (deployed.floating, FLOAT)):
        target.write_files(model, folder, deployed.stem(kind), integers=kind == INTEGER)
    save(deployed.quantized, folder / deployed.ir_file)
    if args.load_table:
        write_whole(folder / TABLE, read_text(args.load_table))
    else:
        calibration.save_table(folder / TABLE, net, outcome)
    write_whole(folder / report.PLAN, str(net.plan) + "\n")
    programs = target.programs(deployed.name, deployed.preprocessing, target.files(deployed.stem(INTEGER)),
                               (deployed.quantized.inputs[0], deployed.quantized.outputs[0]))
    for name, text in programs.items():
        write_whole(folder / name, text)
    for extra in target.extras():
        if not extra.flag or getattr(args, attribute(extra.flag)):
            extra.write(deployed.quantized, folder / extra.file)
    return problems


def write_reports(args, folder, deployed: Deployment, images) -> List[str]:
    """What the target says about the network on `images` (Batches), where it was asked for: files, and texts."""
    texts = []
    for wanted in deployed.target.reports():
        if getattr(args, attribute(wanted.flag)):
            bar = tqdm(images, desc=wanted.name, unit="batch", disable=None)
            text, contents = wanted.make(deployed.quantized, deployed.floating,
                                         ((deployed.ordered(part.asnumpy()), labels) for part, labels in bar))
            write_whole(folder / wanted.file, json.dumps(contents, indent=2, sort_keys=True) + "\n")
            texts.append(text)
    return texts
