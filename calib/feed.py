# SPDX-License-Identifier: MIT
"""From batches to collectors: parts of a fixed size, a cached graph that puts out the observed tensors, and feeds."""

import collections
import ctypes
import json
import math
from typing import Any, Deque, Dict, Iterable, Iterator, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.base import _LIB, check_call
from mxnet.gluon import Block

from calib.observers import EMAObserver, Observer
from calib.stability import ChannelActivity
from quantize.errors import CalibrationError, DataError, last_line

PART = 16  # images; also what part sizes are multiples of, so that matrix products always work on whole tiles
MOST = 64
PART_BYTES = 256 * 2 ** 20  # of the observed tensors of one part


def checked_batches(batches: Iterable, ctx: Optional[mx.Context]) -> Iterator[mx.nd.NDArray]:
    """The images of each batch, as NDArrays of one image shape; DataError names the batch that cannot be used."""
    if isinstance(batches, (mx.nd.NDArray, np.ndarray)) or not isinstance(batches, Iterable):
        raise DataError(f"batches: got one {type(batches).__name__}; wanted is something to iterate over, for instance "
                        "a list of NDArrays (images, ...)")
    shape = None
    for number, batch in enumerate(batches, 1):
        images = _images(batch, number)
        if shape is not None and images.shape[1:] != shape:
            raise DataError(f"batch {number} holds images of shape {images.shape[1:]}, those before it {shape}; resize "
                            "or crop all calibration images to one size")
        shape = images.shape[1:]
        yield images if ctx is None else images.as_in_context(ctx)


def _images(batch, number):
    padded = 0
    # MXNet's iterators fill the last batch up with images from the front: they must not count twice
    if isinstance(batch, mx.io.DataBatch):
        padded, batch = batch.pad or 0, batch.data
    images = batch[0] if isinstance(batch, (list, tuple)) and len(batch) else batch
    if isinstance(images, np.ndarray) and images.dtype != object:
        images = mx.nd.array(images, dtype=np.float32)
    if not isinstance(images, mx.nd.NDArray):
        raise DataError(f"batch {number} is a {type(images).__name__}; wanted are NDArrays of images, or (images, "
                        "label) pairs")
    images = images[:len(images) - padded] if padded else images
    images = images.astype(np.float32, copy=False)
    if images.ndim < 2 or not images.size:
        raise DataError(f"batch {number} has the shape {images.shape}; wanted is (images, ...)")
    return images


def fixed_parts(first: mx.nd.NDArray, rest: Iterable, size: int) -> Iterator[Tuple[mx.nd.NDArray, int, list]]:
    """(part of `size` images, how many of them are real, sizes of the batches that began in it)."""
    waiting, count, sizes = [], 0, []
    for batch in _chain(first, rest):
        sizes.append(len(batch))
        start = 0
        while start < len(batch):
            piece = batch[start:start + size - count]
            waiting.append(piece)
            start, count = start + len(piece), count + len(piece)
            if count == size:
                yield _joined(waiting), count, sizes
                waiting, count, sizes = [], 0, []
    if count:
        # a graph with a fixed shape is compiled once; the images that fill it up are cut off again
        waiting.append(mx.nd.zeros((size - count,) + first.shape[1:], first.context, first.dtype))
        yield _joined(waiting), count, sizes


def _chain(first, rest):
    yield first
    yield from rest


def _joined(pieces):
    return pieces[0] if len(pieces) == 1 else mx.nd.concat(*pieces, dim=0)


