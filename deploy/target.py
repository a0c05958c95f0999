# SPDX-License-Identifier: MIT
"""What a target offers to conversion, to the proof and to the commands; how one is found by name, and how one is added.

A new target is one folder
--------------------------
`deploy/targets/<name>/`, whose `__init__.py` imports the module with the class, is the whole of it; no list of targets
exists anywhere, and neither the proof nor a command asks which target it has::

    @TARGETS.register("mine")
    class MyTarget(Target):
        name, suffixes, weights_suffix = "mine", (".graph", ".blob"), ".blob"
        arithmetic = MyArithmetic()
        ...

* **Required** (the class cannot be instantiated without): `config_list` and `check_plan`, which conversion asks before
  and after; `check` and `write_files` for a lowered model. `arithmetic` says how the engine rounds: the integer engine,
  which judges, computes with it.
* **An engine** (`engine`, None by default): the real one, to run what was written. It names the *ways* in which files
  are run (exact and default options, say), and which nodes are known to deviate in which way; each way becomes a side
  of the certificate. Without one, files are written and the simulation alone is compared.
* **An exact simulation** (`simulation`, None by default): the Gluon network computing what the engine computes. Only
  `deploy/targets/<name>/simulate/` may import MXNet; the target imports it when asked. Without one, the integer engine
  with the target's arithmetic simulates it.
* **Roundings** (`settled`, none by default): engines that hand integers on between other nodes than layers with weights
  say where blobs are rounded; grids that no layer has come from the calibration's images (`rounds_between`).
* **Options, extras, reports, programs** (empty by default): what else the commands offer for this target. Each is a
  value that says what it is called and what it does; the commands show and run whatever there is.

Everything is declared: an attribute with a default, or a method with one. Nobody asks a target with `hasattr`.
"""

