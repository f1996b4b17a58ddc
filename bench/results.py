"""Holds one run's numbers as data, and as JSON files under bench/results/<machine>/."""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.roofline import Ceilings
from segnext.atomic import replace_file

FOLDER = Path(__file__).with_name("results")
FORMAT = 1
OURS = "ours"


@dataclass(frozen=True)
class Timing:
    """Holds the milliseconds of one variant: median and quartiles over the rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Make a timing from the seconds of each round, at least two."""
        low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(1e3 * statistics.median(seconds), 1e3 * low, 1e3 * high, len(seconds))


@dataclass
class Row:
    """Describes one workload: ours and its peers took turns in one process, after all were found correct.

    Attributes:
        table: the table that it belongs to.
        name: the workload, readable.
        times: "ours" and each peer.
        beside: further times from the same rounds; these are no peers.
        flops: FLOPs of convolutions and matrix products; None if not counted.
        bytes_moved: a model, not a count: every input and weight is read once, every output written once.
        notes: anything particular, such as which backend ran, losses, shares.
        tensor_cores: whether the FLOPs are products of 16-bit numbers, which a GPU computes faster than others.
    """

    table: str
    name: str
    times: dict[str, Timing]
    beside: dict[str, Timing] = field(default_factory=dict)
    flops: int | None = None
    bytes_moved: int | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    tensor_cores: bool = False

    @property
    def best_peer(self) -> str:
        """Name the fastest peer; it is ours if no peer has a number."""
        peers = (name for name in self.times if name != OURS)
        return min(peers, key=lambda name: self.times[name].median, default=OURS)

    @property
    def ratio(self) -> float:
        """Return the time of the best peer over ours; above 1, ours is faster."""
        return self.times[self.best_peer].median / self.times[OURS].median

    def roofline_share(self, ceilings: Ceilings) -> float | None:
        """Return this machine's floor over our time; None if neither FLOPs nor bytes are known."""
        floor = ceilings.floor_ms(self.flops, self.bytes_moved, self.tensor_cores)
        return None if floor is None else floor / self.times[OURS].median


@dataclass(frozen=True)
class OpCost:
    """The cost of one call of an op.

    Attributes:
        op: its name.
        shapes: of its first tensor, and of its result if that is another one, without the batch: "32x128x128".
        products: FLOPs of matrix products and dense convolutions, two for a multiply-add, as torch counts them. What
            another order of the same products spares is left out, see `bench.op_costs`.
        taps: FLOPs of depthwise convolutions. As torch counts them, with those on the padding.
        bytes_moved: a model, not a count: every input and weight is read once, every output is written once.
        half: whether all tensors are of 16-bit numbers, so that the products may be computed from them.
    """

    op: str
    shapes: str
    products: int
    taps: int
    bytes_moved: int
    half: bool


