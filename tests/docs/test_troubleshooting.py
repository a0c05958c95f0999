# SPDX-License-Identifier: MIT
"""What the page on error messages quotes is really said."""

import ast
import re

import pytest

from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
SOURCES = ("quantize", "calib", "deploy", "examples")


def said(node):
    """The text of an expression, as far as it is known before it runs; the rest becomes an ellipsis."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(said, node.values))
    if isinstance(node, ast.BinOp):
        return said(node.left) + said(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        return re.sub(r"{[^{}]*}", "…", said(node.func.value))
    return "…"


@pytest.fixture(scope="module")
def texts():
    """Every text in the sources and in the Makefile."""
    found = [" ".join(re.sub(r'" *\\\s*"', " ", (ROOT / "Makefile").read_text(encoding="utf-8")).split())]
    for top in SOURCES:
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.JoinedStr, ast.Call, ast.BinOp, ast.Constant)):
                    found.append(said(node))
    return "\n".join(found)


def quotes():
    """The messages of the page's first columns."""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and not line.startswith(("| message", "| warning", "|--")):
            yield from re.findall(r"`([^`]+)`", line.split(" | ")[0])


def pattern(quote):
    """A regular expression for a message with ellipses."""
    return ".*".join(re.escape(part.strip()) for part in quote.split("…"))


def test_quoted_messages_are_in_the_sources(texts):
    assert [quote for quote in quotes() if not re.search(pattern(quote), texts)] == []


def test_most_messages_are_on_the_page():
    """Those that a person meets; what is left are faults in calls of single functions, which say all themselves."""
    patterns = [re.compile(pattern(quote)) for quote in quotes()]
    raised = [said(node.args[0]) for top in SOURCES for path in (ROOT / top).rglob("*.py")
              for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
              if isinstance(node, ast.Call) and node.args and getattr(node.func, "id", "").endswith("Error")]
    assert sum(any(quote.search(text) for quote in patterns) for text in raised) > 0.7 * len(raised)
