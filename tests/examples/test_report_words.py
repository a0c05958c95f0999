# SPDX-License-Identifier: MIT
"""What the report says in words, and how it writes numbers: by hand, without a network."""

import msgspec
import numpy as np
import pytest

from deploy import ir
from deploy.target import Profile
from gluon_quantize.models.predictions import Predictions, predictions_of
from gluon_quantize.report.page import charts, table, words
from gluon_quantize.report.page.drawing import short
from gluon_quantize.runs.answers import answers_contents, metrics_contents, names_of
from gluon_quantize.runs.distributions import weight_facts
from gluon_quantize.runs.layers import grid_format, weight_format
from gluon_quantize.runs.pictures import _bright
from gluon_quantize.runs.result_schema import Latency
from gluon_quantize.runs.timing import by_node
from tests.deploy.targets.ncnn import models

ROW = {"node": "a", "name": "net.a", "alone": 40.0, "clipped": 0.0, "movement": None, "headroom": 100.0, "bytes": 100,
       "float_bytes": 400, "dead_inputs": 0, "dead_channels": 0}


def contents(result=None, rows=(), **more):
    return {"result": result or {}, "layers": list(rows), "certificates": [], "notes": [], "sensitivity": None, **more}


@pytest.mark.parametrize("value, kind, text", [
    (10_400_000, "count", "10.4 M"), (999_960, "count", "1 M"), (999, "count", "999"), (0, "count", "0"),
    (1_263_344, "bytes", "1.26 MB"), (12, "bytes", "12 B"), (0.1234, "share", "12.34 %"), (0.0, "share", "0 %"),
    (1e-6, "share", "< 0.01 %"), (None, "share", ""),
    ([3, 224, 224], "shape", "3×224×224"), (0.0625, "number", "0.0625"), (12345.6, "number", "12,346"),
    (0.0371, "ms", "0.037"), (23.44, "ms", "23.4"), (1.5, "times", "1.50×"),
    ("int8", "text", "int8"), (31.0, "bits", "31.0 bits")])
def test_cells(value, kind, text):
    assert table.shown(value, kind) == text


@pytest.mark.parametrize("qmax, text", [(127, "int8"), (63, "int7"), (31, "int6"), (7, "int4"), (1, "int2"),
                                        (6, "13 levels")])
def test_formats_of_weights(qmax, text):
    assert weight_format(qmax) == text


@pytest.mark.parametrize("qmin, qmax, text", [(-127, 127, "int8"), (0, 255, "uint8"), (0, 15, "uint4"), (-7, 7, "int4"),
                                              (0, 1, "uint1")])
def test_formats_of_inputs(qmin, qmax, text):
    assert grid_format(qmin, qmax) == text


def test_deviations_are_said_with_their_reason():
    codes = {"elements": 100, "identical": 90, "share": 0.9, "largest": 1}
    certificate = {"machine": {"cpu": "a cpu"}, "images": 5, "sides": {
        side: {"codes": codes, "first_deviation": "b", "top1_agreement": 5} for side in ("fast", "other")},
        "layers": [{"node": "a", "reasons": {}}, {"node": "b", "reasons": {"fast": {"from": "a", "why": "it halves"}}}]}
    said = [item["text"] for item in words.warnings(contents(certificates=[certificate]))]
    assert said == [f"{side} on a cpu: 10.00% of the codes differ from the integer engine, first at b: {why}"
                    for side, why in (("fast", "it halves"), ("other", "the certificate does not say why"))]


def test_float_is_not_compared_with_itself():
    compared = {"sqnr_db": [30.0, 27.0], "agreement": 0.5}
    result = {"images": 9, "float": dict(compared, sqnr_db=[999.0, 999.0]), "accuracy": {"ncnn int8": compared}}
    cards = {card["title"]: card["value"] for card in words.glance(contents(result))}
    assert cards == {"outputs ncnn int8": "27.0 dB", "agreement ncnn int8": "50.00%"}


def test_small_values_are_drawn():
    facts = {"edges": [0.0, 1e-9, 2e-9], "counts": [3, 1], "thresholds": {"minmax": 2e-9}, "clipped": {"minmax": 0.0},
             "chosen": 2e-9}
    bars = charts.inputs(facts, "linear")["layer"][0]["data"]["values"]
    assert [(bar["from"], bar["to"]) for bar in bars] == [(0.0, 1e-9), (1e-9, 2e-9)]


