# SPDX-License-Identifier: MIT
"""What the numbers of a report mean, in words: verdicts, warnings with what to do, layers better left in float."""

from typing import Any, Dict, List, Mapping, Optional, Tuple

from gluon_quantize.report.page.table import short_count

POOR_DB = 15.0  # less: an error of more than 18 % of the signal's deviation
CLIPPED = 0.01
MOVES = 0.1  # as `calib.stability` warns
FULL = 0.5  # of the accumulator
LOST = 0.01  # of Top-1
FINE_DB = 30.0  # more of the outputs: a single layer in float changes nothing that matters
GAINED = 1.0  # dB of the outputs that one layer in float must bring
SLOWER = 1.1
WORST = 3
METRICS = ("sensitivity", "specificity", "precision", "f1", "informedness")
Card = Dict[str, str]


def glance(contents: Mapping[str, Any]) -> List[Card]:
    """The page's first facts: each a title, a value, what stands below it in small letters, and a tone."""
    result = contents["result"]
    return [*_accuracy_cards(result), *_training_cards(result), *_closeness_cards(result), *_size_cards(contents),
            *_latency_cards(result), *_proof_cards(contents)]


def _card(title: str, value: str, below: str = "", tone: str = "") -> Card:
    return {"title": title, "value": value, "below": below, "tone": tone}


def accuracies(result: Mapping[str, Any]) -> List[Tuple[str, Mapping[str, Any]]]:
    """Name -> counts or metrics, the float network's first."""
    found = [(name, result[name]) for name in ("float", "quantized") if isinstance(result.get(name), dict)]
    # the simulation stands before the engine, whatever the alphabet says
    return found + sorted((result.get("accuracy") or {}).items(), key=lambda item: item[0] != "simulated")


def _accuracy_cards(result: Mapping[str, Any]) -> List[Card]:
    cards, images = [], result.get("images") or 1
    counted = [(name, counts) for name, counts in accuracies(result) if "top1_count" in counts]
    for name, counts in counted:
        lost = (dict(counted).get("float", counts)["top1_count"] - counts["top1_count"]) / images
        same = counts.get("agreement_count", result.get("agreement_count"))
        below = f"{counts['top1_count']:,} of {images:,} images"
        if name != "float":
            below = f"{100 * (0 - lost):+.2f} points" + ("" if same is None else f"; {same:,} of {images:,} as float")
        tone = "" if name == "float" else "bad" if lost > LOST else "good"
        cards.append(_card(f"Top-1 {name}", f"{counts['top1_count'] / images:.2%}", below, tone))
    return cards


def _training_cards(result: Mapping[str, Any]) -> List[Card]:
    before = (result.get("before") or {}).get("float")
    cards = [_card("Top-1 float, before", f"{before['top1']:.2%}", "on the validation images")] if (
        before and "top1" in before) else []
    for name in ("best", "final"):
        scores = result.get(name)
        if scores and {"top1", "top1_count", "images"} <= set(scores):
            cards.append(_card(f"Top-1 {name} epoch", f"{scores['top1']:.2%}",
                               f"{scores['top1_count']:,} of {scores['images']:,} test images"))
    return cards


def _closeness_cards(result: Mapping[str, Any]) -> List[Card]:
    """Of networks that do not classify: how close the outputs are to float's, and the data's own metric."""
    cards = [_card(f"{metric} {name}", f"{value:.4g}") for name, counts in accuracies(result)
             if "top1_count" not in counts for metric, value in (counts.get("metrics") or {}).items()]
    compared = [("quantized", result["responses"])] if isinstance(result.get("responses"), dict) else [
        (name, counts) for name, counts in accuracies(result) if "sqnr_db" in counts and name != "float"]
    for name, found in compared:
        least = min(found["sqnr_db"], default=None)
        if least is not None:
            cards.append(_card(f"outputs {name}", "as float" if least >= 999 else f"{least:.1f} dB",
                               "SQNR of the worst of " + f"{len(found['sqnr_db'])} outputs against float",
                               "bad" if least < POOR_DB else ""))
        if found.get("agreement") is not None:
            cards.append(_card(f"agreement {name}", f"{found['agreement']:.2%}",
                               "of the places have float's largest channel"))
    return cards


def _size_cards(contents: Mapping[str, Any]) -> List[Card]:
    sizes, rows = contents["result"].get("sizes"), contents["layers"]
    if sizes:
        return [_card("size", f"{short_count(sizes['int8'])}B", f"{sizes['ratio']:.1%} of float's "
                      f"{short_count(sizes['float'])}B, on disk")]
    if not rows:
        return []
    stored, floating = (sum(row[key] for row in rows) for key in ("bytes", "float_bytes"))
    return [_card("parameters", f"{short_count(stored)}B", f"{stored / max(floating, 1):.1%} of float's "
                  f"{short_count(floating)}B, a byte for each quantized weight")]


