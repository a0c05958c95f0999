# SPDX-License-Identifier: MIT
"""The file itself: whole, the same bytes for the same network, and nothing but what its manifest says."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from quantize import load_quantized, read_facts, save_quantized
from quantize.config import Format, Rule
from quantize.convert import convert_model
from quantize.errors import ConversionError, DataError, ModelFileError, QuantizeError
from quantize.limits import memory_limit
from quantize.nn import QConv2D
from quantize.storage import Facts, container
from tests.quantize.storage.cases import converted, images, network, ranged


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(path, network) of a calibrated network."""
    path, net = tmp_path_factory.mktemp("saved") / "net.qnet", ranged(converted())
    facts = Facts(preprocessing={"scale": 0.5}, class_names=("cat", "dog"), extra={"dataset": "digits"})
    save_quantized(net, path, facts=facts, provenance={"command": "test", "seed": 7})
    return path, net


def entries(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(path, to, change, compression=zipfile.ZIP_STORED, sealed=True):
    """A copy with other entries; `sealed`: the manifest agrees with them."""
    contents = entries(path)
    change(contents)
    if sealed:
        manifest = json.loads(contents["manifest.json"])
        manifest["entries"] = {name: {"bytes": len(data), "sha256": container.hashlib.sha256(data).hexdigest()}
                               for name, data in contents.items() if name != "manifest.json"}
        contents["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(to, "w", compression) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return to


def edited(contents, name, edit):
    document = json.loads(contents[name])
    edit(document)
    contents[name] = json.dumps(document).encode()


def test_facts_come_back_and_steps_are_remembered(saved, tmp_path):
    path, net = saved
    facts = read_facts(path)
    assert facts.class_names == ("cat", "dog") and facts.preprocessing == {"scale": 0.5}
    assert facts.extra == {"dataset": "digits"} and facts.target is None
    assert facts.provenance[0]["command"] == "test" and facts.provenance[0]["versions"]["numpy"] == np.__version__
    again = load_quantized(path)
    assert again.facts == facts and str(again.plan) == str(net.plan)
    digest = save_quantized(again, tmp_path / "b.qnet", provenance={"command": "later"})
    second = read_facts(tmp_path / "b.qnet")
    assert second.digest == digest
    assert [step["command"] for step in second.provenance] == ["test", "later"]
    assert second.provenance[1]["started_from"] == facts.digest


def test_the_target_and_the_rules_are_kept(tmp_path):
    from quantize.convert import convert_model
    net = ranged(convert_model(network(), target="ncnn", config_list=[{"op_names": ["8"], "exclude": True}]))
    save_quantized(net, tmp_path / "net.qnet")
    again = load_quantized(tmp_path / "net.qnet")
    assert (again.facts.target, again.facts.target_options) == (
        "ncnn", {"fp32": False, "fp32_layers": [], "winograd": False})
    assert again.rules == net.rules and again.rules[-1].exclude


def test_the_same_network_makes_the_same_bytes(saved, tmp_path):
    path, net = saved
    save_quantized(net, tmp_path / "again.qnet", facts=read_facts(path).__class__(
        preprocessing={"scale": 0.5}, class_names=("cat", "dog"), extra={"dataset": "digits"}),
        provenance={"command": "test", "seed": 7})
    assert path.read_bytes() == (tmp_path / "again.qnet").read_bytes()


def test_numpy_opens_the_arrays(saved):
    with np.load(saved[0]) as found:
        assert any(found[name].shape == (8, 3, 3, 3) for name in found.files if name.startswith("arrays/"))


def test_paths_and_names_are_those_of_the_network(saved):
    path, net = saved
    again = load_quantized(path)
    assert set(again._collect_params_with_prefix()) == set(net._collect_params_with_prefix())
    assert set(again.collect_params()) == set(net.collect_params())


def test_nothing_is_left_where_it_cannot_be_written(saved, tmp_path):
    with pytest.raises(DataError, match="cannot be written"):
        save_quantized(saved[1], tmp_path / "none" / "net.qnet")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", [0, 10, 1000, -1000, -1])
def test_a_truncated_file_is_refused(saved, tmp_path, cut):
    (tmp_path / "cut.qnet").write_bytes(saved[0].read_bytes()[:cut])
    with pytest.raises(ModelFileError, match="cut.qnet"):
        load_quantized(tmp_path / "cut.qnet")


def test_a_missing_file_and_another_file_are_refused(tmp_path):
    with pytest.raises(ModelFileError, match="no such file"):
        load_quantized(tmp_path / "none.qnet")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(ModelFileError, match="manifest.json"):
        load_quantized(tmp_path / "other.zip")


@pytest.mark.parametrize("position", [0.2, 0.5, 0.9])
def test_a_changed_byte_is_found(saved, tmp_path, position):
    data = bytearray(saved[0].read_bytes())
    data[int(len(data) * position)] ^= 1
    (tmp_path / "changed.qnet").write_bytes(data)
    with pytest.raises(ModelFileError):
        load_quantized(tmp_path / "changed.qnet")


def test_a_changed_entry_is_found_even_where_the_zip_is_right(saved, tmp_path):
    def change(contents):
        name = next(name for name in contents if name.startswith("arrays/"))
        contents[name] = contents[name][:-1] + b"\x01"
    path = rewritten(saved[0], tmp_path / "a.qnet", change, sealed=False)
    with pytest.raises(ModelFileError, match="SHA-256"):
        load_quantized(path)


def test_compressed_entries_are_refused(saved, tmp_path):
    path = rewritten(saved[0], tmp_path / "a.qnet", lambda contents: None, zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelFileError, match="compressed"):
        load_quantized(path)


def _npy(header, data=b""):
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize("data", [
    _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n"),
    _npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", pickle.dumps([1])),
    _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1), }\n", b"\0" * 4),
    _npy("(" * 900), _npy("__import__('os').system('true')\n"), b"", b"\x80\x04K\x01."])
