# SPDX-License-Identifier: MIT
"""Networks by name and from parameter files, and one clear line for every one that cannot be had."""

import subprocess
import sys
import types

import mxnet as mx
import numpy as np
import pytest

from gluon_quantize.data import preprocess
from gluon_quantize.models import loading as models
from gluon_quantize.models import zoo
from gluon_quantize.models.loading import EMBEDDED_PARAMS, list_models, open_model
from gluon_quantize.models.nets import GroupNorm, digits_lenet
from gluon_quantize.models.params import load_params, save_params
from gluon_quantize.models.request import NetworkRequest
from quantize.errors import ConfigError, DataError, ModelFileError


def opened(name, params="", pretrained=False, **options):
    return open_model(NetworkRequest(model=name, params=str(params), pretrained=pretrained, options=options))


def logits(net, shape=(2, 1, 8, 8)):
    return net(mx.nd.array(np.random.RandomState(0).rand(*shape))).asnumpy()


@pytest.fixture(scope="module")
def embedded():
    return opened("digits_lenet").net


# --- names and options --------------------------------------------------------------------------------------------

def test_list_models():
    names = list_models()
    assert names[0] == "digits_lenet" and names[1:] == sorted(names[1:])
    assert {"mobilenet1.0", "resnet50_v1b", "cifar_resnet20_v1", "vgg16_bn", "hrnet_w18_c", "darknet53"} <= set(names)
    # One of every other task.
    others = ("ssd_", "faster_rcnn", "mask_rcnn", "yolo3", "center_net", "fcn_", "psp_", "deeplab", "icnet", "danet",
              "simple_pose", "mobile_pose", "alpha_pose", "i3d", "c3d", "slowfast", "siamrpn", "monodepth")
    assert not [name for name in names if name.startswith(others)]
    assert not [name for name in names if name.endswith(("_int8", "_ucf101", "_kinetics400", "_custom", "_small_v1_s"))]


def test_embedded():
    model = opened("digits_lenet")
    assert (model.name, model.dataset_hint, model.input_shape) == ("digits_lenet", "digits", (1, 8, 8))
    assert model.preprocessing == preprocess.digits() and logits(model.net).shape == (2, 10)


@pytest.mark.parametrize("name, hint, shape", [("cifar_resnet20_v1", "cifar10", (3, 32, 32)),
                                               ("mobilenet0.25", "imagenet", (3, 224, 224))])
def test_zoo_network(name, hint, shape):
    model = opened(name)
    assert (model.name, model.dataset_hint, model.input_shape) == (name, hint, shape)
    assert all(0 not in parameter.shape for parameter in model.net.collect_params().values())


def test_inception_input_is_larger():
    dataset, steps = zoo.preset("inceptionv3")
    assert (dataset, steps.crop, steps.resize) == ("imagenet", 299, 342)


@pytest.mark.parametrize("name, options, built", [
    ("vgg11", dict(batch_norm=True), "vgg11_bn"), ("vgg11_bn", dict(batch_norm=True), "vgg11_bn"),
    ("vgg11", dict(batch_norm=False), "vgg11"), ("resnext50_32x4d", dict(use_se=True), "se_resnext50_32x4d"),
    ("resnet18_v1", dict(use_se=True, last_gamma=True, classes=7), "se_resnet18_v1"),
    ("resnext101e_64x4d", {}, "resnext101e_64x4d"), ("resnet50_v1b_gn", {}, "resnet50_v1b_gn")])
def test_options(name, options, built):
    assert zoo.build(name, options)[0] == built


def test_option_effects():
    net = zoo.build("resnet18_v1", dict(last_gamma=True, classes=7))[1]
    assert net.output._units == 7
    assert any(p.init == "zeros" for key, p in net.collect_params().items() if key.endswith("gamma"))
    assert any(key.endswith("gamma") for key in zoo.build("vgg11_bn", {})[1].collect_params())


def test_group_norm_network_hybridizes():
    net = opened("resnet18_v1", use_gn=True).net
    want = logits(net, (1, 3, 64, 64))
    net.hybridize()
    np.testing.assert_allclose(logits(net, (1, 3, 64, 64)), want, rtol=1e-4, atol=1e-5)


