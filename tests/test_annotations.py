# SPDX-License-Identifier: MIT
"""Public signatures say their types; of most of quantize, mypy demands it for private ones too."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def untyped(text):
    """(function, what lacks a type) of every public function or method in a source."""
    def visit(node, prefix, public):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                yield from visit(child, child.name + ".", public and not child.name.startswith("_"))
            elif isinstance(child, ast.FunctionDef) and public and (
                    not child.name.startswith("_") or child.name == "__init__"):
                args = child.args
                listed = args.posonlyargs + args.args + args.kwonlyargs + [a for a in (args.vararg, args.kwarg) if a]
                lacking = [a.arg for a in listed if a.annotation is None and a.arg not in ("self", "cls")]
                if child.returns is None and child.name != "__init__":
                    lacking.append("return")
                if lacking:
                    yield prefix + child.name, lacking
    return list(visit(ast.parse(text), "", True))


@pytest.mark.parametrize("package", ["calib", "deploy", "quantize", "examples/gluon_quantize"])
def test_public_signatures_say_their_types(package):
    found = {path.relative_to(ROOT).as_posix(): untyped(path.read_text(encoding="utf-8"))
             for path in sorted((ROOT / package).rglob("*.py"))}
    assert len(found) > 20
    assert {path: lacking for path, lacking in found.items() if lacking} == {}


def test_the_check_finds_what_it_must():
    assert untyped("def f(a, *b, c: int = 1, **d) -> int: pass") == [("f", ["a", "b", "d"])]
    assert untyped("class A:\n def __init__(self, a): pass\n def f(self): pass") == [
        ("A.__init__", ["a"]), ("A.f", ["return"])]
    assert untyped("def _f(a): pass\nclass _A:\n def f(self): pass\ndef g() -> None:\n def h(): pass") == []
