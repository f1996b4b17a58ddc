"""Missing and old packages are named in one line, and `segnext` itself imports none of them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from segnext.integrations.requirements import expect_package


def test_a_package_that_is_there_passes() -> None:
    expect_package("torch", "2.0", "timm")


def test_a_missing_package() -> None:
    expected = (
        "segnext.integrations.timm: no-such-package must be installed in version 1.0.9 or newer, got none; "
        "pip install 'segnext[timm]'"
    )
    with pytest.raises(ImportError, match=f"^{re.escape(expected)}$"):
        expect_package("no-such-package", "1.0.9", "timm")


def test_an_old_package() -> None:
    with pytest.raises(
        ImportError, match=r"numpy must be installed in version 1000\.0 or newer, got \d+\.\d+"
    ):
        expect_package("numpy", "1000.0", "transformers")


def test_versions_are_compared_as_numbers() -> None:
    with pytest.raises(ImportError):  # as text, "1000" would be below "2"
        expect_package("numpy", "1000", "transformers")


def test_segnext_imports_none_of_them() -> None:
    code = (
        "import sys, segnext.create, segnext.predict.predictor, segnext.cli.main;"
        "print([name for name in sys.modules if name.split('.')[0] in ('timm', 'transformers') or "
        "name.startswith('segnext.integrations')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
