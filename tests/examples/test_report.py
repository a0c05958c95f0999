# SPDX-License-Identifier: MIT
"""`gluon-quantize report`: what it collects, the page, hostile names, and bad input."""

import json
import re
import shutil
import sys

import pytest

from gluon_quantize.commands.main import main
from gluon_quantize.runs.report import ReportRequest, report
from quantize.errors import DataError

for extra in ("jinja2", "vl_convert", "grandalf"):
    pytest.importorskip(extra, reason=f"{extra} is not installed (extra `report`)")
from gluon_quantize.report.page import page_text, words, write_page  # noqa: E402 (needs them)
from gluon_quantize.report.page.drawing import draw  # noqa: E402

HOSTILE = "</script><script>window.hacked = 1</script>\u202e\"'&"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folder of a deployment, a simulation and a training."""
    there = tmp_path_factory.mktemp("written")
    common = ["--model", "digits_lenet", "--output"]
    assert main(["deploy", *common, str(there / "deployed"), "--num-images", "40", "--no-engine"]) == 0
    assert main(["simulate", *common, str(there / "simulated"), "--num-images", "40"]) == 0
    assert main(["train", *common, str(there / "trained"), "--epochs", "1", "--num-train-images", "256",
                 "--no-plots"]) == 0
    return there


@pytest.fixture(scope="module")
def deployed(folders):
    """The contents of the deployment's report."""
    return report(ReportRequest(str(folders / "deployed"), images=6, compared=2))


def test_a_deployment_layer_by_layer(deployed):
    assert [row["name"] for row in deployed["layers"]] == ["features.0", "features.4", "features.8", "features.12",
                                                           "output"]
    for row in deployed["layers"]:
        assert row["macs"] > 0 and row["weight_sqnr"] > 30 and row["headroom"] > 2
        assert row["alone"] > row["accumulated"] - 1
        assert set(row["inputs"]["thresholds"]) > {"minmax", "mse", "sqnr", "kl-ncnn", "percentile"}
        assert sum(row["weights"]["before"]) == sum(row["weights"]["after"]) > 0
        assert sum(row["inputs"]["counts"]) + row["inputs"]["zeros"] > 0
    assert sum(row["macs_share"] for row in deployed["layers"]) == pytest.approx(1)
    assert deployed["collection"]["images"] == 6 and deployed["collection"]["compared"] == 2
    assert json.loads(json.dumps(deployed, allow_nan=False)) == deployed
    assert {edge["format"] for edge in deployed["edges"]} == {"int8", "float32"}


def test_the_page_needs_nothing_else(deployed, tmp_path):
    page, data = write_page(tmp_path / "report.html", deployed)
    text = page.read_text(encoding="utf-8")
    assert len(text) < 3e6 and json.loads(data.read_text(encoding="utf-8")) == deployed
    before_scripts = text[:text.index("<script type=\"module\">")]
    assert not re.search(r"(src|href)=\"(?!data:|#)", before_scripts)
    for part in ("At a glance", "Network", "Layers", "Images", "Details", "features.12", "100 %"):
        assert part in before_scripts


def test_other_kinds_have_their_parts(folders):
    trained, simulated = (report(ReportRequest(str(folders / name))) for name in ("trained", "simulated"))
    assert (trained["kind"], simulated["kind"]) == ("training", "simulation")
    assert len(trained["training"]) == 1 and "Training</h2>" in page_text(trained)
    text = page_text(simulated)
    assert "Training</h2>" not in text and "Top-1 quantized" in text
    for contents in (trained, simulated):
        assert len(contents["layers"]) == 5 and contents["collection"]["images"] == 64 and not contents["notes"]
        row = contents["layers"][1]
        assert row["input_format"] == "uint8" and row["alone"] > 20 and row["largest_sum"] > 1000
        assert row["errors"] and sum(row["inputs"]["counts"]) > 0
    assert trained["answers"]["by"] == "the simulation" and trained["answers"]["images"] == 64
    assert {"float", "quantized"} <= {row["name"] for row in words.metrics(simulated)}
    assert {"best epoch", "final epoch", "float, before training"} <= {row["name"] for row in words.metrics(trained)}


