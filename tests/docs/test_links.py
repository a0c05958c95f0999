# SPDX-License-Identifier: MIT
"""Links and paths in the pages lead somewhere, and the README stays short."""

import re
import urllib.parse

import pytest

from tests.docs.pages import LANGUAGES, PAGES, ROOT, anchors, blocks, links, name_of, prose

TOPS = ("quantize", "calib", "deploy", "examples", "tests", "docs")
README_BYTES = 9 * 1024


def broken(page, link):
    """What is wrong with a link, an empty string where nothing is."""
    parts = urllib.parse.urlsplit(link)
    if parts.scheme:
        good = parts.scheme in ("https", "http") and "." in parts.netloc and " " not in link
        return "" if good else f"{link}: not a web address"
    target = (page.parent / parts.path).resolve() if parts.path else page
    if not target.exists():
        return f"{link}: no such file"
    if parts.fragment and parts.fragment not in anchors(target):
        return f"{link}: {name_of(target)} has no such heading"
    # the site holds docs/ alone; what lies outside is named, not linked
    if ROOT / "docs" in page.parents and ROOT / "docs" not in target.parents:
        return f"{link}: leads out of docs/"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page):
    assert [wrong for wrong in (broken(page, link) for link in links(page)) if wrong] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page):
    """`quantize/spec.py` in backticks is a promise, too; with * it is a pattern."""
    names = re.findall(rf"`((?:{'|'.join(TOPS)})/[A-Za-z0-9_./]*)`", prose(page))
    assert [name for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_say_what_they_are(page):
    assert [(block.line, block.language) for block in blocks(page) if block.language not in LANGUAGES] == []


def test_every_page_is_reached_from_the_navigation():
    listed = re.findall(r":\s+([a-z0-9_/-]+\.md)\s*$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES if ROOT / "docs" in page.parents]
    assert sorted(listed) == sorted(pages)


def test_the_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= README_BYTES


@pytest.mark.parametrize("link, wrong", [
    ("docs/quickstart.md", ""), ("docs/nowhere.md", "no such file"), ("docs/glossary.md#nothing", "no such heading"),
    ("https://example", "not a web address"), ("mailto:somebody", "not a web address"), ("https://example.org/a", "")])
def test_broken_links_are_found(link, wrong):
    found = broken(ROOT / "README.md", link)
    assert wrong in found and bool(found) == bool(wrong)
