"""Tests what is computed from a run's numbers, and the files that keep them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bench import machine, report, results
from bench.results import Results, Row, Timing
from bench.roofline import Ceilings

CEILINGS = Ceilings(fma=200.0, gemm=150.0, copies=((1 << 20, 80.0), (1 << 24, 100.0), (1 << 28, 20.0)))
MACHINE: dict[str, Any] = {
    **{"slug": "toy-2c", "device": "Toy", "cpu": "Toy", "threads": 2, "cores": "2 of 2 cores"},
    **{
        "date": "2026-01-02T03:04:05+00:00",
        "commit": "abc1234+",
        "backend": "auto",
        "versions": {"torch": "2"},
    },
    **{"kernel_instruction_set": "avx2"},
}


def timing(median: float) -> Timing:
    return Timing(median, 0.9 * median, 1.2 * median, 9)


def run_of(*rows: Row, **machine: Any) -> Results:
    return Results(MACHINE | machine, CEILINGS, list(rows))


FFN = Row(
    "ops, forward",
    "conv_ffn t1",
    {"ours": timing(2.0), "eager": timing(7.0), "eager channels_last": timing(5.0)},
    flops=200_000_000,
    bytes_moved=1 << 20,
    notes={"backend": "cpu"},
)


def test_timing_is_median_and_quartiles_in_milliseconds() -> None:
    assert Timing.of([0.005, 0.001, 0.002, 0.003, 0.004]) == Timing(3.0, 2.0, 4.0, 5)


def test_ratio_is_to_the_fastest_peer() -> None:
    assert FFN.best_peer == "eager channels_last"
    assert FFN.ratio == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("flops", "size", "floor"),
    [
        (200_000_000, None, 1.0),  # at 200 GFLOP/s, the higher of the two measured
        (200_000_000, 1 << 20, 1.0),
        (None, 1 << 20, (1 << 20) / 100e6),  # the larger copies count too: a floor must hold
        (None, 1 << 28, (1 << 28) / 20e6),
        (None, 1 << 10, (1 << 10) / 100e6),
        (1_000, 1 << 28, (1 << 28) / 20e6),
        (None, None, None),
        (0, None, None),
    ],
)
def test_floor_is_the_larger_of_arithmetic_and_memory(
    flops: int | None, size: int | None, floor: float | None
) -> None:
    assert CEILINGS.floor_ms(flops, size) == (None if floor is None else pytest.approx(floor))


def test_share_of_the_roofline() -> None:
    assert FFN.roofline_share(CEILINGS) == pytest.approx(0.5)
    assert dataclasses.replace(FFN, flops=None, bytes_moved=None).roofline_share(CEILINGS) is None


def test_without_a_compiler_the_matrix_product_is_the_ceiling() -> None:
    assert dataclasses.replace(CEILINGS, fma=None).arithmetic == 150.0


def test_files_give_back_what_was_written_and_are_never_overwritten(tmp_path: Path) -> None:
    run = run_of(FFN, dataclasses.replace(FFN, beside={"ours, to the logits": timing(3.0)}))
    run.without_number["test_x"] = "AssertionError: wrong"
    first, second = results.write(run, tmp_path), results.write(run, tmp_path)
    assert first == tmp_path / "toy-2c" / "2026-01-02-abc1234changed.json"
    assert second.name == "2026-01-02-abc1234changed-2.json"
    assert results.read(first) == results.read(second) == run


def test_newest_is_by_date_over_all_machines(tmp_path: Path) -> None:
    later = results.write(run_of(FFN, slug="other", date="2026-02-01T00:00:00+00:00"), tmp_path)
    results.write(run_of(FFN), tmp_path)
    assert results.newest(tmp_path) == later


def test_foreign_files_and_no_files_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError, match="no results under .*; run pytest bench/ --benchmark-only"):
        results.newest(tmp_path)
    foreign = tmp_path / "foreign.json"
    foreign.write_text(json.dumps({"benchmarks": []}))
    with pytest.raises(SystemExit) as exit_status:
        report.main([str(foreign)])
    assert exit_status.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("bench: ") and "format 1" in error and error.count("\n") == 1


def test_tables_show_every_number() -> None:
    tail = Row(
        "tail",
        "photo",
        {"ours": timing(1.0), "eager": timing(150.0)},
        notes={"share_of_whole": {"ours": 0.012, "eager": 0.41}, "losses": {"ours": [2.5, 2.25]}},
    )
    run = run_of(FFN, tail)
    run.without_number["test_x"] = "Skipped: no weights"
    lines = report.render(run).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert cells[0][:6] == [
        *("workload", "ours ms", "eager ms", "eager channels_last ms", "ratio to best peer", "of roofline")
    ]
    assert cells[1] == [
        *("conv_ffn t1", "2.00", "7.00", "5.00", "2.50x eager channels_last", "50%", "30%", "cpu")
    ]
    assert cells[3] == ["photo", "1.00", "150", "150.00x eager", "-", "30%", "1.2%", "41.0%"]
    assert "- ours: 2.5000 2.2500" in lines
    assert "- test_x: Skipped: no weights" in lines


def test_what_fresh_processes_measured_is_a_table_of_its_own() -> None:
    fresh = {
        "ours": {"peak_mib": 100.4, "first_ms": 30.0, "warm_ms": 10.0},
        "eager": {"peak_mib": 400.0, "first_ms": 2.0, "warm_ms": 2.0},
    }
    unknown = {"ours": fresh["ours"] | {"peak_mib": None}}
    rows = [dataclasses.replace(FFN, notes={"fresh": notes}) for notes in (fresh, unknown)]
    text = report.render(run_of(FFN, *rows))
    assert "## peak memory and first call" in text
    lines = report.fresh_table(rows).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][:4] == ["workload", "ours peak MiB", "eager peak MiB", "ours of eager"]
    assert cells[2] == ["conv_ffn t1", "100", "400", "25%", "30.0", "3.0x", "2.00", "1.0x"]
    assert cells[3] == ["conv_ffn t1", "-", "-", "-", "30.0", "3.0x", "-", "-"]
    assert report.fresh_table([FFN]) == ""


def test_first_calls_of_a_gpu_are_not_shown_since_they_share_a_process() -> None:
    fresh = {name: {"peak_mib": 100.0, "first_ms": 30.0, "warm_ms": 10.0} for name in ("ours", "eager")}
    run = run_of(dataclasses.replace(FFN, notes={"fresh": fresh}))
    run = dataclasses.replace(run, machine=run.machine | {"device": "a GPU", "cpu": "a CPU"})
    title, table = report.fresh(run)
    assert title == "peak memory" and "first" not in table
    assert [cell.strip() for cell in table.splitlines()[2].split("|")[1:-1]] == [
        "conv_ffn t1",
        "100",
        "100",
        "100%",
    ]


def test_a_row_without_a_peer_shows_a_dash() -> None:
    nmf = Row("ops, forward", "nmf2d t", {"ours": timing(2.0), "eager": timing(3.0)})
    last = report.table([FFN, nmf], CEILINGS).splitlines()[-1]
    assert [cell.strip() for cell in last.strip("|").split("|")][3] == "-"


def test_report_draws_one_plot_a_table_beside_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib: pip install .[bench]")
    path = results.write(run_of(FFN, dataclasses.replace(FFN, table="models, fp32")), tmp_path)
    report.main([str(path)])
    assert "conv_ffn t1" in capsys.readouterr().out
    plots = sorted(file.name for file in path.parent.glob("*.png"))
    assert plots == ["2026-01-02-abc1234changed-models-fp32.png", "2026-01-02-abc1234changed-ops-forward.png"]
    assert all((path.parent / name).read_bytes().startswith(b"\x89PNG") for name in plots)


@pytest.mark.parametrize(
    ("device", "flags", "slug"),
    [
        ("AMD EPYC", ["avx2", "avx512f"], "amd-epyc-avx512-2c"),
        ("Intel(R) Xeon(R) Platinum 8488C CPU @ 2.40GHz", ["avx2"], "intel-xeon-platinum-8488c-avx2-2c"),
        ("Neoverse-N1", ["asimd"], "neoverse-n1-neon-2c"),
        ("NVIDIA H200", ["avx512f"], "h200"),
        ("unknown", [], "unknown-2c"),
    ],
)
def test_machine_slug(device: str, flags: list[str], slug: str) -> None:
    assert machine.slug(device, flags, "2 of 2 cores") == slug


def test_the_machine_is_described_in_json_without_paths() -> None:
    text = json.dumps(machine.describe())
    assert str(machine.ROOT) not in text and str(Path.home()) + "/" not in text
    assert {"device", "cores", "threads", "instruction_sets", "versions", "commit", "date"} <= set(
        json.loads(text)
    )
