# SPDX-License-Identifier: MIT
"""Files that hold several others, and folders that commands write: each with manifests that fit their damage."""

import io
import json
from typing import Any, Callable, Dict

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from mxnet.gluon import nn

from calib.rounding.problem import Solution
from calib.rounding.store import Progress as Finished
from deploy import ir
from deploy.ir import file as ir_file
from deploy.proof import verify
from deploy.proof.certificate import Circumstances, certificate, file_facts
from deploy.proof.machines import certificates, changes, machines_text
from deploy.proof.samples import FILE, read_samples, write_samples
from deploy.proof.stored import read_certificate
from deploy.target import find
from deploy.targets.ncnn import writer
from gluon_quantize.models.loading import open_model
from gluon_quantize.models.request import NetworkRequest
from gluon_quantize.report.page import write as page
from gluon_quantize.runs import ownership, recheck
from gluon_quantize.runs.report import ReportRequest, report
from gluon_quantize.training.checkpoints import Checkpoints
from gluon_quantize.training.loop import Progress
from gluon_quantize.training.optimizers import OptimizerChoice, Optimizers
from gluon_quantize.training.states import read_state, write_state
from quantize.convert import convert_model
from quantize.storage import Facts, save_quantized
from quantize.train import start_training
from tests.deploy.proof.test_verify import faithful
from tests.deploy.targets.ncnn.models import conv, dense, model
from tests.hostile import fuzzing, structures


