# SPDX-License-Identifier: MIT
"""The page itself: contents and charts in a template, with Vega embedded, and nothing that needs a network."""

import functools
import json
import pathlib
import shlex
from typing import Any, Dict, List, Mapping

from gluon_quantize.report.page import charts, drawing, table, words
from quantize.errors import ConfigError
from quantize.escape import shown
from quantize.files import write_whole

ASSETS = pathlib.Path(__file__).resolve().parent.parent.parent / "assets" / "report"
COMMAND_LINE = "command_line"
# how commands of this program begin (`commands.running.spelled`); what else a file wants typed is not repeated
SCRIPTS = ("simulate_quantization.py", "train_qat.py", "deploy_ncnn.py", "train_distributed.py", "n2d2.py")
STARTS = (["gluon-quantize"], *(["python", script] for script in SCRIPTS))
NEEDED = "the report needs {}: pip install 'gluon-quantize[report]'"


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
    return page_template().render(values_of(contents))


def page_template() -> Any:
    """The template of the page, whose blocks are its parts."""
    return _environment().get_template("report.html.j2")


def values_of(contents: Mapping[str, Any]) -> Dict[str, Any]:
    """All that the template wants."""
    return {**facts_of(contents), "vega": _vega(), "style": asset("report.css"), "script": asset("report.js")}


def facts_of(contents: Mapping[str, Any]) -> Dict[str, Any]:
    """What the template shows of a report; texts from files have nothing in them that does not show."""
    contents = _visible(contents)
    rows = table.with_sensitivities(contents["layers"], contents.get("sensitivity"))
    specs = _specs(contents, rows)
    return {"report": contents, "rows": rows, "columns": table.columns_of(rows, contents.get("sensitivity")),
            "cards": words.glance(contents), "machines": words.machines(contents),
            "warnings": words.warnings(contents), "better_float": words.better_float(contents),
            "metrics": words.metrics(contents), "timing": words.timing_text(contents["timing"]),
            "settings": _settings(contents), "commands": _commands(contents), "drawing": drawing.draw(
                contents["edges"], [row["node"] for row in rows]) if contents["edges"] else None,
            "box": (drawing.WIDTH, drawing.HEIGHT), "names": {row["node"]: row["name"] for row in rows},
            "costs": {row["node"]: words.cost_class(row["alone"]) for row in rows}, "first": specs["first"],
            "data": _for_scripts(specs)}


def _visible(value: Any) -> Any:
    """A JSON value whose texts show as they are: without controls and marks that turn what follows them."""
    if isinstance(value, str):
        return shown(value, keep="\n\t")
    if isinstance(value, dict):
        return {_visible(key): _visible(item) for key, item in value.items()}
    return [_visible(item) for item in value] if isinstance(value, (list, tuple)) else value


def require() -> None:
    """ConfigError where a library is missing that the page is made with."""
    _environment()
    vega_library()
    drawing.library()


def _specs(contents: Mapping[str, Any], rows: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Charts by the place where they stand; those of a layer under its node."""
    page = {}
    if any(row["alone"] is not None for row in rows):
        page["sqnr"] = charts.sqnr(rows)
    if contents.get("sensitivity"):
        page["sensitivity"] = charts.sensitivity(contents["sensitivity"], rows)
    if any(row.get("float_ms") is not None for row in rows):
        page["time"] = charts.times(rows)
    if contents.get("answers"):
        page["confusion"] = charts.confusion(contents["answers"], contents.get("class_names") or {})
    for number, chart in enumerate(charts.training(contents["training"]) if contents["training"] else []):
        page[f"training-{number}"] = chart
    return {"page": page, "layers": {row["node"]: layer_charts(row) for row in rows},
            "thresholds": {row["node"]: _thresholds(row) for row in rows if row.get("inputs")},
            "first": _first(rows)}


def _first(rows: List[Dict[str, Any]]) -> Any:
    """The layer that is shown before one is chosen: the one that loses most."""
    known = [row for row in rows if row["alone"] is not None] or rows
    return min(known, key=lambda row: row["alone"] or 0)["node"] if known else None


def _thresholds(row: Mapping[str, Any]) -> List[List[str]]:
    """Rows of (method, threshold, share of the input beyond it)."""
    facts = row["inputs"]
    return [["chosen", table.shown(facts["chosen"], "number"), table.shown(row["clipped"], "share")]] + [
        [name, table.shown(value, "number"), table.shown(facts["clipped"][name], "share")]
        for name, value in sorted(facts["thresholds"].items(), key=lambda item: item[1])]


def layer_charts(row: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """The distributions of a layer."""
    found = []
    if row.get("inputs"):
        found += [charts.inputs(row["inputs"], "linear"), charts.inputs(row["inputs"], "log")]
    if row.get("weights"):
        found += [charts.weights(row["weights"]), charts.strip(row["weights"])]
    if row.get("errors"):
        found.append(charts.errors(row["errors"], row["errors_span"]))
    return found


def _settings(contents: Mapping[str, Any]) -> Dict[str, Any]:
    settings = contents["result"].get("settings") or {}
    return {key: value for key, value in settings.items() if value is not None and key != COMMAND_LINE}


def _commands(contents: Mapping[str, Any]) -> List[str]:
    """What to type to have all of this again."""
    made = _own_command((contents["result"].get("settings") or {}).get(COMMAND_LINE))
    folder = shlex.quote(str(contents["folder"]))
    found = [made] if made else []
    found += [f"gluon-quantize recheck {folder}"] if contents["kind"] == "deployment" else []
    return found + [f"gluon-quantize report {shlex.quote(str(contents['subject']))} --output report.html"]


def _own_command(line: Any) -> str:
    """A command line of this program, whatever else the file says is to be typed; "" where it is none."""
    try:
        words = shlex.split(str(line)) if line else []
    except ValueError:
        return ""
    return " ".join(map(shlex.quote, words)) if any(words[:len(start)] == start for start in STARTS) else ""


def _for_scripts(value: Any) -> str:
    """JSON that may stand in a script element: `<` cannot begin a tag in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


@functools.lru_cache(maxsize=None)
def _environment() -> Any:
    try:
        import jinja2
    except ImportError:
        raise ConfigError(NEEDED.format("Jinja2")) from None
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(str(ASSETS)), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(shown=table.shown, groupby_runs=table.groups_of, short=drawing.short)
    return environment


def vega_library() -> Any:
    """The library that draws charts; ConfigError where it is missing."""
    try:
        import vl_convert
    except ImportError:
        raise ConfigError(NEEDED.format("vl-convert-python")) from None
    return vl_convert


@functools.lru_cache(maxsize=None)
def _vega() -> str:
    """Vega, Vega-Lite and their embedding as one script."""
    return vega_library().javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def asset(name: str) -> str:
    """A file of the page."""
    return (ASSETS / name).read_text(encoding="utf-8")
