# SPDX-License-Identifier: MIT
"""N2D2's INI syntax: base blocks, variables, references, comments; and what is wrong with a line."""

import pytest

from quantize.errors import ConfigError
from quantize.interfaces.n2d2.ini.expressions import evaluated
from quantize.interfaces.n2d2.ini.options import Options
from quantize.interfaces.n2d2.ini.reader import read_ini

TEXT = """; a comment
DefaultModel=Frame ; and one behind
$LR=0.05
$RANGE=15;->4 bits
$TWICE=${LR * 2}

[base]
A=1 # of the base
B=${RANGE}
ConfigSection=more

[more]
C=[other]Size
B=never

[other]
Size=${(RANGE + 1) / 4}
Text="a ; b"
Long=first \\
second

[cell] base
A=2

[cell2]base other
"""


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "net.ini"
    path.write_text(TEXT)
    return read_ini(path)


def values(document, name):
    options = Options(document, document.sections[name])
    return {key: options.text(key) for key in options}


def test_sections_bases_variables_references_and_comments(document):
    assert document.resolved(document.globals.entries["DefaultModel"]) == "Frame"
    assert document.resolved(document.variables["TWICE"]) == "0.1"
    assert values(document, "cell") == {"A": "2", "B": "15", "C": "4"}  # its own line, the base's, the config's
    assert values(document, "cell2") == {"A": "1", "B": "15", "C": "4", "Size": "4", "Text": "a ; b",
                                         "Long": "first second"}
    assert document.sections["cell2"].bases == ("base", "other")


def test_environment_variables_stand_behind_the_files_own(document, monkeypatch):
    monkeypatch.setenv("N2D2_DATA", "/data")
    entry = document.globals.entries["DefaultModel"]._replace(value="${N2D2_DATA}/mnist")
    assert document.resolved(entry) == "/data/mnist"


@pytest.mark.parametrize("text, line, said", [
    ("A=1\nnonsense\n", 2, "neither a [section] nor a key=value"),
    ("[a]\nX=1\nX=2\n", 3, "'X' is set already, in line 2"),
    ("[a]\nX=1\n[a]\n", 3, "section [a] is there already, in line 1"),
    ("[a@b.tpl]\n", 1, "includes a template"),
])
def test_lines_that_cannot_be_read(tmp_path, text, line, said):
    path = tmp_path / "net.ini"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"net.ini:{line}: ") as found:
        read_ini(path)
    assert said in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("text, line, said", [
    ("[a] bass\nX=1\n[base]\n", 1, "base block [bass] does not exist; did you mean 'base'?"),
    ("[a]\nX=${RANG}\n$RANGE=1\n", 2, "variable ${RANG} is set nowhere; did you mean 'RANGE'?"),
    ("[a]\nX=[b]Sizes\n[b]\nSize=1\n", 2, "[b] has no 'Sizes'; did you mean 'Size'?"),
    ("[a]\nX=[a]X\n", 2, "refers to itself"),
    ("[a] a\nX=1\n", 1, "is based on itself"),
    ("[a]\nX=${1 + __import__('os')}\n", 2, "is no arithmetic"),
    ("[a]\nX=1\nConfigSection=confg\n[config]\n", 3, "ConfigSection [confg] does not exist; did you mean 'config'?"),
])
def test_references_that_lead_nowhere(tmp_path, text, line, said):
    path = tmp_path / "net.ini"
    path.write_text(text)
    document = read_ini(path)
    with pytest.raises(ConfigError, match=f"net.ini:{line}: ") as found:
        values(document, "a")
    assert said in str(found.value)


def test_what_nobody_takes_is_an_error_with_the_nearest_key(document):
    options = Options(document, document.sections["other"])
    options.whole("Size")
    options.text("Texts", "")
    with pytest.raises(ConfigError, match=r"net.ini:18: \[other\] Text: unknown key; did you mean 'Texts'"):
        options.finish()


@pytest.mark.parametrize("key, ask, said", [
    ("Text", "number", "a number is wanted"), ("Text", "whole", "a whole number from 0 is wanted"),
    ("Text", "switch", "is none of 1, true"), ("Text", "numbers", "numbers are wanted"),
    ("Sizes", "whole", "is missing; is it written 'Size'?")])
def test_values_of_another_kind(document, key, ask, said):
    with pytest.raises(ConfigError) as found:
        getattr(Options(document, document.sections["other"]), ask)(key)
    assert said in str(found.value)


@pytest.mark.parametrize("text, value", [("1 + 2 * 3", "7"), ("-(A - 1) / 2", "-2"), ("A / 2", "2.5"), ("1.5", "1.5")])
def test_arithmetic(text, value):
    assert evaluated(text, {"A": "5"}) == value


@pytest.mark.parametrize("text", ["A", "1 / 0", "2 ** 9", "a.b", "(1", "'x' * 9", "1" * 300])
def test_no_arithmetic(text):
    with pytest.raises(ConfigError):
        evaluated(text, {})


@pytest.mark.parametrize("text", [
    "".join(f"$V{i}=${{V{i + 1}}}${{V{i + 1}}}\n" for i in range(31)) + "$V31=\n[a]\nKey=${V0}\n",
    "".join(f"[s{i}]s{i + 1} s{i + 1}\n" for i in range(31)) + "[s31]\n[a]s0\nKey=1\n",
    "".join(f"[s{i}]\nKey=[s{i + 1}]Key[s{i + 1}]Key\n" for i in range(31)) + "[s31]\nKey=\n[a]s0\n"])
def test_a_few_lines_that_ask_for_billions_of_steps_are_refused_at_once(tmp_path, text):
    (tmp_path / "net.ini").write_text(text)
    document = read_ini(tmp_path / "net.ini")
    with pytest.raises(ConfigError, match="more than 200000 steps"):
        Options(document, document.sections["a"]).text("Key")


def test_a_value_does_not_grow_without_end(tmp_path):
    text = "".join(f"$V{i}=${{V{i + 1}}}${{V{i + 1}}}\n" for i in range(15)) + "$V15=xxxx\n[a]\nKey=${V0}\n"
    (tmp_path / "net.ini").write_text(text)
    document = read_ini(tmp_path / "net.ini")
    with pytest.raises(ConfigError, match=r"net.ini:\d+: .*longer than 10000 letters"):
        Options(document, document.sections["a"]).text("Key")
