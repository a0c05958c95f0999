# SPDX-License-Identifier: MIT
"""The written program runs the file on an image as the engine does, with names that are hostile."""

import runpy
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from deploy import ir
from deploy.target import find
from deploy.targets.onnx import writer

pytest.importorskip("onnxruntime")
Image = pytest.importorskip("PIL.Image")


@dataclass
class Steps:
    resize: Any = None
    crop: Any = (6, 5)
    colour_order: str = "RGB"
    scale: float = 1 / 255
    mean: Any = (0.4, 0.5, 0.6)
    std: Any = (0.2, 0.3, 0.25)


def written(folder, name, weight):
    """The files of a fully connected layer, and the program."""
    target = find("onnx")
    model = ir.Model(("data",), ("out",), (ir.InnerProduct("out", ("data",), ("out",), weight=weight),),
                     {"data": (3, 6, 5), "out": (7,)})
    writer.write(model, folder, "net", integers=False)
    for file, text in target.programs(name, Steps(), target.files("net"), ("data", "out")).items():
        (folder / file).write_text(text)
    return folder / "run_onnx.py"


def test_it_prints_the_largest_scores(tmp_path):
    random = np.random.RandomState(1)
    weight = random.randn(7, 90).astype(np.float32)
    program = written(tmp_path, 'it"s \n{{ name }}', weight)
    pixels = random.randint(0, 256, (9, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(str(tmp_path / "a.png"))
    done = subprocess.run([sys.executable, str(program), str(tmp_path / "a.png")], capture_output=True,
                          text=True, check=True)
    data = (pixels[1:7, 1:6] / 255 - Steps.mean) / Steps.std
    scores = weight @ data.transpose(2, 0, 1).reshape(-1)
    printed = [line.split() for line in done.stdout.splitlines()]
    assert [int(line[0]) for line in printed] == np.argsort(-scores)[:5].tolist()
    assert np.allclose([float(line[1]) for line in printed], -np.sort(-scores)[:5], rtol=1e-4)


@pytest.mark.parametrize("facts,asked", [(b"flags\t\t: fpu avx2 avx512f avx512_vnni sse\n", False), (None, True),
                                         (b"flags\t\t: fpu avx2 avx512f sse\n", True), (b"", True),
                                         (b"flags : avx512_vnnix\n", True)])
def test_it_asks_for_exact_products_where_vnni_is_not_told_of(facts, asked, tmp_path):
    program = runpy.run_path(str(written(tmp_path, "net", np.ones((7, 90), np.float32))), run_name="program")
    if facts is not None:
        (tmp_path / "cpuinfo").write_bytes(facts)
    options = program["options"](tmp_path / "cpuinfo")
    if asked:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry("session.x64quantprecision")
