# SPDX-License-Identifier: MIT
"""The networks of the examples: embedded, gluoncv's, or from an ONNX or symbol file."""

import dataclasses
import logging
import pathlib
from functools import partial
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import mxnet as mx

from gluon_quantize.data import preprocess
from gluon_quantize.data.preprocess import Preprocessing
from gluon_quantize.data.steps import with_origin
from gluon_quantize.models import zoo
from gluon_quantize.models.detection import RandomWeights, build_other, layers_of_embedded, other_models, preset_of
from gluon_quantize.models.nets import cifar_vgg, digits_lenet, mnist_lenet
from gluon_quantize.models.params import load_params
from gluon_quantize.models.request import NetworkRequest
from quantize.convert import trace
from quantize.convert.net import QuantizedNet
from quantize.convert.stored import restore
from quantize.errors import ConfigError, ConversionError, ModelFileError
from quantize.files import check_within
from quantize.modes import is_converted
from quantize.registry import closest
from quantize.storage import Facts, load_quantized
from quantize.targets import find
from quantize.tree import walk

logger = logging.getLogger(__name__)

EMBEDDED = "digits_lenet"
EMBEDDED_PARAMS = pathlib.Path(__file__).resolve().parent.parent / "assets" / "digits_lenet.params"


class _Untrained(NamedTuple):
    """A network that comes without weights: its constructor, data set and preprocessing."""

    build: Callable[..., mx.gluon.HybridBlock]
    dataset: str
    steps: Callable[[], Preprocessing]
    shape: Tuple[int, int, int]


