# SPDX-License-Identifier: MIT
"""The rules of the source tree, checked by reading it: who may import what, sizes, and a few things to avoid.

Sizes are counted so: a file by all its lines; a function from `def` to its last line without the lines of its own
docstring; a signature without `self` or `cls`, where ``*args`` and ``**kwargs`` count as one argument each.
"""

import ast
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("quantize", "calib", "deploy", "examples")
LIBRARIES = ("quantize", "calib", "deploy")

BASE = ("quantize.spec", "quantize.reference", "quantize.reference_trained", "quantize.registry", "quantize.errors",
        "quantize.files", "quantize.escape", "quantize.limits", "quantize.documents", "quantize.npz",
        "quantize.winograd", "quantize.targets", "quantize.methods")
LAYERS = ("quantize.nn", "quantize.ops", "quantize.params_file", "quantize.onednn") + BASE
NETWORKS = ("quantize.convert", "quantize.initialize", "quantize.modes", "quantize.tree", "quantize.config",
            "quantize.finite") + LAYERS

LIBRARY = ("calib", "calib.collect", "calib.apply", "calib.easyquant", "calib.bias_correction", "calib.tiles", "deploy",
           "calib.rounding", "calib.rounding.learn", "calib.sensitivity", "quantize.stages", "quantize.repair",
           "deploy.lower", "quantize", "quantize.importers", "quantize.train", "quantize.interfaces",
           "quantize.interfaces.n2d2",
           "quantize.storage", "quantize.report") + NETWORKS
ROOM_BASE = BASE + ("quantize",)


def rooms(*names: str) -> Tuple[str, ...]:
    """These rooms of the application, and the libraries."""
    return tuple(f"examples.gluon_quantize.{name}" for name in names) + ("examples.gluon_quantize",) + LIBRARY


