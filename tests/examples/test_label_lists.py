# SPDX-License-Identifier: MIT
"""Lists of labels and folders of images as other systems write them."""

import pytest

from gluon_quantize.data.datasets import open_calibration, open_dataset
from gluon_quantize.data.request import ImagesRequest
from tests.examples.test_datasets import save_image


@pytest.mark.parametrize("name, encoding", [
    ("猫.png", "gb18030"), ("猫.png", "cp932"), ("写真.png", "cp932"), ("貓.png", "big5"), ("고양이.png", "euc_kr"),
    ("кот.png", "cp1251"), ("café.png", "latin-1"), ("œuf.png", "cp1252")])
def test_names_of_files_decide_about_an_old_encoding(tmp_path, name, encoding):
    for file in (name, "b.png"):
        save_image(tmp_path / file)
    (tmp_path / "labels.txt").write_bytes(f"b.png 1\n{name} 4\n".encode(encoding))
    found = open_dataset("imagenet", tmp_path)
    assert found.labels.tolist() == [1, 4] and found.origin(1).endswith(name)


def test_composed_and_decomposed_letters_are_the_same(tmp_path):
    """macOS writes names in letters and accents, others in accented letters."""
    save_image(tmp_path / "caf\u00e9.png")
    (tmp_path / "labels.txt").write_text("cafe\u0301.png 2\n", encoding="utf-8")
    assert open_dataset("imagenet", tmp_path).labels.tolist() == [2]


def test_what_systems_leave_in_folders_is_no_image(tmp_path):
    for name in ("cat/a.png", "dog/b.png"):
        save_image(tmp_path / name)
    (tmp_path / "synset.txt").write_text("cat Cat\ndog Dog\n")
    for name in ("cat/._a.png", "__MACOSX/._a.png", ".git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    assert open_dataset("imagenet", tmp_path).labels.tolist() == [0, 1]
    (tmp_path / "synset.txt").unlink()
    assert len(open_calibration("imagenet", tmp_path)) == 2


def test_a_folder_of_images_is_one_whatever_their_size_reminds_of(tmp_path):
    """Networks for 32x32 images are not all CIFAR-10's."""
    asked = ImagesRequest(folder=str(tmp_path))
    assert asked.dataset_for("cifar10") == "cifar10" and asked.dataset_for(None) == "imagenet"
    save_image(tmp_path / "a.png")
    assert asked.dataset_for("cifar10") == asked.dataset_for("digits") == "imagenet"
    assert ImagesRequest(folder=str(tmp_path), dataset="cifar10").dataset_for("digits") == "cifar10"
    (tmp_path / "cifar10_test.npz").write_bytes(b"")
    assert asked.dataset_for("cifar10") == "cifar10"
    assert ImagesRequest(folder="a\0b" * 2000).dataset_for("cifar10") == "cifar10"
