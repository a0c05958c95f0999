# SPDX-License-Identifier: MIT
"""The benchmarks work; how fast anything is decides nothing here."""

import importlib
import pathlib
import re
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).resolve().parent
SCRIPTS = ("bench_operators.py", "bench_simulation.py", "bench_training.py")
BACKENDS = ("native", "composed")
# imports of torch fail
WITHOUT_TORCH = "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; " \
                f"sys.path.insert(0, {str(FOLDER)!r}); runpy.run_path(sys.argv[0], run_name='__main__')"


def run(script, *arguments):
    return subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(FOLDER / script)] + list(arguments),
                          capture_output=True, text=True)


def table(done, backend):
    """Rows below the column titles, as lists of cells."""
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"back ends: {backend}; ")
    head = next(i for i, line in enumerate(lines) if re.search(" ms +/ ", line))
    return [re.split("  +", line.strip()) for line in lines[head + 1:]]


@pytest.fixture(params=BACKENDS)
def backend(request):
    from quantize.ops import native
    if request.param == "native" and native.why_not():
        pytest.skip(native.why_not())
    return request.param


def test_simulation(backend):
    names = ["mobilenet0.25", "cifar_resnet20_v1"]
    rows = table(run("bench_simulation.py", "--networks", *names, "--rounds", "1", "--batch-size", "2",
                     "--backend", backend), backend)
    variants = [("float", "-"), ("float, merged", "-"), ("simulated", backend), ("online", backend)]
    assert [tuple(row[:3]) for row in rows] == [(name, *variant) for name in names for variant in variants]
    for i, row in enumerate(rows):
        for cell, reference in zip(row[4:], rows[i // 4 * 4:]):
            assert float(cell) == pytest.approx(float(row[3]) / float(reference[3]), abs=0.02, rel=0.05)


def test_operators(backend):
    rows = table(run("bench_operators.py", "--rounds", "1", "--shape", "2", "3", "4", "5", "--backend", backend),
                 backend)
    names = {row[0] for row in rows}
    assert {"fixed, per tensor", "fixed, per channel", "online, per tensor", "tracking", "LSQ, per tensor",
            "LSQ, per channel", "PACT", "sign"} <= names
    for name in names:
        found = {(row[1], row[2]) for row in rows if row[0] == name}
        assert {(which, label) for which in ("forward", "forward+backward") for label in ("copy", backend)} <= found
    assert all(float(row[3]) > 0 and float(row[4]) > 0 and row[5] == "-" for row in rows)


def test_training(backend):
    variants = ["online", "ema", "static", "SAT", "LSQ/corrected"]
    rows = table(run("bench_training.py", "--rounds", "1", "--batch-size", "2", "--backend", backend, "--variants",
                     *variants), backend)
    variants = [variant for variant in variants if backend == "native" or variant != "ema"]
    assert [tuple(row[:2]) for row in rows] == [("float", "-")] + [(variant, backend) for variant in variants]
    assert all(float(row[3]) == pytest.approx(float(row[2]) / float(rows[0][2]), abs=0.02, rel=0.05) for row in rows)


def test_torch_network():
    pytest.importorskip("torch")
    found = run_code("import torch, bench_training as b; net = b.torch_network(torch); print(net(torch.zeros(2, 3, 32, "
                     "32)).shape[1], sum(p.numel() for p in net.parameters()))")
    assert found == "10 272474"  # gluoncv's cifar_resnet20_v1 has as many trained numbers


def run_code(code):
    return subprocess.run([sys.executable, "-c", code], cwd=str(FOLDER), check=True, stdout=subprocess.PIPE,
                          text=True).stdout.strip()


@pytest.mark.parametrize("script", SCRIPTS)
def test_missing_native_is_refused(script):
    code = (f"from quantize.ops import native; native._state['reason'] = 'not built: run it'; import {script[:-3]} as "
            "b; b.main([])")
    done = subprocess.run([sys.executable, "-c", code], cwd=str(FOLDER), capture_output=True,
                          text=True)
    assert done.returncode == 2 and "error: the native operators cannot be measured: not built" in done.stderr
    assert "--backend composed" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture
def refused(monkeypatch, capsys):
    """function(script, *arguments) -> (exit code, output, errors) of what ends before anything is measured."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def call(script, *arguments):
        with pytest.raises(SystemExit) as stop:
            importlib.import_module(script[:-3]).main(list(arguments))
        return (stop.value.code, *capsys.readouterr())
    return call


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("arguments", [("--rounds", "0"), ("--threads", "none"), ("--backend", "fast")])
def test_bad_arguments_are_refused(refused, script, arguments):
    code, _, said = refused(script, *arguments)
    assert code == 2 and re.search(f"error: .*{arguments[0]}", said)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(refused, script):
    code, said, _ = refused(script, "--help")
    assert code == 0
    assert {"--backend", "--rounds", "--threads"} <= set(re.findall("--[a-z-]+", said))


def test_collection():
    done = run("bench_collection.py", "--network", "mobilenet0.25", "--size", "64", "--rounds", "1", "--batch-size",
               "2", "--images", "3")
    assert done.returncode == 0, done.stderr
    title, plain, *rows, memory = done.stdout.splitlines()
    assert title == "mobilenet0.25, 2 images of 64x64 per batch, 1 threads, median of 1 rounds"
    fast = float(re.match(r"float forward +([\d.]+) ms", plain).group(1))
    assert [row.split()[0] for row in rows] == ["histogram", "histogram-all", "minmax", "ema", "all"]
    for row in rows:
        slow, ratio = map(float, re.search(r"([\d.]+) ms per batch, ([\d.]+) times float", row).groups())
        assert ratio == pytest.approx(slow / fast, rel=0.1)
    assert float(re.fullmatch(r"memory for +3 images: +(\d+) MiB resident at most", memory).group(1)) > 50


def test_collection_refuses(refused):
    code, _, said = refused("bench_collection.py", "--rounds", "0")
    assert code == 2 and "--rounds" in said