# part of the project: the parts it may import, besides itself. The longest name that fits a module is its part.
# "quantize" is its __init__ alone: a new module there needs a row here, so that somebody decides.
ARROWS = {
    "quantize.errors":     (),
    "quantize.registry":   ("quantize.errors",),
    "quantize.limits":     ("quantize.errors",),
    "quantize.files":      ("quantize.limits", "quantize.errors"),
    "quantize.escape":     (),
    "quantize.documents":  ("quantize.files", "quantize.limits", "quantize.escape", "quantize.errors"),
    "quantize.params_file": ("quantize.files", "quantize.limits", "quantize.errors"),
    "quantize.npz":        ("quantize.files", "quantize.escape", "quantize.limits", "quantize.errors"),
    "quantize.targets":    ("quantize.registry", "quantize.errors"),
    "quantize.winograd":   ("quantize.registry", "quantize.errors"),
    "quantize.methods":    (),
    "quantize.onednn":  (),
    "quantize.spec":       ("quantize.registry", "quantize.errors"),
    "quantize.reference":  ("quantize.spec", "quantize.errors"),
    "quantize.reference_trained": ("quantize.reference", "quantize.spec", "quantize.errors"),
    "quantize.config":     ("quantize.spec", "quantize.winograd", "quantize.registry", "quantize.files",
                            "quantize.documents",
                            "quantize.errors"),
    "quantize.ops":        ("quantize.spec", "quantize.reference", "quantize.errors"),
    "quantize.nn":         ("quantize.ops", "quantize.onednn") + BASE,
    "quantize.tree":       ("quantize.errors",),
    "quantize.finite":     ("quantize.errors",),
    "quantize.modes":      ("quantize.tree",) + LAYERS,
    "quantize.stages":     ("quantize.modes", "quantize.tree") + LAYERS,
    "quantize.repair":     ("quantize.stages", "quantize.modes", "quantize.tree") + LAYERS,
    "quantize.initialize": ("quantize.modes", "quantize.tree") + LAYERS,
    "quantize.convert":    ("quantize.initialize", "quantize.modes", "quantize.tree", "quantize.config",
                            "quantize.finite") + LAYERS,
    "quantize.importers":  ("quantize.registry", "quantize.errors", "quantize.escape", "quantize.limits",
                            "quantize.files", "quantize.documents", "quantize.params_file", "quantize.onednn"),
    "quantize.train":      NETWORKS,
    "quantize.storage":    ("quantize",) + NETWORKS,
    "quantize.interfaces": ("quantize.train",) + NETWORKS,
    # cells are steps of the program that imported files are, and ONNX files are cells
    "quantize.interfaces.n2d2": ("quantize.interfaces", "quantize.importers", "quantize.train") + NETWORKS,
    "quantize.report":     NETWORKS,
    "quantize":            NETWORKS + ("quantize.importers", "quantize.train", "quantize.interfaces",
                                         "quantize.storage", "quantize.report"),
    "calib":               BASE,
    "calib.collect":       ("calib", "quantize.modes") + BASE,
    "calib.apply":         ("calib", "quantize.modes") + BASE,
    "calib.tiles":         ("calib", "quantize.modes") + BASE,
    "calib.easyquant":     ("calib", "calib.collect", "quantize.modes") + BASE,
    "calib.bias_correction": ("calib", "quantize.modes") + BASE,
    "calib.rounding":      ("calib",) + BASE,
    "calib.rounding.blocks": ("calib", "calib.rounding", "quantize.stages") + BASE,
    "calib.sensitivity":   ("calib", "quantize.stages", "quantize.modes") + BASE,
    "calib.rounding.learn": ("calib", "calib.rounding", "calib.rounding.blocks", "quantize.stages",
                             "quantize.modes") + BASE,
    "deploy":              BASE,
    "deploy.lower":        ("deploy",) + NETWORKS,
    # what is common to all engines knows none; a target may load its own simulation, which needs MXNet, when asked
    "deploy.targets":      ("deploy", "deploy.targets.*.simulate") + BASE,
    # which layer took up which norm, the graph knows that lowering reads
    "deploy.targets.*.simulate": ("deploy", "deploy.lower", "deploy.targets") + NETWORKS,
    # the application: commands know everything, runs know no command and no report, data and models know no run
    "examples.gluon_quantize.progress": ("quantize.errors",),
    "examples.gluon_quantize.data": ROOM_BASE,
    "examples.gluon_quantize.models": rooms("data", "progress"),
    "examples.gluon_quantize.training": rooms("data", "models", "progress"),
    "examples.gluon_quantize.runs": rooms("data", "models", "progress", "training"),
    "examples.gluon_quantize.report": rooms("data", "models", "runs", "training"),
    "examples.gluon_quantize.commands": rooms("data", "models", "progress", "report", "runs", "training"),
    "examples.gluon_quantize": rooms("commands"),
    "examples":            rooms("commands", "data", "models", "report", "runs", "training"),
}

# parts that must work without MXNet
WITHOUT_MXNET = BASE + ("quantize.config", "calib", "deploy")
WITH_MXNET = ("calib.collect", "calib.feed", "calib.apply", "calib.easyquant", "calib.bias_correction", "calib.tiles",
              "calib.rounding.blocks", "calib.rounding.learn", "calib.sensitivity", "quantize.stages",
              "quantize.repair",
              "deploy.lower", "deploy.targets.*.simulate", "deploy.targets.mxnet.runner")

# imported in a fresh process, these load none of HEAVY
LIGHT_MODULES = ("quantize", "quantize.spec", "quantize.reference", "quantize.registry", "quantize.errors",
                 "quantize.config", "calib", "calib.observers", "calib.calibrators", "deploy.engine", "deploy.ir.file",
                 "deploy.targets.ncnn")
HEAVY = ("mxnet", "gluoncv", "matplotlib", "onnx", "quantize.ops")

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40
MAX_ARGUMENTS = 7

# (rule, file, where): the reason. One that is no longer needed fails the test.
EXCEPTIONS: Dict[Tuple[str, str, str], str] = {
    ("import", "quantize/targets.py", "deploy.targets"):
        "convert_model(target='ncnn') must work before anything of deploy was imported: the table of targets is below, "
        "and deploy, where it is installed, enters its targets when a name is first looked for",
    ("arguments", "quantize/convert/convert.py", "convert_model"):
        "the four arguments of Quantization.MXNet, which scripts give by position, and ours by name behind them",
    **{("import", "examples/gluon_quantize/runs/fusion.py", room):
       "fuse_qat is no offer of a target: it is asked for by N2D2's name, and its scalings are those of the C source"
       for room in ("deploy.targets", "deploy.targets.*.simulate")},
    **{("dynamic import", "examples/gluon_quantize/data/loader.py", call):
       "--data names a function of the user's own, of a module, a file or an installed package"
       for call in ("entry_points", "import_module", "spec_from_file_location")},
}

