# SPDX-License-Identifier: MIT
"""Compare the files of an earlier deployment again, on this machine.

    >>> from gluon_quantize.runs.recheck import RecheckRequest, recheck
    >>> result = recheck(RecheckRequest(folder, verify_images=10))
    >>> result.certificate["sides"]["ncnn exact"]["top1_agreement"]
    10
"""

import json
import pathlib
from dataclasses import dataclass
from typing import Any, Dict, Optional

from deploy.ir import file
from deploy.proof.certificate import FORMAT, JSON, file_facts, write_certificate
from deploy.target import find
from gluon_quantize.data.datasets import open_images
from gluon_quantize.data.preprocess import Preprocessing
from gluon_quantize.data.request import ImagesRequest
from gluon_quantize.data.steps import steps_for
from gluon_quantize.progress import SILENT, Silent
from gluon_quantize.runs.deployment import Deployment
from gluon_quantize.runs.outputs import reserved, staged
from gluon_quantize.runs.proof import compared, in_engine, verification_batches
from quantize.errors import DataError, DeployError, ModelFileError, QuantizeError
from quantize.files import read_text

EARLIEST = "ncnn"  # the target of files whose version did not say it yet


@dataclass(frozen=True)
class RecheckRequest:
    """Which files to compare again.

    Parameters
    ----------
    folder : str or path
        Of an earlier deployment.
    images : ImagesRequest
    verify_images : int
        On so many images, 0: all that the request has.
    output : str or path, optional
        Folder for the new certificate, which appears whole or not at all.
    force : bool
        Replace it if it is there.
    """

    folder: str
    images: ImagesRequest = ImagesRequest()
    verify_images: int = 50
    output: Optional[str] = None
    force: bool = False


@dataclass(frozen=True)
class RecheckResult:
    """The certificate that was made on this machine, as `deploy.proof.certificate` has it."""

    certificate: Dict[str, Any]


def recheck(request: RecheckRequest, progress: Silent = SILENT) -> RecheckResult:
    """What the files of an earlier run compute on this machine, compared with the integer engine; no network is needed.

    Raises
    ------
    DataError, ModelFileError, DeployError
        For a folder that no deployment has written, or whose files are not those of its certificate.
    """
    with reserved(request.output, request.force):
        folder = pathlib.Path(request.folder)
        deployed, images = _opened(request, folder)
        contents = compared(images, deployed, folder, in_engine(deployed, folder), progress)
        if request.output:
            with staged(request.output, request.force) as output:
                write_certificate(output, contents)
    return RecheckResult(contents)


def _opened(request, folder):
    found = sorted(folder.glob("*.ir"))
    if len(found) != 1:
        raise DataError(f"--recheck {folder}: {len(found)} .ir files; name a folder that deploy_ncnn.py has written")
    _check_files(folder)
    model = file.load(found[0])
    try:
        steps = Preprocessing.from_onnx_metadata(json.loads(model.metadata["preprocessing"]))
        name, dataset = model.metadata["name"], request.images.dataset or model.metadata["dataset"]
        target = find(model.metadata.get("target", EARLIEST))
    except (KeyError, TypeError, ValueError, QuantizeError) as error:
        raise ModelFileError(f"{found[0]}: says not how images are preprocessed: {error!r}") from None
    steps = steps_for(request.images, dataset, steps)
    images = open_images(request.images, dataset, "test")
    return (Deployment(name, target, model, model, model, steps),
            verification_batches(request.images, request.verify_images, images, steps))


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
            raise DeployError(f"{folder / name}: is {'no more' if name in there else 'missing, not'} the file that the "
                              "certificate is about; deploy again")
