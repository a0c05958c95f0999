# SPDX-License-Identifier: MIT
"""The page of options is what the parsers say."""

import runpy

from tests.docs.pages import ROOT


def test_the_page_is_the_parsers():
    made = runpy.run_path(str(ROOT / "docs" / "tools" / "make_options.py"))
    assert made["PAGE"].read_text(encoding="utf-8") == made["page"](), "run: python docs/tools/make_options.py"