# where the parsed command line may be known, and where a program may print: scripts of one file do both
COMMANDS = "examples/gluon_quantize/commands/"
APPLICATION = "examples/gluon_quantize/"

# calls that import what their first argument names; that list the modules of packages; that run what they are given
DYNAMIC = ("__import__", "import_module", "find_spec", "run_module", "resolve_name", "load_module",
           "spec_from_file_location")
WALKS = ("iter_modules", "walk_packages", "entry_points", "iter_entry_points")
RUNS = ("exec", "eval")

RULES = ("import", "dynamic import", "mxnet", "arguments end", "file lines", "function lines", "arguments", "print",
         "sys.path", "import *", "mutable default", "SPDX")


class Problem(NamedTuple):
    """One broken rule. The first three say which, and are the key of an exception; `text` is for people."""

    rule: str
    path: str
    where: str
    text: str


def part_of(module: str, parts) -> Optional[str]:
    """The longest of `parts` that is `module` or a package around it; ``*`` in a part is any one name."""
    names = module.split(".")

    def fits(wanted):
        return len(wanted) <= len(names) and all(want in ("*", name) for want, name in zip(wanted, names))
    fitting = [part for part in parts if fits(part.split("."))]
    return max(fitting, key=lambda part: part.count(".")) if fitting else None


def module_name(path: str) -> str:
    """``quantize/nn/__init__.py`` -> ``quantize.nn``."""
    names = path[:-len(".py")].split("/")
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def dotted(node: ast.AST) -> str:
    """``a.b.c`` for that expression, an empty string for any other kind."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and dotted(node.value):
        return dotted(node.value) + "." + node.attr
    return ""


def imported_names(tree: ast.AST, path: str):
    """(line, dotted name) of every import, wherever it stands; ``from a import b`` gives ``a.b``."""
    package = path.split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            base = base + ([node.module] if node.module else [])
            for alias in node.names:
                yield node.lineno, ".".join(base + [alias.name])
        elif isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] in DYNAMIC:
            name = imported_by_call(node)
            if name:
                yield node.lineno, name


def imported_by_call(call: ast.Call) -> str:
    """What a dynamic import surely imports: its constant name, or the package that a formatted name begins with.

    Empty where the name is not to be read: in a variable, put together, or relative.
    """
    keywords = [keyword.value for keyword in call.keywords if keyword.arg in ("name", "mod_name", "module_name")]
    name = (call.args + keywords + [None])[0]
    start = name.values[0] if isinstance(name, ast.JoinedStr) and name.values else name
    text = start.value if isinstance(start, ast.Constant) and isinstance(start.value, str) else ""
    if start is not name:  # f"deploy.targets.{x}" is somewhere in deploy.targets
        text = text.rpartition(".")[0]
    return "" if text.startswith(".") else text


def unreadable_imports(tree: ast.AST, path: str):
    """Imports whose target cannot be read: by a name in a variable, or of whatever a walk through packages finds."""
    aliases = {alias.asname or alias.name: alias.name.split(".")[-1] for node in ast.walk(tree)
               if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}
    for node in ast.walk(tree):
        called = dotted(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
        called = aliases.get(called, called)
        if called in DYNAMIC and not imported_by_call(node):
            text = "of a name that is no constant"
        elif called in WALKS and not (node.args and dotted(node.args[0]) == "__path__"):
            text = "over the modules of another package"
        elif called in RUNS and isinstance(node.func, ast.Name):
            text = "hides what it imports"
        else:
            continue
        yield Problem("dynamic import", path, called, f"line {node.lineno}: {called} {text}")


def import_problems(tree: ast.AST, path: str):
    """Imports against ARROWS, and of MXNet where it must not be."""
    module = module_name(path)
    part = part_of(module, ARROWS)
    if part == "quantize" != module:
        yield Problem("import", path, module, "no row in ARROWS says what this module may import")
    without_mxnet = part_of(module, WITHOUT_MXNET + WITH_MXNET) in WITHOUT_MXNET
    # scripts see their own folder: `import gluon_quantize.x` is examples/gluon_quantize/x.py
    examples = {"gluon_quantize"} | {entry.stem for entry in (ROOT / "examples").glob("*.py")}
    for line, name in imported_names(tree, path):
        top = name.split(".")[0]
        target = part_of("examples." + name if top in examples else name, tuple(ARROWS) + ("tests",))
        if target and target != part and target not in ARROWS[part]:
            yield Problem("import", path, target, f"line {line}: {part} must not import {name}")
        if top in ("mxnet", "gluoncv") and without_mxnet:
            yield Problem("mxnet", path, top, f"line {line}: must work without MXNet, imports {name}")


def functions(node: ast.AST, prefix: str = ""):
    """(qualified name, node) of every function below `node`, nested ones too."""
    for child in ast.iter_child_nodes(node):
        name = prefix
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name = prefix + child.name + "."
            if not isinstance(child, ast.ClassDef):
                yield name[:-1], child
        yield from functions(child, name)


def function_lines(function) -> int:
    """Lines from ``def`` to the last, without those of the docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    return lines