def _latency_cards(result: Mapping[str, Any]) -> List[Card]:
    latency = result.get("latency_ms")
    if not latency:
        return []
    half = {kind: f"middle half {low:.2f} to {high:.2f}; "
            for kind, (low, high) in (latency.get("spread") or {}).items()}
    gain = f"{latency['ratio']:.2f} times as fast as float" if latency["ratio"] >= 1 else (
        f"{1 / latency['ratio']:.2f} times as long as float")
    return [_card("latency int8", f"{latency['int8']:.2f} ms", half.get("int8", "") + gain,
                  "good" if latency["ratio"] >= 1 else "bad"),
            _card("latency float", f"{latency['float']:.2f} ms", half.get("float", "")
                  + f"one thread, medians of {latency['runs']} runs")]


def _proof_cards(contents: Mapping[str, Any]) -> List[Card]:
    rows = machines(contents)
    if not rows:
        return []
    exact, number = sum(row["exact"] for row in rows), len({row["machine"] for row in rows})
    value = "exact" if exact == len(rows) else f"{min(row['share'] for row in rows):.3%}"
    return [_card("proof", value, f"{exact} of {len(rows)} comparisons have only identical codes, on {number} "
                  f"machine{'s' * (number > 1)}", "good" if exact == len(rows) else "")]