def files_of(folder):
    """Name -> bytes of all files of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file()}


def one_of(files, damages, again=lambda files, rng: files):
    """Damage of a folder: one of its files, or a file less or more; `again` makes manifests fit."""
    def damage(rng):
        changed = dict(files)
        if rng.random() < 0.05:
            del changed[rng.choice(sorted(changed))]
        elif rng.random() < 0.03:
            changed[rng.choice(("more.txt", "more.ir", "certificates/x.json", "epoch-3"))] = b"{}"
        else:
            name = rng.choice(sorted(damages))
            changed[name] = damages[name](rng)
        return again(changed, rng)
    return damage


def documents(content):
    """Damage of a JSON document, as bytes."""
    whole = fuzzing.Document(json.loads(content))
    return lambda rng: fuzzing.text_of(whole.damaged(rng))


def small_net():
    """A layer with quantizers that are trained, and what often stands behind one."""
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2D(2, 3, in_channels=1), nn.BatchNorm(in_channels=2), nn.Activation("relu"))
    net.initialize(mx.init.Xavier())
    net = convert_model(net, config_list=[{"op_types": ["Conv2D"], "weight": "int4/channel", "input": "auto4",
                                           "method": "lsq"}])
    start_training(net, mx.nd.ones((2, 1, 4, 4)))
    return net


# ---- checkpoints of a training


def trained(folder):
    """(Checkpoints with one epoch in a folder, the network, its optimizers)."""
    net = small_net()
    optimizers = Optimizers.of(net, *[OptimizerChoice("nag", 0.01, {"momentum": 0.9})] * 2)
    with autograd.record():
        loss = net(mx.nd.ones((2, 1, 4, 4))).square().sum()
    loss.backward()
    optimizers.step(2)
    Checkpoints(folder, {"lr": 0.01}).save(net, optimizers, Progress(
        1, 7, 0.5, 0, [{"epoch": 0, "loss": 0.5}], {"float": {"top1": 0.5}, "calibrated": None}))
    return net, optimizers


def optimizer_layout(content):
    """Damage of the states of an optimizer: of their layout, or of their arrays."""
    layout = fuzzing.Document(json.loads(np.load(io.BytesIO(content))["layout"].tobytes()))
    other, members = structures.npz(content), structures.entries(content)

    def damage(rng):
        if rng.random() < 0.4:
            return other(rng)
        stream = io.BytesIO()
        np.save(stream, np.frombuffer(fuzzing.text_of(layout.damaged(rng)), np.uint8))
        return structures.zipped(list({**members, "layout.npy": stream.getvalue()}.items()))
    return damage


def of_training(folder):
    """A checkpoint as a folder, and the states of one optimizer."""
    net, optimizers = trained(folder / "checkpoints")
    files = files_of(folder / "checkpoints" / "epoch-1")
    layer = nn.Dense(2, in_units=3, prefix="d_")
    layer.initialize()
    trainer = gluon.Trainer(layer.collect_params(), "adam", kvstore=None)
    trainer._init_kvstore()
    for index, parameter in enumerate(trainer._params):
        trainer._updaters[0].states[index] = trainer._optimizer.create_state_multi_precision(index, parameter.data())
    write_state(folder / "state.npz", trainer)

    def fitting(changed, rng):
        listed = dict(structures.listed([("manifest.json", changed.get("manifest.json", b"")), *(
            (name, data) for name, data in changed.items() if name != "manifest.json")], rng, key="files")
            ) if "manifest.json" in changed else changed
        odd = rng.choice(("epoch-01", "epoch-1.old", "epoch--1", "epoch-99999999999"))
        name = "epoch-1" if rng.random() < 0.98 else odd
        return {f"{name}/{key}": data for key, data in listed.items()}
    damages: Dict[str, Callable] = {name: optimizer_layout(files[name]) for name in ("weights.npz", "quantizers.npz")}
    damages["progress.json"] = documents(files["progress.json"])
    damages["net.params"] = lambda rng: fuzzing.data(files["net.params"], rng)
    return {"checkpoint": ("", one_of(files, damages, fitting),
                           lambda path: Checkpoints(path, {"lr": 0.01}).load(net, optimizers)),
            "optimizer": ("s.npz", optimizer_layout((folder / "state.npz").read_bytes()),
                          lambda path: read_state(path, trainer))}


# ---- networks in one file


def of_storage(folder):
    """A .qnet file, its manifest made to fit."""
    save_quantized(small_net(), folder / "n.qnet", facts=Facts(
        target="ncnn", target_options={"winograd": True, "fp32_layers": ["0"]},
        preprocessing={"colour_order": "L", "scale": 1.0, "mean": [0.0], "std": [1.0]}, class_names=("a", "b"),
        extra={"name": "n", "dataset": "digits"}), provenance={"command": "train"})
    content = (folder / "n.qnet").read_bytes()
    parts = structures.entries(content)
    damage = structures.documents(content, {name: documents(parts[name]) for name in ("network.json", "facts.json")},
                                  structures.listed)
    return {"qnet": ("n.qnet", damage, lambda path: open_model(
        NetworkRequest(checkpoint=str(path)), as_float=path.is_file() and path.stat().st_size % 5 == 0))}


# ---- folders of commands


def small_model():
    """Two layers in integers: the format `ir` has all kinds of them, and what is read here is read for every mutant."""
    return model((3, 5, 5), [
        conv("c", "data", (4, 3, 3, 3), largest=2.0, qmax=31, activation=ir.Function("relu")),
        ir.Pooling("gap", ("c",), ("gap",), kind="avg", global_=True),
        ir.Reshape("flat", ("gap",), ("flat",), shape=(4,)), dense("fc", "flat", (2, 4), largest=4.0)])


def deployment(folder):
    """The folder of a deployment, made by hand."""
    model, target = small_model(), find("ncnn")
    model.metadata.update(name="m", target="ncnn", dataset="digits", preprocessing=json.dumps(
        {"colour_order": "RGB", "scale": 1.0, "mean": [0.0] * 3, "std": [1.0] * 3}))
    folder.mkdir()
    ir_file.save(model, folder / "m.ir")
    text, binary = writer.render(model)
    (folder / "m-int8.param").write_text(text)
    (folder / "m-int8.bin").write_bytes(binary)
    images = np.random.RandomState(0).randn(2, *model.shapes["data"]).astype(np.float32)
    write_samples(folder, target, model, images)
    found = verify.verify(model, target.arithmetic, {"ncnn exact": faithful(model)}, [images])
    stated = Circumstances("m", {"cpu": "c", "architecture": "x86_64", "flags": ["avx"], "ncnn": "1"},
                           file_facts(sorted(folder.iterdir())), "0", {"ncnn exact": {"num_threads": 1}})
    (folder / "certificate.json").write_text(json.dumps(certificate(model, found, stated)))
    counts = {"top1_count": 2, "agreement_count": 2, "sqnr_db": [20.0], "agreement": 0.5}
    best = [{"class": 1, "share": 0.5}]
    (folder / "result.json").write_text(json.dumps({
        "accuracy": {"ncnn int8": counts}, "float": counts, "images": 2, "files": sorted(files_of(folder)),
        "sizes": {"int8": 3, "float": 12, "ratio": 0.25}, "settings": {"model": "m", "data_dir": None},
        "latency_ms": {"float": 2.0, "int8": 1.0, "ratio": 2.0, "runs": 3, "threads": 1,
                       "spread": {"float": [1.0, 3.0], "int8": [0.5, 2.0]}},
        "calibration": {"movement": {"conv.input_quantizer": 0.2}, "never_active_channels": {}, "dead_channels": {}},
        "answers": {"by": "ncnn", "images": 2, "agreement": 1, "pairs": [[0, 1, 1], [1, 1, 1]], "changed": [
            {"index": 0, "label": 1, "float": best, "quantized": best}]},
        "sensitivity": {"images": 2, "passes": 1.5, "everything": {"4": {"sqnr_db": 7.0}}, "rows": [
            {"layer": "c", "operand": operand, "bits": 4, "sqnr_db": 9.0} for operand in ("weight", "layer")]}}))
    return model


def read_deployment(folder):
    """All that recheck and report read before the engine runs."""
    ownership.kind_of(folder)
    found = certificates(folder)
    machines_text(found) if found else None
    report_of(folder)
    opened, first = recheck._opened(folder)
    changes(first["machine"], {"flags": [], "architecture": "x86_64"})
    recheck._images(recheck.RecheckRequest(str(folder), verify_images=2), opened)


def report_of(folder):
    """The page, but for the programs in it."""
    contents = report(ReportRequest(str(folder), images=0))
    page.page_template().render(**page.facts_of(contents), vega="", style="", script="")
    json.dumps(contents, allow_nan=False)


def certified(changed, rng):
    """With a certificate that is about the files as they are."""
    if "certificate.json" not in changed or rng.random() < 0.1:
        return changed
    try:
        content = json.loads(changed["certificate.json"])
        for name in content["files"]:
            if name in changed:
                content["files"][name] = structures.facts(changed[name])
        return {**changed, "certificate.json": fuzzing.text_of(content)}
    except (ValueError, TypeError, KeyError):
        return changed


def of_commands(folder):
    """Folders that recheck and report are given, and the files in them that are read alone."""
    model = deployment(folder / "out")
    files = files_of(folder / "out")
    samples = structures.npz(files[FILE])
    inside = documents(structures.entries(files["m.ir"])["model.json"])
    damages = {"certificate.json": documents(files["certificate.json"]), "result.json": documents(files["result.json"]),
               FILE: samples, "m.ir": structures.documents(
                   files["m.ir"], {"model.json": lambda rng: json.dumps(json.loads(inside(rng)), indent=1).encode()})}
    log = {"epochs": [{"epoch": n, "loss": 0.5, "top1": 0.9, "ranges": {"a": 1.0}} for n in range(2)],
           "settings": {"model": "m"}}
    result = {"best": {"top1": 0.9, "top1_count": 9, "images": 10}, "final": {"top1": 0.9, "top1_count": 9,
                                                                              "images": 10}, "settings": {"onnx": "a"},
              "before": {"float": {"top1": 0.8}, "calibrated": None}, "float": {"metrics": {"mAP": 0.5}},
              "responses": {"sqnr_db": [21.5, 30.0], "agreement": 0.75}}
    training = {"log.json": json.dumps(log).encode(), "result.json": json.dumps(result).encode(), "plan.txt": b"plan"}

    def read_alone(path):
        content = read_certificate(path)
        machines_text([content])
    return {"certificate": ("c.json", documents(files["certificate.json"]), read_alone),
            "verification": ("v.npz", samples, lambda path: read_samples(path, model)),
            "deployment": ("", one_of(files, damages, certified), read_deployment),
            "training": ("", one_of(training, {name: documents(training[name])
                                               for name in ("log.json", "result.json")}), report_of)}


def of_rounding(folder):
    """The folder in which learned rounding keeps the layers that are done."""
    store = Finished(folder / "rounding", "x")
    store.write(0, Solution(np.zeros((2, 3)), np.ones(2), np.zeros(2), 0.5, 1.0))
    files = files_of(folder / "rounding")
    damages = {"rounding.json": documents(files["rounding.json"]), "layer_0000.npz": structures.npz(
        files["layer_0000.npz"])}
    return {"rounding": ("", one_of(files, damages), lambda path: Finished(path, "x").read(0))}


def bundles(folder) -> Dict[str, Any]:
    """Name -> (name, damage, read), as `tests.hostile.seeds.Format` has them."""
    return {**of_training(folder), **of_storage(folder), **of_commands(folder), **of_rounding(folder)}