def argument_count(function) -> int:
    """Arguments of the signature without ``self`` or ``cls``."""
    args = function.args
    plain = args.posonlyargs + args.args
    count = len(plain) + len(args.kwonlyargs) + (args.vararg is not None) + (args.kwarg is not None)
    return count - bool(plain and plain[0].arg in ("self", "cls"))


def size_problems(tree: ast.AST, path: str, text: str):
    """Files, functions and signatures over budget."""
    lines = len(text.splitlines())
    if lines > MAX_FILE_LINES:
        yield Problem("file lines", path, "", f"{lines} lines, {MAX_FILE_LINES} allowed")
    for name, function in functions(tree):
        if function_lines(function) > MAX_FUNCTION_LINES:
            yield Problem("function lines", path, name, f"line {function.lineno}: {name} has "
                                                        f"{function_lines(function)} lines, {MAX_FUNCTION_LINES} "
                                                        "allowed")
        if argument_count(function) > MAX_ARGUMENTS:
            yield Problem("arguments", path, name, f"line {function.lineno}: {name} has {argument_count(function)} "
                                                   f"arguments, {MAX_ARGUMENTS} allowed")


def is_mutable(node: Optional[ast.AST]) -> bool:
    """Whether the expression makes a list, dict or set."""
    if isinstance(node, ast.Call):
        return dotted(node.func).split(".")[-1] in ("list", "dict", "set", "bytearray", "defaultdict", "OrderedDict",
                                                    "deque", "Counter")
    return isinstance(node, (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp))


def is_silent(path: str) -> bool:
    """Whether nothing may be printed there: in the libraries, and in the application but for its commands."""
    return path.split("/")[0] in LIBRARIES or path.startswith(APPLICATION) and not path.startswith(COMMANDS)


def argument_problems(tree: ast.AST, path: str):
    """The parsed command line outside `commands/`, where it must have become a request; progress bars there."""
    if not path.startswith(APPLICATION) or path.startswith(COMMANDS):
        return
    for line, name in imported_names(tree, path):
        if name.split(".")[0] == "argparse":
            yield Problem("arguments end", path, "argparse", f"line {line}: imports {name}")
        if name.split(".")[0] == "tqdm":
            yield Problem("print", path, "tqdm", f"line {line}: imports {name}; use gluon_quantize.progress")
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "args" or isinstance(node, ast.arg) and node.arg == "args":
            yield Problem("arguments end", path, "args", f"line {node.lineno}: names parsed arguments; take a request")