def test_cards_of_a_classifier():
    result = {"images": 200, "float": {"top1_count": 180}, "accuracy": {
        "ncnn int8": {"top1_count": 170, "agreement_count": 190}, "simulated": {"top1_count": 180}},
        "latency_ms": {"int8": 2.0, "float": 1.0, "ratio": 0.5, "runs": 7, "spread": {"int8": [1.9, 2.2]}}}
    cards = {card["title"]: card for card in words.glance(contents(result, [ROW]))}
    assert list(cards) == ["Top-1 float", "Top-1 simulated", "Top-1 ncnn int8", "parameters", "latency int8",
                           "latency float"]
    assert cards["Top-1 simulated"]["below"] == "+0.00 points" and cards["Top-1 simulated"]["tone"] == "good"
    assert cards["Top-1 ncnn int8"]["below"] == "-5.00 points; 190 of 200 as float"
    assert cards["Top-1 ncnn int8"]["tone"] == cards["latency int8"]["tone"] == "bad"
    assert cards["latency int8"]["below"] == "middle half 1.90 to 2.20; 2.00 times as long as float"
    said = words.warnings(contents(result, [ROW]))
    assert len(said) == 1 and said[0]["text"].startswith("ncnn int8 loses 5.0 points of Top-1 against float")


def test_cards_of_a_network_without_classes():
    result = {"images": 4, "float": {"metrics": {"mIoU": 0.5}}, "accuracy": {
        "simulated": {"metrics": {"mIoU": 0.4}, "sqnr_db": [21.0, 12.5], "agreement": 0.75}}}
    cards = {card["title"]: card["value"] for card in words.glance(contents(result))}
    assert cards == {"mIoU float": "0.5", "mIoU simulated": "0.4", "outputs simulated": "12.5 dB",
                     "agreement simulated": "75.00%"}


def test_warnings_name_their_layers_once():
    rows = [dict(ROW, clipped=0.02), dict(ROW, node="b", name="net.b", clipped=0.5, movement=0.2, headroom=1.5,
                                          dead_inputs=3, dead_channels=2)]
    said = words.warnings(contents({}, rows, notes=["a note"]))
    assert [[layer["node"] for layer in item["layers"]] for item in said] == [[], ["a", "b"], *[["b"]] * 4]
    assert [layer["value"] for layer in said[1]["layers"]] == ["2.0%", "50.0%"]


def test_layers_better_left_in_float():
    slow = {"float_ms": 1.0, "int8_ms": 2.0}
    rows = [dict(ROW, alone=12.0),
            dict(ROW, node="b", name="net.b", ms={"float": [0.9, 1.0, 1.1], "int8": [1.8, 2.0, 2.2]}, **slow),
            dict(ROW, node="c", name="net.c", ms={"float": [0.9, 1.0, 1.9], "int8": [1.8, 2.0, 2.2]}, **slow)]
    measured = {"everything": {"4": {"sqnr_db": 10.0}, "8": {"sqnr_db": 40.0}}, "rows": [
        {"layer": layer, "operand": "layer", "bits": bits, "sqnr_db": value}
        for layer, bits, value in (("net.c", 4, 13.0), ("net.b", 4, 10.5), ("net.c", 8, 50.0), ("elsewhere", 4, 20.0))]}
    found = words.better_float(contents({}, rows, sensitivity=measured))
    assert [item["node"] for item in found] == ["a", "c", "b"]
    assert "keeps 12.0 dB" in found[0]["why"] and "from 10.0 to 13.0 dB" in found[1]["why"]
    assert "takes 2 ms in int8 and 1 ms in float" in found[2]["why"]


def test_sensitivities_become_columns():
    measured = {"rows": [{"layer": "net.a", "operand": operand, "bits": bits, "sqnr_db": 10.0 * bits}
                         for operand in ("weight", "input", "layer") for bits in (4, 8)]}
    rows = table.with_sensitivities([dict(ROW, kind="x", shape=[1])], measured)
    columns = table.columns_of(rows, measured)
    found = [column for column in columns if column.group == "outputs' SQNR, dB"]
    assert [column.title for column in found] == ["w 8 bit", "in 8 bit", "w 4 bit", "in 4 bit"]
    assert rows[0][found[2].key] == 40.0 and [column.begins for column in found] == [True, False, False, False]
    assert sum(group.size for group in table.groups_of(columns)) == len(columns)
    assert "dead_channels" not in {column.key for column in columns}


