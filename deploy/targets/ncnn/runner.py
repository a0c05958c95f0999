# SPDX-License-Identifier: MIT
"""Runs the real engine: PyPI's `ncnn`, which is loaded only when it is needed."""

import pathlib
import time
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Optional, Union

import numpy as np

from deploy.target import Session
from quantize.errors import DataError, DeployError
from quantize.files import PathLike

Inputs = Union[np.ndarray, Mapping[str, np.ndarray]]


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

    def apply(self, option: Any) -> None:
        """Set them on an `ncnn.Option`."""
        for value, names in ((self.packing, ("use_packing_layout",)),
                             (self.winograd, ("use_winograd_convolution",)),
                             (self.fp16, ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic")),
                             (self.bf16, ("use_bf16_packed", "use_bf16_storage")),
                             (self.threads, ("num_threads",))):
            for name in names if value is not None else ():
                setattr(option, name, value)


EXACT = Options(packing=False, fp16=False, bf16=False, threads=1)
# there the unpacked kernels are those that round as a compiler likes, and only some processors would take Winograd
EXACT_AARCH64 = Options(packing=True, winograd=False, fp16=False, bf16=False, threads=1)
DEFAULT = Options()


def engine() -> Any:
    """The module `ncnn`; DeployError where it is missing."""
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
        The two files.
    options : Options

    Raises
    ------
    DeployError
        When ncnn is missing or refuses the files.
    """

    def __init__(self, param: PathLike, weights: PathLike, options: Options = EXACT):
        self._ncnn = engine()
        self._net = self._ncnn.Net()
        options.apply(self._net.opt)  # later than this they have no effect
        for load, path in ((self._net.load_param, param), (self._net.load_model, weights)):
            if not pathlib.Path(path).is_file():
                raise DeployError(f"{path}: there is no such file")
            if load(str(path)):
                raise DeployError(f"{path}: ncnn cannot load it (it says why on the standard error)")
        self.inputs = tuple(self._net.input_names())
        self.blobs = tuple(blob.name for blob in self._net.blobs())

    def options(self) -> Dict[str, object]:
        """All switches that decide how ncnn computes, with the values they have."""
        option = self._net.opt
        return {name: getattr(option, name) for name in sorted(dir(option))
                if name.startswith("use_") or name == "num_threads"}

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
        """
        arrays = self._inputs(inputs)
        found: Dict[str, List[np.ndarray]] = {name: [] for name in extract}
        unknown = [name for name in found if name not in self.blobs]
        if unknown:
            raise DeployError(f"the network has no blobs {', '.join(unknown)}")
        for sample in zip(*arrays.values()):
            for name, value in self._run(dict(zip(arrays, sample)), found, keep=True).items():
                shape = (shapes or {}).get(name, value.shape)
                if int(np.prod(shape)) != value.size:
                    raise DeployError(f"blob {name}: ncnn has the shape {value.shape}, expected {shape}")
                found[name].append(value.reshape(shape))
        return {name: np.stack(values) for name, values in found.items()}

    def latency(self, inputs: Inputs, extract: Iterable[str], repeats: int = 20, warmup: int = 3) -> np.ndarray:
        """Seconds of single runs on the first image of a batch, in increasing order: [0] is the best."""
        first = {name: values[0] for name, values in self._inputs(inputs).items()}
        seconds = []
        for _ in range(warmup + repeats):
            start = time.perf_counter()
            self._run(first, extract, keep=False)
            seconds.append(time.perf_counter() - start)
        return np.sort(seconds[warmup:])

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

    def _run(self, sample, extract, keep):
        """Name -> array for one image; `keep`: blobs stay for later ones instead of being computed again."""
        extractor = self._net.create_extractor()
        extractor.set_light_mode(not keep)
        for name, value in sample.items():
            # a copy that ncnn owns: around foreign memory a Mat has no reference count, which a first layer that
            # computes in place looks at in light mode, and dies
            if extractor.input(name, self._ncnn.Mat(value).clone()):
                raise DeployError(f"ncnn refuses the input {name}")
        found = {}
        # in light mode a blob goes when the next layer has read it: the first ones first
        for name in sorted(extract, key=self.blobs.index):
            code, blob = extractor.extract(name)
            if code:
                raise DeployError(f"ncnn fails at the blob {name} (code {code}; it says why on the standard error)")
            found[name] = np.array(blob)
        return found


def version() -> str:
    """The engine's version."""
    return engine().__version__