def test_arrays_that_are_none_are_refused(saved, tmp_path, data):
    path = rewritten(saved[0], tmp_path / "a.qnet", lambda contents: contents.update({"arrays/00000.npy": data}))
    with pytest.raises(ModelFileError, match="a.qnet"):
        load_quantized(path)


@pytest.mark.parametrize("edit, match", [
    (lambda d: d["graph"]["nodes"].append({"op": "Custom", "name": "x", "attrs": {}, "inputs": [[0, 0]]}), "Custom"),
    (lambda d: d["graph"]["nodes"].append({"op": "_cvimread", "name": "x", "attrs": {}, "inputs": []}), "_cvimread"),
    (lambda d: d["graph"]["nodes"][1].update(inputs=[[999, 0]]), "no output"),
    (lambda d: d["graph"]["nodes"][1].update(layer="none"), "no layer"),
    (lambda d: d["layers"]["0"].update(type="Popen"), "Popen"),
    (lambda d: d["layers"]["0"]["options"].update(channels=10 ** 12), "0"),
    (lambda d: d["layers"]["0"]["options"].update(weight_initializer="x"), "0"),
    (lambda d: d["additions"]["0"]["quantizers"].update(plan={}), "plan"),
    (lambda d: d["additions"]["0"]["quantizers"]["weight_quantizer"].update(method="none"), "none"),
    (lambda d: d["additions"]["0"]["quantizers"]["weight_quantizer"].update(mode="fast"), "mode"),
    (lambda d: d["plan"].update(kind="Popen"), "Popen"),
    (lambda d: d["arrays"].pop(), "arrays"),
    (lambda d: d["parameters"].popitem(), "in no layer|missing"),
    (lambda d: d.update(order=[]), "order"),
    (lambda d: d.update(additions=3), r"Expected `object`, got `int` - at `\$.additions`"),
    (lambda d: next(iter(d["parameters"].values())).update(lr_mult="fast"), r"Expected `float`.*parameters.*lr_mult"),
    (lambda d: next(iter(d["parameters"].values())).update(lr_mult=-1), "lr_mult"),
    (lambda d: next(iter(d["parameters"].values())).update(wd_mult=[1.0]), "wd_mult"),
    (lambda d: next(iter(d["parameters"].values())).update(wd_mult=1e300), "wd_mult"),
    (lambda d: next(iter(d["parameters"].values())).update(grad_req="always"), "grad_req"),
    (lambda d: d["graph"]["nodes"][0].update(input=10 ** 9), "graph.nodes.0..input"),
    (lambda d: d["graph"].update(outputs=[]), "length >= 1"),
    (lambda d: d["additions"]["0"]["quantizers"]["weight_quantizer"]["state"].update(momentum=2.0), "momentum"),
    (lambda d: d["additions"]["0"]["quantizers"]["weight_quantizer"]["state"].update(backend="os"), "backend"),
    (lambda d: d["additions"]["0"].update(gradient_bits=10 ** 6), "gradient_bits"),
    (lambda d: d.clear(), "network|arrays")])