def test_answers_by_hand():
    labels = np.array([0, 1, 2, 2])
    before = predictions_of(np.eye(3, dtype=np.float32)[[0, 1, 2, 2]], labels)
    after = predictions_of(np.array([[9, 0, 0], [3, 2, 0], [1, 0, 4], [0, 5, 0]], np.float32), labels)
    found = answers_contents(before, after, "x")
    assert (found["agreement"], found["images"], found["by"]) == (2, 4, "x")
    assert [image["index"] for image in found["changed"]] == [3, 1]  # the surest first
    assert found["changed"][0]["label"] == 2 and found["changed"][0]["quantized"][0]["class"] == 1
    assert found["changed"][0]["float"][0] == {"class": 2, "share": 1.0}
    assert names_of(found, ("ape", "bat", "2")) == {"0": "ape", "1": "bat"} and names_of(found, ()) == {}
    assert found["pairs"][:2] == [[1, 0, 1], [2, 1, 1]] and [2, 2, 1] in found["pairs"]
    assert metrics_contents(before)["f1"] == 1.0
    without = Predictions(after.top5, labels, 1.0, 1)
    assert answers_contents(before, without, "x")["changed"][0]["quantized"][0]["share"] is None


def test_times_of_blobs_become_times_of_nodes():
    model = models.quantized_cases()["chain"]
    profile = Profile({"c1": np.array([1.0]), "c2_between": np.array([0.5]), "c2": np.array([2.0]),
                       "c3": np.array([3.0]), "p": np.array([4.0]), "x": np.array([5.0]), "tail": np.array([0.25])},
                      np.array([16.0]))
    found = by_node(model, [profile.blobs, {name: 2 * value for name, value in profile.blobs.items()}])
    assert {name: values.tolist() for name, values in found.items()} == {
        "c1": [1, 2], "c2": [2.5, 5], "c3": [3, 6], "p": [4, 8], "x": [5.25, 10.5]}


@pytest.mark.parametrize("name, shown", [("features.4", "features.4"), ("a" * 26, "a" * 26),
                                         ("features.stage3.unit2.body.conv1", "features….unit2.body.conv1")])
def test_long_names_keep_the_end_that_tells_them_apart(name, shown):
    assert short(name) == shown and len(shown) <= 26


def test_how_it_was_timed():
    quarters = [1.0, 2.0, 3.0]
    text = words.timing_text({"engine": "ncnn 1", "cpu": "a CPU", "threads": 1, "runs": 9, "layers": {},
                              "sum": {"float": quarters, "int8": quarters},
                              "whole": {"float": quarters, "int8": quarters}})
    assert "ncnn 1 on a CPU, 1 thread:" in text and "medians of 9 runs" in text
    assert "float 2.00 ms (middle half 1.00 to 3.00), in one piece 2.00 ms" in text
    assert words.timing_text(None) == ""


def test_classes_are_called_by_number_and_name():
    chart = charts.confusion({"pairs": [[10, 2, 1], [2, 2, 5]]}, {"10": "tench"})
    assert {cell["float"] for cell in chart["data"]["values"]} == {"10 tench", "2"}
    assert chart["encoding"]["x"]["sort"] == ["2", "10 tench"]
    for pairs, shown in (([[1, 1, 5], [2, 1, 1], [2, 2, 3]], [1, 5]), ([[1, 1, 2]], [2]), ([], [])):
        assert charts.confusion({"pairs": pairs}, {})["encoding"]["color"]["legend"]["values"] == shown


@pytest.mark.parametrize("largest, shown", [(16, 240), (0, 0), (64, 64), (255, 255)])
def test_pictures_of_low_numbers_are_shown_brighter(largest, shown):
    pixels = np.uint8([[0, largest]])
    assert _bright(pixels).max() == shown and pixels.max() == largest


def test_the_deviation_of_the_largest_weights_is_a_number():
    weight = np.float32([3e38, -3e38]).reshape(2, 1, 1, 1)
    node = ir.Convolution("x", ("data",), ("x",), weight=weight)
    facts = weight_facts(node)
    assert facts["mean"] == 0 and facts["deviation"] == facts["stored_deviation"] == pytest.approx(3e38, rel=1e-6)


@pytest.mark.parametrize("ratio", [0.0, -1.0])
def test_a_result_whose_times_have_no_ratio_is_refused(ratio):
    with pytest.raises(msgspec.ValidationError, match="> 0"):
        msgspec.convert({"int8": 1.0, "float": 0.0, "ratio": ratio, "runs": 3}, Latency)
