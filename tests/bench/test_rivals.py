"""Tests the comparison with rivals: cited numbers, networks that are those of the papers, a dry run, a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.rivals import __main__ as rivals
from bench.rivals import networks, page, plot
from bench.rivals.catalogue import CLAIMS, NETWORKS, PACKAGES, SIZES, Network, chosen
from bench.rivals.measure import Measured, Settings, count, measure, wrong
from bench.rivals.torchvision_on_cpu import declare_operators

CLOSE = 0.03  # papers round, and count a few layers differently
TINY = SIZES["512x512"].tiny
BY_NAME = {network.name: network for network in NETWORKS}


def installed(pattern: str) -> list[Any]:
    """Return the rows of a pattern as parameters; those whose package is missing are skipped, with the reason."""
    return [
        pytest.param(row, id=row.name, marks=pytest.mark.skipif(bool(row.missing()), reason=row.missing()))
        for row in chosen([pattern])
        if row.runs
    ]


def test_every_number_has_a_source_and_every_row_a_name() -> None:
    assert len(BY_NAME) == len(NETWORKS)
    for network in NETWORKS:
        assert all(number.value > 0 and number.source for number in network.published().values())
        assert network.runs == (network.package in PACKAGES), network.name
        assert network.runs or network.published(), f"{network.name} has neither a builder nor numbers"
        assert set(network.sizes) <= set(SIZES)
    for claim in CLAIMS:
        assert all(claim.size in BY_NAME[name].sizes for name in claim.rows)


@pytest.mark.parametrize("size", ["t", "s", "b", "l"])
def test_ours_is_the_network_of_the_paper(size: str) -> None:
    network = BY_NAME[f"SegNeXt-{size.upper()} deployed"]
    assert network.parameters and network.gmacs and network.city_gmacs
    parameters, multiply_adds, _ = count(network, SIZES["512x512"])
    assert parameters / 1e6 == pytest.approx(network.parameters.value, rel=CLOSE)
    assert multiply_adds / 1e9 == pytest.approx(network.gmacs.value, rel=CLOSE)
    # the paper's number for L is 4 % above that of its own code
    assert count(network, SIZES["1024x2048"])[1] / 1e9 == pytest.approx(network.city_gmacs.value, rel=0.05)


@pytest.mark.parametrize("network", [*installed("SegFormer-*"), *installed("EoMT-L")])
def test_parameters_are_the_published_ones(network: Network) -> None:
    parameters, multiply_adds, _ = count(network, SIZES["512x512"])
    assert network.parameters is not None
    assert parameters / 1e6 == pytest.approx(network.parameters.value, rel=CLOSE)
    if network.gmacs:
        assert multiply_adds / 1e9 == pytest.approx(network.gmacs.value, rel=CLOSE)


@pytest.mark.parametrize("network", [*installed("PSPNet R-101"), *installed("DeepLabV3+ *[12]")])
def test_multiply_adds_of_openmmlab_are_the_published_ones(network: Network) -> None:
    assert network.gmacs is not None
    multiply_adds = count(network, SIZES["512x512"])[1]
    assert multiply_adds / 1e9 == pytest.approx(network.gmacs.value, rel=CLOSE)


def test_eomt_is_post_processed_as_by_its_processor() -> None:
    declare_operators()
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torchvision")
    torch.manual_seed(0)
    module = networks.eomt(5, 64, 64).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        mask, found = module(images).argmax(1), module.model(images)
    found.patch_offsets = None
    processor = transformers.EomtImageProcessor(size={"shortest_edge": 64, "longest_edge": 64})
    assert mask.unique().numel() > 1
    assert torch.equal(mask[0], processor.post_process_semantic_segmentation(found, [(64, 64)])[0])


def test_eomt_refuses_what_its_processor_would_cut() -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="must be a square, got 64x96"):
        networks.eomt(5, 64, 96)


def test_torchvision_is_imported_beside_any_torch() -> None:
    declare_operators()
    assert pytest.importorskip("torchvision", exc_type=ImportError).ops.nms


def test_rows_are_chosen_by_pattern() -> None:
    assert [row.name for row in chosen(["segnext-t*", "EoMT-L"])] == [
        *("SegNeXt-T deployed", "SegNeXt-T plain", "SegNeXt-T eager"),
        "EoMT-L",
    ]
    with pytest.raises(ValueError, match="got 'SegNext-X'; there are SegNeXt-T deployed,"):
        chosen(["SegNext-X"])


def test_wrong_masks_get_no_time() -> None:
    logits = torch.zeros(1, TINY.classes, 8, 8)
    logits[:, 3] = 1
    labels = torch.full((1, TINY.height, TINY.width), 3)
    assert wrong(logits, labels, TINY) == ""
    assert "pixels have a class that is not the best" in wrong(logits, labels + 1, TINY)
    assert "the mask must be (1, 64, 64)" in wrong(logits, labels[:, :1], TINY)
    assert "logits must be (1, 150, h, w)" in wrong(logits[:, :5], labels, TINY)
    logits[0, 0, 0, 0] = torch.nan
    assert "not the best" in wrong(logits, labels, TINY)


def test_a_row_that_takes_too_long_is_left_out_with_the_reason() -> None:
    rows = [BY_NAME["SegNeXt-T plain"]]
    (found,) = measure(TINY, rows, Settings(0, limit=0, alone=()), [])
    assert found.times is None and found.left_out.endswith("the limit is 0 s")
    earlier = Measured("SegNeXt-T plain", "512x512", 150, multiply_adds=1, seconds=1.0)
    (found,) = measure(TINY, rows, Settings(0, limit=30, alone=()), [earlier])
    assert found.left_out.startswith("a call would take about")


def test_dry_run_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--dry-run",
        "--rows",
        "SegNeXt-T*",
        "--sizes",
        "512x512,768x1536",
        "--results",
        str(tmp_path),
    ]
    rivals.main(arguments)
    (path,) = tmp_path.glob("*/rivals/*.json")
    rows = json.loads(path.read_text())["rows"]
    assert [(row["name"], row["size"]) for row in rows[::4]] == [
        ("SegNeXt-T deployed", "512x512"),
        ("SegNeXt-T plain", "768x1536"),
    ]
    assert len(rows) == 6 and all(row["times"]["rounds"] == 2 and not row["left_out"] for row in rows)
    shown = capsys.readouterr().out
    assert "**SegNeXt-T deployed**" in shown and "25 frames/s on one RTX 3090" in shown
    assert page.documents(tmp_path).startswith("Not yet measured")  # a dry run's times mean nothing


def test_peak_memory_is_that_of_a_process_of_its_own() -> None:
    (found,) = measure(TINY, [BY_NAME["SegNeXt-T deployed"]], Settings(0, 30, alone=("512x512",)), [])
    assert found.peak_mib is None or 0 < found.peak_mib < 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "640x640"], "must be some of 512x512, 768x1536, 1024x2048, got 640x640"),
        (["--rows", "x"], "--rows must name rows, got 'x'"),
    ],
)
def test_wrong_options(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        rivals.main(arguments)
    assert message in capsys.readouterr().err


@pytest.fixture
def run_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A result file of four rows at 512x512."""
    monkeypatch.setattr(page, "ROOT", tmp_path)
    rows = []
    for number, name in enumerate(("SegNeXt-T deployed", "SegFormer-B0", "SegFormer-B1", "EoMT-L"), 1):
        times = {"median": 100.0 * number, "low": 90.0 * number, "high": 110.0 * number, "rounds": 3}
        row = {"name": name, "size": "512x512", "classes": 150, "parameters": 4e6, "multiply_adds": 7e9}
        rows.append({**row, "peak_mib": 50.0, "times": times, "left_out": ""})
    rows.append({**rows[-1], "size": "1024x2048", "classes": 19, "times": None, "left_out": "it is too slow"})
    machine = {
        "device": "a CPU",
        "threads": 2,
        "date": "2026-01-02T03",
        "commit": "abc",
        "versions": {"torch": "2"},
    }
    settings = {"seconds": 9, "limit": 30, "dry_run": False}
    path = tmp_path / "a-cpu/rivals/2026-01-02-abc.json"
    path.parent.mkdir(parents=True)
    path.write_text(
        json.dumps({"machine": machine, "packages": {"timm": "1"}, "settings": settings, "rows": rows})
    )
    return path


def test_page_shows_a_result_file(run_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (drawn,) = plot.draw(json.loads(run_file.read_text()), run_file)
    text = page.documents(tmp_path)
    assert "## a CPU, 2 threads" in text and "3 rounds" in text and "torch 2, timm 1" in text
    assert f"![time at 512x512, mIoU on ADE20K](../a-cpu/rivals/{drawn.name})" in text
    lines = [line for line in text.splitlines() if line.startswith("| ") and "network" not in line]
    assert [line.split(" | ")[0].strip("| *") for line in lines] == [
        *("SegNeXt-T deployed", "SegFormer-B0", "SegFormer-B1", "EoMT-L"),
    ]
    assert "100 |    20% |" in lines[0] and lines[0].endswith("41.1 |")
    assert "EoMT-L at 1024x2048: it is too slow" in text


def test_published_numbers_stand_with_their_sources() -> None:
    text = page.published()
    (line,) = [line for line in text.splitlines() if line.startswith("| EfficientNet-L2")]
    assert " 485 " in line and "not measured (none that is public)" in line
    assert text.count("SegNeXt-T") == 1  # not once per form
    assert "- [1] arXiv 2209.08575, table 9" in text and "pip install transformers" in text
