# SPDX-License-Identifier: MIT
"""One self-contained HTML page from a report's contents, `write_page`; parts of it in a notebook, `Inline`.

Needs the extra `report` (Jinja2, Vega, grandalf).
"""

from gluon_quantize.report.page.inline import Inline
from gluon_quantize.report.page.write import page_text, require, write_page

__all__ = ["Inline", "page_text", "require", "write_page"]
