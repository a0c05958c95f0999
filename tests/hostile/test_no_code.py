# SPDX-License-Identifier: MIT
"""Nothing that a file says becomes code: the sources are read for every way in which it could.

A place that needs one of these is named in ALLOWED, with its reason.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("quantize", "calib", "deploy", "examples")
PICKLES = ("pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml")
CALLS = ("eval", "exec", "compile", "__import__", "execfile")
METHODS = ("load_states", "save_states", "extractall", "system", "popen", "execv", "execvp", "spawn")

ALLOWED = {
    ("quantize/params_file.py", "nd.load"): "behind check_params, which walks the whole file first",
    ("quantize/ops/native.py", "library.load"): "this program's own operators, at a path that no file can set",
    ("quantize/convert/net.py", "load_parameters"): "behind read_params",
    ("examples/gluon_quantize/commands/main.py", "import_module"): "a name of the table of commands",
    ("deploy/targets/__init__.py", "import_module"): "the folders of this package",
    ("examples/gluon_quantize/data/loader.py", "import_module"): "--data: the user's own program, named by the user",
    ("examples/gluon_quantize/runs/n2d2.py", "load_parameters"): "behind check_params",
    ("deploy/targets/onnx/runner.py", "import_module"): "one fixed name",
    ("deploy/targets/mxnet/target.py", "import_module"): "one fixed name",
    ("quantize/nn/methods.py", "import_module"): "a table of this package",
    ("quantize/__init__.py", "import_module"): "a table of this module",
    ("quantize/ops/__init__.py", "import_module"): "a table of this module",
    ("quantize/storage/__init__.py", "import_module"): "a table of this module",
    ("examples/gluon_quantize/training/checkpoints.py", "load_parameters"): "behind its manifest of checksums",
    ("examples/gluon_quantize/training/stages.py", "load_parameters"): "start weights, behind check_params",
    ("examples/gluon_quantize/runs/train.py", "load_parameters"): "the best epoch of this very run",
}


def dotted(node):
    """``a.b.c`` of an expression of names, else what is known of its end."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed(parts + [node.id] if isinstance(node, ast.Name) else parts))


def keyword(call, name):
    """The value of a keyword as written, None where it is absent."""
    return next((ast.unparse(item.value) if hasattr(ast, "unparse") else getattr(item.value, "value", "?")
                 for item in call.keywords if item.arg == name), None)


def ways(tree):
    """(what, line) of every way to execute what a file says."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from ((name, node.lineno) for name in names if name.split(".")[0] in PICKLES)
        if isinstance(node, ast.Call):
            yield from ((what, node.lineno) for what in of_call(node))


def of_call(call):
    name = dotted(call.func)
    last = name.split(".")[-1]
    if isinstance(call.func, ast.Name) and name in CALLS:
        yield name
    if isinstance(call.func, ast.Attribute) and last in METHODS:
        yield last
    if str(keyword(call, "allow_pickle")) not in ("None", "False"):
        yield "allow_pickle"
    if name in ("np.load", "numpy.load") and str(keyword(call, "allow_pickle")) != "False":
        yield "np.load"
    if last == "load" and name.split(".")[-2:-1] in (["nd"], ["library"], ["npx"], ["ndarray"]):
        yield ".".join(name.split(".")[-2:])
    if last in ("load_parameters", "import_module") and not name.startswith("super"):
        yield last
    if str(keyword(call, "shell")) not in ("None", "False"):
        yield "shell"
    if name == "Image.open" and keyword(call, "formats") is None:
        yield "Image.open"
    if name in ("onnx.load", "onnx.load_model"):  # follows links out of the folder
        yield name


def found():
    for top in SOURCES:
        for path in sorted((ROOT / top).rglob("*.py")):
            for what, line in ways(ast.parse(path.read_text(encoding="utf-8"))):
                yield str(path.relative_to(ROOT)), what, line


def test_nothing_unguarded():
    assert [f"{path}:{line}: {what}" for path, what, line in found() if (path, what) not in ALLOWED] == []


def test_every_exception_is_still_needed():
    assert set(ALLOWED) - {(path, what) for path, what, _ in found()} == set()


@pytest.mark.parametrize("code, what", [
    ("import pickle", "pickle"), ("from yaml import load", "yaml"), ("eval(x)", "eval"), ("exec(x)", "exec"),
    ("trainer.load_states(p)", "load_states"), ("np.load(p)", "np.load"),
    ("np.load(p, allow_pickle=True)", "allow_pickle"),
    ("mx.nd.load(p)", "nd.load"), ("mx.library.load(p)", "library.load"), ("run(c, shell=True)", "shell"),
    ("os.system(c)", "system"), ("Image.open(p)", "Image.open"), ("onnx.load(p)", "onnx.load"),
    ("net.load_parameters(p)", "load_parameters"), ("importlib.import_module(n)", "import_module"),
    ("archive.extractall()", "extractall")])
def test_the_reader_finds(code, what):
    assert what in [name for name, _ in ways(ast.parse(code))]


def test_the_reader_lets_pass():
    assert list(ways(ast.parse("np.load(p, allow_pickle=False)\nImage.open(p, formats=F)\nre.compile(x)\n"
                               "read_params(p)\nmodel.eval()\nload_table(x)"))) == []