@dataclass(frozen=True)
class OpTime(OpCost):
    """Holds the calls of an op at one shape in a deployed model; all numbers are those of all calls together.

    Attributes:
        calls: how often it runs.
        ms: milliseconds.
    """

    calls: int
    ms: float

    def arithmetic_ms(self, ceilings: Ceilings) -> float:
        """Return the time of products and taps at their ceilings."""
        return ceilings.floor_ms(self.products, None, self.half, self.taps) or 0.0

    def memory_ms(self, ceilings: Ceilings) -> float:
        """Return the time of the bytes, at the bandwidth of one call's size."""
        return self.calls * (ceilings.floor_ms(None, self.bytes_moved // self.calls) or 0.0)

    def floor_ms(self, ceilings: Ceilings) -> float:
        """Return the milliseconds below which this machine cannot be: the larger of both."""
        return max(self.arithmetic_ms(ceilings), self.memory_ms(ceilings))


@dataclass(frozen=True)
class Anatomy:
    """Holds where the time of a deployed model goes, from image to mask; rows and rest are the whole.

    Attributes:
        model: model, input size and classes, readable.
        dtype: "fp32" or "bf16".
        rows: the ops, in the order of their first calls.
        rest_ms: what is no op's: Python between the layers, the check for finite logits, memory for the result.
        predict_ms: of the same model without clocks, in the same rounds.
        rounds: how many were timed.
    """

    model: str
    dtype: str
    rows: list[OpTime]
    rest_ms: float
    predict_ms: float
    rounds: int

    @property
    def title(self) -> str:
        """Return the name of its table."""
        return f"{self.model}, {self.dtype}"

    @property
    def whole_ms(self) -> float:
        """Return the milliseconds from image to mask."""
        return sum(row.ms for row in self.rows) + self.rest_ms


@dataclass
class Results:
    """Holds a run: the machine, its measured ceilings, the rows, and which workloads got no number and why.

    Attributes:
        stages: each stage's status, seconds and findings, if the run is a campaign.
        anatomy: models that `bench.anatomy` took apart.
    """

    machine: dict[str, Any]
    ceilings: Ceilings
    rows: list[Row]
    without_number: dict[str, str] = field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    anatomy: list[Anatomy] = field(default_factory=list)

    def tables(self) -> dict[str, list[Row]]:
        """Group the rows by table, in the order in which they were measured."""
        by_table: dict[str, list[Row]] = {}
        for row in self.rows:
            by_table.setdefault(row.table, []).append(row)
        return by_table


def write(results: Results, folder: Path = FOLDER, part: str = "") -> Path:
    """Write ``folder/<machine>/<part>/<date>-<commit>.json``, or ``-2.json`` if that exists; return the path."""
    first = path = path_of(results.machine, folder, part)
    number = 1
    while path.exists():
        number += 1
        path = first.with_stem(f"{first.stem}-{number}")
    save(results, path)
    return path


def path_of(machine: dict[str, Any], folder: Path = FOLDER, part: str = "") -> Path:
    """Return ``folder/<machine>/<part>/<date>-<commit>.json``; a "changed" follows the commit of a changed tree."""
    commit = machine["commit"].replace("+", "changed")
    stem = f"{machine['date'][:10]}-{re.sub(r'[^0-9A-Za-z]', '', commit)}"
    return folder / machine["slug"] / part / f"{stem}.json"


def save(results: Results, path: Path) -> None:
    """Write or replace ``path``; whoever reads it meanwhile never sees half of it."""
    text = json.dumps({"format": FORMAT, **dataclasses.asdict(results)}, indent=1) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text))


def read(path: Path) -> Results:
    """Read one file.

    Raises:
        ValueError: this is not a result file of this format.
    """
    data = json.loads(path.read_text())
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(
            f"bench: {path} must be a result file of format {FORMAT}; run pytest bench/ --benchmark-only"
        )
    return Results(
        machine=data["machine"],
        ceilings=ceilings_of(data["ceilings"]),
        rows=[row_of(row) for row in data["rows"]],
        without_number=data["without_number"],
        stages=data.get("stages", {}),
        anatomy=[anatomy_of(one) for one in data.get("anatomy", [])],
    )


def newest(folder: Path = FOLDER) -> Path:
    """Return the result file with the latest date of all machines.

    Raises:
        FileNotFoundError: there is none.
    """
    paths = sorted(folder.glob("*/*.json"))
    if not paths:
        raise FileNotFoundError(f"bench: no results under {folder}; run pytest bench/ --benchmark-only")
    return max(paths, key=lambda path: read(path).machine["date"])


def row_of(data: dict[str, Any]) -> Row:
    """Make a row from its JSON."""
    times = {kind: {name: Timing(**t) for name, t in data[kind].items()} for kind in ("times", "beside")}
    return Row(**{**data, **times})


def anatomy_of(data: dict[str, Any]) -> Anatomy:
    """Make an anatomy from its JSON."""
    return Anatomy(**{**data, "rows": [OpTime(**row) for row in data["rows"]]})


def ceilings_of(data: dict[str, Any]) -> Ceilings:
    """Make ceilings from their JSON."""
    copies = tuple((size, rate) for size, rate in data["copies"])
    return Ceilings(**{**data, "copies": copies})  # older files have fewer rates
