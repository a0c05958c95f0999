# SPDX-License-Identifier: MIT
"""For the API pages: examples that are the only indented text of a module's docstring stay code.

Docstrings lose the indentation that all their lines but the first have in common. A module's has none to lose, so where
nothing but an example follows its first line, the example would become prose.
"""

import ast

import griffe


class ModuleExamples(griffe.Extension):
    """Puts indented paragraphs of modules' docstrings between fences."""

    def on_module_instance(self, *, node, mod, **_):
        """Called for each module that is read."""
        if mod.docstring and isinstance(node, ast.Module):
            mod.docstring.value = fenced(ast.get_docstring(node, clean=False))


def fenced(text: str) -> str:
    """The text with indented blocks, which blank lines surround, as fenced ones."""
    lines, inside = [], False
    for line in text.splitlines() + [""]:
        indented = line.startswith("    ")
        if indented and not inside and (not lines or lines[-1].strip()):
            indented = False  # a list's or a paragraph's second line
        if inside and line.strip() and not line.startswith("    "):
            lines.append("```\n")
            inside = False
        elif indented and not inside:
            lines.append("```python")
            inside = True
        lines.append(line[4:] if inside else line)
    return "\n".join(lines + ["```"] if inside else lines)
