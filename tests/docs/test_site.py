# SPDX-License-Identifier: MIT
"""The site builds without a warning, and every page is in it."""

import os
import subprocess

import pytest

from tests.docs.pages import PAGES, ROOT

MKDOCS = ROOT / ".venv-docs" / "bin" / "mkdocs"


@pytest.mark.slow
@pytest.mark.skipif(not MKDOCS.exists(), reason="no .venv-docs: make docs has not run here")
def test_the_site_builds(tmp_path):
    done = subprocess.run([str(MKDOCS), "build", "--strict", "--site-dir", str(tmp_path / "site")], cwd=str(ROOT),
                          env=dict(os.environ, NO_MKDOCS_2_WARNING="1"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in PAGES:
        if ROOT / "docs" in page.parents:
            built = tmp_path / "site" / page.relative_to(ROOT / "docs").with_suffix(".html")
            assert built.stat().st_size > 1000, built
    # examples in the docstrings of modules are code there, not prose
    assert '<span class="n">DeployRequest</span>' in (tmp_path / "site/api/gluon_quantize.html").read_text("utf-8")
