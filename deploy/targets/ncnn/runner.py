# SPDX-License-Identifier: MIT
"""Runs the real engine: PyPI's `ncnn`, in a process of its own, which is started only when it is needed.

Whatever happens to that process (a segmentation fault, an abort, a hang) is a DeployError here, which names the layer
that it happened in.
"""

import pathlib
import weakref
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Mapping, Optional, Union

import numpy as np

from deploy.target import Profile, Session
from deploy.targets.ncnn import process
from deploy.targets.ncnn.binary import read_binary, stores
from deploy.targets.ncnn.param import Network, parse_param
from deploy.targets.ncnn.process import Died
from deploy.targets.ncnn.server.worker import PROGRESS
from quantize.errors import DataError, DeployError, ModelFileError
from quantize.files import PathLike, read_bytes, read_text

Inputs = Union[np.ndarray, Mapping[str, np.ndarray]]
SECONDS = 600.0  # for one image; an engine that takes longer hangs


@dataclass(frozen=True)
class Options:
    """How ncnn computes; None leaves a switch as the engine has it.

    Parameters
    ----------
    packing : bool
        Several channels in one element, for SIMD.
    winograd : bool
        For 3x3 convolutions that the file does not exclude.
    fp16, bf16 : bool
        Weights and blobs of float layers in 16 bits.
    threads : int
    """

    packing: Optional[bool] = None
    winograd: Optional[bool] = None
    fp16: Optional[bool] = None
    bf16: Optional[bool] = None
    threads: Optional[int] = None

    def settings(self) -> Dict[str, Union[bool, int]]:
        """Attribute of an `ncnn.Option` -> its value, for those that are not left as they are."""
        found: Dict[str, Union[bool, int]] = {}
        for value, names in ((self.packing, ("use_packing_layout",)),
                             (self.winograd, ("use_winograd_convolution",)),
                             (self.fp16, ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic")),
                             (self.bf16, ("use_bf16_packed", "use_bf16_storage")),
                             (self.threads, ("num_threads",))):
            found.update((name, value) for name in names if value is not None)
        return found


EXACT = Options(packing=False, fp16=False, bf16=False, threads=1)
# there the unpacked kernels are those that round as a compiler likes, and only some processors would take Winograd
EXACT_AARCH64 = Options(packing=True, winograd=False, fp16=False, bf16=False, threads=1)
DEFAULT = Options()


def engine() -> Any:
    """The module `ncnn`, whose own code is not run here; DeployError where it is missing."""
    try:
        import ncnn
    except ImportError as error:
        raise DeployError(f"the ncnn engine cannot be loaded ({error}); install it with: pip install ncnn") from None
    return ncnn


class Runner(Session):
    """A network in the engine, to be run on any number of batches.

    Parameters
    ----------
    param, weights : path
        The two files. They are read strictly before the engine sees them.
    options : Options
    seconds : float
        After which the engine is taken to hang, for one image.

    Raises
    ------
    DeployError
        When ncnn is missing, refuses the files, or dies of them.
    """

    def __init__(self, param: PathLike, weights: PathLike, options: Options = EXACT, seconds: float = SECONDS):
        engine()
        self._files, self._settings, self._seconds = (str(param), str(weights)), options.settings(), seconds
        self._network = _strictly_read(param, weights)
        self._process: Any = None
        facts = self._load()
        self.inputs, self.blobs = tuple(facts["inputs"]), tuple(facts["blobs"])
        self._options = facts["options"]

    def options(self) -> Dict[str, object]:
        """All switches that decide how ncnn computes, with the values they have."""
        return dict(self._options)

    def run(self, inputs: Inputs, extract: Iterable[str],
            shapes: Optional[Mapping[str, tuple]] = None) -> Dict[str, np.ndarray]:
        """Blobs of a batch.

        Parameters
        ----------
        inputs : array of float32, (n, ...), or dict
            The network's only input, or blob -> array for each of them.
        extract : iterable of str
            Blobs to return. One that holds codes (see `network.integer_blobs`) comes as whole numbers in float32.
        shapes : dict, optional
            Blob -> shape without the batch axis, to be given to the result: ncnn may hold (c, 1, 1) as (c,).

        Raises
        ------
        DeployError
            Also where the engine dies or hangs, with the layer in which it does.
        """
        arrays, names = self._inputs(inputs), self._ordered(extract)
        count = len(next(iter(arrays.values())))
        found = self._blobs(arrays, names, count)
        for name, values in found.items():
            shape = tuple((shapes or {}).get(name, values.shape[1:]))
            if int(np.prod(shape)) * count != values.size:
                raise DeployError(f"blob {name}: ncnn has the shape {values.shape[1:]}, expected {shape}")
            found[name] = values.reshape((count,) + shape)
        return found

    def latency(self, inputs: Inputs, extract: Iterable[str], repeats: int = 20, warmup: int = 3) -> np.ndarray:
        """Seconds of single runs on the first image of a batch, in increasing order: [0] is the best."""
        first = {name: values[:1] for name, values in self._inputs(inputs).items()}
        names, places = self._ordered(extract), self._placed(first)
        reply = self._asked(first, "latency", inputs=places, extract=names, runs=warmup + repeats)
        return np.sort(reply["seconds"][warmup:])

    def profile(self, inputs: Inputs, extract: Iterable[str], repeats: int = 20, warmup: int = 3) -> Profile:
        """See `Session.profile`; one thread is timed by what it gets of the processor, whatever else runs there."""
        first = {name: values[:1] for name, values in self._inputs(inputs).items()}
        names, places, blobs = self._ordered(extract), self._placed(first), self._traced()
        reply = self._asked(first, "profile", inputs=places, blobs=blobs, extract=names, runs=warmup + repeats)
        return Profile(dict(zip(blobs, np.array(reply["parts"][warmup:]).T)), np.array(reply["whole"][warmup:]))

    def _ordered(self, extract):
        """The blobs as they are computed: in light mode a blob goes when the next layer has read it."""
        names = list(dict.fromkeys(extract))
        unknown = [name for name in names if name not in self.blobs]
        if unknown:
            raise DeployError(f"the network has no blobs {', '.join(unknown)}")
        return sorted(names, key=self.blobs.index)

    def _inputs(self, inputs):
        if not isinstance(inputs, Mapping):
            if len(self.inputs) != 1:
                raise DataError(f"the network has the inputs {', '.join(self.inputs)}: give a dict")
            inputs = {self.inputs[0]: inputs}
        if set(inputs) != set(self.inputs):
            raise DataError(f"inputs {sorted(inputs)} were given, but the network has {sorted(self.inputs)}")
        inputs = {name: np.ascontiguousarray(values, np.float32) for name, values in inputs.items()}
        counts = {len(values) for values in inputs.values()}
        if len(counts) > 1 or 0 in counts:
            raise DataError("expected the same number of images for each input, at least one")
        return inputs

    # ---- the engine's process

    def _load(self):
        """What the network has, from a process that has loaded it."""
        self._process = process.take()
        self._release = weakref.finalize(self, process.give_back, self._process)
        self._release.atexit = False
        try:
            self._process.tell("load", param=self._files[0], weights=self._files[1], options=self._settings)
            facts = self._process.hear(self._seconds)
        except Died as death:
            self._process = None
            raise DeployError(f"{self._files[0]}: loading it, ncnn {death}") from None
        if "refused" in facts:
            said = self._process.said()
            raise DeployError(f"{facts['refused']}: ncnn cannot load it" + (f"; it says: {said}" if said else ""))
        return facts

    def _placed(self, arrays, room=0):
        """[name, place in memory, shape] of the inputs, which are copied there; at least `room` bytes are reserved."""
        if self._process is None or not self._process.alive:
            self._load()
        places, end = [], PROGRESS
        for name, values in arrays.items():
            places.append([name, end, list(values.shape)])
            end += values.nbytes
        try:
            memory = self._process.reserve(max(end, room))
        except Died as death:
            raise self._lost(death) from None
        for (_, place, _), values in zip(places, arrays.values()):
            np.frombuffer(memory, np.float32, values.size, place)[:] = values.reshape(-1)
        return places

    def _blobs(self, arrays, names, count):
        if not names:
            return {}
        room = 0
        while True:
            places = self._placed(arrays, room)
            reply = self._asked(arrays, "run", inputs=places, extract=names, count=count)
            if "need" not in reply:
                break
            room = reply["need"]
        memory, found = self._process.memory, {}
        for name in names:
            place, shape = reply["places"][name]
            values = np.frombuffer(memory, np.float32, count * int(np.prod(shape)), place)
            found[name] = values.reshape((count, *shape)).copy()
        return found

    def _asked(self, arrays, do, **values):
        """The reply to a request about images; DeployError where the engine fails, dies or hangs."""
        engine = self._process
        try:
            engine.tell(do, seconds=self._seconds, **values)
            reply = engine.hear(self._seconds)
        except Died as death:
            raise self._fault(arrays, engine.image, death) from None
        if "failed" in reply:
            said = engine.said()
            raise DeployError(f"ncnn fails at the blob {reply['failed']} (code {reply['code']}" + (
                f"; it says: {said})" if said else ")"))
        return reply

    def _forget(self):
        self._process = None

    def _lost(self, death):
        self._forget()
        return DeployError(f"{self._files[0]}: ncnn {death}")

    def _fault(self, arrays, number, death):
        """The error for a death: the image is computed again, blob by blob, to find the layer."""
        self._forget()
        number = min(number, len(next(iter(arrays.values()))) - 1)
        image = {name: values[number:number + 1] for name, values in arrays.items()}
        at = None
        try:
            places = self._placed(image)
            self._process.tell("trace", inputs=places, number=0, blobs=self._traced(),
                               seconds=self._seconds)
            reply = self._process.hear(self._seconds)
            while "at" in reply:
                at = reply["at"]
                reply = self._process.hear(self._seconds)
            at = None
        except (Died, DeployError):
            self._forget()
        where = f"in the layer {self._layer(at)}" if at else "somewhere that computing layer by layer does not show"
        return DeployError(f"{self._files[0]}: ncnn {death.args[0]}, on image {number}, {where}. What it computes from "
                           "these files is not to be used; leave that layer out, or try another release of ncnn")

    def _traced(self):
        return [blob for blob in self.blobs if blob not in self.inputs]

    def _layer(self, blob):
        for layer in self._network.layers:
            if blob in layer.outputs:
                return f"{layer.name!r} ({layer.type})"
        return f"of the blob {blob!r}"


def _strictly_read(param: PathLike, weights: PathLike) -> Network:
    """The network of the files; DeployError where they are missing, or are not what an engine could read."""
    for path in (param, weights):
        if not pathlib.Path(path).is_file():
            raise DeployError(f"{path}: there is no such file")
    try:
        network = parse_param(read_text(param), str(param))
    except ModelFileError as error:
        raise DeployError(f"{param}: ncnn cannot load it: {error}") from None
    if all(map(stores, network.layers)):  # other types of layers are known to ncnn alone
        try:
            read_binary(network, read_bytes(weights), str(weights))
        except ModelFileError as error:
            raise DeployError(f"{weights}: ncnn cannot load it: {error}") from None
    return network


def version() -> str:
    """The engine's version."""
    return engine().__version__
