# SPDX-License-Identifier: MIT
"""Files of what observers have seen, so that processes and machines calibrate one set of images together.

JSON with a checksum. The same images under the same settings give the same bytes, in one process or merged from shards,
for all observers but EMA (an average over batches depends on how the set was cut).
"""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Sequence, Tuple

import msgspec
from typing_extensions import Annotated

from calib.observers import OBSERVERS
from calib.stability import ChannelActivity
from calib.table import add_fingerprints
from quantize.documents import checked, parse_json
from quantize.errors import CalibrationError, ConfigError
from quantize.files import PathLike, read_text, write_whole
from quantize.limits import MOST_SHARDS

VERSION = 1


class Document(msgspec.Struct, forbid_unknown_fields=True):
    """The file."""

    version: int
    settings: Dict[str, Any]
    network: Annotated[str, msgspec.Meta(max_length=200)]
    shards: Annotated[int, msgspec.Meta(ge=1, le=MOST_SHARDS)]
    have: Annotated[List[Annotated[int, msgspec.Meta(ge=0, lt=MOST_SHARDS)]], msgspec.Meta(max_length=MOST_SHARDS)]
    samples: Annotated[int, msgspec.Meta(ge=0, lt=2 ** 62)]
    data: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
    observers: Dict[str, Dict[str, Dict[str, Any]]]
    checksum: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class CalibrationState:
    """What the shards of a calibration have seen so far.

    Parameters
    ----------
    observers : dict
        Path of the quantizer -> {name: observer}.
    network : str
        What identifies the network and its weights.
    settings : dict
        Everything else that must be equal for two states to be of one calibration; JSON values.
    samples, data : int, str
        Images seen, and their fingerprint.
    shards, have : int, tuple of int
        How many shards there are, and which of them (0 ... shards - 1) are in here.
    """

    observers: Dict[str, Dict[str, Any]]
    network: str
    settings: Dict[str, Any]
    samples: int
    data: str
    shards: int = 1
    have: Tuple[int, ...] = (0,)

    @property
    def complete(self) -> bool:
        """Whether all shards are in."""
        return len(self.have) == self.shards

    @property
    def missing(self) -> Tuple[int, ...]:
        """The shards that are not in."""
        return tuple(sorted(set(range(self.shards)) - set(self.have)))


def write_state(path: PathLike, state: CalibrationState) -> None:
    """Write a state, whole or not at all."""
    # complete, it is the state of one process, to the byte: in how many parts it was made does not matter
    shards, have = (1, [0]) if state.complete else (state.shards, list(state.have))
    content = {"version": VERSION, "settings": state.settings, "network": state.network, "shards": shards,
               "have": have, "samples": state.samples, "data": state.data,
               "observers": {path: {name: observer.state() for name, observer in of_path.items()}
                             for path, of_path in state.observers.items()}}
    content["checksum"] = _checksum(content)
    write_whole(path, _text(content) + "\n")


def read_state(path: PathLike) -> CalibrationState:
    """The state in a file; CalibrationError for a file that is damaged, cut off, or something else."""
    content = parse_json(read_text(path), f"{path}: not a whole calibration state (write it again with --save-state)",
                         CalibrationError)
    if not isinstance(content, dict) or set(content) != set(Document.__struct_fields__):
        raise CalibrationError(f"{path}: not a calibration state")
    if content["version"] != VERSION:
        raise CalibrationError(f"{path}: version {content['version']!r:.40}, this program reads version {VERSION}")
    document = checked(content, Document, str(path), CalibrationError)
    if content.pop("checksum") != _checksum(content):
        raise CalibrationError(f"{path}: the checksum does not fit: the file was changed or damaged; write it again "
                               "with --save-state")
    if sorted(set(document.have)) != sorted(document.have) or max(document.have, default=0) >= document.shards:
        raise CalibrationError(f"{path}: its shards {str(document.have)[:40]} are not some of {document.shards}")
    try:
        observers = {layer: {name: _observer(state) for name, state in of_layer.items()}
                     for layer, of_layer in document.observers.items()}
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from None
    return CalibrationState(observers, document.network, document.settings, document.samples, document.data,
                            document.shards, tuple(document.have))


def merge_states(states: Sequence[Tuple[str, CalibrationState]]) -> CalibrationState:
    """One state of several; the parts are left as they are.

    Parameters
    ----------
    states : sequence of (str, CalibrationState)
        With what to call each in a message. Their order does not matter.

    Raises
    ------
    CalibrationError
        For states of other networks, observers or settings, and for a shard that comes twice.
    """
    if not states:
        raise CalibrationError("no states to merge")
    # messages and orders of merging that do not depend on the order of the command line
    (first_name, first), *others = ordered = sorted(states, key=lambda item: item[1].have)
    seen = dict.fromkeys(first.have, first_name)
    for name, state in others:
        _check_alike(first_name, first, name, state)
        for shard in state.have:
            if shard in seen:
                raise CalibrationError(f"{seen[shard]} and {name}: both hold shard {shard + 1}/{first.shards}; name "
                                       "each shard once")
            seen[shard] = name
    observers = {}
    for path in first.observers:
        observers[path] = {name: _copy(observer) for name, observer in first.observers[path].items()}
        for _, state in others:
            for name, observer in observers[path].items():
                observer.merge(state.observers[path][name])
    everything = [state for _, state in ordered]
    return replace(first, observers=observers, have=tuple(sorted(seen)),
                   samples=sum(state.samples for state in everything),
                   data=add_fingerprints(state.data for state in everything))


def _check_alike(first_name, first, name, state):
    if state.network != first.network:
        raise CalibrationError(f"{name}: the state is of another network than {first_name} (or of other weights or "
                               "rules)")
    for key in sorted(set(first.settings) | set(state.settings)):
        mine, theirs = first.settings.get(key), state.settings.get(key)
        if mine != theirs:
            raise CalibrationError(f"{name}: made with {key} {theirs!r}, but {first_name} with {mine!r}; only states "
                                   "of one calibration can be merged")
    kinds = [{path: sorted(of_path) for path, of_path in item.observers.items()} for item in (first, state)]
    if kinds[0] != kinds[1]:
        path = next((path for path in kinds[0] if kinds[0][path] != kinds[1].get(path)), next(iter(kinds[1])))
        raise CalibrationError(f"{name}: {path} holds other observers ({', '.join(kinds[1].get(path, ['none']))}) than "
                               f"{first_name} ({', '.join(kinds[0].get(path, ['none']))}); calibrate all shards with "
                               "the same --calib-mode")
    if state.shards != first.shards:
        raise CalibrationError(f"{name}: one of {state.shards} shards, but {first_name} is one of {first.shards}")


def _copy(observer):
    # not copy.deepcopy: what a file keeps is all that an observer is
    return type(observer).from_state(observer.state())


def _observer(state):
    name = str(state.get("observer"))
    if name == ChannelActivity.name:
        return ChannelActivity.from_state(state)
    try:
        return OBSERVERS.get(name).from_state(state)
    except ConfigError as error:
        raise CalibrationError(str(error)) from None


def _text(content):
    # one spelling for equal contents, or the checksum would depend on the order of keys
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _checksum(content):
    return hashlib.sha256(_text(content).encode("utf-8")).hexdigest()
