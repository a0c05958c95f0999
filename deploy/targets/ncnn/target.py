# SPDX-License-Identifier: MIT
"""ncnn as a target: its own files, written directly, and all that it offers beside them."""

import pathlib
from dataclasses import replace
from typing import Any, ContextManager, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from deploy.arithmetic import Arithmetic
from deploy.ir import Model
from deploy.proof.machine import architecture
from deploy.target import (
    TARGETS,
    Engine,
    Extra,
    Front,
    ImageSteps,
    Option,
    Problem,
    Report,
    Simulation,
    Target,
    Way,
)
from deploy.target import Side as Computed
from deploy.targets.ncnn import constraints, front, guards, halves, headroom, processor, programs, runner, writer
from deploy.targets.ncnn.deviations import AARCH64, deviations
from deploy.targets.ncnn.param import Network, parse_param
from deploy.targets.ncnn.runner import EXACT, EXACT_AARCH64, Options, Runner
from deploy.targets.ncnn.side import side, sum_limits
from deploy.targets.ncnn.table import write_model_table
from deploy.targets.ncnn.winograd import WinogradArithmetic
from quantize.errors import DataError, DeployError
from quantize.files import read_text

NAME = "model"
# the number of threads changes no result, and several stall each other where other programs run
ONE_THREAD = Options(threads=1)


class NcnnEngine(Engine):
    """PyPI's `ncnn`."""

    @property
    def ways(self) -> Tuple[Way, ...]:  # type: ignore[override]
        """Under which options results are reproducible depends on the processor; then as users run the files."""
        exact = EXACT_AARCH64 if architecture() in AARCH64 else EXACT
        return (Way("exact", exact), Way("default", ONE_THREAD))

    float_way = Way("float", replace(EXACT, winograd=False))  # Winograd costs a digit of float results

    def require(self) -> None:
        """DeployError where it is missing."""
        runner.engine()

    def versions(self) -> Dict[str, str]:
        """Of the wheel."""
        return {"ncnn": runner.version()}

    def open(self, files: Sequence[pathlib.Path], way: Way) -> Runner:
        """The .param and the .bin."""
        param, weights = files
        return Runner(param, weights, way.options)

    def side(self, model: Model, session: Any) -> Computed:
        """See `deploy.targets.ncnn.side.side`: blobs that ncnn keeps as integers are compared as integers."""
        return side(model, session)

    def deviations(self, model: Model, way: Way) -> Dict[str, str]:
        """See `deviations.deviations`."""
        return deviations(model, way.options, architecture())

    def advice(self, model: Model, files: Sequence[pathlib.Path], images: np.ndarray) -> List[str]:
        """Where 16-bit floats are the default: which layers to keep from them; see `halves.advice`."""
        return halves.advice(model, files, images) if architecture() in AARCH64 else []


class NcnnSimulation(Simulation):
    """See `deploy.targets.ncnn.simulate`, which needs MXNet and is imported when it is needed."""

    def exact(self, net: Any, model: Model) -> ContextManager:
        """Context in which the network computes what ncnn computes."""
        from deploy.targets.ncnn import simulate
        return simulate.exact(net, model)

    def side(self, net: Any, model: Model) -> Computed:
        """A function from images to codes and outputs."""
        from deploy.targets.ncnn import simulate
        return simulate.side(net, model)


def _check_shapes(network: Network, inputs: Any) -> None:
    """DataError for images of another shape than the file says: ncnn would compute something from them."""
    stated = {layer.outputs[0]: tuple(layer.parameters[key] for key in (2, 1, 0) if key in layer.parameters)
              for layer in network.layers if layer.type == "Input"}
    given = inputs if isinstance(inputs, Mapping) else dict.fromkeys(stated, inputs)
    for blob, shape in stated.items():
        found = np.shape(given.get(blob, ()))
        if shape and blob in given and found[1:] != shape:
            raise DataError(f"input {blob}: wanted are images (n, {', '.join(map(str, shape))}), got the shape {found}")


