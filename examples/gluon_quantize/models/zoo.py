# SPDX-License-Identifier: MIT
"""gluoncv's classification networks: names, options, weights and preprocessing."""

import contextlib
import inspect
import os
import sys
from typing import Any, Callable, Dict, Mapping, Tuple

import mxnet as mx

from gluon_quantize.data import preprocess
from gluon_quantize.data.preprocess import Preprocessing
from gluon_quantize.data.steps import with_origin
from gluon_quantize.models.nets import GroupNorm
from gluon_quantize.models.params import load_params
from quantize.errors import ConfigError, ModelFileError

# The zoo lists every task together. A classifier is a network whose constructor lives in one of these modules of
# gluoncv.model_zoo; hrnet also builds segmentation networks there, told apart by their _s. The quantized module is
# left out: its networks are int8 already.
CLASSIFICATION = frozenset((
    "alexnet", "cifarresnet", "cifarresnext", "cifarwideresnet", "densenet", "dla", "googlenet", "hrnet", "inception",
    "mobilenet", "mobilenetv3", "nasnet", "pruned_resnet.resnetv1b_pruned", "residual_attentionnet", "resnest",
    "resnet", "resnetv1b", "resnext", "senet", "shufflenet", "squeezenet", "vgg", "xception", "yolo.darknet"))
CROPS = {"inceptionv3": 299, "xception": 299, "xception71": 299,
         "resnest101": 256, "resnest200": 320, "resnest269": 416}
# Options that are another network of the zoo: the name to switch to.
RENAMES = {"batch_norm": "{}_bn", "use_se": "se_{}"}
RESERVED = ("pretrained", "ctx", "root", "prefix", "params")
# gluoncv stores the pruned networks' weights under their speed-up, not under their name.
STORE_NAMES = {"resnet18_v1b_0.89": "resnet18_v1b_2.6x", "resnet50_v1d_0.86": "resnet50_v1d_1.8x",
               "resnet50_v1d_0.48": "resnet50_v1d_3.6x", "resnet50_v1d_0.37": "resnet50_v1d_5.9x",
               "resnet50_v1d_0.11": "resnet50_v1d_8.8x", "resnet101_v1d_0.76": "resnet101_v1d_1.9x",
               "resnet101_v1d_0.73": "resnet101_v1d_2.2x"}


def classification_models() -> Dict[str, Callable[..., mx.gluon.HybridBlock]]:
    """Name -> constructor of gluoncv's classification networks."""
    try:
        from gluoncv.model_zoo import model_zoo
    # gluoncv turns any missing dependency into a message about mxnet and torch.
    except ImportError as err:
        raise ConfigError(f"gluoncv cannot be imported ({err}); one of mxnet, numpy<1.24, scipy, tqdm, Pillow, "
                          "portalocker and requests is missing or unfit: pip install -r requirements.txt") from None
    package = model_zoo.__name__.rpartition(".")[0] + "."
    return {name: build for name, build in model_zoo._models.items()
            if build.__module__[len(package):] in CLASSIFICATION and not name.endswith("_s")}


def build(name: str, options: Mapping[str, Any]) -> Tuple[str, mx.gluon.HybridBlock]:
    """An uninitialised network of the zoo.

    Parameters
    ----------
    name : str
        A key of `classification_models`.
    options : dict
        Keyword arguments of the network (``classes``, ``last_gamma``, ...) and the switches ``use_gn`` (group
        instead of batch normalisation), ``batch_norm`` (vgg) and ``use_se`` (resnet, resnext).

    Returns
    -------
    (str, mxnet.gluon.HybridBlock)
        The name after ``batch_norm`` and ``use_se``, and the network.

    Raises
    ------
    ConfigError
        A network that does not know an option.
    """
    models = classification_models()
    options = dict(options)
    for option, pattern in RENAMES.items():
        if options.pop(option, False):
            name = _renamed(name, option, pattern, models)
    constructor = models[name]
    if options.pop("use_gn", False) or name.endswith("_gn"):
        # The zoo's own _gn networks use gluoncv's layer, which cannot be hybridized; else they are the plain ones.
        options["norm_layer"] = GroupNorm
        constructor = models[name[:-len("_gn")] if name.endswith("_gn") else name]
    # pretrained is always given: two constructors look it up without a default.
    try:
        net = constructor(pretrained=False, **options)
    except TypeError as err:
        raise ConfigError(f"model {name!r} cannot be built with {_spell(options)}: {err}") from None
    _check_known(name, constructor, net, options)
    return name, net


