"""Core ML: packages are written anywhere and run on macOS alone, so only their structure is tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from segnext import export_model, open_exported
from segnext.export.description import KEY, Description
from segnext.models import SegNeXt

SIZE = dict(height=64, width=96)


@pytest.mark.parametrize("name", ["m.mlpackage", "m.MLPACKAGE"])
def test_a_package_has_names_shapes_and_the_description(model: SegNeXt, tmp_path: Path, name: str) -> None:
    coremltools = pytest.importorskip("coremltools", reason="needs coremltools: pip install .[coreml]")
    path = tmp_path / name
    for _ in range(2):  # the second replaces the first
        assert export_model(model, path, **SIZE) is None
    spec = coremltools.utils.load_spec(str(path))
    shapes = {
        one.name: tuple(one.type.multiArrayType.shape)
        for one in (*spec.description.input, *spec.description.output)
    }
    assert shapes == {"images": (1, 3, 64, 96), "logits": (1, 5, 8, 12)}
    description = Description.from_text(spec.description.metadata.userDefined[KEY], "m")
    assert description.config == model.config and description.target == "coreml"
    (function,) = spec.mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    assert sum(one.type == "conv" for one in block.operations) == 1 + 4 + 4 * 13 + 6
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(dynamic=True), "dynamic must be off for Core ML, .* got on; pass --size"),
        (dict(input="uint8"), "input must be float32 for Core ML, .* got uint8; leave out --uint8"),
    ],
    ids=["any-size", "pixels"],
)
def test_what_it_cannot_be_is_one_line(model: SegNeXt, tmp_path: Path, options: dict, message: str) -> None:
    pytest.importorskip("coremltools", reason="needs coremltools: pip install .[coreml]")
    with pytest.raises(ValueError, match=f"^export: {message}"):
        export_model(model, tmp_path / "m.mlpackage", **options)
    assert not list(tmp_path.iterdir())


def test_a_package_does_not_run_here(tmp_path: Path) -> None:
    (tmp_path / "m.mlpackage").mkdir()
    with pytest.raises(ValueError, match="path must be of a format that runs here, got .*m.mlpackage"):
        open_exported(tmp_path / "m.mlpackage")
