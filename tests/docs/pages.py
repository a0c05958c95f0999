# SPDX-License-Identifier: MIT
"""The Markdown pages of this project, and the blocks and links in them."""

import pathlib
import re
from typing import Iterator, List, NamedTuple, Optional

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN = "# not run in the tests: "
LANGUAGES = ("python", "sh", "text", "json", "ini", "mermaid")

_FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```[ ]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


class Block(NamedTuple):
    """One fenced block. `reason`: why it is not run, None where it is; `output`: the text block that follows it."""

    line: int
    language: str
    text: str
    output: Optional[str]

    @property
    def reason(self) -> Optional[str]:
        first = self.text.split("\n", 1)[0]
        return first[len(NOT_RUN):].strip() if first.startswith(NOT_RUN) else None


def name_of(page: pathlib.Path) -> str:
    """``docs/simulate.md``."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: pathlib.Path) -> List[Block]:
    """All fenced blocks of a page, in order."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in _FENCE.finditer(text):
        following = _FENCE.match(text, _after_blank_lines(text, match.end()))
        output = following.group(3) if following and following.group(2) == "text" else None
        found.append(Block(text.count("\n", 0, match.start()) + 1, match.group(2).strip(), match.group(3), output))
    return found


def _after_blank_lines(text: str, position: int) -> int:
    return position + len(text[position:]) - len(text[position:].lstrip("\n"))


def prose(page: pathlib.Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: pathlib.Path) -> Iterator[str]:
    """Targets of links and images, as they are written."""
    for match in _LINK.finditer(re.sub(r"`[^`\n]*`", "", prose(page))):
        yield match.group(1) or match.group(2)


def anchors(page: pathlib.Path) -> List[str]:
    """What can stand behind ``#`` in a link to the page: its headings, in the spelling of GitHub and of the site."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE)
    return [re.sub(r"[ ]+", "-", re.sub(r"[^\w\- ]", "", heading.lower()).strip()) for heading in headings]
