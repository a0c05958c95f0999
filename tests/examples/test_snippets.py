# SPDX-License-Identifier: MIT
"""The written programs preprocess as the examples do."""

import dataclasses
import pathlib
import runpy
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from deploy.target import find
from gluon_quantize.data import preprocess
from gluon_quantize.data.preprocess import Preprocessing

STUB = pathlib.Path(__file__).resolve().parent / "ncnn_stub"
IMAGENET = preprocess.imagenet()
STEPS = {
    "imagenet": IMAGENET, "cifar10": preprocess.cifar10(), "mnist": preprocess.mnist(), "digits": preprocess.digits(),
    "bgr": dataclasses.replace(IMAGENET, colour_order="BGR", resize=0, crop=(13, 9)),
    "no crop": dataclasses.replace(IMAGENET, resize=40, crop=0),
    "bytes": Preprocessing("RGB", 1.0, (103.9, 116.8, 123.7), (58.4, 57.1, 57.4), 0, 12)}


def image(steps, size):
    """A Pillow image of (height, width)."""
    shape = size if steps.colour_order == "L" else size + (3,)
    return Image.fromarray(np.random.RandomState(3).randint(0, 256, shape).astype(np.uint8))


def compiled(folder):
    """The C++ program, built against a stub of ncnn whose network hands its input on; skips without a compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    program = str(folder / "run")
    subprocess.run([compiler, "-Wall", "-Wextra", "-Werror", "-I", str(STUB), "-o", program,
                    str(folder / "run_ncnn.cpp")], check=True)
    return program


@pytest.fixture
def written(tmp_path):
    """function(steps) -> folder of both programs."""
    def write(steps):
        programs = find("ncnn").programs("net", steps, ("net.param", "net.bin"), ("data", "output"))
        for name, text in programs.items():
            (tmp_path / name).write_text(text)
        return tmp_path
    return write


@pytest.mark.parametrize("names", [(), ("zero", "one \u00e9 % \"")])
def test_programs_with_and_without_names_of_classes_compile(tmp_path, names):
    texts = find("ncnn").programs("net", STEPS["digits"], ("net.param", "net.bin"), ("data", "output"), names)
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    compiled(tmp_path)
    if names:
        assert "CLASSES[index]" in texts["run_ncnn.py"] and "classes[order[i]]" in texts["run_ncnn.cpp"]


@pytest.mark.parametrize("size", [(300, 280), (33, 57)])
@pytest.mark.parametrize("name", STEPS)
def test_python(written, name, size):
    pytest.importorskip("ncnn")
    steps = STEPS[name]
    program = runpy.run_path(str(written(steps) / "run_ncnn.py"))
    np.testing.assert_array_equal(program["preprocess"](image(steps, size)), steps.apply(image(steps, size)))


@pytest.mark.parametrize("name", ["imagenet", "digits", "bgr", "bytes"])
def test_cpp(written, name):
    """It prints the five largest values of the input and their places."""
    steps = STEPS[name]
    folder = written(steps)
    program, picture = compiled(folder), image(steps, (40, 60))
    path = str(folder / f"image.{'pgm' if steps.colour_order == 'L' else 'ppm'}")
    picture.save(path)
    out = subprocess.run([program, path], check=True, stdout=subprocess.PIPE, text=True).stdout
    places, values = np.array([line.split() for line in out.splitlines()], float).T
    expected = _input(steps, picture).ravel()
    assert len(places) == 5 and len(set(places)) == 5
    np.testing.assert_allclose(values, np.sort(expected)[:-6:-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(expected[places.astype(int)], values, rtol=1e-5, atol=1e-6)


def _input(steps, picture):
    """What the program should compute with the stub's resize, which takes the nearest pixel."""
    if steps.resize:
        pixels = np.asarray(picture)
        height, width = (max(side * steps.resize // min(pixels.shape[:2]), steps.resize) for side in pixels.shape[:2])
        rows, columns = (np.arange(to) * side // to for to, side in zip((height, width), pixels.shape))
        picture = Image.fromarray(pixels[rows][:, columns])
    return dataclasses.replace(steps, resize=0).apply(picture)


def test_without_an_image_the_program_says_what_it_wants(written):
    done = subprocess.run([compiled(written(STEPS["digits"]))], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "usage: run_ncnn IMAGE.pgm" in done.stderr


@pytest.mark.parametrize("name, size, says", [
    ("digits", (9, 8), "8x9 pixels, the network takes 8x8"), ("bgr", (12, 20), "20x12 pixels, smaller than the 9x13")])
def test_images_of_another_size_are_refused(tmp_path, name, size, says):
    pytest.importorskip("ncnn")
    steps = STEPS[name]
    texts = find("ncnn").programs("net", steps, ("net.param", "net.bin"), ("data", "output"), (), (3, 8, 8))
    for file, text in texts.items():
        (tmp_path / file).write_text(text)
    picture = tmp_path / f"image.{'pgm' if steps.colour_order == 'L' else 'ppm'}"
    image(steps, size).save(str(picture))
    with pytest.raises(SystemExit, match=says):
        runpy.run_path(str(tmp_path / "run_ncnn.py"))["preprocess"](Image.open(str(picture)))
    done = subprocess.run([compiled(tmp_path), str(picture)], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and says in done.stderr


@pytest.mark.parametrize("name", ["imagenet", "digits"])
def test_cpp_for_arm(written, name):
    """Debian's cross compiler with the NDK's usual flags, against the stub of ncnn: its library is not linked."""
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if compiler is None:
        pytest.skip("no aarch64-linux-gnu-g++ (Debian: g++-aarch64-linux-gnu)")
    flags = ["-std=c++11", "-O2", "-fPIE", "-fno-exceptions", "-fno-rtti", "-fstack-protector-strong",
             "-D_FORTIFY_SOURCE=2", "-ffunction-sections", "-fdata-sections", "-Wall", "-Wextra", "-Wformat",
             "-Werror=format-security", "-Werror"]
    folder = written(STEPS[name])
    subprocess.run([compiler, *flags, "-I", str(STUB), "-c", "-o", str(folder / "run.o"),
                    str(folder / "run_ncnn.cpp")], check=True)
