# SPDX-License-Identifier: MIT
"""Run batches through a converted network and collect what its activation quantizers see."""

import contextlib
import logging
from typing import Any, Callable, Dict, Iterable, Mapping, Optional, Sequence

import mxnet as mx
from mxnet.gluon import Block

from calib.calibrators import Calibrator
from calib.feed import EagerRunner, Feed, GraphRunner, checked_batches, fixed_parts
from calib.observers import HistogramObserver, Observer
from quantize.errors import CalibrationError, ConfigError, DataError, last_line
from quantize.modes import clear_cached_graphs, eager, mode, quantizers

logger = logging.getLogger(__name__)

Collected = Dict[str, Dict[str, Any]]


def collect(net: Block, batches: Iterable, factories: Mapping[str, Callable[[], object]],
            observers: Optional[Collected] = None, ctx: Optional[mx.Context] = None) -> Collected:
    """One pass over the data in float; every activation quantizer's input goes to every collector made for it.

    The network runs as one cached graph that puts out the observed tensors, whether it is hybridized or not; one that
    cannot be traced runs eagerly. Layers that read one tensor share their collectors.

    Images are regrouped into parts of a fixed size (16 to 64, by the size of the feature maps; the last part is filled
    up with zeros, which no collector sees), because matrix products round differently for other batch sizes. What
    exact observers hold therefore does not depend on batches and shards. Memory does not grow with the data.

    Parameters
    ----------
    net : converted network
    batches : iterable
        Of NDArray or array (images, ...), of (images, label) pairs, or of `mx.io.DataBatch`. Wrapped into tqdm it shows
        progress.
    factories : dict
        Name -> what makes a collector: an observer's class, or any class with ``update(array)``, which is called with
        float32 arrays (images, ...) of one part's images, its own to keep. Only `EMAObserver` sees whole batches.
    observers : dict, optional
        Collectors of an earlier pass, which go on; `factories` is then not used.
    ctx : Context, optional
        Where the batches are sent.

    Returns
    -------
    dict
        Structural path of the quantizer -> {name: collector}.

    Raises
    ------
    CalibrationError
        When there is no batch, or nothing to calibrate.
    DataError
        For NaN or infinity, with the quantizer's path, and for batches that cannot be used.
    """
    chosen = dict(quantizers(net, "activation"))
    if not chosen:
        raise CalibrationError("nothing to calibrate: no activation of the network is quantized")
    if observers is not None:
        _check_paths(chosen, observers)
    # weights stay float: ranges are those of the network that is to be reached
    with mode(net, "float", "weight"), mode(net, "observe", "activation"), _released(chosen):
        stream = checked_batches(batches, ctx)
        first = next(stream, None)
        if first is None:
            raise CalibrationError("the calibration set is empty: no batch came")
        runner = _runner(net, chosen, first)
        observers = observers or _make(runner.tensors, factories)
        feeds = _feeds(runner.tensors, observers)
        # a hybridized block does not call its children's Python code, and so no quantizer
        with eager(net) if isinstance(runner, EagerRunner) else contextlib.nullcontext():
            try:
                runner.run(fixed_parts(first, stream, getattr(net, "batch", None) or runner.part_size), feeds)
                mx.nd.waitall()
            except mx.MXNetError as error:
                raise DataError(f"the network cannot take batches of images of shape {first.shape[1:]}: "
                                f"{last_line(error)}") from None
    return observers


def observe(net: Block, batches: Iterable, calibrator: Calibrator, observers: Optional[Dict[str, Observer]] = None,
            ctx: Optional[mx.Context] = None) -> Dict[str, Observer]:
    """`collect` for one calibrator: structural path of the quantizer -> observer."""
    _check_calibrator(calibrator)
    name = calibrator.observer
    earlier: Optional[Collected] = None
    if observers is not None:
        earlier = {path: {name: observer} for path, observer in observers.items()}
    found = collect(net, batches, {name: calibrator.new_observer}, earlier, ctx)
    return {path: of_path[name] for path, of_path in found.items()}


