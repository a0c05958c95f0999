# SPDX-License-Identifier: MIT
"""Names, paths, labels and metadata that want to be code go through every writer; what comes out is parsed."""

import ast
import json
import logging
import pathlib
import re
import shutil
import subprocess
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from mxnet.gluon import nn

from calib.table import Row, Table, parse_table, write_table
from deploy import ir
from deploy.ir.file import load, save
from deploy.lower import lower
from deploy.proof import verify
from deploy.proof.certificate import Circumstances, certificate, certificate_text
from deploy.target import find
from deploy.targets.caffe import writer as caffe
from deploy.targets.caffe.messages import NetParameter
from deploy.targets.ncnn import writer
from deploy.targets.ncnn.arithmetic import NcnnArithmetic
from deploy.targets.ncnn.param import parse_param
from deploy.targets.ncnn.table import NcnnScales, format_ncnn_table, parse_ncnn_table
from gluon_quantize.commands.running import Shown
from gluon_quantize.commands.terminal import Terminal
from gluon_quantize.data import preprocess
from quantize.errors import CalibrationError
from quantize.escape import comment, cpp_text, markdown, python_text, safe_name, shown
from tests.deploy.proof.test_verify import faithful
from tests.deploy.targets.caffe.models import quantized_model

STUB = pathlib.Path(__file__).resolve().parents[1] / "examples" / "ncnn_stub"
EVIL = ['s"+__import__("os").system("touch${IFS}M")+"', "');evil();//", '");system("touch MARK");//', "a\nimport os\n",
        "*/evil();/*", "x\\", "??/", "{{ 7*7 }}", "$name", "|a|b|", "[x](javascript:1)", "<script>1</script>", "`rm`",
        "\x1b[2J\x1b]0;owned\x07", "\u202egnp.exe", "\u2028", "\x00", "\udcff", "#x", "a b", "%41", "é漢", "-rf", '"',
        "'"]
WORDS = [text for text in EVIL if text.isprintable() and len(text.split()) == 1]  # what an IR file may hold as a name


def programs(title, blobs, files=("net.param", "net.bin")):
    return find("ncnn").programs(title, preprocess.imagenet(), files, blobs)


@pytest.mark.parametrize("text", EVIL)
def test_python_programs_hold_texts_as_values(text):
    found = programs(text, (text, text), (text, text))["run_ncnn.py"]
    tree = ast.parse(found)
    honest = ast.parse(programs("net", ("net", "net"), ("net", "net"))["run_ncnn.py"])
    values = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert values.count(text) == 4
    for left, right in zip(ast.walk(tree), ast.walk(honest)):
        assert type(left) is type(right)  # the same program, but for its constants
    assert found.isascii() or text in "é漢"
    assert len(found.splitlines()) == len(programs("n", ("d", "o"))["run_ncnn.py"].splitlines())


@pytest.mark.parametrize("text", EVIL)
def test_names_of_classes_are_values_in_both_programs(text):
    found = find("ncnn").programs("net", preprocess.imagenet(), ("a", "b"), ("c", "d"), (text, "cat"))
    tree = ast.parse(found["run_ncnn.py"])
    lists = [[item.value for item in node.elts] for node in ast.walk(tree) if isinstance(node, ast.List)
             and all(isinstance(item, ast.Constant) for item in node.elts)]
    assert [text, "cat"] in lists
    (line,) = [line for line in found["run_ncnn.cpp"].splitlines() if "classes[] =" in line]
    assert line == f'static const char* const classes[] = {{ {cpp_text(text)}, "cat" }};'


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What C++ takes the literals and comments for: one program with all texts."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    folder = tmp_path_factory.mktemp("cpp")
    lines = ["#include <cstdio>", "int main() {"]
    for text in EVIL:
        literal = cpp_text(text)
        lines.append(f"    fwrite({literal}, 1, sizeof({literal}), stdout);  // {comment(text)}")
    (folder / "a.cpp").write_text("\n".join(lines + ["}", ""]), encoding="utf-8")
    subprocess.run([compiler, "-o", str(folder / "a"), str(folder / "a.cpp")], check=True)
    return subprocess.run([str(folder / "a")], check=True, stdout=subprocess.PIPE).stdout


def test_cpp_literals_are_the_texts(printed):
    assert printed == b"".join(text.encode("utf-8", "surrogatepass") + b"\0" for text in EVIL)