def test_group_norm_formula():
    x = np.random.RandomState(0).randn(2, 8, 3, 3).astype(np.float32) * 3 + 1
    layer = GroupNorm(4, in_channels=8)
    layer.initialize()
    layer.gamma.set_data(mx.nd.arange(8))
    layer.beta.set_data(mx.nd.arange(8) - 4)
    groups = x.reshape(2, 4, -1)
    want = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + 1e-5)
    each = np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1)
    np.testing.assert_allclose(layer(mx.nd.array(x)).asnumpy(), want.reshape(x.shape) * each + each - 4,
                               rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name, options, message", [
    ("mobilenet", {}, "unknown model 'mobilenet'.*did you mean 'mobilenet1.0'"),
    ("digits_lenett", {}, "did you mean 'digits_lenet'"), ("faster_rcnn_resnet50_v1b_voc", {}, "unknown model"),
    ("digits_lenet", dict(bogus=1), "'bogus'"), ("mobilenet0.25", dict(bogus=1), "'bogus'"),
    # These take any keyword and drop it.
    ("resnet18_v1b", dict(bogus=1), "'bogus' is not known"), ("hrnet_w18_c", dict(classes=5), "'classes' is not known"),
    ("mobilenet0.25", dict(batch_norm=True), "'batch_norm' .*there is no 'mobilenet0.25_bn'"),
    ("mobilenet0.25", dict(use_se=True), "'use_se'"), ("squeezenet1.1", dict(use_gn=True), "'use_gn'"),
    ("cifar_resnet20_v1", dict(use_gn=True), "32 groups of 'use_gn'"), ("alexnet", dict(ctx=1), "'ctx'"),
    ("mobilenet0.25", dict(last_gamma=True), "'last_gamma'"), ("alexnet", dict(classes=0), "'classes' is 0"),
    ("alexnet", dict(classes="10"), "'classes' is '10'")])
def test_bad_names_and_options(name, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        opened(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source, message", [
    (dict(), "given: none"), (dict(model="a", onnx="b"), "name and onnx"),
    (dict(onnx="a", params="b"), "leave out --params"), (dict(symbol="a", options=dict(classes=3)), "'classes'")])
def test_bad_sources(source, message):
    with pytest.raises(ConfigError, match=message):
        NetworkRequest(**source)


def test_gluoncv_that_does_not_import():
    code = ("import sys; sys.path.insert(0, 'examples'); sys.modules['gluoncv'] = None\n"
            "from gluon_quantize.models.loading import list_models\nfrom quantize.errors import ConfigError\n"
            "try: list_models()\nexcept ConfigError as err: print(err)")
    root = EMBEDDED_PARAMS.parent.parent.parent
    printed = subprocess.run([sys.executable, "-c", code], cwd=str(root), stdout=subprocess.PIPE, check=True).stdout
    assert b"gluoncv cannot be imported" in printed and b"requirements.txt" in printed


# --- pretrained weights -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, options, file", [
    ("mobilenet0.25", {}, "mobilenet0.25-f0046a3d.params"),
    ("vgg16", dict(batch_norm=True), "vgg16_bn-7f01cf05.params"),
    ("resnet18_v1b_0.89", {}, "resnet18_v1b_2.6x-54f7742b.params")])
def test_failed_download_says_where_to_put_the_file(tmp_path, monkeypatch, name, options, file):
    from gluoncv.model_zoo import model_store

    def refuse(*args, **kwargs):
        raise OSError(101, "Network is unreachable")
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    monkeypatch.setattr(model_store, "download", refuse)
    with pytest.raises(ModelFileError) as caught:
        opened(name, pretrained=True, **options)
    message = str(caught.value)
    assert "Network is unreachable" in message and f"put {file} into {tmp_path / 'models'}" in message
    assert "--params" in message and "\n" not in message


def test_no_pretrained_weights():
    with pytest.raises(ModelFileError, match="no pretrained weights of 'cifar_resnext29_32x4d'"):
        opened("cifar_resnext29_32x4d", pretrained=True)


def test_store_names_are_known():
    from gluoncv.model_zoo import model_store
    assert set(zoo.STORE_NAMES) <= set(zoo.classification_models())
    assert all(model_store.short_hash(stored) for stored in zoo.STORE_NAMES.values())


