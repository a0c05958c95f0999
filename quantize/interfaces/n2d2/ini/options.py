# SPDX-License-Identifier: MIT
"""A section's values, taken one by one: what nobody takes is an error with the nearest name that somebody would."""

import math
from typing import Any, Dict, List, Mapping, Optional, Sequence

from quantize.errors import ConfigError
from quantize.interfaces.n2d2.ini.reader import Document, Entry, Section
from quantize.registry import closest

LARGEST = 2 ** 31 - 1  # of whole numbers: sizes and counts
TRUE, FALSE = ("1", "true", "True"), ("0", "false", "False")


class Options:
    """What a section says, with its base blocks and its ConfigSection.

    Parameters
    ----------
    document : Document
    section : Section
    entries : mapping, optional
        Instead of the section's own.
    """

    def __init__(self, document: Document, section: Section, entries: Optional[Mapping[str, Entry]] = None) -> None:
        self.document, self.section = document, section
        self._entries: Dict[str, Entry] = dict(document.merged(section) if entries is None else entries)
        self._known: List[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def error(self, key: str, text: str) -> ConfigError:
        """The error about a key: with its line, or the section's where the key is not there."""
        line = self._entries[key].line if key in self._entries else self.section.line
        return self.document.error(line, f"[{self.section.name}] {key}: {text}")

    def text(self, key: str, default: Optional[str] = None, choices: Sequence[str] = ()) -> str:
        """A value as it is written; ConfigError where it is missing and has no default, or is none of the choices."""
        self._known.append(key)
        if key not in self._entries:
            if default is None:
                raise self.error(key, "is missing" + self._misspelt(key))
            return default
        value = self.document.resolved(self._entries[key])
        if choices and value not in choices:
            raise self.error(key, f"{value!r} is none of {', '.join(choices)}{closest(value, choices)}")
        return value

    def number(self, key: str, default: Optional[float] = None) -> float:
        """A number."""
        text = self.text(key, None if default is None else repr(default))
        try:
            return _finite(text)
        except ValueError:
            raise self.error(key, f"a number is wanted, got {text[:60]!r}") from None

    def whole(self, key: str, default: Optional[int] = None, least: int = 0) -> int:
        """A whole number of at least `least`."""
        text = self.text(key, None if default is None else str(default))
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not value.is_integer() or not least <= value <= LARGEST:
            raise self.error(key, f"a whole number from {least} is wanted, got {text[:60]!r}")
        return int(value)

    def switch(self, key: str, default: bool = False) -> bool:
        """0 or 1."""
        text = self.text(key, "1" if default else "0", TRUE + FALSE)
        return text in TRUE

    def numbers(self, key: str, default: Sequence[float] = ()) -> List[float]:
        """Numbers with blanks or commas between them."""
        text = self.text(key, " ".join(map(repr, default)))
        try:
            return [_finite(part) for part in text.replace(",", " ").split()]
        except ValueError:
            raise self.error(key, f"numbers are wanted, got {text[:60]!r}") from None

    def wholes(self, key: str) -> List[int]:
        """Whole numbers, of either sign."""
        found = self.numbers(key)
        if not all(value.is_integer() and abs(value) <= LARGEST for value in found):
            raise self.error(key, f"whole numbers are wanted, got {self.text(key)[:60]!r}")
        return [int(value) for value in found]

    def names(self, key: str) -> List[str]:
        """Names with commas between them."""
        return [part.strip() for part in self.text(key).split(",") if part.strip()]

    def part(self, prefix: str) -> "Options":
        """What stands under ``prefix.``, without it; taking that away from here."""
        inside = {key[len(prefix) + 1:]: entry for key, entry in self._entries.items() if key.startswith(prefix + ".")}
        self._known += [f"{prefix}.{key}" for key in inside]
        return _Part(self, prefix, inside)

    def refused(self, prefix: str, advice: str) -> None:
        """ConfigError where anything stands under ``prefix.``."""
        for key in self._entries:
            if key.startswith(prefix + "."):
                raise self.error(key, advice)

    def finish(self) -> None:
        """ConfigError for the first key that nobody took."""
        for key in self._entries:
            if key not in self._known:
                raise self.error(key, f"unknown key{closest(key, self.known_names())}")

    def known_names(self) -> List[str]:
        """The keys that were asked for."""
        return list(self._known)

    def _misspelt(self, key: str) -> str:
        near = closest(key, [name for name in self._entries if name not in self._known])
        return near.replace("did you mean", "is it written") if near else ""

    def __iter__(self) -> Any:
        return iter(self._entries)


def _finite(text: str) -> float:
    """ValueError for what is no number, NaN or infinite."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


class _Part(Options):
    """Options under a prefix: errors name the whole key."""

    def __init__(self, whole: Options, prefix: str, entries: Mapping[str, Entry]) -> None:
        super().__init__(whole.document, whole.section, entries)
        self._prefix = prefix

    def error(self, key: str, text: str) -> ConfigError:
        """See `Options.error`."""
        line = self._entries[key].line if key in self._entries else self.section.line
        return self.document.error(line, f"[{self.section.name}] {self._prefix}.{key}: {text}")
