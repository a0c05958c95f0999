# SPDX-License-Identifier: MIT
"""The page about a run: the option that asks for it, and writing it beside the results."""

import argparse
import pathlib
from typing import TYPE_CHECKING, Any, List

from gluon_quantize.data.request import ImagesRequest
from gluon_quantize.runs.ownership import PAGE

if TYPE_CHECKING:
    from gluon_quantize.runs.report import ReportRequest


def add_report(group: argparse._ArgumentGroup) -> None:
    """Whether a page is written beside the results."""
    group.add_argument("--report", action="store_true",
                       help=f"also write {PAGE} and its JSON into --output: one page about all of it, as the command "
                            "report makes it (needs the extra `report`)")


def require() -> None:
    """ConfigError, before long work begins, where a library of the page is missing."""
    from gluon_quantize.report.page import require as needed
    needed()


def beside(output: Any, images: ImagesRequest) -> List[str]:
    """Write the page of a run's folder into it; lines for people."""
    # the engine and NumPy take a moment to load
    from gluon_quantize.runs.report import ReportRequest
    return write(ReportRequest(str(output), images), pathlib.Path(output) / PAGE)


def write(request: "ReportRequest", page: Any) -> List[str]:
    """Collect, write the page and its JSON; lines that say where they are and what they took."""
    from gluon_quantize.commands.terminal import Terminal
    from gluon_quantize.report.page import write_page
    from gluon_quantize.report.steps import step_text
    from gluon_quantize.runs.report import report
    contents = report(request, Terminal(step_text))
    lines = [f"written to {path}" for path in write_page(page, contents)]
    collection = contents.get("collection")
    if collection:
        lines.append(f"looked at {collection['images']} images: {collection['ratio']:.2f} times the processor's time "
                     "of a float pass over them")
    return lines