# --- parameter files ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("form", ["save_parameters", "deduplicated", "export", "save_params", "float16"])
def test_all_kinds_of_parameter_files_load(tmp_path, embedded, form):
    path = tmp_path / "n.params"
    if form == "export":
        net = opened("digits_lenet").net
        net.hybridize()
        logits(net)
        net.export(str(tmp_path / "n"))
        path = tmp_path / "n-0000.params"
    elif form == "save_params":
        embedded.collect_params().save(str(path), strip_prefix=embedded.prefix)
    elif form == "float16":
        mx.nd.save(str(path), {key: value.astype("float16") for key, value in mx.nd.load(str(EMBEDDED_PARAMS)).items()})
    else:
        embedded.save_parameters(str(path), deduplicate=form == "deduplicated")
    want, got = logits(embedded), logits(opened("digits_lenet", path).net)
    np.testing.assert_allclose(got, want, rtol=0, atol=0.05 if form == "float16" else 0)


def test_exported_counters_do_not_matter(tmp_path):
    nets = [opened("cifar_resnet20_v1").net for _ in range(2)]
    assert nets[0].prefix != nets[1].prefix
    nets[0].hybridize()
    want = logits(nets[0], (1, 3, 32, 32))
    nets[0].export(str(tmp_path / "n"))
    load_params(nets[1], tmp_path / "n-0000.params")
    np.testing.assert_allclose(logits(nets[1], (1, 3, 32, 32)), want, rtol=1e-5, atol=1e-6)


def test_shared_parameters(tmp_path):
    def build():
        net = mx.gluon.nn.HybridSequential()
        net.add(mx.gluon.nn.Dense(4, in_units=4))
        net.add(mx.gluon.nn.Dense(4, in_units=4, params=net[0].params))
        return net
    net, other = build(), build()
    net.initialize()
    net.save_parameters(str(tmp_path / "n.params"), deduplicate=True)
    load_params(other, tmp_path / "n.params")
    np.testing.assert_array_equal(logits(net, (2, 4)), logits(other, (2, 4)))


def test_parameters_of_unknown_shape(tmp_path):
    """Those of an embedded network (SSD's backbone) have none before it is filled."""
    data = mx.sym.var("data")
    net = mx.gluon.SymbolBlock(mx.sym.FullyConnected(data, num_hidden=3, name="inner"), [data],
                               params=mx.gluon.ParameterDict())
    assert all(parameter.shape is None for parameter in net.collect_params().values())
    mx.nd.save(str(tmp_path / "n.params"), {"inner_weight": mx.nd.ones((3, 4)), "inner_bias": mx.nd.ones(3)})
    load_params(net, tmp_path / "n.params")
    np.testing.assert_array_equal(net(mx.nd.ones((2, 4))).asnumpy(), np.full((2, 3), 5))


@pytest.mark.parametrize("keep", [0, 4, 24, 100, 0.5, 0.999])
def test_truncated_parameters(tmp_path, keep):
    data = EMBEDDED_PARAMS.read_bytes()
    path = tmp_path / "t.params"
    path.write_bytes(data[:int(len(data) * keep) if keep < 1 else keep])
    with pytest.raises(ModelFileError, match=r"t\.params: not a complete MXNet parameter file"):
        opened("digits_lenet", path)


def test_files_that_are_no_parameters(tmp_path):
    path = tmp_path / "t.params"
    with pytest.raises(ModelFileError, match="no such parameter file"):
        opened("digits_lenet", path)
    path.write_bytes(b"hello world" * 1000)
    with pytest.raises(ModelFileError, match="not a complete"):
        opened("digits_lenet", path)
    mx.nd.save(str(path), [mx.nd.ones(3)])
    with pytest.raises(ModelFileError, match="no named arrays"):
        opened("digits_lenet", path)


@pytest.mark.parametrize("change, message", [
    (lambda a: a.pop("output.bias"), "of 19 parameters 1 missing .first: 'output.bias'."),
    (lambda a: a.update({"more.weight": mx.nd.ones(3)}), "1 unknown to the network .first: 'more.weight'."),
    (lambda a: a.update({"output.bias": mx.nd.ones(11)}), "'output.bias' is .11,., wanted .10,."),
    (lambda a: a.update({"features.0.weight": mx.nd.full((16, 1, 3, 3), np.nan)}), "'features.0.weight' holds NaN"),
    (lambda a: a["features.5.running_var"].__setitem__(3, np.inf), "'features.5.running_var' holds NaN or infinity")])
