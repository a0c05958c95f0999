# SPDX-License-Identifier: MIT
"""Opening the folder of an earlier deployment, to compare its files again."""

import json
import pathlib

from deploy.ir import file
from deploy.proof.certificate import FORMAT, JSON, file_facts
from deploy.target import find
from gluon_quantize.data.datasets import open_dataset
from gluon_quantize.data.preprocess import Preprocessing
from gluon_quantize.runs.checks import verification_batches
from gluon_quantize.runs.deployment import ENGINE, Deployment
from quantize.errors import DataError, DeployError, ModelFileError, QuantizeError
from quantize.files import read_text


def opened(args):
    """(folder, Deployment, Batches) of --recheck.

    Raises DataError, ModelFileError or DeployError for a folder that no deployment has written, or whose files are not
    those of its certificate.
    """
    folder = pathlib.Path(args.recheck)
    found = sorted(folder.glob("*.ir"))
    if len(found) != 1:
        raise DataError(f"--recheck {folder}: {len(found)} .ir files; name a folder that deploy_ncnn.py has written")
    _check_files(folder)
    model = file.load(found[0])
    try:
        steps = Preprocessing.from_onnx_metadata(json.loads(model.metadata["preprocessing"]))
        name, dataset = model.metadata["name"], args.dataset or model.metadata["dataset"]
        target = find(model.metadata.get("target", ENGINE))  # files of earlier versions do not say it
    except (KeyError, TypeError, ValueError, QuantizeError) as error:
        raise ModelFileError(f"{found[0]}: says not how images are preprocessed: {error!r}") from None
    steps = steps.override(resize=args.resize, crop=args.crop)
    images = open_dataset(dataset, args.data_dir, "test")
    return folder, Deployment(name, target, model, model, model, steps), verification_batches(args, images, steps)


def _check_files(folder):
    """The files must be those that the certificate is about."""
    try:
        contents = json.loads(read_text(folder / JSON))
        stated = contents["files"] if contents["format"] == FORMAT else None
        facts = {name: of_file["sha256"] for name, of_file in stated.items()}
    except (KeyError, TypeError, AttributeError, ValueError):
        raise DataError(f"{folder / JSON}: is no certificate of this program") from None
    there = {path.name: path for path in folder.rglob("*") if path.is_file()}
    for name, digest in facts.items():
        if name not in there or file_facts([there[name]])[name]["sha256"] != digest:
            raise DeployError("{}: is {} the file that the certificate is about; deploy again".format(
                folder / name, "no more" if name in there else "missing, not"))
