# SPDX-License-Identifier: MIT
"""A whole INI file: which sections it has, what each is, and the network that they make."""

import pathlib
from dataclasses import dataclass
from typing import Any, Dict, List, Set, Tuple

from quantize.errors import ConfigError
from quantize.files import PathLike
from quantize.interfaces.n2d2 import cells
from quantize.interfaces.n2d2.ini.cells import MODELS, made
from quantize.interfaces.n2d2.ini.environment import PROVIDERS, TRANSFORMATION, transformations
from quantize.interfaces.n2d2.ini.imported import imported_cells
from quantize.interfaces.n2d2.ini.options import Options
from quantize.interfaces.n2d2.ini.reader import CONFIG_SECTION, Document, Section, read_ini
from quantize.interfaces.n2d2.network import CellNetwork
from quantize.interfaces.n2d2.transform import Transformation
from quantize.registry import closest

DATABASE, TARGET, ONNX = "database", ".Target", "ONNX"
GLOBALS = {"DefaultModel": MODELS, "DefaultDataType": ("Float32",)}


@dataclass(frozen=True)
class Model:
    """What an INI file says.

    Attributes
    ----------
    network : CellNetwork
        Not built yet.
    provider : str
        "sp" or "env", as the file calls it.
    batch_size : int
    transformations : tuple of Transformation
    target : str
        The cell whose outputs are compared with the labels.
    """

    document: Document
    network: CellNetwork
    provider: str
    batch_size: int
    transformations: Tuple[Transformation, ...]
    target: str

    @property
    def name(self) -> str:
        """The file's name."""
        return pathlib.Path(self.document.path).name

    @property
    def size(self) -> Tuple[int, int, int]:
        """Width, height and channels of the images."""
        channels, height, width = self.network.size
        return width, height, channels

    def database_options(self) -> Options:
        """The section about the database."""
        return Options(self.document, self.document.section(DATABASE, 1))


def read_model(path: PathLike, seed: int = 1) -> Model:
    """What an INI file says; ConfigError with file, line and the nearest known name for what it may not say."""
    document = read_ini(path)
    _check_globals(document)
    provider = _provider(document)
    options = Options(document, document.sections[provider])
    size = (options.whole("NbChannels", 1, 1), options.whole("SizeY", least=1), options.whole("SizeX", least=1))
    batch_size = options.whole("BatchSize", 1, 1)
    options.finish()
    document.section(DATABASE, 1)
    used = _used(document)
    found, constants = _cells(document, provider, used)
    network = CellNetwork(found, size, provider, seed, constants)
    target = _target(document, network)
    return Model(document, network, provider, batch_size, tuple(transformations(document)), target)


def _check_globals(document: Document) -> None:
    for key, entry in document.globals.entries.items():
        if key not in GLOBALS:
            raise document.error(entry.line, f"unknown global key {key!r}{closest(key, GLOBALS)}")
        value = document.resolved(entry)
        if value not in GLOBALS[key]:
            raise document.error(entry.line, f"{key}: {value!r} is none of {', '.join(GLOBALS[key])}"
                                             f"{closest(value, GLOBALS[key])}")


def _provider(document: Document) -> str:
    found = [name for name in PROVIDERS if name in document.sections]
    if len(found) != 1:
        raise document.error(1, "one section [sp] or [env] with the images' size is wanted, there are "
                                f"{' and '.join(found) or 'none'}{closest('sp', document.sections)}")
    return found[0]


def _used(document: Document) -> Set[str]:
    """Sections that others are based on or configured by; what they say is checked there."""
    found = {base for section in document.sections.values() for base in section.bases}
    for section in document.sections.values():
        entry = section.entries.get(CONFIG_SECTION)
        if entry is not None:
            name = document.resolved(entry)
            document.section(name, entry.line, CONFIG_SECTION)
            found.add(name)
    return found


def _cells(document: Document, provider: str, used: Set[str]) -> Tuple[List[cells.Cell], Dict[str, Any]]:
    """(All cells, each behind its inputs; arrays that those of ONNX files read)."""
    constants: Dict[str, Any] = {}
    found: Dict[str, cells.Cell] = {}
    overrides: Dict[str, Section] = {}
    files: List[Section] = []
    for name, section in document.sections.items():
        if name in (DATABASE, provider) or TRANSFORMATION.match(name) or name.endswith(TARGET):
            continue
        entries = document.merged(section)
        kind = document.resolved(entries["Type"]) if "Type" in entries else ""
        if kind == ONNX:
            files.append(section)
        elif "Input" in entries and kind:
            found[name] = made(Options(document, section))
        else:
            overrides[name] = section
    for section in files:
        made_here, arrays = imported_cells(document, section, overrides, used)
        found.update((cell.name, cell) for cell in made_here)
        constants.update(arrays)
    for name, section in overrides.items():
        if name not in used:
            raise document.error(section.line, f"section [{name}] is no cell (Type and Input are wanted), and none of "
                                               f"the others uses it{closest(name, _known(document, found))}")
    return _ordered(document, found, provider), constants


def _known(document: Document, found: Dict[str, cells.Cell]) -> List[str]:
    return [DATABASE, *PROVIDERS, "sp.Transformation-1", *found]


def _ordered(document: Document, found: Dict[str, cells.Cell], provider: str) -> List[cells.Cell]:
    placed: Dict[str, cells.Cell] = {}
    left = dict(found)
    while left:
        ready = [name for name, cell in left.items() if all(i == provider or i in placed for i in cell.inputs)]
        for name in ready:
            placed[name] = left.pop(name)
        if not ready:
            name, cell = next(iter(left.items()))
            line = document.sections[name].line if name in document.sections else 1
            missing = next(source for source in cell.inputs if source != provider and source not in placed)
            if missing in left:
                raise document.error(line, f"[{name}] Input: {missing!r} comes behind it again: the cells are a ring")
            raise document.error(line, f"[{name}] Input: {missing!r} is no cell{closest(missing, [provider, *found])}")
    return list(placed.values())


def _target(document: Document, network: CellNetwork) -> str:
    targets = [section for name, section in document.sections.items() if name.endswith(TARGET)]
    if len(targets) != 1:
        raise document.error(targets[1].line if targets else 1, "one section [NAME.Target] behind the last cell is "
                                                                f"wanted, there are {len(targets)}")
    options = Options(document, targets[0])
    options.finish()
    name = targets[0].name[:-len(TARGET)]
    if name not in network.cells:
        raise document.error(targets[0].line, f"[{targets[0].name}]: {name!r} is no cell{closest(name, network.cells)}")
    cell = network.cells[name]
    last = list(network.cells)[-1]
    if not (isinstance(cell, cells.Softmax) and cell.with_loss) or name != last:
        raise document.error(targets[0].line, f"[{targets[0].name}]: the target must be the last cell, of Type=Softmax "
                                              "with WithLoss=1: cross entropy is what is trained here")
    return name


def error_in(document: Document, error: ConfigError) -> ConfigError:
    """An error of the network with the file's name before it."""
    return error if str(error).startswith(document.path) else ConfigError(f"{document.path}: {error}")