import logging
import pathlib
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import (
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np

from deploy.arithmetic import Arithmetic
from deploy.image_steps import Front, ImageSteps
from deploy.ir import Model, quantized
from deploy.ir.packed import unpacked
from deploy.offer import Option, Report
from deploy.proof.compare import Observed
from deploy.proof.machine import machine
from quantize.errors import DeployError
from quantize.spec import QParams, QuantSpec
from quantize.targets import TARGETS, find

__all__ = ["TARGETS", "find", "Problem", "raise_problems", "Target", "Engine", "Profile", "Session", "Simulation",
           "Way", "Option", "Extra", "Report", "Front", "ImageSteps", "Ranges"]

LOG = logging.getLogger(__name__)
Side = Callable[[np.ndarray], Observed]
# from a model and {blob: format} to the grids that calibration decides on for these blobs, in float
Ranges = Callable[[Model, Mapping[str, QuantSpec]], Mapping[str, QParams]]
Inputs = Union[np.ndarray, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Problem:
    """Something a target cannot do with a model.

    Parameters
    ----------
    path : str
        Structural path of the layer (or the node's name where there is none).
    text : str
        What is wrong, what is allowed, and what to do.
    fatal : bool
        False: a warning; the files can be written.
    """

    path: str
    text: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


def raise_problems(problems: Iterable[Problem], engine: str) -> None:
    """DeployError with all fatal problems, one on a line; nothing where there are none."""
    fatal = "\n".join(str(problem) for problem in problems if problem.fatal)
    if fatal:
        raise DeployError(f"{engine} cannot hold this network:\n{fatal}")


# ---- what a target may offer beside its files


@dataclass(frozen=True)
class Extra:
    """Something that is written beside the engine's files.

    Parameters
    ----------
    file : str
        A file, or a folder of files, in the folder of the deployment.
    write : function
        From (model, path of the file or folder).
    flag, help : str
        The command line's option that asks for it; without a flag it is always written.
    check : function, optional
        From a model, which need not be calibrated, to its problems: what `write` would refuse is said before long work.
    """

    file: str
    write: Callable[[Model, pathlib.Path], object]
    flag: str = ""
    help: str = ""
    check: Optional[Callable[[Model], List[Problem]]] = None


# ---- the engine and the simulation


@dataclass(frozen=True)
class Way:
    """One way to run files: a name (``exact``), under which a side of the certificate appears, and engine's options."""

    name: str
    options: Any = None


class Session(ABC):
    """Written files, loaded into the engine, to be run on any number of batches."""

    @abstractmethod
    def run(self, inputs: Inputs, extract: Iterable[str]) -> Dict[str, np.ndarray]:
        """Blobs (those in `extract`) of a batch, each (images, ...); a mapping has several inputs by their blobs."""

    def options(self) -> Dict[str, object]:
        """What decides how the engine computes here, for the certificate."""
        return {}

    def latency(self, inputs: Inputs, extract: Iterable[str], repeats: int = 20, warmup: int = 3) -> np.ndarray:
        """Seconds of single runs on the first image of a batch, in increasing order: [0] is the best."""
        # one image: latency, which the seconds of a batch by its size would not be
        names, seconds = list(extract), []
        first: Inputs = ({name: values[:1] for name, values in inputs.items()} if isinstance(inputs, Mapping)
                         else np.asarray(inputs)[:1])
        for _ in range(warmup + repeats):
            start = time.perf_counter()
            self.run(first, names)
            seconds.append(time.perf_counter() - start)
        return np.sort(seconds[warmup:])

    def profile(self, inputs: np.ndarray, extract: Iterable[str], repeats: int = 20,
                warmup: int = 3) -> Optional["Profile"]:
        """How long each blob takes, on the first image of a batch; None where the engine cannot stop between layers."""
        return None


class Profile(NamedTuple):
    """Seconds of runs on one image.

    Attributes
    ----------
    blobs : dict
        Blob -> seconds in which it was computed from the blobs before it, (runs,), in the order of work.
    whole : array, (runs,)
        Of runs in one piece, measured with the same clock.
    """

    blobs: Dict[str, np.ndarray]
    whole: np.ndarray


class Engine(ABC):
    """The real engine of a target, on this machine.

    Attributes
    ----------
    ways : tuple of Way
        How integer files are run: the most exact first, as users run them last. Accuracy and latency are those of the
        last.
    float_way : Way
        How files in float are run where they are compared with the float network.
    """

    ways: Tuple[Way, ...] = (Way("exact"),)
    float_way: Way = Way("float")

    @abstractmethod
    def require(self) -> None:
        """DeployError, which says how to install it, where the engine is missing."""

    @abstractmethod
    def versions(self) -> Dict[str, str]:
        """Name -> version of what computes, for the certificate."""

    @abstractmethod
    def open(self, files: Sequence[pathlib.Path], way: Way) -> Session:
        """The files that `Target.write` returned, loaded."""

    def side(self, model: Model, session: Session) -> Side:
        """A function from images to what the session computes from them, for `deploy.proof`.

        By default the outputs and every blob that a quantized layer reads are asked for, as real numbers.
        """
        read = [node.inputs[0] for node in quantized(model)]
        names = [blob for blob in dict.fromkeys(list(model.outputs) + read) if blob not in model.inputs]

        def compute(images: np.ndarray) -> Observed:
            inputs = unpacked(model, images)
            found = session.run(images if len(model.inputs) == 1 else inputs, names)
            blobs = {name: values.reshape((len(values),) + tuple(model.shapes[name])) for name, values in found.items()}
            return Observed({**blobs, **inputs}, {})
        return compute

    def deviations(self, model: Model, way: Way) -> Dict[str, str]:
        """Node -> why its output is known to differ from the arithmetic in this way; others only hand on."""
        return {}

    def advice(self, model: Model, files: Sequence[pathlib.Path], images: np.ndarray) -> List[str]:
        """What should be changed where the default way costs more here than it should, in sentences.

        Parameters
        ----------
        images : array of float32, (images, ...)
            A few.
        """
        return []


class Simulation(ABC):
    """The Gluon network computing exactly what the engine computes."""

    @abstractmethod
    def exact(self, net: Any, model: Model) -> ContextManager:
        """Context in which a converted network, from which the model was lowered, computes so."""

    @abstractmethod
    def side(self, net: Any, model: Model) -> Side:
        """A function from images to the codes and outputs of the exact simulation."""


# ---- the target


class Target(ABC):
    """An engine that models can be written for; a subclass for each, entered in `TARGETS` by its name.

    Attributes
    ----------
    name : str
    title : str
        What errors call it; the name by default.
    arithmetic : Arithmetic
        How the engine rounds, where `arithmetics` does not say otherwise: weights are rounded so, wherever it will run.
    suffixes : tuple of str
        Of the files of one network, in the order in which `write_files` returns them.
    weights_suffix : str
        Of the file whose bytes are compared with those of the float network.
    options : tuple of Option
        Keywords of the class that the commands offer.
    engine : Engine or None
    simulation : Simulation or None
    rounds_between : bool
        Whether blobs are rounded that no layer with a weight reads: `settled` then asks for ranges, from images.
    """

    name: str = ""
    title: str = ""
    arithmetic: Arithmetic = Arithmetic()
    suffixes: Tuple[str, ...] = ()
    weights_suffix: str = ""
    options: Tuple[Option, ...] = ()
    engine: Optional[Engine] = None
    simulation: Optional[Simulation] = None
    rounds_between: bool = False

    @abstractmethod
    def config_list(self, net: Any) -> List[dict]:
        """Rules (`quantize.config`) that make `convert_model` simulate what the engine can do with a float network."""

    @abstractmethod
    def check_plan(self, layers: Iterable[Tuple[Any, Any]]) -> List[Problem]:
        """What the engine cannot follow in a Plan: `layers` yields (PlanEntry, float Block)."""

    @abstractmethod
    def check(self, model: Model) -> List[Problem]:
        """Everything that keeps the model from being written, or that its owner should know."""

    def check_options(self, model: Model) -> List[Problem]:
        """What its own options ask for that the model, which need not be calibrated, has not."""
        return []

    @abstractmethod
    def write_files(self, model: Model, folder: Any, name: str = "model",
                    integers: bool = True) -> Sequence[pathlib.Path]:
        """Write the engine's files of a model that was checked, all or none, into an existing folder; their paths.

        Parameters
        ----------
        name : str
            What the files are called, before their `suffixes`.
        integers : bool
            False: all layers compute in float32, for comparison with the quantized network.
        """

    def settled(self, model: Model, ranges: Ranges) -> Model:
        """A lowered model with every `ir.Rounding` that the engine's files will have; by default as it is."""
        return model

    def arithmetics(self) -> Tuple[Arithmetic, ...]:
        """How the engine rounds: on most processors, and on every other kind."""
        return (self.arithmetic,)

    def arithmetic_on(self, facts: Mapping[str, Any]) -> Arithmetic:
        """How the engine rounds on a processor, one of `arithmetics`.

        Parameters
        ----------
        facts : mapping
            See `deploy.proof.machine.machine`: `architecture` and `flags` tell it.
        """
        return self.arithmetic

    def arithmetic_here(self) -> Arithmetic:
        """How the engine rounds on this machine."""
        return self.arithmetic_on(machine())

    def write(self, model: Model, folder: Any) -> Sequence[pathlib.Path]:
        """Check a model and write its files; DeployError with every fatal problem, others are logged."""
        problems = self.check(model)
        raise_problems(problems, self.title or self.name)
        for problem in problems:
            LOG.warning("%s", problem)
        return self.write_files(model, folder)

    def check_files(self, model: Model, files: Sequence[pathlib.Path]) -> None:  # noqa: B027 (most engines stand them)
        """DeployError for files of another model, where the engine does not stand those of strangers."""

    def weight_bytes(self, files: Sequence[pathlib.Path]) -> int:
        """Bytes that the weights of a network take, from its files: by default those of the file `weights_suffix`."""
        return next(path for path in files if path.name.endswith(self.weights_suffix)).stat().st_size

    def files(self, name: str = "model") -> Tuple[str, ...]:
        """Names of the files of one network."""
        return tuple(name + suffix for suffix in self.suffixes)

    def run(self, folder: Any, inputs: Any) -> Tuple[np.ndarray, ...]:
        """Outputs of the real engine for a batch of inputs, from the files that `write` left in a folder."""
        raise DeployError(f"{self.title or self.name} has no engine here that could run its files")

    def sum_limits(self, model: Model) -> Dict[str, Tuple[int, str]]:
        """Node -> (largest |integer sum| that its kernel computes exactly, why), where that is not int32's."""
        return {}

    def extras(self) -> Tuple[Extra, ...]:
        """What can be written beside the engine's files."""
        return ()

    def reports(self) -> Tuple[Report, ...]:
        """What else this target can say about a network."""
        return ()

    def front(self, model: Model, steps: ImageSteps) -> Front:
        """Where the programs hand their image to a quantized model, whose own input wants these steps."""
        return Front(model.inputs[0], steps)

    def programs(self, title: str, steps: ImageSteps, files: Sequence[str], blobs: Tuple[str, str],
                 class_names: Sequence[str] = (), shape: Sequence[int] = ()) -> Dict[str, str]:
        """File name -> text of programs that run the files on an image.

        Parameters
        ----------
        title : str
            The network's name.
        steps : ImageSteps
            What is done with the image before.
        files : sequence of str
            Names of the network's files.
        blobs : (str, str)
            The input and the output.
        class_names : sequence of str
            One for each value of the output; empty: the programs print numbers alone.
        shape : (int, int, int), optional
            Channels, height and width of the input: images of another size are refused.
        """
        return {}
