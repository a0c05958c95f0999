# SPDX-License-Identifier: MIT
"""Pages of a small network, one with hostile names, and a browser to open them in."""

import json
import os
import pathlib
import shutil
import subprocess
import tarfile

import pytest

from tests.browser.chromium import chromium, missing

AXE = "axe-core-4.14.1"
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror=\"window.hacked=2\">\u202e\"'&{{ 7*7 }}"
LAYER = "features.4"


@pytest.fixture(scope="session")
def browser():
    """A driver of Chromium."""
    why_not = missing()
    if why_not:
        pytest.skip(why_not)
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="session")
def contents(tmp_path_factory):
    """Of a report on a deployment whose input ranges are coarse, so that classes change."""
    for extra in ("jinja2", "vl_convert", "grandalf"):
        pytest.importorskip(extra, reason=f"{extra} is not installed (extra `report`)")
    from gluon_quantize.commands.main import main
    from gluon_quantize.runs.report import ReportRequest, report
    folder = tmp_path_factory.mktemp("deployed") / "out"
    assert main(["simulate", "--model", "digits_lenet", "--weight-bits", "2", "--input-bits", "2", "--sensitivity", "4",
                 "--sensitivity-images", "8", "--output", str(folder), "--num-images", "80"]) == 0
    found = report(ReportRequest(str(folder), images=12))
    assert found["images"]
    return found


@pytest.fixture(scope="session")
def page(contents, tmp_path_factory):
    """The page of the report."""
    from gluon_quantize.report.page import write_page
    return write_page(tmp_path_factory.mktemp("page") / "report.html", contents)[0]


@pytest.fixture(scope="session")
def hostile(contents, tmp_path_factory):
    """The same with a layer, an image, a format, the network and a setting that have hostile names."""
    from gluon_quantize.report.page import write_page
    text = json.dumps(contents)
    for name in (LAYER, contents["images"][0]["origin"], "float32"):
        assert name in text
        text = text.replace(name, json.dumps(f"{name}{HOSTILE}")[1:-1])
    found = dict(json.loads(text), name=HOSTILE, plan=HOSTILE, notes=[HOSTILE])
    found["result"]["settings"][HOSTILE] = HOSTILE
    return write_page(tmp_path_factory.mktemp("hostile") / "report.html", found)[0]


@pytest.fixture(scope="session")
def axe():
    """The program axe-core, from npm: kept in build/, which git does not see."""
    folder = pathlib.Path(__file__).resolve().parents[2] / "build" / AXE
    if not (folder / "axe.min.js").is_file():
        if not shutil.which("npm"):
            pytest.skip("no npm to fetch axe-core with")
        folder.mkdir(parents=True, exist_ok=True)
        name, _, version = AXE.rpartition("-")
        packed = subprocess.run(["npm", "pack", f"{name}@{version}", "--silent"], cwd=folder, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, timeout=300, text=True)
        if packed.returncode:
            pytest.skip(f"npm cannot fetch axe-core: {packed.stdout.strip()[-200:]}")
        with tarfile.open(folder / f"{AXE}.tgz") as archive:
            contents = archive.extractfile("package/axe.min.js").read()
        (folder / "axe.tmp").write_bytes(contents)
        os.replace(folder / "axe.tmp", folder / "axe.min.js")
    return (folder / "axe.min.js").read_text(encoding="utf-8")