def machines(contents: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """A row for each machine and each way of computing: what the proof says there."""
    rows = []
    for certificate in contents["certificates"]:
        machine = certificate.get("machine", {})
        for side, found in certificate.get("sides", {}).items():
            codes = found["codes"]
            exact = codes["identical"] == codes["elements"]
            rows.append({"machine": " ".join(str(machine.get(key, "")) for key in ("cpu", "architecture")).strip(),
                         "side": side, "share": codes["share"], "largest": codes["largest"], "exact": exact,
                         "first": found.get("first_deviation") or "none",
                         "why": _why(certificate, side, found.get("first_deviation")),
                         "same": f"{found['top1_agreement']}/{certificate.get('images')}"})
    return rows


def _why(certificate: Mapping[str, Any], side: str, node: Optional[str]) -> str:
    """The reason that a certificate gives for the codes in front of a layer."""
    return next((str((layer.get("reasons") or {}).get(side, {}).get("why", "")) for layer in
                 certificate.get("layers", ()) if layer.get("node") == node), "")


def metrics(contents: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """N2D2's metrics, means over the classes, of every network there is: rows of name -> share."""
    result = contents["result"]
    named = [(name, counts.get("metrics") or {}) for name, counts in accuracies(result)]
    named += [(f"{name}, before training", found) for name, found in (result.get("before") or {}).items() if found]
    named += [(f"{name} epoch", result[name]) for name in ("best", "final") if isinstance(result.get(name), dict)]
    return [dict({key: found[key] for key in METRICS}, name=name) for name, found in named
            if all(key in found for key in METRICS)]


# ---- warnings


def warnings(contents: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """What the owner of the network should know, each with what to do, and the layers that it is about."""
    said: List[Dict[str, Any]] = [{"text": text, "layers": []} for text in contents["notes"]]
    said += [{"text": text, "layers": []} for text in _accuracy_warnings(contents["result"])]
    said += [{"text": f"{row['side']} on {row['machine']}: {1 - row['share']:.2%} of the codes differ from the integer "
              f"engine, first at {row['first']}: {row['why'] or 'the certificate does not say why'}", "layers": []}
             for row in machines(contents) if not row["exact"]]
    for text, test in LAYER_WARNINGS:
        layers = [{"node": row["node"], "name": row["name"], "value": value} for row in contents["layers"]
                  for value in [test(row)] if value]
        if layers:
            said.append({"text": text, "layers": layers})
    return said


def _accuracy_warnings(result: Mapping[str, Any]) -> List[str]:
    counted, images = dict(accuracies(result)), result.get("images") or 1
    counted = {name: counts for name, counts in counted.items() if "top1_count" in counts}
    if "float" not in counted:
        return []
    lost = {name: (counted["float"]["top1_count"] - counts["top1_count"]) / images
            for name, counts in counted.items()}
    return [f"{name} loses {100 * share:.1f} points of Top-1 against float: look for layers with a low SQNR below, "
            "leave the worst of them float (a rule with \"exclude\": true), try another --calib-mode, or retrain"
            for name, share in lost.items() if share > LOST]


def _above(key: str, limit: float, shape: str) -> Any:
    return lambda row: shape.format(row[key]) if row.get(key) is not None and row[key] > limit else ""


def _below(key: str, limit: float, shape: str) -> Any:
    return lambda row: shape.format(row[key]) if row.get(key) is not None and row[key] < limit else ""


LAYER_WARNINGS: Tuple[Tuple[str, Any], ...] = (
    (f"More than {CLIPPED:.0%} of the input lies beyond the threshold: calibrate with more images, or with minmax",
     _above("clipped", CLIPPED, "{:.1%}")),
    (f"The threshold moves by more than {MOVES:.0%} between halves of the calibration images: take more of them "
     "(--calib-images)", _above("movement", MOVES, "{:.0%}")),
    ("Sums come within a factor of two of 32 bits: use fewer bits", _below("headroom", 1 / FULL, "{:.2f}×")),
    ("Channels of the input never were active on the calibration images: take more of them, or prune",
     _above("dead_inputs", 0, "{}")),
    ("Channels have only zero weights: they cost time and bytes for nothing, prune them",
     _above("dead_channels", 0, "{}")))


# ---- layers better left in float


def better_float(contents: Mapping[str, Any]) -> List[Dict[str, str]]:
    """Layers that lose most, or that the engine computes no faster in integers: three for each reason, at most."""
    rows = contents["layers"]
    poor = sorted((row for row in rows if row["alone"] is not None and row["alone"] < POOR_DB),
                  key=lambda row: row["alone"])
    found = [(row, f"quantized alone, its output keeps {row['alone']:.1f} dB") for row in poor[:WORST]]
    found += _gains(rows, contents.get("sensitivity"))
    slow = sorted((row for row in rows if _surely_slower(row)), key=lambda row: row["float_ms"] - row["int8_ms"])
    found += [(row, f"takes {row['int8_ms']:.3g} ms in int8 and {row['float_ms']:.3g} ms in float on this machine")
              for row in slow[:WORST]]
    return [{"node": row["node"], "name": row["name"], "why": why} for row, why in found]


def _gains(rows: List[Mapping[str, Any]], sensitivity: Optional[Mapping[str, Any]]) -> List[Any]:
    """Layers that bring the outputs most when they alone are left float, as sensitivities measured it."""
    by_name, found = {row["name"]: row for row in rows}, []
    measured: Mapping[str, Any] = sensitivity or {}
    for bits, everything in (measured.get("everything") or {}).items():
        base = everything["sqnr_db"]
        if base is None or base > FINE_DB:
            continue
        gains = [(item["sqnr_db"] - base, item) for item in measured["rows"]
                 if item["operand"] == "layer" and str(item["bits"]) == bits and item["sqnr_db"] is not None
                 and item["layer"] in by_name]
        best = sorted((pair for pair in gains if pair[0] >= GAINED), key=lambda pair: -pair[0])[:WORST]
        found += [(by_name[item["layer"]], f"with everything else at {bits} bits, leaving it float brings the outputs "
                   f"from {base:.1f} to {item['sqnr_db']:.1f} dB") for _, item in best]
    return found


def _surely_slower(row: Mapping[str, Any]) -> bool:
    """Whether int8 is slower than float by more than the spread of the runs."""
    times = row.get("ms")
    return times is not None and row["int8_ms"] > SLOWER * row["float_ms"] and times["int8"][0] > times["float"][2]


def cost_class(decibels: Optional[float]) -> int:
    """0 (unknown), 1 (costs nothing that matters) to 4 (costs much): the colour of a layer."""
    if decibels is None:
        return 0
    return 1 if decibels >= 35 else 2 if decibels >= 25 else 3 if decibels >= POOR_DB else 4


def timing_text(timing: Optional[Mapping[str, Any]]) -> str:
    """How layers were timed, and how well the parts add up to the whole."""
    if not timing:
        return ""

    def sums(kind: str) -> str:
        low, middle, high = timing["sum"][kind]
        return (f"{kind} {middle:.2f} ms (middle half {low:.2f} to {high:.2f}), in one piece "
                f"{timing['whole'][kind][1]:.2f} ms")
    threads = timing["threads"]
    return (f"Milliseconds are of one image in {timing['engine']} on {timing['cpu']}, "
            f"{f'{threads} thread' + 's' * (threads != 1) if threads else 'threads as the engine has them'}: of the "
            "processor, which other programs do not lengthen; in a warm network one blob after the other is asked for, "
            "and the time until it is there counts as its layer's. "
            f"Float and int8 in turn, medians of {timing['runs']} runs. All layers together: {sums('float')}; "
            f"{sums('int8')}.")