def style_problems(tree: ast.AST, path: str, text: str):
    """What design notes and reviews tell us to avoid."""
    if text.strip() and not any("SPDX-License-Identifier: MIT" in line for line in text.splitlines()[:2]):
        yield Problem("SPDX", path, "", "the first line must be '# SPDX-License-Identifier: MIT'")
    for line, name in imported_names(tree, path):
        if name.endswith(".*"):
            yield Problem("import *", path, name, f"line {line}: imports {name}")
        if name == "sys.path":
            yield Problem("sys.path", path, "", f"line {line}: imports sys.path")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and dotted(node) == "sys.path":
            yield Problem("sys.path", path, "", f"line {node.lineno}: touches sys.path")
        if isinstance(node, ast.Call) and dotted(node.func) == "print" and is_silent(path):
            yield Problem("print", path, "", f"line {node.lineno}: prints; use logging or gluon_quantize.progress")
        if (isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                and any(is_mutable(default) for default in node.args.defaults + node.args.kw_defaults)):
            yield Problem("mutable default", path, getattr(node, "name", "lambda"),
                          f"line {node.lineno}: mutable default argument")


def problems_of(path: str, text: str) -> List[Problem]:
    """All problems of one file; `path` is relative to the project, with slashes."""
    tree = ast.parse(text, path)
    return (list(import_problems(tree, path)) + list(unreadable_imports(tree, path))
            + list(argument_problems(tree, path)) + list(size_problems(tree, path, text))
            + list(style_problems(tree, path, text)))


def without_exceptions(problems, exceptions):
    """(problems that no exception covers, exceptions that cover no problem)."""
    found = {problem[:3] for problem in problems}
    return ([problem for problem in problems if problem[:3] not in exceptions],
            [key for key in exceptions if key not in found])


