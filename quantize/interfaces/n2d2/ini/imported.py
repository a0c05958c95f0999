# SPDX-License-Identifier: MIT
"""A section of Type=ONNX: the cells of the file, with what base blocks and sections of their names say of them."""

from typing import Dict, List, Set, Tuple

from quantize.interfaces.n2d2 import cells
from quantize.interfaces.n2d2.ini.reader import Document, Section


def imported_cells(document: Document, section: Section, size: Tuple[int, int, int], overrides: Dict[str, Section],
                   used: Set[str]) -> List[cells.Cell]:
    """The cells of an ONNX file; sections of `overrides` that belong to one are taken out of it."""
    raise document.error(section.line, "ONNX files are not read yet")
