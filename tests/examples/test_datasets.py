# SPDX-License-Identifier: MIT
"""Data sets: what they hold, the order of batches, and one clear line for every bad input."""

import logging
import os

import mxnet as mx
import numpy as np
import pytest
from PIL import Image, ImageFile

from gluon_quantize.data import preprocess
from gluon_quantize.data.arrays import read_npz
from gluon_quantize.data.datasets import balanced_indices, batches, open_calibration, open_dataset
from gluon_quantize.data.image_set import ArraySet, FileSet
from gluon_quantize.data.preprocess import Preprocessing
from quantize.errors import ConfigError, DataError

WNIDS = ["n01440764", "n01443537", "n01484850"]


def save_image(path, size=(8, 8), value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(str(path))
    return path


@pytest.fixture
def listed(tmp_path):
    """A flat folder with labels.txt."""
    for name in ("a.JPEG", "b c.png"):
        save_image(tmp_path / name)
    (tmp_path / "labels.txt").write_text("a.JPEG 3\n\nb c.png 999\n")
    return tmp_path


# --- digits -------------------------------------------------------------------------------------------------------

def test_digits_split_is_fixed():
    train, test = open_dataset("digits", split="train"), open_dataset("digits")
    assert (len(train), len(test), test.num_classes, test.name) == (1433, 364, 10, "digits")
    assert np.bincount(test.labels).tolist() == [36, 37, 36, 37, 37, 37, 37, 36, 35, 36]
    assert test.labels[:10].tolist() == list(range(10))
    image = test.load(0)
    assert image.shape == (8, 8) and image.dtype == np.uint8 and image.max() <= 16


# --- the real data ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("folder, count, first", [("imagenet_sample", 500, 1), ("imagenet_val_sample", 634, 133)])
def test_imagenet_samples(shared_data, folder, count, first):
    data = open_dataset("imagenet", shared_data / folder)
    assert (len(data), data.num_classes, data.labels[0]) == (count, 1000, first)
    assert (data.labels % 2 == 1).all()
    assert data.load(0).mode == "RGB"
    # A flat folder serves either split.
    assert len(open_dataset("imagenet", str(shared_data / folder), "train")) == count


def test_imagenet_sample_labels_agree_with_the_standard_classes(shared_data):
    from gluoncv.data import ImageNet1kAttr
    data = open_dataset("imagenet", shared_data / "imagenet_sample")
    for index in (0, 250, 499):
        assert ImageNet1kAttr().synset[data.labels[index]] in data.origin(index)


def test_cifar10_and_mnist(shared_data):
    cifar = open_dataset("cifar10", shared_data)
    assert np.bincount(cifar.labels).tolist() == [1000] * 10 and cifar.load(0).shape == (32, 32, 3)
    mnist = open_dataset("mnist", shared_data)
    assert np.bincount(mnist.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert len(open_dataset("mnist", shared_data, "train")) == 60000


@pytest.mark.slow
def test_cifar10_train(shared_data):
    assert np.bincount(open_dataset("cifar10", shared_data, "train").labels).tolist() == [5000] * 10


# --- ImageNet folders ---------------------------------------------------------------------------------------------

def test_gluoncv_layout(tmp_path):
    for split, wnid in (("val", WNIDS[2]), ("val", WNIDS[0]), ("train", WNIDS[1])):
        save_image(tmp_path / split / wnid / "x.JPEG")
    # Labels are those of the 1000 classes although most folders are absent.
    assert open_dataset("imagenet", tmp_path).labels.tolist() == [0, 2]
    assert open_dataset("imagenet", tmp_path, "train").labels.tolist() == [1]
    assert open_dataset("imagenet", tmp_path / "val", "train").labels.tolist() == [0, 2]


def test_class_folders_with_synset(tmp_path):
    save_image(tmp_path / "val" / "cat" / "x.png")
    (tmp_path / "synset.txt").write_text("dog a dog, another name\ncat a cat\n")
    data = open_dataset("imagenet", tmp_path)
    assert data.labels.tolist() == [1] and data.class_names == ("a dog", "a cat")
    (tmp_path / "synset.txt").write_text("dog\ncat a cat\n")
    assert open_dataset("imagenet", tmp_path).class_names is None


def test_labels_txt(listed):
    data = open_dataset("imagenet", listed)
    assert data.labels.tolist() == [3, 999] and data.origin(1).endswith("b c.png")


def test_wnid_files(tmp_path):
    for name in (WNIDS[1] + "_7.JPEG", WNIDS[0] + ".jpg"):
        save_image(tmp_path / name)
    (tmp_path / "synset.txt").write_text("\n".join(wnid + " name, other name" for wnid in WNIDS))
    assert open_dataset("imagenet", tmp_path).labels.tolist() == [0, 1]


LINES = "a.JPEG 3{0}b c.png 999{0}"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_label_lists_in_any_encoding_and_line_end(listed, encoding, end):
    for text in (LINES.format(end), LINES.format(end).rstrip(end), f"a.JPEG,3{end}b c.png,999"):
        (listed / "labels.txt").write_bytes(text.encode(encoding))
        assert open_dataset("imagenet", listed).labels.tolist() == [3, 999]
    (listed / "labels.txt").unlink()
    save_image(listed / "val" / "chien" / "x.png")
    (listed / "SYNSET.TXT").write_bytes(f"chat é{end}chien à{end}".encode(encoding))
    assert open_dataset("imagenet", listed).labels.tolist() == [1]


def test_images_without_labels_calibrate(tmp_path):
    for name in ("b.png", "a.tif", "sub/c.JPEG"):
        save_image(tmp_path / name)
    (tmp_path / "notes.md").write_text("no image")
    images = open_calibration("imagenet", tmp_path)
    assert not images.labelled and [images.origin(i)[len(str(tmp_path)):] for i in range(3)] == [
        "/a.tif", "/b.png", "/sub/c.JPEG"]
    save_image(tmp_path / "train" / "d.png")
    assert len(open_calibration("imagenet", tmp_path)) == 1
    (tmp_path / "train" / "labels.txt").write_text("d.png 5")
    assert open_calibration("imagenet", tmp_path).labels.tolist() == [5]
    with pytest.raises(DataError, match="gone: no such folder"):
        open_calibration("imagenet", tmp_path / "gone")


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "float.tif", "grey.pgm"])
def test_deep_images_are_scaled(tmp_path, name):
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    array = (deep / 65535).astype(np.float32) if name.startswith("float") else deep
    Image.fromarray(array).save(str(tmp_path / name))
    image = FileSet("x", [tmp_path / name], [0], 1).load(0)
    assert image.mode == "RGB" and np.abs(np.asarray(image)[..., 0].astype(int) - (deep >> 8)).max() <= 1
    with Image.open(str(tmp_path / name)) as image:
        data = Preprocessing("L", 1.0, (0,), (1,)).apply(image)
    assert np.abs(data[0] - (deep >> 8)).max() <= 1