def test_a_checkpoint_alone(folders, tmp_path):
    contents = report(ReportRequest(str(folders / "simulated" / "network.qnet"), images=4, sensitivity=(8, 3)))
    assert contents["kind"] == "checkpoint" and contents["name"] == "digits_lenet" and "features.4" in contents["plan"]
    assert len(contents["layers"]) == 5 and contents["answers"]["images"] == 4
    measured = {(row["layer"], row["operand"], row["bits"]) for row in contents["sensitivity"]["rows"]}
    assert ("features.4", "weight", 3) in measured and ("output", "input", 8) in measured
    text = page_text(contents)
    assert "w 3 bit" in text and "in 8 bit" in text and "Quantization report &middot; checkpoint" in text


def test_a_detector_is_shown_as_far_as_it_can_be_lowered(tmp_path):
    """Its boxes are chosen by operators that have no deployed form; its layers stand in front of them."""
    import mxnet as mx
    mx.random.seed(3)
    image = mx.sym.var("data")
    body = mx.sym.relu(mx.sym.Convolution(image, kernel=(3, 3), num_filter=4, name="body"))
    heads = [mx.sym.Convolution(body, kernel=(1, 1), num_filter=4, name=name) for name in ("scores", "boxes")]
    symbol = mx.sym.Group([head * (heads[0] > 0.1) for head in heads])
    symbol.save(str(tmp_path / "net-symbol.json"))
    shapes, _, _ = symbol.infer_shape(data=(1, 1, 8, 8))
    mx.nd.save(str(tmp_path / "net.params"), {f"arg:{name}": mx.nd.random.normal(shape=shape) for name, shape in zip(
        symbol.list_arguments(), shapes) if name != "data"})
    assert main(["simulate", "--symbol", str(tmp_path / "net-symbol.json"), "--params", str(tmp_path / "net.params"),
                 "--dataset", "digits", "--metric", "agreement", "--num-images", "20", "--output",
                 str(tmp_path / "out")]) == 0
    contents = report(ReportRequest(str(tmp_path / "out"), images=4))
    assert [row["name"] for row in contents["layers"]] == ["body", "scores", "boxes"]
    assert all(row["alone"] and row["macs"] and row["inputs"]["thresholds"] for row in contents["layers"][1:])
    assert {edge["to"] for edge in contents["edges"]} == {"body", "scores", "boxes", "output"}
    assert contents["answers"] is None and contents["images"] is None
    assert sum("operator _greater_scalar is not supported" in note for note in contents["notes"]) == 1
    assert contents["data"] == "digits"
    text = page_text(contents)
    assert "as far as the network can be lowered" in text and "Data: <bdi>digits</bdi>" in text


def test_what_has_no_integer_form_is_shown_in_float(folders, tmp_path):
    output = tmp_path / "out"
    assert main(["simulate", "--model", "digits_lenet", "--num-images", "20", "--wino-quantize", "F23", "--output",
                 str(output)]) == 0
    contents = report(ReportRequest(str(output), images=4))
    assert any("no integer form" in note and "Winograd" in note for note in contents["notes"])
    row = contents["layers"][1]
    assert row["name"] == "features.4" and row["weight_format"].startswith("int8") and row["alone"] is None
    assert row["macs"] == 73728 and "features.4" in page_text(contents)


@pytest.mark.parametrize("command", ["deploy", "simulate", "train"])
def test_commands_write_the_page_beside_their_results(command, tmp_path, capsys):
    output = tmp_path / "out"
    more = {"deploy": ["--no-engine"], "simulate": [], "train": ["--epochs", "1", "--num-train-images", "128",
                                                                "--no-plots"]}[command]
    argv = [command, "--model", "digits_lenet", "--num-images", "20", "--output", str(output), "--report", *more]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert f"written to {output / 'report.html'}" in said and "of a float pass over them" in said
    contents = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert contents["layers"][1]["alone"] > 20 and contents["folder"] == str(output)
    made = f"gluon-quantize {command} --model digits_lenet --num-images 20 --output {output} --report"
    assert contents["result"]["settings"]["command_line"].startswith(made)
    assert made in (output / "report.html").read_text(encoding="utf-8")
    if command == "deploy":  # the page is this program's own, and recheck does not mind it
        assert main([*argv, "--force"]) == 0 and (output / "report.html").is_file()


