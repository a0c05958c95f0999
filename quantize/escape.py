# SPDX-License-Identifier: MIT
"""Text that somebody else wrote (names of layers, paths, labels, metadata), encoded for the language it goes into.

Nothing is handed on as it is: a name with quotes would be code in a program, one with a bar a column in Markdown, and
one with control characters could rewrite the screen or show a file's name backwards. Each language has one function
here, and templates (`deploy.targets.ncnn.programs`) apply it to every value by themselves.
"""

import re
import unicodedata
from typing import Any

# control, format (right-to-left marks, zero width), surrogates, private use, not assigned; line and paragraph ends
HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
LONGEST_NAME = 200  # bytes; engines end at 255, and helpers are named after a node
_MARKDOWN = re.compile(r"([\\`*<>\[\]|&])")
_UNSAFE = re.compile(r"[^\w.:/+@-]+")


def shown(text: Any, keep: str = "") -> str:
    r"""The text with everything escaped that does not show, or shows as something else: ``\x1b``, ``\u202e``, ``\n``.

    Parameters
    ----------
    keep : str
        Characters that stay: line ends, for texts of several lines.

    >>> print(shown("a\x1b[2Jb\u202ec"))
    a\x1b[2Jb\u202ec
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if letter in keep or unicodedata.category(letter) not in HIDDEN
                   else letter.encode("unicode_escape").decode("ascii") for letter in text)


def python_text(text: str) -> str:
    r"""A literal of Python, in ASCII.

    >>> print(python_text('s"+evil()+"'))
    "s\"+evil()+\""
    """
    return '"' + text.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'


def cpp_text(text: str) -> str:
    r"""A literal of C and C++: UTF-8, all but plain letters as three octal digits, which end by themselves.

    >>> print(cpp_text('a"b'))
    "a\042b"
    """
    data = text.encode("utf-8", "surrogatepass")
    return '"' + "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\?' else f"\\{byte:03o}"
                         for byte in data) + '"'


def comment(text: Any) -> str:
    """The text as part of a comment to the line's end: one line, which no backslash joins to the next."""
    return shown(text).replace("\\", "/").replace("*/", "* /").replace("/*", "/ *")


def markdown(text: Any) -> str:
    r"""The text as words of Markdown: no links, no HTML, no columns.

    >>> print(markdown("<b>|[x](y)"))
    \<b\>\|\[x\](y)
    """
    return _MARKDOWN.sub(r"\\\1", shown(text))


def safe_name(text: str) -> str:
    """A name for nodes and blobs that is one word in every format: letters, digits and ``_ . : / + @ -``.

    >>> safe_name('soft max"); evil(')
    'soft_max_evil_'
    """
    name = _UNSAFE.sub("_", text)
    while len(name.encode("utf-8")) > LONGEST_NAME:
        name = name[:len(name) - 1 - (len(name.encode("utf-8")) - LONGEST_NAME) // 4]
    return name.lstrip("-") or "_"


def one_line(error: BaseException) -> str:
    """What an error of another library says, in one line: MXNet adds its own stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Stack trace")]
    found = next((line for line in lines if "Check failed" in line or "Error" in line), lines[0] if lines else "")
    return shown(found)[:300] or type(error).__name__
