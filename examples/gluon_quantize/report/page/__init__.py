# SPDX-License-Identifier: MIT
"""One self-contained HTML page from a report's contents: `write_page`; needs the extra `report` (Jinja2, Vega)."""

from gluon_quantize.report.page.write import page_text, require, write_page

__all__ = ["page_text", "require", "write_page"]
