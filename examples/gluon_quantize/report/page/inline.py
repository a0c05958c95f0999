# SPDX-License-Identifier: MIT
"""Parts of the page in a notebook: the same template, with charts as pictures, since nothing runs there."""

from html import escape
from typing import Any, Mapping, Optional, Sequence

from gluon_quantize.report.page import charts
from gluon_quantize.report.page.write import asset, layer_charts, page_template, values_of, vega_library

PARTS = ("glance", "network", "layers", "charts", "layer", "images")
WIDTH = 460


class Inline:
    """What a notebook shows of a report.

    Parameters
    ----------
    contents : dict
        Of `gluon_quantize.runs.report.report`.
    parts : sequence of str
        Of `PARTS`.
    layer : str, optional
        The layer whose distributions are shown; the one that loses most by default.
    """

    def __init__(self, contents: Mapping[str, Any], parts: Sequence[str] = PARTS, layer: Optional[str] = None):
        self._contents, self._parts, self._layer = contents, parts, layer

    def _repr_html_(self) -> str:
        """Jupyter asks for this."""
        template, values = page_template(), values_of(self._contents)
        context = template.new_context(dict(values, vega="", script="", data="{}"))
        for _ in template.root_render_func(context):  # its macros are known to the blocks afterwards
            pass
        # the page's rules, for this element alone
        style = asset("report.css").replace(":root", "&")
        made = {"charts": self._charts, "layer": self._charts_of_layer}
        found = "".join(made[part](values) if part in made else "".join(template.blocks[part](context))
                        for part in self._parts)
        return f'<div class="gluon-report"><style>.gluon-report {{ {style} }}</style>{found}</div>'

    def show(self) -> None:
        """In a notebook; elsewhere nothing happens."""
        try:
            from IPython.display import display
        except ImportError:
            return
        display(self)

    def _charts(self, values: Mapping[str, Any]) -> str:
        rows = values["rows"]
        specs = [charts.sqnr(rows)] if any(row["alone"] is not None for row in rows) else []
        if any(row["float_ms"] is not None for row in rows):
            specs.append(charts.times(rows))
        return _pictures(specs)

    def _charts_of_layer(self, values: Mapping[str, Any]) -> str:
        wanted = self._layer or values["first"]
        row = next((row for row in values["rows"] if wanted in (row["node"], row["name"])), None)
        return "" if row is None else f"<h3>{escape(row['name'])}</h3>{_pictures(layer_charts(row))}"


def _pictures(specs: Sequence[Mapping[str, Any]]) -> str:
    library = vega_library()
    found = [library.vegalite_to_svg({**spec, "width": WIDTH}) for spec in specs]
    return '<div class="charts">' + "".join(f"<div>{picture}</div>" for picture in found) + "</div>"