UNTRAINED: Dict[str, _Untrained] = {
    "mnist_lenet": _Untrained(mnist_lenet, "mnist", preprocess.mnist, (1, 28, 28)),
    "cifar_vgg": _Untrained(cifar_vgg, "cifar10", preprocess.cifar10, (3, 32, 32)),
    "cifar_vgg_0.5": _Untrained(partial(cifar_vgg, width=0.5), "cifar10", preprocess.cifar10, (3, 32, 32)),
}
# Data sets by the (channels, height) of their images; larger colour images are taken for ImageNet's.
HINTS = {(1, 8): "digits", (1, 28): "mnist", (3, 32): "cifar10"}


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A network ready to run.

    Parameters
    ----------
    net : mxnet.gluon.HybridBlock
        Initialised, every shape known, not hybridized.
    name : str
        Name of the network, or the stem of its file (the folder's name for ``model.onnx``).
    preprocessing : Preprocessing or None
        What its input wants, where known.
    dataset_hint : str or None
        The data set it seems made for.
    input_shape : tuple of int or None
        (C, H, W), where known.
    declares_size : bool
        Whether the network's file says so: images of another size are then refused.
    classifies : bool
        False for networks that are known to do something else: detection, segmentation, poses.
    facts : Facts or None
        What a checkpoint says beside the network.
    """

    net: mx.gluon.HybridBlock
    name: str
    preprocessing: Optional[Preprocessing] = None
    dataset_hint: Optional[str] = None
    input_shape: Optional[Tuple[int, int, int]] = None
    declares_size: bool = False
    classifies: bool = True
    facts: Optional[Facts] = None

    @property
    def channels(self) -> Optional[int]:
        """Of its input, where known: from the shape, else from the first layer's weight."""
        if self.input_shape and isinstance(self.input_shape[0], int) and self.input_shape[0]:
            return self.input_shape[0]
        return input_channels(self.net)

    @property
    def converted(self) -> bool:
        """Whether it is quantized already, as a checkpoint may be."""
        return is_converted(self.net)


def list_models() -> List[str]:
    """Names for `NetworkRequest.model`, sorted, the embedded network first."""
    return [EMBEDDED] + sorted([*UNTRAINED] + list(zoo.classification_models()))


def open_model(source: NetworkRequest, ctx: Optional[mx.Context] = None, as_float: bool = False) -> LoadedModel:
    """The network that is asked for.

    Parameters
    ----------
    source : NetworkRequest
    ctx : mxnet.Context, optional
        Where the parameters go; the CPU when None.
    as_float : bool
        Of a quantized checkpoint the float network under it.

    Returns
    -------
    LoadedModel

    Raises
    ------
    ConfigError
        An unknown network or option.
    ModelFileError
        Weights or a model file that is missing, broken, of another network or not finite.
    """
    ctx = ctx or mx.cpu()
    if source.checkpoint:
        return _open_checkpoint(source, ctx, as_float)
    if source.onnx:
        return _open_onnx(source, ctx)
    if source.symbol:
        return _open_symbol(source, ctx)
    if source.model == EMBEDDED or source.model in UNTRAINED:
        return _open_small(source, ctx)
    return _open_zoo(source, ctx)


def _open_small(source, ctx):
    """digits_lenet with the embedded or the given weights; the untrained ones with the given or random ones."""
    unknown = [option for option in source.options if option != "classes"]
    if unknown:
        raise ConfigError(f"option {unknown[0]!r} is not known to model {source.model!r}; leave it out"
                          f"{closest(unknown[0], ['classes'])}")
    if source.model in UNTRAINED:
        row = UNTRAINED[source.model]
        net = row.build(**source.options)
        if source.params:
            load_params(net, source.params, ctx, source.model)
        else:
            _random_weights(net, source.model, ctx)
        return LoadedModel(net, source.model, with_origin(row.steps(), "the network's own"), row.dataset, row.shape)
    net = digits_lenet(**source.options)
    load_params(net, source.params or EMBEDDED_PARAMS, ctx, EMBEDDED)
    return LoadedModel(net, EMBEDDED, with_origin(preprocess.digits(), "the network's own"), "digits", (1, 8, 8))


def _random_weights(net, name, ctx):
    logger.warning("%s has random weights; give trained ones with --params FILE", name)
    net.initialize(mx.init.Xavier(), ctx=ctx)


def _open_zoo(source, ctx):
    """A network of gluoncv with given, pretrained or random weights."""
    if source.model in other_models():
        return _open_other(source, ctx)
    known = list_models()
    if source.model not in known:
        raise ConfigError(f"unknown model {source.model!r}; --list-models prints the {len(known)} "
                          f"known{closest(source.model, known)}")
    name, net = zoo.build(source.model, source.options)
    if source.params:
        load_params(net, source.params, ctx, name)
    elif source.pretrained:
        zoo.load_pretrained(name, net, ctx)
    else:
        _random_weights(net, name, ctx)
    dataset, steps = zoo.preset(name)
    shape: Any = (3, 32, 32) if dataset == "cifar10" else (3, steps.crop, steps.crop)
    if not (source.params or source.pretrained) or source.options.get("use_gn"):
        zoo.run_once(name, net, shape, ctx)
    return LoadedModel(net, name, steps, dataset, shape)


def _open_checkpoint(source, ctx, as_float):
    """The network of a checkpoint, with the images that it wants."""
    path = checkpoint_file(source.checkpoint)
    net = load_quantized(path, ctx, as_float=as_float)
    facts = net.facts
    try:
        if facts.target is not None and isinstance(net, QuantizedNet):
            net.target = find(facts.target, **facts.target_options)
        steps = Preprocessing.from_onnx_metadata(facts.preprocessing) if facts.preprocessing else None
    except (ConfigError, ModelFileError) as err:
        raise ModelFileError(f"{path}: {err}") from None
    return LoadedModel(net, str(facts.extra.get("name") or path.stem), steps, facts.extra.get("dataset"),
                       classifies=facts.extra.get("classifies") is not False, facts=facts)


# what people give instead of a checkpoint, by the end of its name
NO_CHECKPOINTS = {".params": "weights alone: --params, beside what names their network",
                  ".onnx": "a network of its own: --onnx",
                  ".json": "half of an exported network: --symbol and --params"}


def checkpoint_file(given: str) -> pathlib.Path:
    """The file that is meant: itself, or in a command's folder the best epoch, the last one, or the only checkpoint."""
    path = pathlib.Path(given)
    if not path.is_dir():
        if not path.is_file():
            raise ModelFileError(f"{path}: no such checkpoint; it is a .qnet file that simulate --output, train or "
                                 "deploy has written, or the folder of one (networks have names: --model)")
        if path.suffix in NO_CHECKPOINTS:
            raise ModelFileError(f"{path}: no checkpoint (.qnet), but {NO_CHECKPOINTS[path.suffix]}")
        return path
    found = [path / name for name in ("best.qnet", "final.qnet") if (path / name).is_file()]
    found = found or sorted(path.glob("*.qnet"))
    if not found and (path / "checkpoints").is_dir():
        raise ModelFileError(f"{path}: holds a training that has not ended, and no .qnet yet; the same train command "
                             "with --resume goes on with it")
    if not found:
        raise ModelFileError(f"{path}: holds no checkpoint (.qnet)")
    check_within(path, found[:1], ModelFileError)
    return found[0]


def _open_other(source, ctx):
    """A network of gluoncv that does not classify, with given or random weights, all of it made of layers."""
    if source.options:
        raise ConfigError(f"option {next(iter(source.options))!r} is for classifiers; leave it out")
    net, (steps, shape) = build_other(source.model), preset_of(source.model)
    if source.params:
        load_params(net, source.params, ctx, source.model)
    elif source.pretrained:
        zoo.load_pretrained(source.model, net, ctx)
    else:
        logger.warning("%s has random weights; give trained ones with --params FILE", source.model)
        net.initialize(RandomWeights(magnitude=2), ctx=ctx)
    net(mx.nd.zeros((1,) + shape, ctx=ctx))
    layers_of_embedded(net, ctx)
    return LoadedModel(net, source.model, steps, "imagenet", shape, classifies=False)


def _open_onnx(source, ctx):
    """The network of an ONNX file."""
    from quantize.importers.onnx import import_onnx  # onnx is an optional dependency
    path = pathlib.Path(source.onnx)
    if not path.is_file():
        raise ModelFileError(f"{path}: no such ONNX file")
    # images are (N, C, H, W) here, also for files that Keras and TensorFlow wrote
    net = import_onnx(str(path), ctx=ctx, channels_first=True, keep_grids=True)
    stated = getattr(net, "preprocessing", None)
    try:
        steps = Preprocessing.from_onnx_metadata(stated) if stated else None
    except (ConfigError, ModelFileError) as err:
        raise ModelFileError(f"{path}: {err}") from None
    shape = getattr(net, "input_shape", None)
    shape = tuple(shape)[-3:] if shape else None
    name = path.parent.name if path.stem == "model" and path.parent.name else path.stem
    if any(hasattr(grid, "weight") for grid in net.grids.values()):
        net = restore(net, net.grids)
    return LoadedModel(net, name, steps, _hint(shape), shape, declares_size=True)


def _open_symbol(source, ctx):
    """The network of an exported symbol and its parameters."""
    from quantize.importers.symbol import import_symbol
    path = pathlib.Path(source.symbol)
    for file in (source.symbol, source.params):
        if file and not pathlib.Path(file).is_file():
            raise ModelFileError(f"{file}: no such file")
    net = import_symbol(str(path), str(source.params) if source.params else None, ctx=ctx)
    name = path.stem[:-len("-symbol")] if path.stem.endswith("-symbol") else path.stem
    return LoadedModel(net, name)


def input_channels(net: mx.gluon.Block) -> Optional[int]:
    """Channels of the input by the weights of the layers that read it; None where that cannot be told."""
    try:
        graph = trace(net)
    except ConversionError:
        return None
    layers = dict(walk(net))
    found = {layers[path].weight.shape[1] * layers[path]._kwargs["num_group"] for path in graph.first_layers()
             if isinstance(layers[path], (mx.gluon.nn.Conv1D, mx.gluon.nn.Conv2D, mx.gluon.nn.Conv3D))}
    return found.pop() or None if len(found) == 1 else None


def _hint(shape):
    """The data set whose images have this (C, H, W), or None."""
    if not shape:
        return None
    return HINTS.get(tuple(shape[:2]), "imagenet" if shape[0] == 3 and (shape[1] or 0) > 64 else None)
