# SPDX-License-Identifier: MIT
"""Caffe as a target: the way to ncnn through Caffe's files and ncnn's own tools."""

import pathlib
import tempfile
from typing import Any, Iterable, List, Tuple

import numpy as np

from deploy import ir
from deploy.ir.channels import reverse_channels
from deploy.target import TARGETS, Problem, Target
from deploy.targets.caffe import constraints, tools, writer
from deploy.targets.ncnn import constraints as ncnn_constraints
from deploy.targets.ncnn import guards
from deploy.targets.ncnn.arithmetic import NcnnArithmetic
from deploy.targets.ncnn.runner import EXACT, Options, Runner
from quantize.errors import DeployError

CHANNEL_ORDERS = ("rgb", "bgr")


@TARGETS.register("caffe")
class CaffeTarget(Target):
    """`model.prototxt` and `model.caffemodel`; int8 comes from caffe2ncnn, ncnn2int8 and a table.

    Parameters
    ----------
    channel_order : str
        What the engine will be fed, for a network trained on RGB: "bgr" reverses the weights of the first convolution.
    winograd : bool
        3x3 convolutions with stride 1 have 31 levels, as ncnn's own tools make them. Off: 127 levels, and whoever runs
        the network must turn `use_winograd_convolution` off, which these files cannot say.
    """

    name, title = "caffe", "the way through Caffe"
    suffixes, weights_suffix = writer.SUFFIXES, ".caffemodel"
    arithmetic = NcnnArithmetic()

    def __init__(self, channel_order: str = "rgb", winograd: bool = True):
        if channel_order not in CHANNEL_ORDERS:
            raise DeployError(f"channel order {channel_order!r}: known are {', '.join(CHANNEL_ORDERS)}")
        self.channel_order = channel_order
        self.winograd = winograd

    def config_list(self, net: Any) -> List[dict]:
        """ncnn's rules."""
        return ncnn_constraints.config_list(net, winograd=self.winograd)

    def check_plan(self, layers: Iterable[Tuple[Any, Any]]) -> List[Problem]:
        """ncnn's limits."""
        return ncnn_constraints.check_plan(layers, winograd=self.winograd)

    def check(self, model: ir.Model) -> List[Problem]:
        """What Caffe cannot express, and what ncnn cannot compute."""
        return constraints.check(model) + guards.check(model, winograd=self.winograd)

    def write_files(self, model: ir.Model, folder: Any, name: str = "model",
                    integers: bool = True) -> List[pathlib.Path]:
        """Both files, in float whatever `integers` says: integers are made of them by ncnn's tools and its table."""
        return writer.write(reverse_channels(model) if self.channel_order == "bgr" else model, folder, name)

    def run(self, folder: Any, inputs: Any, options: Options = EXACT) -> Tuple[np.ndarray, ...]:
        """Outputs (a tuple, in the order of the layers) that ncnn computes in float32 from the files.

        Parameters
        ----------
        inputs : array of float32 (n, c, h, w), or dict
            In the files' channel order.
        options : deploy.targets.ncnn.runner.Options

        Raises
        ------
        DeployError
            Where caffe2ncnn is not on the PATH, or ncnn is missing.
        """
        names = writer.output_blobs(pathlib.Path(folder) / writer.PROTOTXT)
        with tempfile.TemporaryDirectory() as scratch:
            found = Runner(*tools.caffe2ncnn(folder, scratch), options=options).run(inputs, names)
        return tuple(found[name] for name in names)
