# SPDX-License-Identifier: MIT
"""Writing `.params` files, and putting one into a network, or saying exactly why it does not fit."""

import collections
import os
from typing import Optional, Union

import mxnet as mx
import numpy as np

from quantize.errors import DataError, ModelFileError
from quantize.files import check_params_size, mxnet_name, whole_file
from quantize.params_file import read_params


def save_params(net: mx.gluon.Block, path: Union[str, os.PathLike]) -> None:
    """Write the parameters of `net` whole or not at all."""
    with whole_file(path) as temporary:
        try:
            net.save_parameters(mxnet_name(temporary))
        except mx.MXNetError as error:
            raise DataError(f"{path}: cannot be written: {str(error).strip().splitlines()[-1]}") from None
        check_params_size(temporary, net._collect_params_with_prefix())


def load_params(net: mx.gluon.Block, path: Union[str, os.PathLike], ctx: Optional[mx.Context] = None,
                name: str = "the network") -> None:
    """Fill `net` from a parameter file of `save_parameters`, `export` or the old `save_params`.

    Every parameter must be in the file with the right shape and finite values, and nothing else may be. float16 and
    float64 files are converted to the type of the parameter.

    Parameters
    ----------
    net : mxnet.gluon.Block
    path : str or path
    ctx : mxnet.Context, optional
        Where the parameters go; the current context when None.
    name : str
        What to call the network in a message.

    Raises
    ------
    ModelFileError
        A file that is missing, broken, of another network, or holds NaN or infinity.
    """
    arrays = _read(path)
    if not any("." in key for key in arrays):
        wanted, arrays = _flat(net, arrays)
    else:
        wanted = _structural(net, arrays)
    _check_fit(path, name, wanted, arrays)
    _check_finite(path, arrays)
    for key, parameter in wanted.items():
        # The shape first: initialisation is then immediate, not deferred to the first forward.
        parameter.shape = arrays[key].shape
        parameter.initialize(ctx=ctx, default_init=mx.init.Zero(), force_reinit=True)
        parameter.set_data(arrays[key].astype(parameter.dtype))


def holds_quantizers(path: Union[str, os.PathLike]) -> bool:
    """Whether a parameter file is of a quantized network; ModelFileError for one that cannot be read."""
    return any("_quantizer." in name for name in _read(path))


def _read(path):
    """Name -> array, without the ``arg:`` and ``aux:`` of exported files."""
    arrays = read_params(path)
    if not isinstance(arrays, dict) or not arrays:
        raise ModelFileError(f"{path}: holds no named arrays; write it with net.save_parameters or net.export")
    return {key[4:] if key[:4] in ("arg:", "aux:") else key: value for key, value in arrays.items()}


def _structural(net, arrays):
    """Structural name -> parameter; one name for a shared parameter: the one the file uses."""
    names = collections.defaultdict(list)
    # The private call is what save_parameters itself uses; there is no public one.
    for key, parameter in net._collect_params_with_prefix().items():
        names[parameter].append(key)
    return {next((key for key in keys if key in arrays), keys[0]): parameter for parameter, keys in names.items()}


def _flat(net, arrays):
    """Flat name -> parameter and -> array, both without the prefix of the whole network.

    The prefix holds a counter (``resnetv10_``, ``resnetv11_``) that depends on what the process built before, and
    save_params leaves it out.
    """
    wanted = {key[len(net.prefix):] if key.startswith(net.prefix) else key: parameter
              for key, parameter in net.collect_params().items()}
    if set(arrays) & set(wanted):
        return wanted, arrays
    prefix = next((key[:-len(suffix)] for key in arrays for suffix in wanted if key.endswith(suffix)), "")
    return wanted, {key[len(prefix):] if key.startswith(prefix) else key: value for key, value in arrays.items()}


def _check_fit(path, name, wanted, arrays):
    """ModelFileError that counts what is missing, extra and of another shape, with the first of each."""
    problems = []
    missing = [key for key in wanted if key not in arrays]
    extra = [key for key in arrays if key not in wanted]
    for kind, keys in (("missing", missing), ("unknown to the network", extra)):
        if keys:
            problems.append(f"{len(keys)} {kind} (first: {keys[0]!r})")
    other = [key for key in wanted if key in arrays and not _same_shape(wanted[key].shape, arrays[key].shape)]
    if other:
        problems.append(f"{len(other)} of another shape (first: {other[0]!r} is {arrays[other[0]].shape}, wanted "
                        f"{wanted[other[0]].shape})")
    if problems:
        raise ModelFileError(f"{path}: does not fit {name}: of {len(wanted)} parameters {', '.join(problems)}; give "
                             "the file of this network, or the options (classes, ...) it was trained with")


def _same_shape(wanted, given):
    """Whether `given` fits; a 0 in `wanted` is a size not known before the first forward, None a shape."""
    return wanted is None or len(wanted) == len(given) and all(w in (0, g) for w, g in zip(wanted, given))


def _check_finite(path, arrays):
    """ModelFileError for the first array that holds NaN or infinity, or variances below 0."""
    for key, array in arrays.items():
        values = array.asnumpy()
        if key.endswith("running_var") and (values < 0).any():
            raise ModelFileError(f"{path}: parameter {key!r} holds variances below 0; the file is damaged: use another "
                                 "one")
        if not np.isfinite(values).all():
            raise ModelFileError(f"{path}: parameter {key!r} holds NaN or infinity; the training diverged or the file "
                                 "is damaged: use another one")
