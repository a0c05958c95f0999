# SPDX-License-Identifier: MIT
"""`gluon-quantize report`: what it collects, the page, hostile names, and bad input."""

import json
import re
import shutil

import pytest

from gluon_quantize.commands.main import main
from gluon_quantize.runs.report import ReportRequest, report
from quantize.errors import DataError

for extra in ("jinja2", "vl_convert", "grandalf"):
    pytest.importorskip(extra, reason=f"{extra} is not installed (extra `report`)")
from gluon_quantize.report.page import page_text, write_page  # noqa: E402 (needs them)
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
        assert row["macs"] > 0 and row["weight_sqnr"] > 30 and row["alone"] > row["accumulated"] - 1
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


def test_the_command(folders, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["report", str(folders / "deployed"), "--output", str(page), "--report-images", "4"]) == 0
    out = capsys.readouterr().out
    assert f"written to {page}" in out and "looked at 4 images" in out and page.is_file()


def test_without_images(folders):
    contents = report(ReportRequest(str(folders / "deployed"), images=0))
    assert contents["images"] is None and contents["layers"][0]["alone"] is None
    assert "Images</h2>" not in page_text(contents)


@pytest.mark.parametrize("spoil, message", [
    (lambda folder: shutil.rmtree(folder), "holds no result.json"),
    (lambda folder: (folder / "result.json").write_text("{"), "is no JSON"),
    (lambda folder: (folder / "result.json").write_text("[]"), "is no result of this program")])
def test_bad_folders(folders, tmp_path, spoil, message):
    folder = tmp_path / "folder"
    shutil.copytree(folders / "simulated", folder)
    spoil(folder)
    with pytest.raises(DataError, match=message):
        report(ReportRequest(str(folder)))
    assert main(["report", str(folder), "--output", str(tmp_path / "page.html")]) == 2
    assert not (tmp_path / "page.html").exists()
