# SPDX-License-Identifier: MIT
"""An INI file as N2D2 writes them: sections with base blocks, variables, references.

Python's `configparser` drops what stands behind a section's bracket, where N2D2 names base blocks, and tells no line
numbers; the reader here keeps both.
"""

import os
import re
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, NamedTuple, Optional, Tuple

from quantize.errors import ConfigError
from quantize.files import PathLike, read_text
from quantize.interfaces.n2d2.ini.expressions import evaluated
from quantize.registry import closest

HEADER = re.compile(r"\[(?P<name>[^\]]+)\]\s*(?P<bases>[^\[=]*)\Z")
PROPERTY = re.compile(r"(?P<key>\$?[^=\s][^=]*?)\s*=\s*(?P<value>.*)\Z")
VARIABLE = re.compile(r"\$\{([^{}]+)\}")
REFERENCE = re.compile(r"\[([^\[\]]+)\]([A-Za-z][\w.]*)")
CONFIG_SECTION = "ConfigSection"
DEEPEST = 32
LONGEST = 10_000  # letters of a value whose variables are put in
MOST_STEPS = 200_000  # of a whole file's variables, references and base blocks: a few lines can ask for billions


class Entry(NamedTuple):
    """One ``key=value`` and where it stands."""

    value: str
    line: int


@dataclass
class Section:
    """A section as it is written: what it says itself, and the blocks it is based on."""

    name: str
    line: int
    bases: Tuple[str, ...] = ()
    entries: Dict[str, Entry] = field(default_factory=dict)


@dataclass
class Document:
    """A whole file.

    Attributes
    ----------
    globals : Section
        What stands before the first section.
    variables : dict of str to Entry
        ``$NAME=value``, without the dollar.
    steps : int
        What has been put in so far.
    """

    path: str
    globals: Section
    variables: Dict[str, Entry] = field(default_factory=dict)
    sections: Dict[str, Section] = field(default_factory=dict)
    steps: int = field(default=0, repr=False, compare=False)

    def error(self, line: int, text: str) -> ConfigError:
        """The error that says where it was found."""
        return ConfigError(f"{self.path}:{line}: {text}")

    def section(self, name: str, line: int, what: str = "section") -> Section:
        """A section by name; ConfigError, with the nearest name, where there is none."""
        if name not in self.sections:
            raise self.error(line, f"{what} [{name}] does not exist{closest(name, self.sections)}")
        return self.sections[name]

    def merged(self, section: Section, depth: int = 0) -> Dict[str, Entry]:
        """What a section says with its base blocks (later ones win, the section itself last) and ConfigSection."""
        if depth > DEEPEST:
            raise self.error(section.line, f"[{section.name}] is based on itself")
        self._count(section.line)
        found: Dict[str, Entry] = {}
        for base in section.bases:
            found.update(self.merged(self.section(base, section.line, "base block"), depth + 1))
        found.update(section.entries)
        config = found.pop(CONFIG_SECTION, None)
        if config is not None:
            name = self.resolved(config)
            settings = self.merged(self.section(name, config.line, CONFIG_SECTION), depth + 1)
            found = {**settings, **found}
        return found

    def resolved(self, entry: Entry, depth: int = 0) -> str:
        """A value with its variables and references put in."""
        if depth > DEEPEST:
            raise self.error(entry.line, f"{entry.value[:60]!r} refers to itself")
        self._count(entry.line)
        text = VARIABLE.sub(lambda match: self._variable(match.group(1), entry.line, depth), entry.value)
        text = REFERENCE.sub(lambda match: self._reference(match, entry.line, depth), text).strip()
        if len(text) > LONGEST:
            raise self.error(entry.line, f"{entry.value[:60]!r} becomes longer than {LONGEST} letters")
        return text

    def _count(self, line: int) -> None:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise self.error(line, f"the file's variables, references and base blocks take more than {MOST_STEPS} "
                                   "steps to put in")

    def _variable(self, expression: str, line: int, depth: int) -> str:
        name = expression.strip()
        if name in self.variables:
            return self.resolved(self.variables[name], depth + 1)
        if re.fullmatch(r"[A-Za-z_]\w*", name):
            if name in os.environ:
                return os.environ[name]
            raise self.error(line, f"variable ${{{name}}} is set nowhere{closest(name, self.variables)}")
        values = {key: self.resolved(value, depth + 1) for key, value in self.variables.items()
                  if re.search(rf"\b{re.escape(key)}\b", expression)}
        try:
            return evaluated(expression, values)
        except ConfigError as error:
            raise self.error(line, str(error)) from None

    def _reference(self, match: "re.Match[str]", line: int, depth: int) -> str:
        name, key = match.groups()
        entries = self.merged(self.section(name, line))
        if key not in entries:
            raise self.error(line, f"[{name}] has no {key!r}{closest(key, entries)}")
        return self.resolved(entries[key], depth + 1)


def read_ini(path: PathLike, overrides: Optional[Mapping[str, str]] = None) -> Document:
    """The sections of an INI file; ConfigError names file and line of what cannot be read."""
    document = Document(str(path), Section("", 0))
    current = document.globals
    for number, line in _logical_lines(read_text(path)):
        header = HEADER.match(line)
        if header:
            current = _opened(document, header, number)
            continue
        pair = PROPERTY.match(line)
        if pair is None:
            raise document.error(number, f"neither a [section] nor a key=value: {line[:60]!r}")
        key, entry = pair.group("key"), Entry(_unquoted(pair.group("value")), number)
        target = document.variables if key.startswith("$") else current.entries
        key = key[1:] if key.startswith("$") else key
        if key in target:
            raise document.error(number, f"{key!r} is set already, in line {target[key].line}")
        target[key] = entry
    return document


def _opened(document: Document, header: "re.Match[str]", number: int) -> Section:
    name = header.group("name").strip()
    if "@" in name:
        raise document.error(number, f"[{name}] includes a template, which is not read here: write out what it makes")
    if name in document.sections:
        raise document.error(number, f"section [{name}] is there already, in line {document.sections[name].line}")
    made = Section(name, number, tuple(header.group("bases").split()))
    document.sections[name] = made
    return made


def _logical_lines(text: str) -> List[Tuple[int, str]]:
    """(number, line) of what is not empty: comments cut off, lines that end in a backslash joined with the next."""
    found: List[Tuple[int, str]] = []
    pending, start = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        start = start or number
        line = _without_comment(raw).strip()
        if line.endswith("\\"):
            pending += line[:-1]
            continue
        if pending + line:
            found.append((start, pending + line))
        pending, start = "", 0
    if pending:
        found.append((start, pending))
    return found


def _without_comment(line: str) -> str:
    quoted = False
    for position, sign in enumerate(line):
        if sign == '"':
            quoted = not quoted
        elif sign in ";#" and not quoted:
            return line[:position]
    return line


def _unquoted(value: str) -> str:
    value = value.strip()
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
