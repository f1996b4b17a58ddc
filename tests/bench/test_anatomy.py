"""bench.anatomy: costs of ops are the hand-computed ones, laps add up to the whole, a wrong model gets no number."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import anatomy, readme, report, results, roofline
from bench.models.networks import image, pair
from bench.op_costs import op_costs
from bench.results import Anatomy, OpCost, OpTime, Results
from bench.roofline import Ceilings, counted_flops
from segnext.deployment.folding import fold
from segnext.deployment.modules import FoldedNetwork
from segnext_kernels import native

HEIGHT, WIDTH = 64, 96
SHAPE = torch.Size((1, 3, HEIGHT, WIDTH))
CEILINGS = Ceilings(fma=100.0, gemm=80.0, copies=((1 << 20, 50.0),), dots=200.0)
MEBIBYTE = 1 << 20

built = pytest.mark.skipif(
    native.missing("cpu") is not None, reason="packed layers need the compiled library"
)


@pytest.fixture(scope="module")
def model():
    return pair("t")[0]


@pytest.fixture(autouse=True)
def _same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def cost_of(costs: list[OpCost], op: str, shapes: str) -> OpCost:
    return next(cost for cost in costs if (cost.op, cost.shapes) == (op, shapes))


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_costs_are_those_computed_by_hand(model, dtype: torch.dtype, size: int) -> None:
    costs, half = op_costs(model, SHAPE, dtype), size == 2
    pixels = 8 * 12
    read = 256 * pixels + 256 * 150 + 150  # the features, and a 1x1 convolution's weights and bias
    assert cost_of(costs, "conv2d_act", "256x8x12 to 150x8x12") == OpCost(
        "conv2d_act",
        "256x8x12 to 150x8x12",
        products=2 * 256 * 150 * pixels,
        taps=0,
        bytes_moved=size * read + 4 * 150 * pixels,  # logits are float32
        half=half,
    )
    pixels, c, hidden = 16 * 24, 32, 256
    values = 2 * c * pixels + 2 * c * hidden + hidden + 9 * hidden + hidden + c
    assert cost_of(costs, "conv_ffn", "32x16x24") == OpCost(
        "conv_ffn", "32x16x24", 2 * 2 * c * hidden * pixels, 2 * 9 * hidden * pixels, size * values, half
    )
    taps = 5 * 5 + 2 * (7 + 11 + 21)
    attention = cost_of(costs, "msca_block", "32x16x24")
    assert (attention.products, attention.taps) == (2 * 3 * c * c * pixels, 2 * taps * c * pixels)
    assert not cost_of(costs, "conv2d_act", "3x64x96 to 16x32x48").half  # the image is read in float32
    d, n, r, steps = 256, 8 * 12, 16, model.config.eval_steps
    products = (2 * steps + 1) * d * n * r + (2 * steps + 1) * (n + d) * r * r + 256 * r * (d + n)
    nmf = cost_of(costs, "nmf2d_projected", "256x96")
    assert (nmf.products, nmf.taps, nmf.half) == (2 * products, 0, False)  # its state is float32
    labels = cost_of(costs, "upsample_argmax", "150x8x12 to 64x96")
    assert (labels.products, labels.bytes_moved) == (0, 4 * 150 * n + HEIGHT * WIDTH)


def test_costs_add_up_to_those_that_torch_counts(model) -> None:
    network = FoldedNetwork(fold(model), model.config, torch.float32, torch.device("meta"))
    images = torch.empty(SHAPE, device="meta")
    whole = sum(cost.products + cost.taps for cost in op_costs(model, SHAPE, torch.float32))
    d, n, r, p = 256, 8 * 12, 16, 256
    # torch counts the definition: it projects each pixel, and computes the softmax's product twice
    spared = 2 * (d * n * r) + 2 * (p * d * n + d * n * r - p * r * (d + n))
    assert whole + spared == counted_flops(lambda: network.logits(images))


def test_laps_and_rest_are_the_whole() -> None:
    rounds = [(1.0 + i, [0.25 + i, 0.5]) for i in (7, 0, 3, 1, 2, 90, 4, 5)]
    whole, laps = anatomy.middle(rounds)
    assert whole == pytest.approx(1 + (2 + 3 + 4 + 5) / 4)
    assert whole - sum(laps) == pytest.approx(0.25) and laps[1] == 0.5
    costs = [
        OpCost("a", "1", 5, 6, 7, True),
        OpCost("b", "1", 0, 0, 9, True),
        OpCost("a", "1", 1, 2, 3, True),
    ]
    rows = anatomy.grouped(costs, [0.001, 0.002, 0.004])
    assert rows[0] == OpTime("a", "1", 6, 8, 10, True, 2, pytest.approx(5.0))
    assert [row.op for row in rows] == ["a", "b"]
    assert Anatomy("T", "fp32", rows, 3.0, 9.0, 5).whole_ms == pytest.approx(10.0)


@built
@pytest.mark.parametrize("dtype", anatomy.SHORT)
def test_a_model_is_taken_apart(model, dtype: str) -> None:
    found = anatomy.take_apart("T", model, image(HEIGHT, WIDTH), anatomy.SHORT[dtype], seconds=0)
    assert (found.title, found.rounds) == (f"T, {dtype}", anatomy.MIN_ROUNDS)
    assert sum(row.calls for row in found.rows) == len(op_costs(model, SHAPE, torch.float32))
    assert min(row.ms for row in found.rows) > 0 and found.rest_ms > 0 and found.predict_ms > 0


@built
def test_another_result_gets_no_number(model, monkeypatch: pytest.MonkeyPatch) -> None:
    images = image(HEIGHT, WIDTH)
    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="46 were counted"):
        patch.setattr(anatomy, "op_costs", lambda *_: op_costs(model, SHAPE, torch.float32)[1:])
        anatomy.take_apart("T", model, images, torch.float32, 0)
    other = fold(pair("t", drop_path=0.0)[0])
    other.decoder.classifier.bias[3] += 1e-6
    monkeypatch.setattr(anatomy, "fold", lambda _: other)
    with pytest.raises(AssertionError, match="anatomy: logits must be those of segnext.deploy"):
        anatomy.take_apart("T", model, images, torch.float32, 0)


@built
def test_another_mask_gets_no_number(model) -> None:
    deployed, images = anatomy.deploy(model), image(HEIGHT, WIDTH)
    logits, labels = deployed.forward_logits(images), deployed.predict(images)
    anatomy.check((logits, labels), deployed, images)
    labels[0, 5, 5] += 1
    with pytest.raises(AssertionError, match="anatomy: mask must be"):
        anatomy.check((logits, labels), deployed, images)


# floors at 100 GFLOP/s in float32, 200 in bfloat16, and 50 GB/s
FFN = OpTime("conv_ffn", "32x16x24", 400_000_000, 200_000_000, 2 * MEBIBYTE, False, 2, 12.0)
NORM = OpTime("channel_norm", "32x16x24", 0, 0, 50_000_000, False, 1, 2.0)
SMALL = OpTime("conv2d_act", "3x64x96 to 16x32x48", 0, 0, 0, False, 1, 0.5)
FOUND = Anatomy("T 64x96, 150 classes", "fp32", [FFN, NORM, SMALL], 5.5, 19.5, 7)


def test_floor_of_an_op() -> None:
    assert FFN.floor_ms(CEILINGS) == pytest.approx(6.0)
    assert dataclasses.replace(FFN, half=True).floor_ms(CEILINGS) == pytest.approx(4.0)
    assert NORM.floor_ms(CEILINGS) == pytest.approx(1.0)
    assert SMALL.floor_ms(CEILINGS) == 0
    # each of the two calls has the bandwidth of its own size
    cached = Ceilings(None, 80.0, ((MEBIBYTE, 50.0), (2 * MEBIBYTE, 10.0)))
    assert dataclasses.replace(FFN, products=0, taps=0).memory_ms(cached) == pytest.approx(
        2 * MEBIBYTE / 50e6
    )


def test_table() -> None:
    words, _, *lines = report.anatomy(FOUND, CEILINGS).splitlines()
    assert words == "`predict`, without clocks inside: 19.5 ms in the same 7 rounds."
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["op and shape", "calls", "ms", "of the whole", "floor ms", "of roofline", "bound by"]
    assert cells[2] == ["conv_ffn 32x16x24", "2", "12.0", "**60%**", "6.00", "50%", "arithmetic"]
    assert cells[3] == ["channel_norm 32x16x24", "1", "2.00", "**10%**", "1.00", "50%", "memory"]
    assert cells[4] == ["conv2d_act 3x64x96 to 16x32x48", "1", "0.500", "2%", "0.000", "0%", "memory"]
    assert cells[5] == ["Python between the layers", "", "5.50", "**28%**", "", "", ""]
    assert cells[6] == ["the whole", "4", "20.0", "100%", "7.00", "35%", ""]


def a_run(**others: Any) -> Results:
    machine = {"slug": "toy", "device": "Toy", "cpu": "Toy", "cores": "2 of 2 cores", "threads": 2}
    machine |= {"date": "2026-01-02T03:04:05+00:00", "commit": "abc1234", "backend": "auto"}
    machine |= {"versions": {"torch": "2"}, "kernel_instruction_set": "avx2"}
    return Results(machine, CEILINGS, [], anatomy=[FOUND], **others)


def test_results_keep_it_and_older_files_have_none(tmp_path: Path) -> None:
    path = results.write(a_run(), tmp_path, "anatomy")
    assert path == tmp_path / "toy" / "anatomy" / "2026-01-02-abc1234.json"
    assert results.read(path) == a_run()
    assert "## where the time goes, T 64x96, 150 classes, fp32" in report.render(results.read(path))
    data = json.loads(path.read_text())
    del data["anatomy"], data["ceilings"]["dots"], data["ceilings"]["tiles"]
    path.write_text(json.dumps(data))
    old = results.read(path)
    assert old.anatomy == [] and old.ceilings == dataclasses.replace(CEILINGS, dots=None)


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib: pip install .[bench]")
    (drawn,) = report.draw(a_run(), tmp_path / "run.json")
    assert drawn.name == "run-where-the-time-goes.png" and drawn.read_bytes().startswith(b"\x89PNG")


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        anatomy.main(["--help"])
    assert status.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "where the time of a deployed model goes",
        "its floor",
        "--model {t,s,b,l}",
        "Example: python -m",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "16"], "--size: must be a number from 32 on, got '16'"),
        (["--size", "64xx64"], "--size: must be a number from 32 on, got 'x64'"),
        (["--classes", "1"], "--classes: must be a number from 2 on, got '1'"),
        (["--threads", "0"], "--threads: must be a number from 1 on, got '0'"),
    ],
)
def test_bad_options(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        anatomy.main(arguments)
    assert status.value.code == 2
    assert words in capsys.readouterr().err


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "measure", lambda: CEILINGS)


@built
@pytest.mark.usefixtures("_quick")
def test_one_model_is_shown_and_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--size", "64", "--classes", "5", "--dtype", "bf16", "--threads", "1", "--seconds", "0"]
    anatomy.main([*options, "--results", str(tmp_path)])
    shown = capsys.readouterr().out
    assert shown.startswith("## T 64x64, 5 classes, bf16\n") and shown.count("| the whole") == 1
    assert "1 threads; ceilings, measured: FMA 100" in shown
    assert not list(tmp_path.iterdir())


@built
@pytest.mark.usefixtures("_quick")
def test_all_models_are_kept_and_told_in_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib: pip install .[bench]")
    monkeypatch.setattr(anatomy, "KEPT", (("t", 5, 64, 64), ("t", 5, 32, 64)))
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    anatomy.main(["--results", str(tmp_path), "--seconds", "0"])
    (path,) = tmp_path.glob("*/anatomy/*.json")
    found = results.read(path).anatomy
    titles = [f"T {size}, 5 classes, {dtype}" for size in ("64x64", "32x64") for dtype in ("fp32", "bf16")]
    assert [one.title for one in found] == titles
    head, *tables = readme.where_the_time_goes(path.parent.parent)
    assert "vdpbf16ps 200 GFLOP/s" in head and "where-the-time-goes.png)" in head
    assert [table.splitlines()[0] for table in tables] == [f"#### {title}" for title in titles]
    assert readme.where_the_time_goes(tmp_path / "elsewhere") == []


@built
def test_failure_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "measure", lambda: CEILINGS)
    monkeypatch.setattr(anatomy.packed, "unavailable", lambda: "not built")
    with pytest.raises(SystemExit, match="^anatomy: the CPU library must be there, got none: not built$"):
        anatomy.main(["--size", "64"])
