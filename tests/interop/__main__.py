"""Exchanges weights with the real packages of every peer: ``python -m tests.interop``, or ``make interop``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from segnext.atomic import replace_file
from tests.interop.cases import cases
from tests.interop.compare import Result, run
from tests.interop.environments import ENVIRONMENTS, INTEGRATIONS, ensure

RESULTS = Path(__file__).parents[2] / "bench" / "results" / "interop.json"


def row(result: Result) -> dict[str, Any]:
    """Return a result as JSON holds it."""
    case = result.case
    return {
        "peer": ENVIRONMENTS[case.environment].title,
        "model": f"{case.size.upper()}, {case.name}",
        "logits": float(f"{result.logits:.1e}"),
        "full": float(f"{result.full:.1e}"),
        "mask": result.mask,
        "back": None if result.back is None else float(f"{result.back:.1e}"),
    }


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows in the order of the peers; new ones come before old ones, and replace those of the same model."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for line in [*new, *old]:
        rows.setdefault((line["peer"], line["model"]), line)
    order = [environment.title for environment in ENVIRONMENTS.values()]
    known = [line for line in rows.values() if line["peer"] in order]
    return sorted(known, key=lambda line: order.index(line["peer"]))


def integrations_pass(python: Path) -> bool:
    """Run the tests of SegNeXt among the models of timm and transformers; return whether all passed."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/integrations"]
    return not subprocess.run(
        command, env={**os.environ, "SEGNEXT_INTEGRATIONS_PYTHON": str(python)}
    ).returncode


def main() -> int:
    """Run the cases; return 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop", description=__doc__)
    default = Path("~/.cache/segnext/interop").expanduser()
    parser.add_argument(
        "--environments", type=Path, default=default, help="folder of the peers' environments"
    )
    peers = [*ENVIRONMENTS, INTEGRATIONS.name]
    parser.add_argument("--only", nargs="*", choices=peers, default=peers, help="peers")
    parser.add_argument(
        "--sizes", nargs="*", choices=list("tsbl"), default=list("tsbl"), help="of published models"
    )
    parser.add_argument(
        "--write", action="store_true", help="put the results into bench/results/interop.json"
    )
    arguments = parser.parse_args()
    environments = arguments.environments.expanduser().resolve()
    rows, faults = [], []
    for case in cases(arguments.sizes):
        if case.environment not in arguments.only:
            continue
        ensure(ENVIRONMENTS[case.environment], environments)
        label = f"{case.environment} {case.size} {case.name}"
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = run(case, environments, Path(folder) / "case")
            except (AssertionError, RuntimeError, ValueError) as error:
                faults.append(f"{label}: {error}")
                continue
        rows.append(row(result))
        faults += [f"{label}: {problem}" for problem in result.problems]
        print(json.dumps(rows[-1]), flush=True)
    if INTEGRATIONS.name in arguments.only:
        ensure(INTEGRATIONS, environments)
        if not integrations_pass(environments / INTEGRATIONS.name / "bin" / "python"):
            faults.append(f"{INTEGRATIONS.name}: tests failed, see above")
    print(f"{len(rows)} exchanged, {len(faults)} faults", *faults, sep="\n")
    if arguments.write and not faults:
        old = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []
        text = json.dumps({"format": 1, "rows": merged(old, rows)}, indent=1) + "\n"
        replace_file(RESULTS, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
