# SPDX-License-Identifier: MIT
"""What the documents of a file may hold: types, ranges and choices, for msgspec to check before anything is made.

Whether names fit each other (layers in an order, parameters in layers) is checked where they meet. Formats, rules and
plans are values of their own kinds (`quantize.storage.values`), which check themselves.
"""

from typing import Any, Dict, List, Optional, Tuple, Union

import msgspec
from msgspec import Meta
from typing_extensions import Annotated, Literal

Count = Annotated[int, Meta(ge=0, le=2 ** 31 - 1)]
Size = Annotated[int, Meta(ge=1, le=2 ** 31 - 1)]
Factor = Annotated[float, Meta(ge=0, le=1e6)]
Share = Annotated[float, Meta(ge=0, le=1)]
Request = Literal["write", "add", "null"]
Mode = Literal["float", "observe", "online", "ema", "offline"]
Slot = Literal["input_quantizer", "weight_quantizer", "output_quantizer", "tile_quantizer"]
Source = Tuple[Count, Count]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Node(msgspec.Struct, forbid_unknown_fields=True):
    """An input, a parameter, a layer's call or an operator's."""

    input: Optional[Annotated[int, Meta(ge=0, le=999)]] = None
    parameter: Optional[str] = None
    layer: Optional[str] = None
    op: Optional[str] = None
    name: Optional[str] = None
    attrs: Optional[Dict[str, str]] = None
    inputs: Optional[List[Source]] = None


class Graph(msgspec.Struct):
    """Nodes in order, each reading outputs of nodes before it."""

    nodes: List[Node]
    outputs: Annotated[List[Source], Meta(min_length=1)]


class Layer(msgspec.Struct):
    """What a layer's constructor is given."""

    type: str
    prefix: str
    options: Dict[str, Union[None, bool, int, float, str, List[int]]]
    activation: Optional["Layer"] = None


class State(msgspec.Struct):
    """Of a quantizer: what is neither parameter nor format."""

    frozen: bool
    reorder_first: bool
    momentum: Share
    backend: Literal["auto", "native", "composed"]
    clamp_only: Optional[bool] = None


class Quantizer(msgspec.Struct):
    """A quantizer."""

    method: str
    role: Literal["weight", "activation"]
    spec: Dict[str, Any]
    mode: Mode
    scale_shape: Annotated[List[Size], Meta(min_length=1, max_length=8)]
    prefix: str
    options: Dict[str, Any]
    state: State
    requests: Dict[str, Request]
    solver: Optional[List[Tuple[str, Union[str, int, float]]]] = None


class Same(msgspec.Struct):
    """The place of another layer, whose quantizer it is, too."""

    same_as: str


class Norm(msgspec.Struct):
    """A folded BatchNorm."""

    block: str
    shape: Annotated[List[Annotated[int, Meta(ge=-1, le=2 ** 31 - 1)]], Meta(min_length=1, max_length=8)]
    statistics: Literal["batch", "corrected", "running"]
    frozen: bool


class Addition(msgspec.Struct):
    """What conversion and training added to a layer."""

    quantizers: Dict[Slot, Dict[str, Any]]  # each a Quantizer, or a Same
    gradient_bits: Optional[Annotated[int, Meta(ge=1, le=32)]] = None
    integer_weights: bool = False
    winograd: Optional[Dict[str, Any]] = None
    winograd_prefix: Optional[str] = None
    norm: Optional[Norm] = None
    unrounded: Optional[Mode] = None


class Properties(msgspec.Struct):
    """How a parameter is trained."""

    name: str
    grad_req: Request
    lr_mult: Factor
    wd_mult: Factor


class Network(msgspec.Struct):
    """``network.json``."""

    prefix: str
    graph: Graph
    layers: Dict[str, Layer]
    order: List[str]
    additions: Dict[str, Addition]
    readers: Dict[str, List[str]]
    parameters: Dict[str, Properties]
    shared: Dict[str, str]
    others: List[str]
    arrays: List[str]
    inputs: Annotated[int, Meta(ge=1, le=1000)]
    plan: Optional[Dict[str, Any]] = None
    rules: Optional[List[Dict[str, Any]]] = None


class Known(msgspec.Struct):
    """``facts.json``."""

    target_options: Dict[str, Any]
    provenance: List[Dict[str, Any]]
    extra: Dict[str, Any]
    target: Optional[str] = None
    preprocessing: Optional[Dict[str, Any]] = None
    class_names: Optional[List[str]] = None


class Entry(msgspec.Struct):
    """What the manifest says of one entry."""

    bytes: Annotated[int, Meta(ge=0)]
    sha256: Digest


class Manifest(msgspec.Struct):
    """``manifest.json``."""

    format: str
    version: int
    entries: Dict[str, Entry]