def heavy_loads(modules, heavy, root) -> str:
    """Import `modules` in a fresh process; one line for each that is the first to load one of `heavy`."""
    script = textwrap.dedent("""
        import importlib, sys
        sys.path.insert(0, sys.argv[1])
        heavy = set(sys.argv[3].split())
        for module in sys.argv[2].split():
            importlib.import_module(module)
            for name in sorted(heavy & set(sys.modules)):
                heavy.remove(name)
                print(f"importing {module} loads {name}")
    """)
    done = subprocess.run([sys.executable, "-c", script, str(root), " ".join(modules), " ".join(heavy)], cwd=str(root),
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- the tree


@pytest.fixture(scope="module")
def problems() -> List[Problem]:
    """Every problem of every source file, the excepted ones too."""
    files = sorted(path for top in SOURCES for path in (ROOT / top).rglob("*.py"))
    assert ROOT / "quantize" / "errors.py" in files
    found = []
    for path in files:
        found += problems_of(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("rule", RULES)
def test_the_sources_obey(rule, problems):
    bad = [problem for problem in without_exceptions(problems, EXCEPTIONS)[0] if problem.rule == rule]
    assert not bad, "\n" + "\n".join(f"{problem.path}: {problem.text}" for problem in bad)


def test_every_exception_is_needed_and_has_a_reason(problems):
    assert without_exceptions(problems, EXCEPTIONS)[1] == []
    assert all(reason.strip() for reason in EXCEPTIONS.values())


def test_every_package_is_seen_by_setup_py():
    folders = {path.parent for top in LIBRARIES for path in (ROOT / top).rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_light_modules_load_nothing_heavy():
    assert heavy_loads(LIGHT_MODULES, HEAVY, ROOT) == ""


# ---- the checker itself: what it must find, and what it must let pass

SPDX = "# SPDX-License-Identifier: MIT\n"
BAD = [
    ("import", "quantize/convert/convert.py", "import calib"),
    ("import", "quantize/convert/convert.py", "def f():\n    from calib.observers import MinMax"),
    ("import", "quantize/convert/convert.py", "import importlib\nimportlib.import_module('deploy.ir')"),
    ("import", "quantize/convert/convert.py", "import importlib as i\ni.import_module(f'deploy.targets.{1}')"),
    ("import", "deploy/proof/verify.py", "from deploy.targets import ncnn"),
    ("import", "deploy/targets/ncnn/table.py", "from calib.table import Row"),
    ("dynamic import", "quantize/convert/convert.py", "import importlib\nP = 'deploy'\nimportlib.import_module(P)"),
    ("dynamic import", "quantize/convert/convert.py", "from importlib import import_module as load\nP = 'x'\nload(P)"),
    ("dynamic import", "quantize/convert/convert.py", "import importlib\nimportlib.import_module(name='de' + 'ploy')"),
    ("dynamic import", "quantize/convert/convert.py", "import importlib\nimportlib.import_module('.x', 'deploy')"),
    ("dynamic import", "quantize/convert/convert.py", "P = 'deploy'\n__import__(P)"),
    ("dynamic import", "quantize/convert/convert.py", "P = 'deploy'\n__import__(f'{P}.ir')"),
    ("dynamic import", "quantize/convert/convert.py", "import pkgutil\nfound = pkgutil.iter_modules('deploy')"),
    ("dynamic import", "calib/table.py", "exec('import deploy')"),
    ("import", "quantize/convert/convert.py", "from gluon_quantize import data"),
    ("import", "quantize/convert/convert.py", "from tests import helpers"),
    ("import", "quantize/nn/conv.py", "from ..convert import rules"),
    ("import", "quantize/nn/conv.py", "from quantize import QuantSpec"),
    ("import", "quantize/nn/conv.py", "from quantize import modes"),
    ("import", "quantize/ops/composed.py", "from quantize.registry import Registry"),
    ("import", "quantize/ops/__init__.py", "from ..nn import conv"),
    ("import", "quantize/errors.py", "from .spec import QuantSpec"),
    ("import", "quantize/registry.py", "import quantize.spec"),
    ("import", "quantize/spec.py", "from quantize.reference import quantize"),
    ("import", "quantize/reference.py", "from quantize.registry import Registry"),
    ("import", "quantize/config.py", "from quantize.convert import rules"),
    ("import", "quantize/importers/onnx.py", "from quantize.spec import QuantSpec"),
    ("import", "quantize/brand_new.py", ""),
    ("import", "calib/observers.py", "from quantize import modes"),
    ("import", "calib/observers.py", "from calib.collect import observe"),
    ("import", "calib/collect.py", "from quantize.nn import conv"),
    ("import", "calib/table.py", "import deploy.ir"),
    ("import", "deploy/proof/verify.py", "from calib import table"),
    ("mxnet", "calib/calibrators/kl.py", "import mxnet as mx"),
    ("mxnet", "calib/__init__.py", "def f():\n    from mxnet import nd"),
    ("mxnet", "quantize/spec.py", "from mxnet.gluon import nn"),
    ("mxnet", "deploy/engine.py", "import mxnet"),
    ("file lines", "calib/table.py", "x = 1\n" * 400),
    ("function lines", "calib/table.py", "def f():\n    '''d'''\n" + "    x = 1\n" * 40),
    ("function lines", "calib/table.py", "class A:\n    def f(self):\n" + "        x = 1\n" * 40),
    ("arguments", "calib/table.py", "class A:\n    def f(self, a, b, c, d, e, f, *g, h): pass"),
    ("arguments", "calib/table.py", "def f(a, b, c, d, e, f, g, **h): pass"),
    ("import", "examples/gluon_quantize/runs/task.py", "from gluon_quantize.commands import options"),
    ("import", "examples/gluon_quantize/runs/task.py", "from gluon_quantize.report import accuracy"),
    ("import", "examples/gluon_quantize/data/folder.py", "from gluon_quantize.models import zoo"),
    ("import", "examples/gluon_quantize/models/zoo.py", "from gluon_quantize.runs.task import Task"),
    ("import", "examples/gluon_quantize/training/loop.py", "def f():\n    from gluon_quantize.runs import task"),
    ("import", "examples/gluon_quantize/report/plots.py", "from gluon_quantize.commands.parser import Parser"),
    ("import", "examples/gluon_quantize/progress.py", "from gluon_quantize.data import folder"),
    ("arguments end", "examples/gluon_quantize/runs/task.py", "import argparse"),
    ("arguments end", "examples/gluon_quantize/models/zoo.py", "def f(args):\n    return 1"),
    ("arguments end", "examples/gluon_quantize/runs/task.py", "def f(request):\n    return args.model"),
    ("print", "examples/gluon_quantize/runs/task.py", "print('x')"),
    ("print", "examples/gluon_quantize/report/plots.py", "from tqdm import tqdm"),
    ("print", "quantize/modes.py", "def f():\n    print('x')"),
    ("sys.path", "examples/train_qat.py", "import sys\nsys.path.append('..')"),
    ("sys.path", "calib/table.py", "from sys import path"),
    ("import *", "examples/common/data.py", "from numpy import *"),
    ("mutable default", "calib/table.py", "def f(a, b=[]): pass"),
    ("mutable default", "calib/table.py", "f = lambda *, a=dict(): a"),
]
GOOD = [
    ("quantize/__init__.py", "from quantize.spec import QuantSpec"),
    ("quantize/nn/conv.py", "import mxnet\nfrom ..ops import composed\nfrom . import layer"),
    ("quantize/convert/rules.py", "from quantize import config\nfrom quantize.nn import conv"),
    ("calib/collect.py", "import mxnet\nfrom quantize import modes\nfrom calib.observers import MinMax"),
    ("deploy/lower.py", "from quantize.convert import rules\nimport mxnet"),
    ("examples/train_qat.py", "import calib.collect\nfrom gluon_quantize import data\nprint('accuracy')"),
    ("examples/gluon_quantize/commands/deploy.py", "import argparse\nfrom gluon_quantize.runs import task\nprint(1)"),
    ("examples/gluon_quantize/runs/train.py", "import mxnet\nfrom gluon_quantize.training import loop"),
    ("examples/gluon_quantize/models/nets.py", "def f(x):\n    return g(target=x, args=(x,))"),
    ("deploy/targets/__init__.py", "import importlib, pkgutil\nfor m in pkgutil.iter_modules(__path__):\n"
                                   "    importlib.import_module(f'deploy.targets.{m.name}')"),
    ("deploy/targets/other/target.py", "from deploy.targets.other import simulate\nfrom deploy.targets import ncnn"),
    ("deploy/targets/other/simulate/exact.py", "import mxnet\nfrom quantize.nn import QConv2D"),
    ("calib/table.py", "x = 1\n" * 399),
    ("calib/table.py", "def f():\n    '''d\n    d'''\n" + "    x = 1\n" * 39),
    ("calib/table.py", "class A:\n    def f(self, a, b, c, d, e, f, *, g=()): pass"),
    ("calib/table.py", "def f():\n    '''\n    >>> print(1)\n    '''"),
]


@pytest.mark.parametrize("rule, path, text", BAD)
def test_the_checker_finds(rule, path, text):
    assert {problem.rule for problem in problems_of(path, SPDX + text)} == {rule}


def test_the_checker_finds_a_missing_spdx_line():
    assert [problem.rule for problem in problems_of("calib/table.py", "x = 1\n\n" + SPDX)] == ["SPDX"]
    assert problems_of("calib/table.py", "") == []


def test_every_rule_is_seen_to_fail():
    assert {rule for rule, _, _ in BAD} | {"SPDX"} == set(RULES)


@pytest.mark.parametrize("path, text", GOOD)
def test_the_checker_lets_pass(path, text):
    assert problems_of(path, SPDX + text) == []


def test_exceptions_cover_their_problem_only_and_are_missed_when_unneeded():
    found = problems_of("calib/table.py", "# SPDX-License-Identifier: MIT\ndef f(a=[]): pass\ndef g(a=[]): pass")
    needed = ("mutable default", "calib/table.py", "f")
    unneeded = ("mutable default", "calib/table.py", "h")
    left, unused = without_exceptions(found, {needed: "a reason", unneeded: "another"})
    assert [problem.where for problem in left] == ["g"]
    assert unused == [unneeded]


def test_the_fresh_process_finds_a_heavy_import(tmp_path):
    (tmp_path / "heavy.py").write_text("")
    (tmp_path / "light.py").write_text("")
    (tmp_path / "guilty.py").write_text("def f():\n    pass\nimport heavy\n")
    assert heavy_loads(["light", "guilty"], ["heavy"], tmp_path) == "importing guilty loads heavy\n"
