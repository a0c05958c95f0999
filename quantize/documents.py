# SPDX-License-Identifier: MIT
"""JSON from files: parsed within bounds, and checked against one schema for each format.

A schema is a `msgspec.Struct` (or any type that msgspec knows) with ranges in its annotations; msgspec says where a
value stands that does not fit ("Expected `int`, got `str` - at `$.nodes[3].inputs[0]`"), checks 100 MB/s, needs nothing
else, and has wheels for every Python from 3.8 on (pydantic 2 needs four packages, and no version of it spans 3.8 to
3.11 under the pins).
"""

import json
import math
from typing import Any, Callable, Dict, List, Set, Tuple, Type, TypeVar

from quantize.errors import DataError, QuantizeError
from quantize.escape import shown
from quantize.files import PathLike, read_text
from quantize.limits import claim

LONGEST_NUMBER = 1000  # characters; exact sums of a calibration take a few hundred
PER_LETTER = 12  # bytes of Python objects that a letter of JSON becomes, roughly and at most: "[0,0,0,...

T = TypeVar("T")


def parse_json(text: str, where: str, error: Type[QuantizeError] = DataError, infinite: bool = False) -> Any:
    """What a JSON text says.

    Parameters
    ----------
    where : str
        What the text is called in errors.
    error : class
        What is raised, with line and column, for text that is no JSON, is nested too deep, has a key twice in one
        object, or numbers of more than 1000 digits (which take seconds to read).
    infinite : bool
        Whether there may be NaN and infinities, which JSON does not have and Python's reader accepts.
    """
    claim(len(text) * PER_LETTER, where, error)
    try:
        return json.loads(text, parse_int=_number(int), parse_float=_number(float if infinite else _finite),
                          parse_constant=float if infinite else _finite, object_pairs_hook=_unique)
    except json.JSONDecodeError as problem:
        raise error(f"{where}: line {problem.lineno} column {problem.colno}: {problem.msg}") from None
    except RecursionError:
        raise error(f"{where}: is nested too deep") from None
    except ValueError as problem:
        raise error(f"{where}: {problem}") from None


def read_json(path: PathLike, error: Type[QuantizeError] = DataError, infinite: bool = False) -> Any:
    """What a JSON file says; DataError where it cannot be read, `error` where it is no JSON; see `parse_json`."""
    return parse_json(read_text(path), str(path), error, infinite)


def checked(content: Any, schema: Type[T], where: str, error: Type[QuantizeError] = DataError) -> T:
    """The value of a schema that parsed JSON stands for; `error` says what does not fit, and its path in the document.

    Parameters
    ----------
    where : str
        What the document is called in errors.
    """
    import msgspec
    try:
        return msgspec.convert(content, schema)
    except UnicodeEncodeError:  # json reads half of a pair ("\\ud800"), which is no text
        raise error(f"{where}: a name in it is no Unicode") from None
    except msgspec.ValidationError as problem:
        raise error(f"{where}: {shown(problem)[:400]}") from None
    except RecursionError:
        raise error(f"{where}: is nested too deep") from None


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    """An object; of two values under one key nobody knows which was meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: Set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:40]!r} comes twice in one object")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is no number that a document can hold")
    return value


def _number(kind: Callable) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        if len(text) > LONGEST_NUMBER:
            raise ValueError(f"a number of {len(text)} characters ({text[:10]}...)")
        return kind(text)
    return parse
