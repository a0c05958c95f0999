# SPDX-License-Identifier: MIT
"""Certificates that are read again: checked against one schema before anything is taken from them.

Not with the library that checks all other JSON (`quantize.documents`): what is proved on a phone is proved with Python,
NumPy and the engine alone.
"""

import math
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import lru_cache
from typing import (
    Any,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Literal,
    Optional,
    Tuple,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from deploy.proof.certificate import FORMAT
from quantize.documents import parse_json
from quantize.errors import DataError
from quantize.files import PathLike, read_text

Number = Union[int, float]
LARGEST = 2 ** 63  # of whole numbers: counts and sizes
Largest = Union[int, float, Literal["inf"]]  # JSON has no infinity


@dataclass
class File:
    """Facts of a file."""

    bytes: int
    sha256: str


@dataclass
class Difference:
    """How two sides differ."""

    elements: int
    identical: int
    share: Number
    largest: Largest
    relative: Optional[Largest] = None
    blob: Optional[str] = None


@dataclass
class Side:
    """One way of computing."""

    codes: Difference
    top1_agreement: int
    options: Dict[str, Any] = field(default_factory=dict)
    first_deviation: Optional[str] = None
    largest_real_difference: Optional[Difference] = None


@dataclass
class Machine:
    """What computed; versions of libraries stand beside these."""

    cpu: str = ""
    architecture: str = ""
    flags: List[str] = field(default_factory=list)


@dataclass
class Layer:
    """A quantized layer."""

    node: str = ""
    reasons: Dict[str, Dict[str, str]] = field(default_factory=dict)


@dataclass
class Certificate:
    """What of a certificate is used again; it holds more."""

    format: str
    machine: Machine
    images: int
    sides: Dict[str, Side]
    files: Dict[str, File] = field(default_factory=dict)
    layers: List[Layer] = field(default_factory=list)
    network: str = ""
    data: str = ""


def read_certificate(path: PathLike) -> Dict[str, Any]:
    """The contents of a certificate; DataError with the place of what does not fit, for anything else."""
    content = parse_json(read_text(path), str(path))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path}: is no certificate of this program")
    wrong = misfit(content, Certificate, "$")
    if wrong:
        raise DataError(f"{path}: is no certificate of this program: {wrong}")
    return content


def misfit(value: Any, hint: Any, where: str) -> str:
    """What of a JSON value is not of an annotated type, with its path in the document; "" where all is."""
    kind, parts = _sort(hint)
    if hint is Any:
        return ""
    if kind is Union:
        found = [misfit(value, part, where) for part in parts]
        return "" if "" in found else found[0]
    if kind is Literal:
        return "" if value in parts else f"{where} is {str(value)[:40]!r}, wanted is {parts[0]!r}"
    if kind is list:
        return _misfit_items(value, list, ((f"{where}[{i}]", v, parts[0]) for i, v in enumerate(_items(value, list))),
                             where)
    if kind is dict:
        return _misfit_items(value, dict, ((f"{where}.{key:.40}", v, parts[1]) for key, v in
                                           _items(value, dict).items()), where)
    if kind is fields:
        types, needed = _fields(cast(Any, hint))
        given = _items(value, dict)
        lacking = sorted(needed - set(given))
        if lacking and isinstance(value, dict):
            return f"{where} lacks {lacking[0]}"
        return _misfit_items(value, dict, ((f"{where}.{key}", given[key], types[key]) for key in types if key in given),
                             where)
    fits = isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool)
    finite = abs(value) <= LARGEST if isinstance(value, int) else not isinstance(value, float) or math.isfinite(value)
    return "" if fits and finite else f"{where} is {str(value)[:40]!r}, wanted is {hint.__name__}"


@lru_cache(maxsize=None)  # asked for at every value of a document
def _sort(hint: Any) -> Tuple[Any, Tuple[Any, ...]]:
    """(Union, Literal, list, dict, `fields` for a dataclass or None, what that is of)."""
    return fields if is_dataclass(hint) else get_origin(hint), get_args(hint)


@lru_cache(maxsize=None)
def _fields(kind: Any) -> Tuple[Dict[str, Any], FrozenSet[str]]:
    """(Name -> type, names of those that must be there)."""
    needed = (item.name for item in fields(kind) if item.default is MISSING and item.default_factory is MISSING)
    return get_type_hints(kind), frozenset(needed)


def _items(value: Any, kind: type) -> Any:
    return value if isinstance(value, kind) else kind()


def _misfit_items(value: Any, kind: type, items: Iterable[Any], where: str) -> str:
    if not isinstance(value, kind):
        return f"{where} is {str(value)[:40]!r}, wanted is an {'object' if kind is dict else 'array'}"
    return next((text for place, item, hint in items for text in [misfit(item, hint, place)] if text), "")