class Feed:
    """Hands the values of one tensor to its collectors, and adds the quantizer's path to what they complain about."""

    def __init__(self, path: str):
        self.path = path
        self._collectors: Dict[int, Any] = {}

    def add(self, collector: Any) -> None:
        """Add a collector; one that is there already stays there once."""
        # the one observer whose result depends on where a batch ends
        wrapped = _ByBatch(collector) if isinstance(collector, EMAObserver) else collector
        self._collectors.setdefault(id(collector), wrapped)

    def update(self, x: np.ndarray, part: int, images: int, sizes: list) -> None:
        """Hand over what belongs to the real images of a part."""
        # layers may fold other axes into the first (video frames, for example): so many rows belong to each image
        rows, left = divmod(len(x) * images, part)
        if left or not x.size:
            raise DataError(f"{self.path}: a tensor of shape {x.shape} for {part} images; its first axis must be the "
                            "images'")
        x = x[:rows]
        extremes = _extremes(x)
        # two numbers for each image tell: a look at all values is only paid for the message
        if not np.isfinite(extremes).all():
            raise DataError(f"{self.path}: {int((~np.isfinite(x)).sum())} of {x.size} values are NaN or infinite")
        low, high = float(extremes[:, 0].min()) + 0.0, float(extremes[:, 1].max()) + 0.0
        for collector in self._collectors.values():
            if isinstance(collector, _ByBatch):
                collector.update(extremes, sizes)
            elif isinstance(collector, Observer):
                collector.update_checked(x, low, high)
            elif isinstance(collector, ChannelActivity):
                collector.update(x)
            else:
                collector.update(np.array(x))  # theirs to keep: `x` may be MXNet's own memory


def _extremes(x):
    """(images, 2): smallest and largest value of each."""
    values = x.reshape(len(x), -1)
    found = np.empty((len(x), 2), np.float32)
    # one image after the other, so that the second look finds it in the cache
    for row, image in zip(found, values):
        row[0], row[1] = image.min(), image.max()
    return found


class _ByBatch:
    """For averages over batches: keeps each image's extremes until its batch is complete."""

    def __init__(self, observer):
        self.observer = observer
        self._sizes: Deque[int] = collections.deque()
        self._rows = np.zeros((0, 2), np.float32)

    def update(self, extremes, sizes):
        """Take in the extremes of a part, and the sizes of the batches that began in it."""
        self._sizes.extend(sizes)
        self._rows = np.concatenate([self._rows, extremes])
        while self._sizes and len(self._rows) >= self._sizes[0]:
            size = self._sizes.popleft()
            self.observer.update(self._rows[:size])
            self._rows = self._rows[size:]


class GraphRunner:
    """The network as a cached graph whose outputs are the observed tensors.

    Attributes
    ----------
    tensors : dict
        Path of the quantizer -> key of the tensors it sees, equal for equal tensors.
    part_size : int
        Images per run.

    Raises
    ------
    CalibrationError
        For a network that cannot be traced.
    """

    def __init__(self, net: Block, chosen: Any, example: mx.nd.NDArray):
        seen: Dict[str, list] = {path: [] for path in chosen}
        try:
            for path, quantizer in chosen.items():
                quantizer.tracer = seen[path].append
            # a trace with symbols: nothing is computed, and every quantizer says which tensor it sees
            whole = net(mx.sym.var("data"))
            if not any(seen.values()):
                raise CalibrationError("no quantizer is called")
            outputs = self._unique(seen)
            parameters = {p.name: p for p in net.collect_params().values()}
            self._inputs = [parameters.get(name) for name in outputs.list_inputs()]
            # parameters that wait for their shape fail here, under a name, and not in the cached graph
            for parameter in self._inputs:
                if parameter is not None:
                    parameter.data(example.context)
            # the factor of a folded BatchNorm is reshaped, and no shape is inferred backwards through that
            known = {p.name: p.shape for p in self._inputs if p is not None}
            shapes = outputs.infer_shape(data=(1,) + example.shape[1:], **known)[1]
            self._check_rest(whole, parameters, example)
        except Exception as error:  # whatever Python code that looks at values raises when it is given a symbol
            raise CalibrationError(f"the graph cannot be traced: {str(error).splitlines()[0]}") from None
        finally:
            for quantizer in chosen.values():
                quantizer.tracer = None
        self.part_size = part_size(sum(math.prod(shape) for shape in shapes))
        self._graph = mx.nd.CachedOp(outputs, [("static_alloc", True), ("static_shape", True)])

    @staticmethod
    def _check_rest(whole, parameters, example):
        """Images must fit the layers behind the last observed tensor, too, which are not computed here."""
        if isinstance(whole, mx.sym.Symbol):
            known = {name: parameters[name].shape for name in whole.list_inputs() if name in parameters}
            whole.infer_shape(data=(1,) + example.shape[1:], **known)

    def _unique(self, symbols_of):
        """The observed tensors, each once; says in `tensors` which quantizer sees which."""
        symbols = [(path, symbol) for path, symbols in symbols_of.items() for symbol in symbols]
        # two symbols of one tensor are different Python objects; the graph's own numbering knows them as one
        heads = json.loads(mx.sym.Group([symbol for _, symbol in symbols]).tojson(), strict=False)["heads"]
        outputs: Dict[tuple, Any] = {}
        seen: Dict[Any, Tuple[tuple, ...]] = {path: () for path in symbols_of}
        for (path, symbol), head in zip(symbols, heads):
            outputs.setdefault(tuple(head[:2]), symbol)
            seen[path] += (tuple(head[:2]),)
        self.tensors: Dict[Any, tuple] = {path: tuple(sorted(set(keys))) or (path,) for path, keys in seen.items()}
        self._calls: Dict[tuple, list] = {}
        for path, keys in seen.items():
            for key in keys:
                self._calls.setdefault(key, []).append(path)
        self._keys = list(outputs)
        return mx.sym.Group(list(outputs.values()))

    def run(self, parts: Iterable, feeds: Dict[object, Feed]) -> None:
        """Compute the parts and hand their tensors out; the next part is computed while one is handed out."""
        before: Any = None
        for part in parts:
            results = self._graph(*[part[0] if p is None else p.data(part[0].context) for p in self._inputs])
            if before is not None:
                self._hand_out(before[0], before[1], feeds)
            # MXNet computes in the background: while NumPy counts one part, the next one is on its way
            before = results if isinstance(results, (list, tuple)) else [results], part
        self._hand_out(before[0], before[1], feeds)

    def _hand_out(self, results, part, feeds):
        images, *counts = part
        for key, result in zip(self._keys, results):
            values = _values(result)
            # quantizers of the same tensors share their collectors, which must see each value once
            for tensors in dict.fromkeys(self.tensors[path] for path in self._calls[key]):
                feeds[tensors].update(values, len(images), *counts)