@pytest.mark.parametrize("array, message", [
    (np.full((4, 4), -1.0, np.float32), "real numbers from -1 to -1"), (np.full((4, 4), 300, np.float32), "to 300"),
    (np.full((4, 4), np.nan, np.float32), "nan to nan"), (np.full((4, 4), 70000, np.int32), "32 bits")])
def test_images_of_unknown_range_are_refused(tmp_path, array, message):
    Image.fromarray(array).save(str(tmp_path / "x.tif"))
    with pytest.raises(DataError, match=r"x\.tif: holds .*" + message):
        FileSet("x", [tmp_path / "x.tif"], [0], 1).load(0)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(DataError, match="imagenet is not downloaded"):
        open_dataset("imagenet")
    for name in ("imagenet", "cifar10", "mnist", "digits"):
        with pytest.raises(DataError, match="absent: no such folder"):
            open_dataset(name, tmp_path / "absent")
    with pytest.raises(DataError, match="no labels.txt, no synset.txt"):
        open_dataset("imagenet", tmp_path)
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match="no 'train' folder"):
        open_dataset("imagenet", tmp_path, "train")
    (tmp_path / "val" / WNIDS[0]).mkdir()
    with pytest.raises(DataError, match="no images"):
        open_dataset("imagenet", tmp_path)
    (tmp_path / "val" / "pictures").mkdir()
    with pytest.raises(DataError, match="'pictures' is no ImageNet class"):
        open_dataset("imagenet", tmp_path)


@pytest.mark.parametrize("line, message", [
    ("a.JPEG 1000", "line 4: 'a.JPEG 1000'; want"), ("a.JPEG -1", "line 4"), ("a.JPEG x", "line 4"), ("7", "line 4"),
    ("gone.JPEG 7", "line 4: file 'gone.JPEG' is not in the folder")])
def test_bad_labels_txt(listed, line, message):
    with (listed / "labels.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=r"labels\.txt " + message):
        open_dataset("imagenet", listed)


def test_bad_label_lists(tmp_path):
    save_image(tmp_path / "other.png")
    (tmp_path / "synset.txt").write_text("n01440764 tench\n")
    with pytest.raises(DataError, match="other.png: the name must start with a wnid"):
        open_dataset("imagenet", tmp_path)
    (tmp_path / "synset.txt").write_text("\n")
    with pytest.raises(DataError, match="synset.txt: 0 different wnids"):
        open_dataset("imagenet", tmp_path)
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="labels.txt: cannot be read as text"):
        open_dataset("imagenet", tmp_path)
    (tmp_path / "labels.txt").write_text("")
    with pytest.raises(DataError, match="no images"):
        open_dataset("imagenet", tmp_path)