def _renamed(name, option, pattern, models):
    """The network that `option` makes of `name`."""
    other = pattern.format(name)
    if other in models:
        return other
    # Already that network: vgg16_bn with batch_norm.
    if any(pattern.format(plain) == name for plain in models):
        return name
    raise ConfigError(f"option {option!r} is not known to model {name!r}: there is no {other!r}; leave it out")


def _check_known(name, constructor, net, options):
    """ConfigError for an option that was swallowed: several networks take and drop any keyword."""
    known = set(inspect.signature(constructor).parameters) | set(inspect.signature(type(net).__init__).parameters)
    unknown = [option for option in options if option not in known or option in RESERVED]
    if unknown:
        raise ConfigError(f"option {_spell(unknown)} is not known to model {name!r}; leave it out")


def _spell(options):
    """Option names as the user gave them."""
    return ", ".join("'use_gn'" if option == "norm_layer" else repr(option) for option in options)


def run_once(name: str, net: mx.gluon.HybridBlock, input_shape: Tuple[int, int, int], ctx: mx.Context) -> None:
    """Settle the shapes that are only known after a forward; ConfigError where group normalisation does not divide."""
    try:
        net(mx.nd.zeros((1,) + tuple(input_shape), ctx=ctx)).wait_to_read()
    except mx.MXNetError as err:
        if "num_groups" not in str(err):
            raise
        raise ConfigError(f"model {name!r} has layers whose channels cannot be split into the 32 groups of 'use_gn'; "
                          "leave it out") from None


def load_pretrained(name: str, net: mx.gluon.HybridBlock, ctx: mx.Context) -> None:
    """Fill `net` with gluoncv's weights, from ~/.mxnet/models or downloaded.

    Raises
    ------
    ModelFileError
        No such weights, or a download that failed: names the file to put in place.
    """
    from gluoncv.model_zoo import model_store
    store_name = STORE_NAMES.get(name, name)
    try:
        short_hash = model_store.short_hash(store_name)
    except ValueError:
        raise ModelFileError(f"gluoncv has no pretrained weights of {name!r}; name a file with --params"
                             ) from None
    try:
        # gluoncv prints its progress; standard output belongs to the results.
        with contextlib.redirect_stdout(sys.stderr):
            path = model_store.get_model_file(store_name, root=_model_folder())
    # Network, server, disk, archive and hash failures have no common base.
    except Exception as err:
        reason = getattr(err, "strerror", None) or type(err).__name__
        raise ModelFileError(f"the weights of {name!r} could not be downloaded ({reason}); put "
                             f"{store_name}-{short_hash}.params into {_model_folder()}, or name a file with --params"
                             ) from None
    load_params(net, path, ctx, name)


def _model_folder():
    """Where gluoncv keeps weights."""
    return os.path.join(os.path.expanduser(os.environ.get("MXNET_HOME", os.path.join("~", ".mxnet"))), "models")


def preset(name: str) -> Tuple[str, Preprocessing]:
    """(data set, preprocessing) a network of the zoo was trained with."""
    if name.startswith("cifar_"):
        return "cifar10", with_origin(preprocess.cifar10(), "gluoncv, for cifar10")
    return "imagenet", with_origin(preprocess.imagenet(CROPS.get(name, 224)), "gluoncv, for imagenet")
