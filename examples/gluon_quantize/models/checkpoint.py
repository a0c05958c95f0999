# SPDX-License-Identifier: MIT
"""Networks as commands hand them on: one file with all that the next command wants to know."""

import dataclasses
import logging
import pathlib
import tempfile
from typing import Any, Dict, Mapping, Optional, Tuple

import mxnet as mx

from gluon_quantize.data.preprocess import Preprocessing
from gluon_quantize.models.inputs import inputs_of
from gluon_quantize.models.loading import LoadedModel, checkpoint_file
from gluon_quantize.models.request import NetworkRequest
from quantize import save_quantized
from quantize.errors import ConversionError
from quantize.files import size_and_digest
from quantize.storage import Facts

logger = logging.getLogger(__name__)

# where results go changes nothing of them
FREE = ("output", "force", "resume", "save_table", "save_state", "report", "command_line")
BEST, FINAL, NETWORK = "best.qnet", "final.qnet", "network.qnet"


@dataclasses.dataclass(frozen=True)
class Known:
    """What is to be known of a network beside itself.

    Parameters
    ----------
    model : LoadedModel
        What it was made from.
    preprocessing : Preprocessing
    dataset : str
    run : dict
        What was run: the step of provenance.
    class_names : tuple of str, optional
        Of the data; what a checkpoint said already comes first.
    """

    model: LoadedModel
    preprocessing: Preprocessing
    dataset: str
    run: Mapping[str, Any]
    class_names: Optional[Tuple[str, ...]] = None

    def save_if_possible(self, net: mx.gluon.Block, path: pathlib.Path) -> None:
        """`save`, with a warning where the network holds what no file can: a long run must not end in an error."""
        try:
            self.save(net, path)
        except ConversionError as error:
            logger.warning("no checkpoint %s is written: %s", path.name, error)

    def warn_if_lost(self, net: mx.gluon.Block) -> None:
        """Say before a long run that no file will be able to hold the network, and why."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                self.save(net, pathlib.Path(folder) / NETWORK)
        except ConversionError as error:
            logger.warning("no checkpoint (.qnet) will be written, parameters alone: %s", error)

    def save(self, net: mx.gluon.Block, path: pathlib.Path) -> str:
        """Write a checkpoint of the network as it is now; returns its digest."""
        before = self.model.facts or Facts()
        kept = {**before.extra, "name": self.model.name, "dataset": self.dataset, "classifies": self.model.classifies}
        # the engine is the one that this network was converted for, which may be another than before
        facts = dataclasses.replace(before, target=None, target_options={}, extra=kept,
                                    preprocessing=self.preprocessing.to_dict(),
                                    class_names=names_of_classes(self.model, self.class_names))
        return save_quantized(net, path, facts=facts, provenance=self.run, inputs=len(inputs_of(net)) or 1)


def names_of_classes(model: LoadedModel, of_data: Optional[Tuple[str, ...]]) -> Optional[Tuple[str, ...]]:
    """What a network's classes are called: as its file says, else as its data do; None for what does not classify."""
    stated = None if model.facts is None else model.facts.class_names
    return (stated or of_data) if model.classifies else None


def step_of(command: str, request: Any, settings: Optional[Mapping[str, Any]] = None) -> Dict[str, Any]:
    """The step of provenance of a run: command, settings, seed, and digests of the files that it started from."""
    found = _plain(settings if settings is not None else dataclasses.asdict(request))
    return {"command": command, "seed": request.run.seed, "sources": digests(request.network),
            "settings": {name: value for name, value in found.items() if name not in FREE}}


def digests(network: NetworkRequest) -> Dict[str, str]:
    """File -> SHA-256, of the files that a network comes from."""
    paths = [pathlib.Path(path) for path in (network.onnx, network.symbol, network.params) if path]
    paths += [checkpoint_file(network.checkpoint)] if network.checkpoint else []
    return {path.name: size_and_digest(path)["sha256"] for path in paths if path.is_file()}


def _plain(value: Any) -> Any:
    """As JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(getattr(value, "name", value))