@TARGETS.register(constraints.NAME)
class NcnnTarget(Target):
    """`model.param` and `model.bin`.

    Parameters
    ----------
    winograd : bool
        Off: weights of 3x3 convolutions with stride 1 have 127 levels on each side like others, and the files tell
        ncnn to compute them without Winograd: exact, and faster on CPUs with dot product instructions. On: 31 levels,
        and ncnn may use Winograd, which is exact unless sums get large (`guards`).
    fp32 : bool
        The files forbid 16-bit floats (`network.without_16_bits`).
    fp32_layers : sequence of str
        They forbid them for what these layers read: names, or patterns as `fnmatch` has them.
    """

    name = constraints.NAME
    arithmetic = WinogradArithmetic()
    suffixes, weights_suffix = writer.SUFFIXES, ".bin"
    engine = NcnnEngine()
    simulation = NcnnSimulation()
    options = (Option("winograd", "--keep-winograd",
                      "31 instead of 127 weight levels for 3x3 convolutions with stride 1, so that ncnn may use "
                      "Winograd for them, as ncnn2table does (default: 127 levels, without Winograd)"),
               Option("fp32", "--no-fp16",
                      "the files forbid 16-bit floats between layers, ncnn's default on phones: there the engine then "
                      "computes the certified numbers whatever options it is run with (default: allowed)"),
               Option("fp32_layers", "--no-fp16-layers",
                      "the same for what these layers read alone: names as in the certificate, or patterns such as "
                      "'features.1*'; recheck says on a phone which layers would be worth it (default: none)", "LAYER"))

    def __init__(self, winograd: bool = False, fp32: bool = False, fp32_layers: Sequence[str] = ()):
        self.winograd, self.fp32, self.fp32_layers = winograd, fp32, tuple(fp32_layers)

    def config_list(self, net: Any) -> List[dict]:
        """See `constraints.config_list`."""
        return constraints.config_list(net, self.winograd)

    def check_plan(self, layers: Iterable[Tuple[Any, Any]]) -> List[Problem]:
        """See `constraints.check_plan`."""
        return constraints.check_plan(layers, self.winograd)

    def check(self, model: Model) -> List[Problem]:
        """See `guards.check`, `halves.check_layers`."""
        return guards.check(model, self.winograd) + self.check_options(model)

    def check_options(self, model: Model) -> List[Problem]:
        """Names of layers that the model has not."""
        return halves.check_layers(model, self.fp32_layers)

    def write_files(self, model: Model, folder: Any, name: str = NAME,
                    integers: bool = True) -> Tuple[pathlib.Path, ...]:
        """The .param and the .bin."""
        return writer.write(model, folder, name, integers, self.fp32, halves.matching(model, self.fp32_layers))

    def run(self, folder: Any, inputs: Any, options: Optional[Options] = None) -> Tuple[np.ndarray, ...]:
        """Outputs (a tuple, in the order of the layers) of ncnn for a batch.

        Parameters
        ----------
        inputs : array of float32 (n, c, h, w), or dict
        options : deploy.targets.ncnn.runner.Options, optional
            Those that are reproducible on this machine by default.
        """
        param = pathlib.Path(folder) / (NAME + ".param")
        if not param.is_file():
            raise DeployError(f"{param}: there is no such file; write the network there first")
        network = parse_param(read_text(param), str(param))
        read = {blob for layer in network.layers for blob in layer.inputs}
        names = [blob for blob in network.blobs if blob not in read]
        _check_shapes(network, inputs)
        options = options or self.engine.ways[0].options
        found = Runner(param, param.with_suffix(".bin"), options).run(inputs, names)
        return tuple(found[name] for name in names)

    def arithmetics(self) -> Tuple[Arithmetic, ...]:
        """See `processor.arithmetics`."""
        return processor.arithmetics()

    def arithmetic_on(self, facts: Mapping[str, Any]) -> Arithmetic:
        """See `processor.arithmetic_on`."""
        return processor.arithmetic_on(facts)

    def sum_limits(self, model: Model) -> Dict[str, Tuple[int, str]]:
        """Winograd's, for layers that may be computed so with the options that are reproducible."""
        return {} if architecture() in AARCH64 else sum_limits(model)

    def extras(self) -> Tuple[Extra, ...]:
        """The calibration table that ncnn2int8 reads; Caffe's files, from which ncnn's own tools start."""
        return (Extra("ncnn.table", write_model_table),
                Extra("caffe", self._write_caffe, "--caffe",
                      "also write a prototxt and a caffemodel, for caffe2ncnn", self._check_caffe))

    def _check_caffe(self, model: Model) -> List[Problem]:
        return self._caffe().check(model)

    def _write_caffe(self, model: Model, folder: pathlib.Path) -> None:
        folder.mkdir()
        self._caffe().write(model, folder)

    def _caffe(self) -> Target:
        # by name: that target is made of parts of this one; its command has no Winograd to offer
        return TARGETS.get("caffe")(winograd=self.winograd)

    def reports(self) -> Tuple[Report, ...]:
        """Whether ncnn's int8 Winograd could overflow."""
        return (Report("winograd", "--winograd-report",
                       "say which layers could overflow in ncnn's int8 Winograd, and whether 31 weight levels "
                       "(--keep-winograd) or 127 without Winograd is better on these images",
                       "winograd.json", headroom.report),)

    def front(self, model: Model, steps: ImageSteps) -> Front:
        """Behind the network's own (x - mean) / std, where that is exact: see `front.front`."""
        return front.front(model, steps, self.arithmetics())

    def programs(self, title: str, steps: ImageSteps, files: Sequence[str], blobs: Tuple[str, str],
                 class_names: Sequence[str] = (), shape: Sequence[int] = ()) -> Dict[str, str]:
        """`run_ncnn.py` and `run_ncnn.cpp`."""
        return programs.programs(title, steps, files, blobs, class_names, shape)
