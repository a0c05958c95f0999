# SPDX-License-Identifier: MIT
"""Charts as Vega-Lite specifications (JSON values): the page embeds Vega and draws them, a notebook can show them."""

from typing import Any, Dict, List, Mapping, Sequence

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
HEIGHT = 180
MOST_GROWTH = 1e6  # of a learned range: beyond it nothing is drawn
# paths begin alike: the end of a long one tells more
TAIL = "length(datum.label) > 17 ? '…' + slice(datum.label, -16) : datum.label"
CELLS = 120  # of a confusion matrix
BLUE, ORANGE, GREY = "#3b78b5", "#c2571a", "#8a8a8a"


def _chart(title: str, **parts: Any) -> Dict[str, Any]:
    config = {"view": {"stroke": None}, "legend": {"orient": "bottom", "columns": 3}}
    return {"$schema": SCHEMA, "title": {"text": title, "anchor": "start", "fontSize": 12}, "width": "container",
            "height": HEIGHT, "background": None, "config": config, **parts}


def _six_digits(value: float) -> float:
    """Of a value of any size: thresholds of 1e-7 are drawn, too."""
    return float(f"{value:.6g}")


def _bins(edges: Sequence[float], counts: Sequence[int], **more: Any) -> List[Dict[str, Any]]:
    return [{"from": _six_digits(low), "to": _six_digits(high), "count": count, **more}
            for low, high, count in zip(edges, edges[1:], counts) if count]


def _bars(scale: str, colour: Any, axis: str) -> Dict[str, Any]:
    y: Dict[str, Any] = {"field": "count", "type": "quantitative", "title": f"values ({scale})"}
    if scale == "log":
        y["scale"] = {"type": "symlog"}
    x = {"field": "from", "type": "quantitative", "title": axis, "axis": {"format": "~g"}}
    return {"mark": {"type": "bar", "opacity": 0.7, "tooltip": True},
            "encoding": {"x": x, "x2": {"field": "to"}, "y": y, "y2": {"datum": 0}, "color": colour}}


def inputs(facts: Mapping[str, Any], scale: str) -> Dict[str, Any]:
    """Histogram of a layer's input with the thresholds of all calibrators; `scale` is linear or log."""
    marks = [{"method": name, "threshold": value, "clipped": facts["clipped"][name]}
             for name, value in facts["thresholds"].items()]
    marks.append({"method": "chosen", "threshold": facts["chosen"], "clipped": None})
    rules = {"data": {"values": marks}, "mark": {"type": "rule", "tooltip": True},
             "encoding": {"x": {"field": "threshold", "type": "quantitative"},
                          "color": {"field": "method", "type": "nominal", "title": "threshold of", "scale": {
                              "domain": ["chosen", *sorted(facts["thresholds"])], "scheme": "tableau20"}},
                          "strokeWidth": {"condition": {"test": "datum.method == 'chosen'", "value": 3}, "value": 1.5},
                          "strokeDash": {"condition": {"test": "datum.method == 'chosen'", "value": [1, 0]},
                                         "value": [4, 3]}}}
    histogram = dict(_bars(scale, {"value": GREY}, "value"),
                     data={"values": _bins(facts["edges"], facts["counts"])})
    return _chart(f"Input and thresholds ({scale})", layer=[histogram, rules])


def weights(facts: Mapping[str, Any]) -> Dict[str, Any]:
    """Histograms of a weight before and after quantization."""
    values = (_bins(facts["edges"], facts["before"], weight="float")
              + _bins(facts["edges"], facts["after"], weight="stored"))
    colour = {"field": "weight", "type": "nominal", "title": None,
              "scale": {"domain": ["float", "stored"], "range": [BLUE, ORANGE]}}
    bars = _bars("log", colour, "weight")
    bars["encoding"]["y"]["stack"] = None
    return _chart("Weights before and after", data={"values": values}, **bars)


def strip(facts: Mapping[str, Any]) -> Dict[str, Any]:
    """Largest magnitudes of the output channels as heat strips, before and after quantization."""
    values = [{"channel": number, "largest": _six_digits(value), "weight": name}
              for key, name in (("ranges", "float"), ("stored_ranges", "stored"))
              for number, value in enumerate(facts[key])]
    return _chart("Largest weight of each output channel", data={"values": values},
                  mark={"type": "rect", "tooltip": True}, height=72,
                  encoding={"x": {"field": "channel", "type": "ordinal", "title": "channels",
                                  "axis": {"labels": False, "ticks": False}},
                            "y": {"field": "weight", "type": "nominal", "title": None},
                            "color": {"field": "largest", "type": "quantitative", "title": "largest",
                                      "scale": {"scheme": "viridis"}}})


def errors(counts: Sequence[int], span: float) -> Dict[str, Any]:
    """Histogram of the output's accumulated differences, in standard deviations of the float output."""
    width = 2 * span / len(counts)
    edges = [-span + number * width for number in range(len(counts) + 1)]
    return _chart("Output's error, whole network quantized", data={"values": _bins(edges, counts)},
                  **_bars("log", {"value": ORANGE}, "standard deviations of the float output"))


