# SPDX-License-Identifier: MIT
"""Compare the files of an earlier deployment again, on this machine; Python, NumPy and the engine are enough for it.

>>> from gluon_quantize.runs.recheck import RecheckRequest, recheck
>>> result = recheck(RecheckRequest(folder, verify_images=10))
>>> result.certificate["sides"]["ncnn exact"]["top1_agreement"], result.reproduced
(10, True)
"""

import pathlib
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from calib.table import data_fingerprint
from deploy.ir import file
from deploy.proof import samples
from deploy.proof.certificate import JSON, file_facts, write_certificate
from deploy.proof.machines import certificates, changes, keep_certificate, reproduced
from deploy.proof.prove import way_name
from deploy.proof.stored import read_certificate
from gluon_quantize.data.request import ImagesRequest
from gluon_quantize.progress import SILENT, Silent
from gluon_quantize.runs.comparison import INTEGER, Compared, compare, paths, target_of
from gluon_quantize.runs.outputs import reserved, staged
from quantize.documents import parse_json
from quantize.errors import DataError, DeployError, ModelFileError, QuantizeError
from quantize.escape import shown
from quantize.files import check_within, links_in
from quantize.limits import claim

EMBEDDED = ("digits",)  # images that come with this program, where Pillow is there to prepare them


@dataclass(frozen=True)
class RecheckRequest:
    """Which files to compare again.

    Parameters
    ----------
    folder : str or path
        Of an earlier deployment.
    images : ImagesRequest
        Where it names neither a data set nor a folder: those that are stored with the deployment.
    verify_images : int
        On so many images, 0: all that the request has.
    output : str or path, optional
        Folder for the new certificate, which appears whole or not at all; None: it is kept in the deployment, beside
        those of other machines.
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
    """What a comparison has come to.

    Attributes
    ----------
    certificate : dict
        That of this machine, as `deploy.proof.certificate` has it.
    reproduced : bool
        Every code is the integer engine's, with the options under which the engine is reproducible, or it is known why
        not.
    machines : list of dict
        The certificates of all machines, this one's too.
    notes : list of str
        What differs from the machine that deployed, and what the engine advises.
    """

    certificate: Dict[str, Any]
    reproduced: bool
    machines: List[Dict[str, Any]]
    notes: List[str]


def recheck(request: RecheckRequest, progress: Silent = SILENT) -> RecheckResult:
    """What the files of an earlier run compute on this machine, compared with the integer engine; no network is needed.

    Raises
    ------
    DataError, ModelFileError, DeployError
        For a folder that no deployment has written, or whose files are not those of its certificate; without the
        engine.
    """
    with reserved(request.output, request.force):
        folder = pathlib.Path(request.folder)
        opened, first = _opened(folder)
        if opened.target.engine is None:
            raise DeployError(f"{folder}: there is no engine for {opened.target.name} that could run its files")
        opened.target.engine.require()
        opened.target.check_files(opened.model, paths(opened.target, opened.name, folder, INTEGER))
        batches, data = _images(request, opened)
        contents = compare(opened, opened.in_engine(), batches, data, progress)
        notes = _notes(opened, first, contents) + _advice(opened)
        if request.output:
            with staged(request.output, request.force) as output:
                write_certificate(output, contents)
        else:
            keep_certificate(folder, contents)
    exact = way_name(opened.target, opened.target.engine.ways[0].name)
    return RecheckResult(contents, reproduced(contents, exact), certificates(folder), notes)


def _opened(folder):
    """The deployment, and the certificate that it came with."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name one that gluon-quantize deploy has written")
    found = sorted(folder.glob("*.ir"))
    if len(found) != 1:
        raise DataError(f"{folder}: holds {len(found)} .ir files, a deployment has one; name a folder that "
                        "gluon-quantize deploy has written")
    check_within(folder, links_in(folder))
    first = _checked(folder)
    model = file.load(found[0])
    try:
        name, target = model.metadata["name"], target_of(model)
    except (KeyError, TypeError, QuantizeError) as error:
        raise ModelFileError(f"{found[0]}: says not what network it is, or for which engine: {shown(error)}") from None
    if name != found[0].stem:  # files are found by this name, and must not be found elsewhere
        raise ModelFileError(f"{found[0]}: calls itself {name!r}; it is not the file that was deployed")
    stored = folder / samples.FILE
    needed = [found[0], *paths(target, name, folder, INTEGER), *([stored] if stored.is_file() else [])]
    for path in needed:
        if path.name not in first.get("files", {}):
            raise DeployError(f"{path}: the certificate says nothing about this file; deploy again")
    return Compared(name, target, model, folder), first


