# SPDX-License-Identifier: MIT
"""Write docs/options.md from the parsers of the commands: `python docs/tools/make_options.py` (a test compares)."""

import argparse
import pathlib

from gluon_quantize.commands.main import COMMANDS, module_of

PAGE = pathlib.Path(__file__).resolve().parent.parent / "options.md"
HEAD = """# Options

Every option of every command, as `gluon-quantize COMMAND --help` prints them. This page is made from the parsers by
`docs/tools/make_options.py`.
"""


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    for name, command in COMMANDS.items():
        parser = module_of(name).build_parser(f"gluon-quantize {name}")
        parts.append(f"## {name}\n\n{command.help[0].upper()}{command.help[1:]}.\n")
        for group in parser._action_groups:  # argparse has no other way to its groups
            rows = [row(parser, action) for action in group._group_actions if shown(action)]
            if rows:
                title = (group.title[0].upper() + group.title[1:]).replace("Optional arguments", "Options")
                parts.append(f"### {name}: {title}\n\n| option | meaning |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def shown(action) -> bool:
    """Whether --help shows it, and it is not --help itself."""
    return action.help is not argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)


def row(parser, action) -> str:
    """One line of a table: the option in all its spellings, and its help."""
    formatter = parser._get_formatter()
    name = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.dest}`"
    values = "" if action.nargs == 0 or not action.option_strings else " " + formatter._format_args(
        action, formatter._get_default_metavar_for_optional(action))
    if values:
        name = f"{name} `{values.strip()}`"
    text = formatter._expand_help(action) if action.help else ""
    return f"| {escaped(name)} | {escaped(text)} |"


def escaped(text: str) -> str:
    """Text that Markdown leaves as it is, in a cell of a table."""
    return text.replace("|", "&#124;").replace("*", "&#42;")



if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