def test_parameters_that_do_not_fit(tmp_path, change, message):
    arrays = mx.nd.load(str(EMBEDDED_PARAMS))
    change(arrays)
    mx.nd.save(str(tmp_path / "t.params"), arrays)
    with pytest.raises(ModelFileError, match=r"t\.params: .*" + message):
        opened("digits_lenet", tmp_path / "t.params")


def test_parameters_of_another_network():
    with pytest.raises(ModelFileError, match="does not fit mobilenet0.25: .* missing .* unknown .* of another shape"):
        opened("mobilenet0.25", EMBEDDED_PARAMS)
    with pytest.raises(ModelFileError, match="does not fit digits_lenet: .*2 of another shape"):
        opened("digits_lenet", EMBEDDED_PARAMS, classes=7)


# --- files --------------------------------------------------------------------------------------------------------

def fake_importer(monkeypatch, module, **attributes):
    """Stand in for an importer: this file tests what is made of its answer."""
    calls = []

    def load(*args, **kwargs):
        calls.append(args)
        net = digits_lenet()
        net.grids = {}
        for key, value in attributes.items():
            setattr(net, key, value)
        return net
    name = module.rpartition(".")[2]
    monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**{"import_" + name: load}))
    return calls


def test_onnx(tmp_path, monkeypatch):
    fake_importer(monkeypatch, "quantize.importers.onnx", preprocessing=preprocess.imagenet().to_dict(),
                  input_shape=(1, 3, 224, 224))
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "model.onnx").write_bytes(b"")
    model = open_model(NetworkRequest(onnx=str(tmp_path / "net" / "model.onnx")))
    assert (model.name, model.dataset_hint, model.input_shape) == ("net", "imagenet", (3, 224, 224))
    assert model.preprocessing == preprocess.imagenet()


def test_onnx_with_unusable_preprocessing(tmp_path, monkeypatch):
    fake_importer(monkeypatch, "quantize.importers.onnx", preprocessing={"scale": 1})
    (tmp_path / "n.onnx").write_bytes(b"")
    with pytest.raises(ModelFileError, match="n.onnx: preprocessing metadata lacks colour_order"):
        open_model(NetworkRequest(onnx=tmp_path / "n.onnx"))


def test_symbol(tmp_path, monkeypatch):
    calls = fake_importer(monkeypatch, "quantize.importers.symbol")
    (tmp_path / "n-symbol.json").write_text("{}")
    model = open_model(NetworkRequest(symbol=str(tmp_path / "n-symbol.json")))
    assert (model.name, model.preprocessing, model.dataset_hint) == ("n", None, None) and calls[0][1] is None
    with pytest.raises(ModelFileError, match="n.params: no such file"):
        open_model(NetworkRequest(symbol=str(tmp_path / "n-symbol.json"), params=str(tmp_path / "n.params")))


def test_missing_onnx_file(tmp_path):
    with pytest.raises(ModelFileError, match="no.onnx: no such ONNX file"):
        open_model(NetworkRequest(onnx=tmp_path / "no.onnx"))


@pytest.mark.parametrize("shape, want", [((1, 8, 8), "digits"), ((1, 28, 28), "mnist"), ((3, 32, 32), "cifar10"),
                                         ((3, 227, 227), "imagenet"), ((3, 40, 40), None), (None, None)])
def test_dataset_hint(shape, want):
    assert models._hint(shape) == want


def test_failed_save_leaves_nothing(tmp_path):
    class Broken:
        def save_parameters(self, path):
            open(path, "w").close()
            raise OSError("disk full")
    with pytest.raises(DataError, match="x.params: cannot be written: disk full"):
        save_params(Broken(), tmp_path / "x.params")
    assert list(tmp_path.iterdir()) == []


def test_variances_below_0_are_refused(tmp_path):
    net = open_model(NetworkRequest(model="digits_lenet")).net
    for name, parameter in net.collect_params().items():
        if name.endswith("running_var"):
            parameter.set_data(-parameter.data())
    net.save_parameters(str(tmp_path / "p.params"))
    with pytest.raises(ModelFileError, match="holds variances below 0"):
        open_model(NetworkRequest(model="digits_lenet", params=str(tmp_path / "p.params")))