def _checked(folder):
    """The certificate; DeployError where files are not those that it is about."""
    contents = read_certificate(folder / JSON)
    facts = contents.get("files", {})
    there = {path.name: path for path in folder.rglob("*") if path.is_file()}
    there.update((path.name, path) for path in folder.iterdir() if path.is_file())
    for name, stated in facts.items():
        if name not in there or not _is_stated(there[name], stated):
            said = "no more" if name in there else "missing, not"
            raise DeployError(f"{folder / shown(name)}: is {said} the file that the certificate is about; deploy again")
    return contents


def _is_stated(path, stated):
    """Whether a file is the one of a certificate; one of another size is not read for that."""
    size = path.stat().st_size
    if "bytes" in stated and stated["bytes"] != size:
        return False
    claim(size, str(path))
    return file_facts([path])[path.name]["sha256"] == stated["sha256"]


def _images(request, opened) -> Tuple[Any, Tuple[str, int]]:
    """Batches in the order of channels of the files, and their (fingerprint, number)."""
    named = request.images.folder or request.images.dataset or request.images.loader
    stored = opened.folder / samples.FILE
    embedded = opened.model.metadata.get("dataset") in EMBEDDED and _has_pillow()
    if named or embedded or not stored.is_file():
        return _from_data_set(request, opened.model)
    found = samples.read_samples(stored, opened.model)
    samples.check_samples(found, opened.model, opened.target.arithmetic_here())
    return [found.inputs], (f"{len(found.inputs)} stored", len(found.inputs))


def _has_pillow():
    try:
        import PIL.Image  # noqa: F401 (asked for)
    except ImportError:
        return False
    return True


def _from_data_set(request, model):
    # Pillow is needed for these only
    from gluon_quantize.data.batches import verification_batches
    from gluon_quantize.data.datasets import open_images
    from gluon_quantize.data.preprocess import Preprocessing
    from gluon_quantize.data.steps import steps_for
    try:
        steps = Preprocessing.from_onnx_metadata(parse_json(model.metadata["preprocessing"], "preprocessing"))
        dataset = request.images.dataset or model.metadata["dataset"]
    except (KeyError, TypeError, ValueError, QuantizeError) as error:
        raise ModelFileError(f"{model.metadata.get('name')}.ir: says not how images are preprocessed: "
                             f"{shown(error)}") from None
    images = open_images(request.images, dataset, "test")
    batches = verification_batches(request.images, request.verify_images, images,
                                   steps_for(request.images, dataset, steps))
    data = data_fingerprint(batches.identity(index) for index in batches.indices)
    return (part for part, _ in batches.arrays()), (data, len(batches.indices))


def _advice(opened):
    """The engine's, on the images that are stored with the deployment."""
    stored = opened.folder / samples.FILE
    if not stored.is_file():
        return []
    files = paths(opened.target, opened.name, opened.folder, INTEGER)
    return opened.target.engine.advice(opened.model, files, samples.read_samples(stored, opened.model).inputs)


def _notes(opened, first, contents):
    found = changes(first["machine"], contents["machine"])
    before, judge = (opened.target.arithmetic_on(facts).name for facts in (first["machine"], contents["machine"]))
    if before != judge:
        found.append(f"the integer engine rounded as {judge} does on {contents['machine']['architecture']}")
    return found
