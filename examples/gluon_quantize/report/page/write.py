# SPDX-License-Identifier: MIT
"""The page itself: contents and charts in a template, with Vega embedded, and nothing that needs a network."""

import json
import pathlib
from typing import Any, Dict, List, Mapping

from deploy.study import ERROR_SPAN
from gluon_quantize.report.page import charts, drawing, words
from quantize.errors import ConfigError
from quantize.files import write_whole

ASSETS = pathlib.Path(__file__).resolve().parent.parent.parent / "assets" / "report"
NEEDED = "the report needs {}: pip install 'gluon-quantize[report]'"
COLUMNS = (("name", "layer", "text"), ("kind", "kind", "text"), ("shape", "output", "text"), ("macs", "MACs", "number"),
           ("parameters", "parameters", "number"), ("bytes", "bytes", "number"), ("weight_format", "weight", "text"),
           ("input_format", "input", "text"), ("threshold", "threshold", "number"), ("movement", "moves", "share"),
           ("weight_sqnr", "weight dB", "decibels"), ("input_sqnr", "input dB", "decibels"),
           ("alone", "alone dB", "decibels"), ("accumulated", "all dB", "decibels"), ("clipped", "clipped", "share"),
           ("dead_channels", "dead", "number"), ("headroom", "headroom", "number"), ("float_ms", "float ms", "number"),
           ("int8_ms", "int8 ms", "number"))


def write_page(path: Any, contents: Mapping[str, Any]) -> List[pathlib.Path]:
    """Write the page and, beside it with the ending .json, everything that it shows; their paths."""
    page = pathlib.Path(path)
    data = page.with_suffix(".json")
    text = page_text(contents)
    write_whole(data, json.dumps(contents, indent=1, sort_keys=True, allow_nan=False) + "\n")
    write_whole(page, text)
    return [page, data]


def page_text(contents: Mapping[str, Any]) -> str:
    """The page of a report (`gluon_quantize.runs.report.report`), as one HTML text.

    Every text from a file is escaped by the template engine; the data that scripts read is JSON in which no tag can
    end the element that holds it.
    """
    rows = contents["layers"]
    columns = [column for column in COLUMNS if any(row.get(column[0]) is not None for row in rows)]
    return _environment().get_template("report.html.j2").render(
        report=contents, rows=rows, columns=columns, cards=words.glance(contents), machines=words.machines(contents),
        warnings=words.warnings(contents), better_float=words.better_float(rows), settings=_settings(contents),
        drawing=drawing.draw(contents["edges"], [row["node"] for row in rows]) if contents["edges"] else None,
        box=(drawing.WIDTH, drawing.HEIGHT), names={row["node"]: row["name"] for row in rows},
        costs={row["node"]: words.cost_class(row["alone"]) for row in rows}, data=_for_scripts(_specs(contents)),
        vega=_vega(), style=_asset("report.css"), script=_asset("report.js"))


def _specs(contents: Mapping[str, Any]) -> Dict[str, Any]:
    """Charts by the place where they stand; those of a layer under its node."""
    rows = contents["layers"]
    page = {}
    if any(row["alone"] is not None for row in rows):
        page["sqnr"] = charts.sqnr(rows)
    if contents.get("confusion"):
        page["confusion"] = charts.confusion(contents["confusion"])
    for number, chart in enumerate(charts.training(contents["training"]) if contents["training"] else []):
        page[f"training-{number}"] = chart
    return {"page": page, "layers": {row["node"]: _of_layer(row) for row in rows},
            "facts": [{key: row.get(key) for key, _, _ in COLUMNS} for row in rows], "nodes": [r["node"] for r in rows]}


def _of_layer(row: Mapping[str, Any]) -> List[Dict[str, Any]]:
    found = []
    if row.get("inputs"):
        found += [charts.inputs(row["inputs"], "linear"), charts.inputs(row["inputs"], "log")]
    if row.get("weights"):
        found += [charts.weights(row["weights"]), charts.strip(row["weights"])]
    if row.get("errors"):
        found.append(charts.errors(row["errors"], ERROR_SPAN))
    return found


def _settings(contents: Mapping[str, Any]) -> Dict[str, Any]:
    return {key: value for key, value in (contents["result"].get("settings") or {}).items() if value is not None}


def _for_scripts(value: Any) -> str:
    """JSON that may stand in a script element: `<` cannot begin a tag in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _environment() -> Any:
    try:
        import jinja2
    except ImportError:
        raise ConfigError(NEEDED.format("Jinja2")) from None
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(str(ASSETS)), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["shown"] = shown_value
    return environment


def shown_value(value: Any, kind: str) -> str:
    """A cell of the table: numbers with the digits that matter, an empty text for what is not known."""
    if value is None:
        return ""
    if kind == "share":
        return f"{value:.2%}"
    if kind == "decibels":
        return f"{value:.1f}"
    if isinstance(value, list):
        return "×".join(str(size) for size in value)
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _vega() -> str:
    """Vega, Vega-Lite and their embedding as one script."""
    try:
        import vl_convert
    except ImportError:
        raise ConfigError(NEEDED.format("vl-convert-python")) from None
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
