# SPDX-License-Identifier: MIT
"""What somebody puts in the place of a file: endless ones, devices, links, archives whose members are the same."""

import io
import json
import os
import resource
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from calib.state import read_state
from deploy.ir import file as ir_file
from gluon_quantize.data.image_set import FileSet
from gluon_quantize.runs.recheck import RecheckRequest, recheck
from quantize.errors import DataError, DeployError, ModelFileError, QuantizeError
from quantize.limits import memory_limit
from quantize.npz import read_npz
from quantize.storage import container
from tests.hostile import seeds
from tests.hostile.bundles import deployment
from tests.hostile.structures import entries
from tests.hostile.test_fuzz import LIMIT, NAMES

FOLDERS = ("onnx external", "checkpoint", "deployment", "training", "rounding", "cells", "idx", "cifar", "image list")
FILES = [name for name in NAMES if name not in FOLDERS]


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return seeds.formats(tmp_path_factory.mktemp("seeds"))


def used():
    """The most memory that this process had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def refused(form, path):
    """What a reader says; it takes no memory for it."""
    before = used()
    with memory_limit(LIMIT), pytest.raises(QuantizeError) as caught:
        form.read(path)
    assert used() - before < 2 ** 26
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("ncnn bin", "ini")])
def test_a_file_of_64_gigabytes_of_nothing(known, tmp_path, name):
    """It takes no room on the disk."""
    with open(tmp_path / known[name].name, "wb") as stream:
        stream.truncate(2 ** 36)
    refused(known[name], tmp_path / known[name].name)


@pytest.mark.parametrize("kind", ["zero", "pipe", "folder", "itself"])
@pytest.mark.parametrize("name", [name for name in FILES if name != "ncnn bin"])
def test_what_is_no_file_is_not_waited_for(known, tmp_path, name, kind):
    path = tmp_path / known[name].name
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(str(path))
    else:
        path.symlink_to("/dev/zero" if kind == "zero" else path)
    refused(known[name], path)


def overlapping(content, names, template):
    """An archive with many members, all of which are the same bytes of the file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        info = archive.getinfo(template)
        data = archive.read(template)
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, info.CRC, len(data), len(data), 1, 0) + b"x" + data
    listed = b"".join(struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, info.CRC, len(data), len(data),
                                  len(name), 0, 0, 0, 0, 0, 0) + name.encode() for name in names)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(names), len(names), len(listed), len(local), 0)
    return local + listed + end


def test_archives_whose_members_overlap(tmp_path):
    deployment(tmp_path / "out")
    model = (tmp_path / "out" / "m.ir").read_bytes()
    names = ["model.json", *(f"arrays/{number:05d}.npy" for number in range(2000))]
    (tmp_path / "m.ir").write_bytes(overlapping(model, names, "model.json"))
    with pytest.raises(ModelFileError, match=r"m\.ir: "):
        ir_file.load(tmp_path / "m.ir")
    (tmp_path / "n.qnet").write_bytes(overlapping(model, ["manifest.json", *names], "model.json"))
    with pytest.raises(ModelFileError, match=r"n\.qnet: "):
        container.read(tmp_path / "n.qnet")
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(10 ** 6))
    (tmp_path / "a.npz").write_bytes(overlapping(stream.getvalue(), [f"a{n}.npy" for n in range(2000)], "a.npy"))
    before = used()
    with memory_limit(LIMIT), pytest.raises(DataError, match="unpacks to more than it may: would take 14.9 GB"):
        read_npz(tmp_path / "a.npz")
    assert used() - before < 2 ** 26
    assert len(entries(model)) > 5


def test_a_picture_of_169_million_pixels_in_half_a_megabyte(tmp_path):
    path = tmp_path / "a.png"
    Image.new("1", (13_000, 13_000)).save(path)
    assert path.stat().st_size < 10 ** 6
    before = used()
    with memory_limit(LIMIT), pytest.raises(DataError, match="13000x13000 pixels: would take"):
        FileSet("x", [path], [0], 1).load(0)
    assert used() - before < 2 ** 26


def test_a_state_of_ten_thousand_million_shards(tmp_path):
    content = seeds.state_of(tmp_path)
    content.update(shards=10 ** 10, have=[1])
    content.pop("checksum")
    from calib import state
    content["checksum"] = state._checksum(content)
    (tmp_path / "s").write_text(json.dumps(content))
    before = used()
    try:
        assert not read_state(tmp_path / "s").complete
    except QuantizeError as error:
        assert len(str(error).splitlines()) == 1
    assert used() - before < 2 ** 25


def test_a_deployment_with_an_endless_file_is_not_read_to_its_end(tmp_path):
    folder = tmp_path / "out"
    deployment(folder)
    os.truncate(str(folder / "m-int8.bin"), 2 ** 40)
    with pytest.raises(DeployError, match=r"m-int8\.bin: is no more the file"):
        recheck(RecheckRequest(str(folder)))
    certificate = json.loads((folder / "certificate.json").read_text())
    certificate["files"]["m-int8.bin"]["bytes"] = 2 ** 40
    (folder / "certificate.json").write_text(json.dumps(certificate))
    with pytest.raises(DataError, match="more than the limit"):
        recheck(RecheckRequest(str(folder)))