@pytest.mark.parametrize("keep", [0, 2, 0.5, 0.9])
@pytest.mark.parametrize("suffix", [".JPEG", ".png"])
def test_truncated_images_are_named(tmp_path, monkeypatch, suffix, keep):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as gluoncv does on import
    path = tmp_path / ("a" + suffix)
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)).save(str(path))
    data = path.read_bytes()
    path.write_bytes(data[:keep if keep in (0, 2) else int(len(data) * keep)])
    (tmp_path / "labels.txt").write_text(path.name + " 1\n")
    with pytest.raises(DataError, match=f"a{suffix}: cannot be decoded") as caught:
        list(batches(open_dataset("imagenet", tmp_path), Preprocessing(), 1))
    assert "\n" not in str(caught.value)


# --- npz files ----------------------------------------------------------------------------------------------------

def write_npz(path, **changes):
    arrays = dict(x=np.zeros((3, 8, 8), np.uint8), y=np.array([0, 1, 9], np.uint8), **{})
    arrays.update(changes)
    np.savez_compressed(str(path), **{key: value for key, value in arrays.items() if value is not None})
    return path


@pytest.mark.parametrize("changes, message", [
    (dict(x=None), "no array 'x'; it holds y"), (dict(y=None), "no array 'y'; it holds x"),
    (dict(x=np.zeros((3, 8, 8), np.float32)), "'x' is float32"),
    (dict(x=np.zeros((3, 8, 9), np.uint8)), "'x' is uint8"),
    (dict(x=np.zeros((0, 8, 8), np.uint8)), "want uint8"), (dict(x=np.full((3, 8, 8), np.nan)), "'x' holds NaN"),
    (dict(y=np.array([0, 1, np.inf])), "'y' holds NaN or infinity"), (dict(y=np.array([0.0, 1, 2])), "'y' is float64"),
    (dict(y=np.zeros(4, np.uint8)), "want 3 integer labels"), (dict(y=np.array([0, 10, 1])), "label 10 at position 1"),
    (dict(y=np.array([0, 1, -1])), "label -1 at position 2"),
    (dict(x=np.array([None, 1, 2], dtype=object)), "not a complete npz file")])
def test_bad_arrays(tmp_path, changes, message):
    path = write_npz(tmp_path / "d.npz", **changes)
    with pytest.raises(DataError, match=r"d\.npz: .*" + message):
        read_npz(path, "x", "y", (8, 8))


@pytest.mark.parametrize("keep", [0, 10, 100, -30])
def test_truncated_npz(tmp_path, keep):
    path = write_npz(tmp_path / "mnist.npz")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"mnist\.npz: not a complete npz file"):
        open_dataset("mnist", tmp_path)


