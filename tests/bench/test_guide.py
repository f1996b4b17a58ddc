"""The tables of the user's pages: the newest run of a machine counts, what was not measured is said."""

from __future__ import annotations

import json
from pathlib import Path

from bench import guide, results
from segnext.data.shipped import list_sets
from segnext.training.recipes import load_recipe


def rivals_file(folder: Path, date: str, median: float, dry_run: bool = False) -> None:
    """Write what bench.rivals writes, with T at one size."""
    row = {"name": "SegNeXt-T deployed", "size": "512x512", "times": {"median": median}}
    machine = {"device": "A CPU", "threads": 2, "date": date, "commit": "abc"}
    path = folder / "a-cpu" / "rivals" / f"{date}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "settings": {"dry_run": dry_run}, "rows": [row]}))


def test_the_newest_whole_run_of_a_cpu_counts(tmp_path: Path) -> None:
    rivals_file(tmp_path, "2026-01-02", 20.0)
    rivals_file(tmp_path, "2026-01-01", 10.0)
    rivals_file(tmp_path, "2026-01-03", 30.0, dry_run=True)
    lines = guide.choices(tmp_path).splitlines()
    times = lines[lines.index("") + 1 :]
    assert "A CPU, fp32, 512x512" in times[0]
    cells = [[cell.strip() for cell in line.split("|")[2:-1]] for line in times[2:4]]
    assert cells == [["20.0 ms", "-"], ["-", "-"]]
    assert lines[-1] == "- A CPU: 2 threads, 2026-01-02, commit abc."


def test_a_gpu_s_cell_is_of_the_newest_run_that_has_the_workload() -> None:
    runs = [results.read(path) for path in sorted((results.FOLDER / "h200").glob("*.json"))]
    newest = {}
    for run in sorted(runs, key=lambda one: str(one.machine["date"])):
        newest |= {row.name: row.times[results.OURS].median for row in run.rows if row.table == guide.TABLE}
    _, row = [line for line in guide.choices().splitlines() if line.startswith("| B ")]  # costs, times
    (name,) = [name for name in newest if name.startswith("B 1x1024x2048,")]
    assert float(row.split("|")[-2].strip().removesuffix(" ms")) == round(newest[name], 2)


def test_no_result_is_no_table_of_times(tmp_path: Path) -> None:
    table = guide.choices(tmp_path)
    assert len(table.splitlines()) == 2 + len(guide.SIZES) + 2 and table.endswith(
        "No machine was measured yet."
    )


def test_every_data_set_with_a_recipe_has_its_rows() -> None:
    rows = {line.split("`")[1]: line for line in guide.recipes().splitlines()[2:]}
    assert set(rows) == set(list_sets()) - {"camvid"}  # whose recipe is `small`
    assert (
        "windows of 1024, step 768" in rows["cityscapes"] and "| 150 | 160,000 | 16 | 512 |" in rows["ade20k"]
    )
    accuracies = guide.accuracies().splitlines()
    single, several = load_recipe("ade20k").miou["l"]
    assert accuracies[2].endswith(f"| {single} / {several} |")
    assert any("PaddleSeg" in line and "cityscapes" in line for line in accuracies)
