"""bench.serve: answers are counted, another mask gets no time, and the tables say what was found."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("segnext.serve", reason="the extra 'serve' is not installed", exc_type=ImportError)

from bench.results import OURS, Results, Row, Timing
from bench.roofline import Ceilings
from bench.serve import tables
from bench.serve.__main__ import overhead
from bench.serve.faults import NO_ANSWER, Client
from bench.serve.load import send
from bench.serve.process import Served
from segnext import Predictor
from segnext.serve import Settings
from tests.models.narrow import used
from tests.serve.conftest import encoded, running


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(used(), device="cpu")


@pytest.fixture(scope="module")
def photograph() -> bytes:
    coarse = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return encoded(coarse, format="JPEG")


def test_every_request_of_a_load_is_counted(predictor, photograph):
    with running({"small": predictor}) as served:
        found = asyncio.run(send(f"{served.url}/v1/segment", photograph, requests=12, concurrency=4))
    assert found["statuses"] == {"200": 12} and len(found["seconds"]) == 12
    assert 0 < max(found["seconds"]) <= found["whole"]


def test_every_fault_is_answered(predictor, photograph):
    """All kinds come once, and none of them ends without an answer."""
    with running({"small": predictor}, Settings(timeout=1)) as served:
        client = Client(served.port, photograph)

        async def once() -> dict[str, str]:
            faults = client.faults()
            return dict(
                zip(faults, await asyncio.gather(*(fault() for fault in faults.values())), strict=True)
            )

        answers = asyncio.run(once())
        assert served.get("/readyz").status_code == 200
    assert NO_ANSWER not in answers.values() and "500" not in answers.values()
    assert (answers["decompression bomb"], answers["slow upload"], answers["silent connection"]) == (
        "413",
        "408",
        "closed",
    )


def test_another_mask_gets_no_time(predictor, photograph, tmp_path: Path):
    file = tmp_path / "photograph.jpg"
    file.write_bytes(photograph)
    turned = used()
    with torch.no_grad():
        for parameter in turned.decoder.classifier.parameters():
            parameter.neg_()
    other = Predictor(turned, device="cpu")
    with running({"small": predictor}) as served:
        with pytest.raises(ValueError, match="the masks must be equal"):
            overhead(Served(None, served.url), other, file, 0.1)
        row = overhead(Served(None, served.url), predictor, file, 0.1)
    assert set(row.times) == {OURS, tables.LIBRARY}


def test_tables():
    memory = {"before": 5e8, "peak": 6e8, "after": 5.5e8}
    latency = {"p50": 1.0, "p95": 2.0, "p99": 3.0}
    times = {OURS: Timing(44, 0, 0, 5), tables.LIBRARY: Timing(40, 0, 0, 5)}
    notes = {"latency": latency, "memory": memory}
    counted = {"seconds": 60.0, "requests": 8, "unanswered": 0, "second service": 1, **notes}
    text = tables.tables(
        Results(
            {},
            Ceilings(1, 1, ()),
            [
                Row(tables.OVERHEAD, "T", times),
                Row(tables.LOAD, "3 times 200, one by one", times, notes={"statuses": {"200": 600}, **notes}),
                Row(tables.FAULTS, "60 s", {}, notes={"answers": {"bomb": {"413": 7, "503": 1}}, **counted}),
            ],
        )
    )
    for part in (
        "44.0",
        "4.0",
        "200: 600",
        "91%",
        "1,000",
        "413: 7, 503: 1",
        "0 of them without an answer",
        "500, 600, 550",
        "600 MB at most",
    ):
        assert part in text
