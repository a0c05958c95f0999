# SPDX-License-Identifier: MIT
"""`save_quantized` and `load_quantized`: a network and what is to be known of it, in one file."""

import json
import logging
from dataclasses import replace
from typing import Any, Dict, Mapping, Optional

import mxnet as mx
from mxnet.gluon import Block

from quantize.documents import checked
from quantize.errors import ModelFileError
from quantize.escape import shown
from quantize.files import PathLike
from quantize.storage import container
from quantize.storage.facts import Facts, facts_of
from quantize.storage.graph import StoredNet
from quantize.storage.network import documented, restored
from quantize.storage.schema import Network

logger = logging.getLogger(__name__)


def save_quantized(net: Block, path: PathLike, *, facts: Optional[Facts] = None,
                   provenance: Optional[Mapping[str, Any]] = None, inputs: int = 1) -> str:
    """Write a network to one file, whole or not at all: all that it takes to compute the same in another process.

    That is the graph and the layers, parameters, rules and plan, the mode of every quantizer, ranges, trained steps,
    fixed weights (and the float ones to go back to), folded and frozen BatchNorms; and what `facts` says. A float
    network can be saved, too. The same network makes the same bytes.

    Parameters
    ----------
    net : HybridBlock
        With every parameter initialized. It is not changed.
    path : str or path
        Usually ``NAME.qnet``.
    facts : Facts, optional
        Target, preprocessing, class names and the like; by default those of the file that the network was loaded
        from, with the target that it was converted for.
    provenance : dict, optional
        What was run, with which seeds, from which sources: appended to the steps that `facts` has. Versions are added.
    inputs : int
        How many inputs the network has.

    Returns
    -------
    str
        Digest of the file's contents (SHA-256).

    Raises
    ------
    ConversionError
        For a network that cannot be traced, or holds layers, quantizers or operators that no file can hold.
    DataError
        When the file cannot be written.
    """
    known = facts if facts is not None else getattr(net, "facts", None) or Facts()
    if known.target is None:
        known = replace(known, **_target(net))
    document, arrays = documented(net, inputs)
    digest = container.write(path, {container.NETWORK: document, container.FACTS: known.then(provenance).document()},
                             _numbered(document, arrays))
    logger.info("%s: %s saved, %d arrays", path, net.name, len(arrays))
    return digest


def _target(net: Block) -> Dict[str, Any]:
    """What a network was converted for, as facts say it."""
    target = getattr(net, "target", None)
    if target is None:
        return {}
    options = {option.name: getattr(target, option.name) for option in getattr(target, "options", ())}
    return {"target": target.name, "target_options": json.loads(json.dumps(options))}


def _numbered(document: Dict[str, Any], arrays: Mapping[str, Any]) -> Dict[str, Any]:
    """Arrays by number; the document says which is which: names may hold what no file name may."""
    document["arrays"] = list(arrays)
    return {f"{number:05d}": array for number, array in enumerate(arrays.values())}


def load_quantized(path: PathLike, ctx: Optional[mx.Context] = None, *, as_float: bool = False) -> StoredNet:
    """The network of a file of `save_quantized`: the same outputs as when it was saved, bit for bit.

    Layers have the structural paths, and parameters the names, of the network that was saved; it can be trained on,
    saved again, and deployed. What the file says beside it is its attribute `facts`.

    Parameters
    ----------
    path : str or path
    ctx : mxnet.Context, optional
        Where the parameters go; the CPU when None.
    as_float : bool
        The float network instead, on the weights as they were trained: to convert it by other rules.

    Raises
    ------
    ModelFileError
        For a file that is missing, damaged, changed or of another version, or makes no network. Nothing in a file can
        run.
    """
    stored = container.read(path)
    try:
        document: Any = stored.documents.get(container.NETWORK)
        names = checked(document, Network, container.NETWORK, ModelFileError).arrays
        numbers = [f"{number:05d}" for number in range(len(stored.arrays))]
        if sorted(stored.arrays) != numbers or len(names) != len(numbers):
            raise ModelFileError("its arrays are not those that the network names")
        net = restored(document, {name: stored.arrays[number] for name, number in zip(names, numbers)}, ctx, as_float)
        net.facts = facts_of(stored.documents.get(container.FACTS), stored.digest)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {shown(error)}") from None
    except (AttributeError, KeyError, TypeError, ValueError, AssertionError, mx.MXNetError) as error:
        raise ModelFileError(f"{path}: makes no network: {error!r:.200}") from None
    return net