def _values(array):
    """The values of an NDArray; on the CPU without a copy, so only for as long as the NDArray lives."""
    # everything else is copied: another device's memory, other types, and arrays without memory
    if array.context.device_type != "cpu" or array.dtype != np.float32 or not array.size:
        return array.asnumpy().astype(np.float32, copy=False)
    array.wait_to_read()
    data = ctypes.c_void_p()
    check_call(_LIB.MXNDArrayGetData(array.handle, ctypes.byref(data)))  # in the plain layout, whatever it was
    values = np.ctypeslib.as_array(ctypes.cast(data, ctypes.POINTER(ctypes.c_float)), array.shape)
    # a collector that wrote into it would change what later layers compute
    values.flags.writeable = False
    return values


class EagerRunner:
    """The network layer by layer, for those that cannot be traced; attributes as `GraphRunner`."""

    part_size = PART

    def __init__(self, net: Block, chosen: Any, example: mx.nd.NDArray):
        self._net, self._chosen = net, chosen
        self.tensors = {path: (path,) for path in chosen}

    def run(self, parts: Iterable, feeds: Dict[object, Feed]) -> None:
        """Compute the parts; the quantizers hand their inputs out."""
        for part, images, sizes in parts:
            for path, quantizer in self._chosen.items():
                quantizer.observer = _Slice(feeds[self.tensors[path]], len(part), images, sizes)
            try:
                self._net(part)
            except TypeError as error:  # of Python: a network that takes several inputs
                raise DataError(f"the network cannot be run on one batch of images of shape {part.shape[1:]}: "
                                f"{last_line(error)}") from None
            # an observer must have seen its part before the next one gives it other counts
            mx.nd.waitall()


class _Slice:
    """A feed for one part."""

    def __init__(self, feed, *part):
        self._feed, self._part = feed, part

    def update(self, x):
        self._feed.update(x, *self._part)


def part_size(values_per_image: int, most: Optional[int] = None) -> int:
    """Images per run: a multiple of 16 whose observed float32 tensors stay under 256 MiB where 16 images do."""
    fitting = PART_BYTES // (4 * max(values_per_image, 1)) // PART * PART
    return max(PART, min(most or MOST, fitting))