def test_the_page_is_asked_for_in_vain(tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        main(["simulate", "--model", "digits_lenet", "--report"])
    assert "--report writes into --output DIR" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert main(["deploy", "--model", "digits_lenet", "--output", str(tmp_path / "out"), "--report"]) == 2
    assert "needs vl-convert-python" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_names_from_files_are_text(deployed):
    contents = json.loads(json.dumps(deployed).replace("features.4", "HOSTILE"))
    text = json.dumps(contents).replace("HOSTILE", json.dumps(HOSTILE)[1:-1])
    contents = dict(json.loads(text), name=HOSTILE, plan=HOSTILE, notes=[HOSTILE])
    page = page_text(contents)
    assert page.count("<script") == 3 + 0 * page.count("&lt;script") and "window.hacked = 1</script>" not in page
    assert "&lt;/script&gt;&lt;script&gt;window.hacked" in page


def test_a_drawing_has_every_node_once_and_nothing_overlaps(deployed):
    drawing = draw(deployed["edges"], [row["node"] for row in deployed["layers"]])
    names = {name for edge in deployed["edges"] for name in (edge["from"], edge["to"])}
    assert {box.name for box in drawing.boxes} == names and len(drawing.boxes) == len(names)
    places = [(box.x, box.y) for box in drawing.boxes]
    assert all(abs(a[0] - b[0]) >= 190 or abs(a[1] - b[1]) >= 40 for i, a in enumerate(places) for b in places[:i])
    assert all(0 < box.x < drawing.width and 0 < box.y < drawing.height for box in drawing.boxes)


def test_edges_that_end_together_say_what_they_carry_once():
    def edge(start, end, width):
        return {"from": start, "to": end, "blob": start, "shape": [width], "format": "float32"}
    drawing = draw([edge("a", "x", 1), edge("b", "x", 1), edge("c", "x", 2), edge("x", "output", 3)], [])
    assert len(drawing.lines) == 4
    assert sorted(label.text for label in drawing.labels) == ["float32 1", "float32 2", "float32 3"]
    many = draw([edge(name, "x", place) for place, name in enumerate("abcde")], [])
    assert [label.text for label in many.labels] == ["and 3 more", "float32 0", "float32 1"]
    places = [(label.x, label.y) for label in drawing.labels + many.labels[:0]]
    assert len(set(places)) == len(places)


def test_the_command(folders, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["report", str(folders / "deployed"), "--output", str(page), "--report-images", "4"]) == 0
    out = capsys.readouterr().out
    assert f"written to {page}" in out and "looked at 4 images" in out and page.is_file()


def test_without_images(folders):
    contents = report(ReportRequest(str(folders / "deployed"), images=0))
    assert contents["images"] is None and contents["layers"][0]["alone"] is None
    assert "<figure>" not in page_text(contents) and "40 of 40 images keep" in page_text(contents)


@pytest.mark.parametrize("spoil, message", [
    (lambda folder: shutil.rmtree(folder), "holds no result.json"),
    (lambda folder: (folder / "result.json").write_text("{"), "result.json: line 1 column 2"),
    (lambda folder: (folder / "result.json").write_text("[]"), "result.json: Expected `object`, got `array`")])
def test_bad_folders(folders, tmp_path, spoil, message):
    folder = tmp_path / "folder"
    shutil.copytree(folders / "simulated", folder)
    spoil(folder)
    with pytest.raises(DataError, match=message):
        report(ReportRequest(str(folder)))
    assert main(["report", str(folder), "--output", str(tmp_path / "page.html")]) == 2
    assert not (tmp_path / "page.html").exists()