def test_files_that_are_no_npz(tmp_path):
    with pytest.raises(DataError, match="digits.npz: cannot be read: no such file"):
        open_dataset("digits", tmp_path)
    with (tmp_path / "digits.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="not a complete npz file"):
        open_dataset("digits", tmp_path)


def test_several_cifar_pieces_and_the_mnist_folder(tmp_path):
    for number in (1, 2):
        np.savez(str(tmp_path / f"cifar10_train_{number}.npz"),
                 x=np.full((2, 32, 32, 3), number, np.uint8), y=np.full(2, number))
    data = open_dataset("cifar10", tmp_path, "train")
    assert data.labels.tolist() == [1, 1, 2, 2] and data.load(3).max() == 2
    (tmp_path / "mnist").mkdir()
    np.savez(str(tmp_path / "mnist" / "mnist.npz"), x_test=np.zeros((1, 28, 28), np.uint8), y_test=np.array([4]))
    assert open_dataset("mnist", tmp_path).labels.tolist() == [4]


@pytest.mark.parametrize("name, class_name, wanted", [("cifar10", "CIFAR10", "cifar10_test.npz"),
                                                      ("mnist", "MNIST", "mnist.npz")])
def test_failed_download_says_where_to_put_files(tmp_path, monkeypatch, capsys, name, class_name, wanted):
    def refuse(root, train):
        print("Downloading, 4 attempts left")
        raise OSError("no network")
    monkeypatch.setattr(mx.gluon.data.vision, class_name, refuse)
    with pytest.raises(DataError, match=f"download failed.*put {wanted} .*--data-dir") as caught:
        open_dataset(name, tmp_path)
    assert str(tmp_path) in str(caught.value) and capsys.readouterr().out == ""


def test_gluon_loader_is_used(tmp_path, monkeypatch):
    class Loaded:
        def __init__(self, root, train):
            self._data, self._label = mx.nd.ones((2, 28, 28, 1), dtype=np.uint8), np.array([3, 4], np.int32)
    monkeypatch.setattr(mx.gluon.data.vision, "MNIST", Loaded)
    data = open_dataset("mnist", tmp_path)
    assert data.labels.tolist() == [3, 4] and data.load(0).shape == (28, 28)


def test_unknown_names():
    with pytest.raises(ConfigError, match="did you mean 'imagenet'"):
        open_dataset("imagnet")
    with pytest.raises(ConfigError, match="split 'val'"):
        open_dataset("digits", split="val")


# --- sampling and batches -----------------------------------------------------------------------------------------

def test_balanced_indices():
    labels = np.repeat([2, 5, 7], [10, 20, 30])
    chosen = balanced_indices(labels, 4, seed=3)
    assert len(set(chosen)) == 12 and np.array_equal(chosen, balanced_indices(labels, 4, seed=3))
    assert not np.array_equal(chosen, balanced_indices(labels, 4, seed=4))
    for length in range(1, 13):
        counts = [np.sum(labels[chosen[:length]] == label) for label in (2, 5, 7)]
        assert max(counts) - min(counts) <= 1


def test_balanced_indices_of_small_classes(caplog):
    with caplog.at_level(logging.WARNING):
        chosen = balanced_indices([0, 0, 0, 1], 2, seed=0)
    assert len(chosen) == 3 and "1 of 2 classes have fewer than 2 images" in caplog.text
    assert len(balanced_indices([], 1, seed=0)) == 0
    with pytest.raises(ConfigError, match="at least 1"):
        balanced_indices([0], 0, seed=0)


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_keep_the_order(workers):
    images = np.arange(23, dtype=np.uint8)[:, None, None] + np.zeros((1, 2, 2), np.uint8)
    data = ArraySet("small", images, np.arange(23) % 10, list("abcdefghij"))
    steps = Preprocessing("L", 1.0, (0,), (1,))
    order = np.random.RandomState(0).permutation(23)
    loader = batches(data, steps, 5, order, workers)
    assert len(loader) == 5
    for _ in range(2):
        seen = list(loader)
        assert [x.shape for x, _ in seen] == [(5, 1, 2, 2)] * 4 + [(3, 1, 2, 2)]
        assert seen[0][0].dtype == np.float32
        np.testing.assert_array_equal(np.concatenate([x.asnumpy()[:, 0, 0, 0] for x, _ in seen]), order)
        np.testing.assert_array_equal(np.concatenate([y for _, y in seen]), order % 10)
    assert sum(len(y) for _, y in batches(data, steps, 100)) == 23


def test_batches_can_be_left_early():
    loader = iter(batches(open_dataset("digits"), preprocess.digits(), 8))
    next(loader)
    loader.close()


def test_bad_batches(tmp_path):
    data, steps = open_dataset("digits"), preprocess.digits()
    for arguments in ((0,), (4, None, 0)):
        with pytest.raises(ConfigError, match="at least 1"):
            batches(data, steps, *arguments)
    for indices in ([], [0, 364], [-1]):
        with pytest.raises(DataError, match=r"image indices 0\.\.363"):
            batches(data, steps, 4, indices)
    save_image(tmp_path / "a.png", (8, 9)), save_image(tmp_path / "b.png", (8, 8))
    (tmp_path / "labels.txt").write_text("a.png 1\nb.png 1\n")
    folder = open_dataset("imagenet", tmp_path)
    with pytest.raises(DataError, match=r"b\.png: \(3, 8, 8\) after preprocessing, but .*a\.png is \(3, 9, 8\)"):
        list(batches(folder, Preprocessing(), 2))
    with pytest.raises(DataError, match=r"b\.png: 8x8 pixels, smaller than the 8x9 crop"):
        list(batches(folder, Preprocessing(crop=(9, 8)), 2))


def test_no_interpreter_is_started_for_an_image(tmp_path, monkeypatch):
    """Pillow opens an EPS file under any name, with the program gs."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/STARTED\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "a.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
                                    "%%EOF\n")
    with pytest.raises(DataError, match="cannot be decoded"):
        FileSet("x", [tmp_path / "a.jpg"], [0], 1).load(0)
    assert not (tmp_path / "STARTED").exists()


def test_pixels_are_counted_before_they_are_decoded(tmp_path):
    from quantize.limits import memory_limit
    Image.new("L", (3000, 3000)).save(tmp_path / "a.png")
    with memory_limit(10 ** 8), pytest.raises(DataError, match="a.png: 3000x3000 pixels: would take"):
        FileSet("x", [tmp_path / "a.png"], [0], 1).load(0)
