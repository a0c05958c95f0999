# SPDX-License-Identifier: MIT
"""Links in a folder that somebody else made: followed inside of it, refused where they lead out."""

import os
import shutil

import pytest

from gluon_quantize.models.loading import checkpoint_file
from gluon_quantize.runs import outputs
from gluon_quantize.runs.material import material
from gluon_quantize.runs.ownership import TRAINING
from gluon_quantize.runs.recheck import RecheckRequest, recheck
from gluon_quantize.training.checkpoints import Checkpoints
from quantize.errors import DataError, ModelFileError, QuantizeError
from quantize.files import check_within, links_in
from quantize.importers.onnx import import_onnx
from quantize.interfaces.n2d2.parameters import import_parameters
from tests.hostile import seeds
from tests.hostile.bundles import deployment, trained
from tests.hostile.n2d2 import trained_cells

OUT = "is a link, or lies behind one, that leads out of"


def moved(path, place):
    """A file or folder taken elsewhere, with a link in its place."""
    place.mkdir(exist_ok=True)
    shutil.move(str(path), str(place / path.name))
    path.symlink_to(place / path.name)


def test_links_are_resolved(tmp_path):
    (tmp_path / "own" / "in").mkdir(parents=True)
    (tmp_path / "own" / "in" / "a").touch()
    (tmp_path / "own" / "b").symlink_to("in/a")
    (tmp_path / "other").mkdir()
    (tmp_path / "door").symlink_to("own")
    check_within(tmp_path / "own", links_in(tmp_path / "own"))
    check_within(tmp_path / "door", links_in(tmp_path / "door"))
    for number, where in enumerate(("../../other", "/dev/zero", "../../own2", "../../own/../other", tmp_path)):
        link = tmp_path / "own" / "in" / str(number)
        link.symlink_to(where)
        with pytest.raises(DataError, match=OUT):
            check_within(tmp_path / "own", links_in(tmp_path / "own"))
        link.unlink()
    (tmp_path / "own" / "loop").symlink_to("loop")
    check_within(tmp_path / "own", links_in(tmp_path / "own"))


@pytest.mark.parametrize("name", ["m.ir", "m-int8.bin", "m-int8.param", "certificate.json", "result.json",
                                  "certificates"])
def test_a_deployment(tmp_path, name):
    """Nothing of it is read, nor is a certificate written behind the link."""
    folder, other = tmp_path / "out", tmp_path / "other"
    deployment(folder)
    (folder / "certificates").mkdir(exist_ok=True)
    moved(folder / name, other)
    before = sorted(os.listdir(other / name)) if (other / name).is_dir() else []
    for work in (lambda: recheck(RecheckRequest(str(folder))), lambda: material(folder)):
        with pytest.raises(DataError, match=OUT):
            work()
    assert not before and name in os.listdir(other)
    assert not (other / name).is_dir() or not os.listdir(other / name)


def test_a_link_inside_of_a_deployment_is_followed(tmp_path):
    deployment(tmp_path / "out")
    moved(tmp_path / "out" / "m-int8.bin", tmp_path / "out" / "weights")
    assert material(tmp_path / "out").kind == "deployment"


@pytest.mark.parametrize("name", ["result.json", "log.json", "best.qnet"])
def test_the_results_of_a_training(tmp_path, name):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "log.json").write_text('{"epochs": [], "settings": {}}')
    (folder / name).touch()
    moved(folder / name, tmp_path / "other")
    with pytest.raises(QuantizeError, match=OUT):
        material(folder)
    if name.endswith(".qnet"):
        with pytest.raises(ModelFileError, match=OUT):
            checkpoint_file(str(folder))


@pytest.mark.parametrize("what", ["net.params", "manifest.json", "", ".."])
def test_a_checkpoint(tmp_path, what):
    folder = tmp_path / "run" / "checkpoints"
    net, optimizers = trained(folder)
    moved(tmp_path / "run" / os.path.normpath(os.path.join("checkpoints", "epoch-1", what)), tmp_path / "other")
    with pytest.raises(ModelFileError, match=OUT):
        Checkpoints(folder, {"lr": 0.01}).load(net, optimizers)
    if what == "..":  # older checkpoints, and halves of them, would be removed behind the link
        with pytest.raises(DataError, match=OUT), outputs.claimed(tmp_path / "run", TRAINING):
            pass


def test_cells_of_n2d2(tmp_path):
    network, _ = trained_cells(tmp_path / "weights")
    import_parameters(network, tmp_path / "weights")
    moved(tmp_path / "weights" / "conv.npz", tmp_path / "other")
    with pytest.raises(ModelFileError, match=OUT):
        import_parameters(network, tmp_path / "weights")


def test_external_data_of_onnx_behind_a_linked_folder(tmp_path):
    model, data = seeds.external(seeds.onnx_model())
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "in/w.bin"
    folder = tmp_path / "m"
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "w.bin").write_bytes(data)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    import_onnx(folder / "m.onnx")
    moved(folder / "in", folder / "elsewhere")
    import_onnx(folder / "m.onnx")
    moved(folder / "elsewhere", tmp_path / "other")
    with pytest.raises(ModelFileError, match="is not in the file's own folder"):
        import_onnx(folder / "m.onnx")