def factories_for(calibrators: Sequence[Calibrator], per_image: Optional[int] = None) -> Dict[str, Callable]:
    """What `collect` needs so that every calibrator can decide after one pass.

    Parameters
    ----------
    calibrators : sequence of Calibrator
    per_image : int, optional
        Values of each image that histograms count (`HistogramObserver`); None: all.
    """
    factories: Dict[str, Callable] = {}
    for calibrator in calibrators:
        name, make = calibrator.observer, calibrator.new_observer
        if name == HistogramObserver.name and per_image is not None:
            make = _Histograms(per_image)
        if name in factories and factories[name]().state() != make().state():
            raise ConfigError(f"{calibrator.name}: needs another {name} observer than a calibrator before it; collect "
                              "for them one after the other")
        factories[name] = make
    return factories


def calibrate(net: Block, observers: Mapping[str, Any], calibrator: Calibrator,
              keep_stated: bool = False) -> Dict[str, float]:
    """Decide and store the range of every activation quantizer; returns {path: threshold} in real units.

    Parameters
    ----------
    observers : dict
        What `collect` or `observe` returned.
    keep_stated : bool
        Leave the quantizers alone whose start the configuration states (``options``, ``alpha``).
    """
    _check_calibrator(calibrator)
    if not isinstance(observers, Mapping):
        raise CalibrationError(f"calibrate: wanted is what observe or collect returned, got {type(observers).__name__}")
    thresholds = {}
    for path, quantizer in quantizers(net, "activation"):
        if keep_stated and quantizer.stated:
            thresholds[path] = float(quantizer.threshold.max())
            continue
        observer = observers.get(path)
        if isinstance(observer, dict):
            observer = observer.get(calibrator.observer)
        if observer is None:
            raise CalibrationError(f"{path}: was not observed")
        try:
            quantizer.set_qparams(calibrator(observer, quantizer.spec))
        except CalibrationError as error:
            raise CalibrationError(f"{path}: {error}") from None
        thresholds[path] = float(quantizer.threshold.max())
        note = calibrator.note(observer, quantizer.spec)
        if note:
            logger.warning("%s: %s", path, note)
    clear_cached_graphs(net)
    return thresholds


def _check_calibrator(calibrator: Any) -> None:
    if not isinstance(calibrator, Calibrator):
        said = calibrator.__name__ + " itself" if isinstance(calibrator, type) else repr(calibrator)
        raise ConfigError("a calibrator is wanted, such as calib.calibrators.named_calibrator('mse') or "
                          f"Percentile(99.9), got {said}")


class _Histograms:
    """Makes histograms that count so many values of each image."""

    def __init__(self, per_image):
        self.per_image = per_image

    def __call__(self):
        return HistogramObserver(self.per_image)


def _runner(net, chosen, first):
    try:
        return GraphRunner(net, chosen, first)
    except CalibrationError as error:
        logger.info("%s: %s; it runs layer by layer", net.name, error)
        return EagerRunner(net, chosen, first)


def _make(tensors, factories):
    """Collectors for each quantizer, the same ones for those of the same tensors."""
    made, observers = {}, {}
    for path, key in tensors.items():
        if key not in made:
            made[key] = {name: make() for name, make in factories.items()}
        observers[path] = made[key]
    return observers


def _feeds(tensors, observers):
    """Tensor's key -> the feed of its collectors, each of them once."""
    feeds: Dict[Any, Feed] = {}
    for path, key in tensors.items():
        feed = feeds.setdefault(key, Feed(path))
        for collector in observers[path].values():
            feed.add(collector)
    return feeds


def _check_paths(chosen, observers):
    for path in chosen:
        if path not in observers:
            raise CalibrationError(f"{path}: no observer goes on here; the observers are of another network (theirs: "
                                   f"{next(iter(observers), 'none')}, ...)")


@contextlib.contextmanager
def _released(chosen):
    """Whatever the quantizers were handed to observe with is taken away again."""
    try:
        yield
    finally:
        for quantizer in chosen.values():
            quantizer.observer = None