def test_cpp_programs_compile_with_hostile_texts(tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    text = "".join(EVIL).replace("\x00", "")
    (tmp_path / "a.cpp").write_text(programs(text, (text, text), (text, text))["run_ncnn.cpp"], encoding="utf-8")
    subprocess.run([compiler, "-fsyntax-only", "-I", str(STUB), str(tmp_path / "a.cpp")], check=True)


def renamed(model, names):
    """The model with other names of nodes and blobs, and as path and metadata too."""
    new = dict(zip(model.shapes, (name + str(i) for i, name in enumerate(names * len(model.shapes)))))
    nodes = tuple(replace(node, name=new[node.name], inputs=tuple(new[b] for b in node.inputs),
                          outputs=tuple(new[b] for b in node.outputs), path=new[node.name]) for node in model.nodes)
    return ir.Model(tuple(new[b] for b in model.inputs), tuple(new[b] for b in model.outputs), nodes,
                    {new[b]: shape for b, shape in model.shapes.items()}, {"name": names[0]})


@pytest.mark.parametrize("text", WORDS)
def test_engine_files_of_a_hostile_ir_parse_to_its_names(tmp_path, text):
    model = renamed(quantized_model(), [text])
    found = parse_param(writer.render(model)[0])
    assert model.outputs[0] in found.blobs
    plain = replace(model, nodes=tuple(replace(node, quantization=None) if hasattr(node, "quantization") else node
                                       for node in model.nodes))
    net = NetParameter()
    text_format.Parse(caffe.serialize(plain)[0], net)
    assert net.name == text and {node.name for node in model.nodes} <= {layer.name for layer in net.layer}
    save(model, tmp_path / "m.ir")
    assert load(tmp_path / "m.ir").metadata["name"] == text


@pytest.mark.parametrize("text", EVIL)
def test_the_certificate_has_no_markup_of_others(text):
    model = renamed(quantized_model(), ["n"])
    model = replace(model, nodes=tuple(replace(node, name=text + node.name) for node in model.nodes))
    images = np.random.RandomState(0).randn(2, 3, 12, 12).astype(np.float32)
    found = verify.verify(model, NcnnArithmetic(), {"side": faithful(model)}, [images])
    stated = Circumstances(name=text, machine={"cpu": text}, files={text: {"bytes": 1, "sha256": "0"}}, data=text,
                           options={"side": {text: text}})
    found = certificate_text(certificate(model, found, stated))
    assert shown(found, keep="\n") == found
    assert not re.search(r"(?<!\\)[<>`\[\]]", found)
    rows = [line for line in found.splitlines() if line.startswith("|")]
    counts = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert counts <= {4, 7, 8}  # the tables' own columns: files, layers, summary


@pytest.mark.parametrize("text", EVIL)
def test_tables_come_back_with_any_name(tmp_path, text):
    table = Table((Row(text, "input", "kl-ncnn", 8, True, (2.64,)), Row(text, "weight", "kl-ncnn", 8, True, (1.5,),
                                                                         enabled=False)))
    assert parse_table(str(table)) == table
    write_table(tmp_path / "t", table)


@given(st.text(min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_text_is_one_literal_one_word_and_one_line(text):
    assert ast.literal_eval(python_text(text)) == text
    assert parse_table(str(Table((Row(text, "input", "m", 8, True, (2.64,)),)))).rows[0].layer == text
    assert len(safe_name(text).split()) == 1 and safe_name(safe_name(text)) == safe_name(text)
    assert len(shown(text).splitlines()) <= 1 and shown(shown(text)) == shown(text)
    assert len(comment(text).splitlines()) <= 1 and "\n" not in markdown(text)


def test_tables_that_could_not_be_read_are_not_written(tmp_path):
    for row in (Row("a", "input", "two words", 8, True, (2.64,)), Row("a", "input", "m", 8, True, (1e-40,)),
                Row("a", "input", "m", 8, True, (float("inf"),))):
        with pytest.raises(CalibrationError):
            write_table(tmp_path / "t", Table((row,)))
    assert not list(tmp_path.iterdir())
    with pytest.raises(CalibrationError, match="starts with '#'"):
        format_ncnn_table({"#x": NcnnScales((1.0,), 1.0)})
    with pytest.raises(CalibrationError, match="scale above 0"):
        parse_ncnn_table("a_param_0 1e-320\n")


class Named(nn.HybridBlock):
    """A network whose operators are named by somebody else; two of them become the same name."""

    def __init__(self, text):
        super().__init__()
        self.text, self.conv = text, nn.Conv2D(2, 3, in_channels=1)

    def hybrid_forward(self, F, x):
        x = F.sqrt(F.relu(self.conv(x)), name=self.text + "\t")
        return F.softmax(F.abs(x, name=self.text + "\n"), name=self.text)


@pytest.mark.parametrize("text", [text for text in EVIL if "\x00" not in text and "\udcff" not in text])
def test_lowering_makes_names_safe_and_unique(text):
    net = Named(text)
    net.initialize(ctx=mx.cpu())
    names = [node.name for node in lower(net, (1, 6, 6), quantized=False).nodes]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[\w.:/+@-]+", name) and not name.startswith("-") for name in names)


def test_nothing_speaks_to_the_terminal(capsys):
    for text in EVIL:
        Terminal(lambda step: step).tell(text)
        record = logging.LogRecord("x", logging.WARNING, "x", 1, "%s", (text,), None)
        assert shown(Shown().format(record), keep="\n") == Shown().format(record)
    out = capsys.readouterr().out
    assert shown(out, keep="\n") == out and r"\x1b[2J" in out and r"\u202egnp.exe" in out


def test_what_is_written_as_json_is_ascii():
    """json.dumps escapes what is not; the writers of this project leave that on."""
    assert json.dumps({text: text for text in EVIL}).isascii()
