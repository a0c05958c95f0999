# SPDX-License-Identifier: MIT
"""Damaged files of one format, led by what the readers' code has not done yet (atheris, which is libFuzzer).

    PYTHONPATH=.:examples python -m tests.hostile.guided FORMAT RUNS [SEED]

Mutations are those of `tests.hostile.fuzzing`, which know the structure, beside libFuzzer's own; what reached new code
is kept in memory and damaged further. The first fault ends the run with exit code 77, its file in Base64 and the error.
"""

import base64
import json
import logging
import pathlib
import random
import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["quantize", "calib", "deploy", "gluon_quantize"]):
    from quantize.limits import memory_limit
    from tests.hostile import fuzzing
    from tests.hostile.test_fuzz import LIMIT, MEMORY, answer, generator
    from tests.hostile.seeds import formats  # isort: skip  # imports every reader

DOCUMENTS = ("symbol", "preprocessing", "state", "rules", "nni", "nni config", "simqat", "certificate")
TEXTS = ("labels", "synset", "table", "ncnn table", "ncnn param", "prototxt", "ini")
BYTES = ("params", "npz", "image", "onnx", "ncnn bin", "ir", "qnet", "optimizer", "verification")
FIRST, OWN, FAULT = 60, 0.7, 77


def changed(name, content, rng):
    """A file with damage that fits its format."""
    if name in DOCUMENTS:
        try:
            return fuzzing.text_of(fuzzing.document(json.loads(content), rng))
        except (ValueError, RecursionError):
            pass
    if name in TEXTS:
        return fuzzing.lines(content.decode("utf-8", "replace"), rng, "=" if name == "ini" else " ")
    return fuzzing.data(content, rng)


def sealed(name, content):
    """A calibration state with the checksum that fits it; other files as they are."""
    if name != "state":
        return content
    from calib import state
    try:
        document = json.loads(content)
        document.pop("checksum")
        document["checksum"] = state._checksum(document)
        return fuzzing.text_of(document)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return content


def main(name, runs, seed):
    """Try so many; leaves by `sys.exit`, as libFuzzer does."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as seeds, tempfile.TemporaryDirectory(dir=MEMORY) as work, memory_limit(LIMIT):
        form, folder, corpus = formats(pathlib.Path(seeds))[name], pathlib.Path(work), pathlib.Path(work) / "corpus"
        corpus.mkdir()
        for number in range(FIRST):
            (corpus / str(number)).write_bytes(form.damage(generator(number)))

        def one(content):
            content = sealed(name, content)
            _, text = answer(form, content, folder)
            if text:
                print(f"{name}: {text}\n{base64.b64encode(content).decode()}", flush=True)
                raise SystemExit(FAULT)

        def mutate(content, longest, number):
            rng = random.Random(number)
            new = changed(name, content, rng) if rng.random() < OWN else atheris.Mutate(content, longest)
            return new[:longest]
        options = [f"-atheris_runs={runs}", f"-seed={seed}", "-max_len=200000", "-rss_limit_mb=0",
                   f"-artifact_prefix={work}/"]
        atheris.Setup([sys.argv[0], *options, str(corpus)], one, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1)