def _by_layer(title: str, values: List[Dict[str, Any]], field: str, unit: str, colour: Dict[str, Any],
              **more: Any) -> Dict[str, Any]:
    """Values of every layer, in the network's order; the layer that is chosen on the page is marked."""
    x = {"field": "layer", "type": "nominal", "sort": None, "title": None,
         "axis": {"labelLimit": 110, "labelAngle": -60, "labelOverlap": True, "labelExpr": TAIL}}
    chosen = {"mark": {"type": "rule", "strokeWidth": 9, "opacity": 0.25, "color": GREY},
              "transform": [{"filter": "datum.layer === chosen"}], "encoding": {"x": x}}
    mark = {"type": "line", "point": {"size": 45}, "tooltip": True, "cursor": "pointer", **more.pop("mark", {})}
    y = {"field": field, "type": "quantitative", "title": unit, "scale": {"zero": more.pop("zero", False)}}
    marks = {"mark": mark, "encoding": {"x": x, "y": y, "color": colour, **more}}
    return _chart(title, data={"values": values}, height=220, params=[{"name": "chosen", "value": ""}],
                  layer=[marks, chosen])


def sqnr(rows: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    """Signal to noise of every layer, alone and accumulated, in the network's order."""
    values = [{"layer": row["name"], "dB": row[key], "quantized": name} for row in rows
              for key, name in (("alone", "this layer alone"), ("accumulated", "the whole network"))
              if row[key] is not None]
    return _by_layer("SQNR of each layer's output", values, "dB", "dB", {
        "field": "quantized", "type": "nominal", "title": "quantized", "scale": {"range": [BLUE, ORANGE]}})


def sensitivity(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    """What the network's outputs keep when one operand of one layer alone is quantized, at each number of bits."""
    known = {row["name"] for row in rows}
    values = [{"layer": item["layer"], "dB": item["sqnr_db"], "operand": item["operand"],
               "bits": f"{item['bits']} bits"} for item in found["rows"]
              if item["layer"] in known and item["operand"] != "layer" and item["sqnr_db"] is not None]
    return _by_layer("SQNR of the outputs, one operand of one layer quantized", values, "dB", "dB", {
        "field": "bits", "type": "nominal", "title": None}, strokeDash={
            "field": "operand", "type": "nominal", "title": None, "sort": ["weight", "input"]})


def times(rows: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    """Milliseconds of every layer, float and int8, side by side."""
    values = [{"layer": row["name"], "ms": row[f"{kind}_ms"], "computed in": kind} for row in rows
              for kind in ("float", "int8") if row.get(f"{kind}_ms") is not None]
    return _by_layer("Time of each layer", values, "ms", "ms", {
        "field": "computed in", "type": "nominal", "title": None,
        "scale": {"domain": ["float", "int8"], "range": [BLUE, ORANGE]}}, mark={"type": "bar", "point": False},
        zero=True, xOffset={"field": "computed in", "type": "nominal"})


def confusion(found: Mapping[str, Any], names: Mapping[str, str]) -> Dict[str, Any]:
    """Float class against quantized class, by number and name: of many classes those that are confused."""
    pairs = [pair for pair in found["pairs"] if pair[0] != pair[1]] if len(found["pairs"]) > CELLS else found["pairs"]
    called = {number: f"{number} {names.get(str(number), '')}".strip() for pair in pairs[:CELLS] for number in pair[:2]}
    cells = [{"float": called[first], "quantized": called[second], "images": count}
             for first, second, count in pairs[:CELLS]]
    order = [called[number] for number in sorted(called)]
    counts = sorted({count for _, _, count in pairs[:CELLS]})
    axes = {name: {"field": name, "type": "ordinal", "title": f"class in {name}", "sort": order,
                   "axis": {"labelOverlap": True, "labelLimit": 110}} for name in ("float", "quantized")}
    return _chart("Class in float against class when quantized", data={"values": cells},
                  mark={"type": "rect", "tooltip": True}, height=280,
                  encoding={"x": axes["quantized"], "y": axes["float"],
                            "color": {"field": "images", "type": "quantitative", "scale": {"scheme": "blues"},
                                      "legend": {"values": [*counts[:1], *counts[1:][-1:]], "format": "d"}}})


def training(epochs: Sequence[Mapping[str, Any]]) -> List[Dict[str, Any]]:
    """Loss, accuracy, and what the quantizers have learned, over the epochs."""
    x = {"field": "epoch", "type": "quantitative", "axis": {"tickMinStep": 1, "format": "d"}}
    mark = {"type": "line", "point": True, "tooltip": True}

    def curve(key: str, title: str, shape: str) -> Dict[str, Any]:
        values = [{"epoch": epoch["epoch"], key: epoch[key]} for epoch in epochs if key in epoch]
        return _chart(title, data={"values": values}, mark=mark,
                      encoding={"x": x, "y": {"field": key, "type": "quantitative", "scale": {"zero": False},
                                              "axis": {"format": shape}}})
    first: Mapping[str, Any] = next((epoch["ranges"] for epoch in epochs if epoch.get("ranges")), {})
    ranges = [{"epoch": epoch["epoch"], "quantizer": name, "share of the first": value / (first[name] or 1)}
              for epoch in epochs for name, value in (epoch.get("ranges") or {}).items()
              if name in first and abs(value) <= MOST_GROWTH * abs(first[name] or 1)]
    learned = _chart("Learned steps and clips, as shares of the first epoch's", data={"values": ranges}, mark=mark,
                     encoding={"x": x, "y": {"field": "share of the first", "type": "quantitative",
                                             "scale": {"zero": False}},
                               "detail": {"field": "quantizer"}, "opacity": {"value": 0.6}})
    return [curve("loss", "Loss", ".3g"), curve("top1", "Top-1", ".1%")] + ([learned] if ranges else [])