def test_a_network_that_cannot_be_is_refused(saved, tmp_path, edit, match):
    path = rewritten(saved[0], tmp_path / "a.qnet", lambda contents: edited(contents, "network.json", edit))
    with pytest.raises(ModelFileError, match=match):
        load_quantized(path)


@pytest.mark.parametrize("edit, match", [
    (lambda d: d.update(class_names=["a", 2]), r"class_names\[1\]"), (lambda d: d.pop("extra"), "extra"),
    (lambda d: d.update(provenance=[1]), r"provenance\[0\]"), (lambda d: d.update(target=3), "target"),
    (lambda d: d.update(preprocessing=[]), "preprocessing")])
def test_facts_that_cannot_be_are_refused_by_both_readers(saved, tmp_path, edit, match):
    path = rewritten(saved[0], tmp_path / "a.qnet", lambda contents: edited(contents, "facts.json", edit))
    for read in (load_quantized, read_facts):
        with pytest.raises(ModelFileError, match=r"a\.qnet: facts\.json: .*" + match):
            read(path)


@pytest.mark.parametrize("text, match", [
    (b"[" * 100_000, "nested too deep"), (b'{"a": 1, "a": 2}', "comes twice"), (b"\xff", "no text"),
    (b"[%s]" % (b"9" * 5000), "a number of 5000 characters"), (b'{"prefix": NaN}', "no number")])
def test_documents_are_read_within_bounds(saved, tmp_path, text, match):
    path = rewritten(saved[0], tmp_path / "a.qnet", lambda contents: contents.update({"network.json": text}))
    with pytest.raises(ModelFileError, match=rf"network\.json.*{match}"):
        load_quantized(path)


def test_a_file_larger_than_memory_allows_is_refused(saved):
    with memory_limit(1000), pytest.raises(ModelFileError, match="more than the limit"):
        load_quantized(saved[0])


def test_another_version_says_so(saved, tmp_path):
    path = rewritten(saved[0], tmp_path / "a.qnet",
                     lambda contents: edited(contents, "manifest.json", lambda d: d.update(version=2)))
    with pytest.raises(ModelFileError, match="version 2"):
        load_quantized(path)


def test_values_that_are_not_finite_are_refused(saved, tmp_path):
    def change(contents):
        buffer = io.BytesIO()
        np.save(buffer, np.full((8, 3, 3, 3), np.nan, np.float32))
        contents["arrays/00000.npy"] = buffer.getvalue()
    with pytest.raises(ModelFileError, match="NaN"):
        load_quantized(rewritten(saved[0], tmp_path / "a.qnet", change))


class OwnConv2D(QConv2D):
    """A quantized layer of somebody's own."""


def test_networks_that_no_file_can_hold_are_refused(tmp_path):
    import mxnet as mx
    from mxnet.gluon import nn
    with pytest.raises(ConversionError, match="HybridBlock"):
        save_quantized(nn.Sequential(), tmp_path / "a.qnet")
    net = nn.HybridSequential()
    net.add(nn.HybridLambda(lambda F, x: F.Custom(x, op_type="mine")))
    net.initialize()
    with pytest.raises(QuantizeError):
        save_quantized(net, tmp_path / "a.qnet")
    net = nn.HybridSequential()
    net.add(nn.Dense(3))
    net.initialize(mx.init.Xavier())
    with pytest.raises(ConversionError, match="no value yet"):
        save_quantized(net, tmp_path / "a.qnet")
    net = nn.HybridSequential()
    net.add(nn.Conv2D(2, 3, in_channels=2), nn.Conv2D(2, 3, in_channels=2), nn.Dense(3, in_units=8))
    net.initialize()
    convert_model(net, convert_fn={nn.Conv2D: OwnConv2D.from_float, nn.Dense: Rule(weight=Format(8))})
    with pytest.raises(ConversionError, match=r"0 .OwnConv2D., 1 .OwnConv2D.: cannot be saved"):
        save_quantized(net, tmp_path / "a.qnet")
    assert not list(tmp_path.iterdir())


def test_the_network_that_is_saved_stays_as_it_is(saved):
    path, net = saved
    before = net(images()).asnumpy()
    save_quantized(net, path.with_name("other.qnet"))
    assert (net(images()).asnumpy() == before).all() and "Call" not in str(net)
