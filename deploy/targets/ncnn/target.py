# SPDX-License-Identifier: MIT
"""ncnn as a target: its own files, written directly."""

import logging
import pathlib

from deploy.ir import Model
from deploy.target import TARGETS, Target, raise_problems
from deploy.targets.ncnn import constraints, guards, writer
from deploy.targets.ncnn.param import parse_param
from deploy.targets.ncnn.runner import EXACT, Runner
from deploy.targets.ncnn.winograd import WinogradArithmetic
from quantize.errors import DeployError

LOG = logging.getLogger(__name__)
NAME = "model"


@TARGETS.register(constraints.NAME)
class NcnnTarget(Target):
    """`model.param` and `model.bin`.

    Parameters
    ----------
    winograd : bool
        Off: weights of 3x3 convolutions with stride 1 have 127 levels on each side like others, and the files tell
        ncnn to compute them without Winograd: exact, and faster on CPUs with dot product instructions. On: 31 levels,
        and ncnn may use Winograd, which is exact unless sums get large (`guards`).
    """

    name = constraints.NAME
    arithmetic = WinogradArithmetic()

    def __init__(self, winograd: bool = False):
        self.winograd = winograd

    def config_list(self, net) -> list:
        """See `constraints.config_list`."""
        return constraints.config_list(net, self.winograd)

    def check_plan(self, layers) -> list:
        """See `constraints.check_plan`."""
        return constraints.check_plan(layers, self.winograd)

    def check(self, model: Model) -> list:
        """See `guards.check`."""
        return guards.check(model, self.winograd)

    def write(self, model: Model, folder):
        """Write both files into an existing folder; DeployError with every fatal problem. Others are logged."""
        problems = self.check(model)
        raise_problems(problems, "ncnn")
        for problem in problems:
            LOG.warning("%s", problem)
        return writer.write(model, folder, NAME)

    def run(self, folder, inputs, options=EXACT):
        """Outputs (a tuple, in the order of the layers) of ncnn for a batch.

        Parameters
        ----------
        inputs : array of float32 (n, c, h, w), or dict
        options : deploy.targets.ncnn.runner.Options
        """
        param = pathlib.Path(folder) / (NAME + ".param")
        if not param.is_file():
            raise DeployError(f"{param}: there is no such file; write the network there first")
        network = parse_param(param.read_text(encoding="utf-8"), str(param))
        read = {blob for layer in network.layers for blob in layer.inputs}
        names = [blob for blob in network.blobs if blob not in read]
        found = Runner(param, param.with_suffix(".bin"), options).run(inputs, names)
        return tuple(found[name] for name in names)
