# SPDX-License-Identifier: MIT
"""The steps of a deployment behind calibration: lower the network, write the files."""

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Dict

import numpy as np

from deploy.ir import Model
from deploy.ir.file import save
from deploy.lower import lower
from deploy.target import raise_problems
from deploy.targets.caffe import CaffeTarget
from deploy.targets.caffe.channels import reverse_channels
from deploy.targets.ncnn import NcnnTarget
from deploy.targets.ncnn.scales import table_scales
from deploy.targets.ncnn.table import NcnnScales, write_ncnn_table
from deploy.targets.ncnn.writer import write
from gluon_quantize.data.preprocess import Preprocessing
from gluon_quantize.report import text as report
from gluon_quantize.runs import calibration
from gluon_quantize.runs.programs import write_snippets
from quantize.errors import ConfigError
from quantize.files import read_text, write_whole

TABLE, NCNN_TABLE, CAFFE = "calibration.table", "ncnn.table", "caffe"


@dataclass(frozen=True)
class Deployment:
    """A quantized network in the form that is written.

    Attributes
    ----------
    name : str
        Of the network, fit for file names.
    target : NcnnTarget
    simulated : Model
        As lowered, for images in the order of the Gluon network.
    quantized, floating : Model
        What is written, with and without integers, for images in the order of `preprocessing`.
    preprocessing : Preprocessing
    bgr : bool
        The files want the other channel order than the Gluon network.
    """

    name: str
    target: NcnnTarget
    simulated: Model
    quantized: Model
    floating: Model
    preprocessing: Preprocessing
    bgr: bool = False

    @property
    def files(self) -> Dict[str, str]:
        """What each file is -> its name."""
        return {"float param": self.name + "-float.param", "float bin": self.name + "-float.bin",
                "int8 param": self.name + "-int8.param", "int8 bin": self.name + "-int8.bin", "ir": self.name + ".ir"}

    def ordered(self, images) -> np.ndarray:
        """Images of the one channel order in the other, where these are two."""
        return np.ascontiguousarray(images[:, ::-1]) if self.bgr else images


def image_shape(task):
    """(channels, height, width) of a preprocessed image."""
    return task.preprocessing.apply(task.images.load(0), task.images.origin(0)).shape


def lowered(task, integers) -> Model:
    """The task's network as it is now, lowered, with integers or in float."""
    return lower(task.model.net, image_shape(task), arithmetic=NcnnTarget.arithmetic, quantized=integers)


def deployment(args, task, floating: Model, outcome) -> Deployment:
    """The calibrated network of a task, lowered; `floating` is what it was before its biases were corrected."""
    quantized = lowered(task, integers=True)
    steps, written = task.preprocessing, (quantized, floating)
    if args.bgr:
        if steps.colour_order != "RGB":
            raise ConfigError(f"--bgr: the network takes {steps.colour_order} images, not RGB")
        written = reverse_channels(quantized), reverse_channels(floating)
        steps = dataclasses.replace(steps, colour_order="BGR", mean=steps.mean[::-1], std=steps.std[::-1])
    name = re.sub(r"[^A-Za-z0-9._-]", "_", task.model.name)
    metadata = {"name": name, "preprocessing": json.dumps(steps.to_dict()), "dataset": task.dataset,
                "ranges": outcome.method}
    written = [dataclasses.replace(model, metadata=metadata) for model in written]
    return Deployment(name, args.target, quantized, written[0], written[1], steps, args.bgr)


def write_files(args, folder, deployed: Deployment, net, outcome):
    """Everything but what needs the engine; returns what the target warns of."""
    problems = deployed.target.check(deployed.quantized)
    raise_problems(problems, "ncnn")
    for model, integers, suffix in ((deployed.quantized, True, "-int8"), (deployed.floating, False, "-float")):
        write(model, folder, deployed.name + suffix, integers)
    save(deployed.quantized, folder / deployed.files["ir"])
    if args.load_table:
        write_whole(folder / TABLE, read_text(args.load_table))
    else:
        calibration.save_table(folder / TABLE, net, outcome)
    write_ncnn_table(folder / NCNN_TABLE, {layer: NcnnScales(tuple(map(float, weight)), float(scale)) for layer, (
        weight, scale) in table_scales(deployed.quantized).items()})
    write_whole(folder / report.PLAN, str(net.plan) + "\n")
    write_snippets(folder, deployed.name, deployed.preprocessing,
                   (deployed.files["int8 param"], deployed.files["int8 bin"]),
                   (deployed.quantized.inputs[0], deployed.quantized.outputs[0]))
    if args.caffe:
        (folder / CAFFE).mkdir()
        CaffeTarget(winograd=args.keep_winograd).write(deployed.quantized, folder / CAFFE)
    return problems
