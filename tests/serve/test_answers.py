"""Tests what a service answers: masks in every form, overlays, batches, models, numbers."""

from __future__ import annotations

import io
import json
import socket

import httpx
import numpy as np
import pytest
from PIL import Image

from segnext.predict.prediction import Prediction
from segnext.serve import Settings
from segnext.serve.logs import JsonLines, TextLines
from tests.serve.conftest import CLASSES, Running, encoded, running, until
from tests.serve.sockets import connect, head, reply


@pytest.fixture(scope="module")
def served(predictor):
    with running({"small": predictor, "other": predictor}, Settings(max_images=3)) as service:
        yield service


@pytest.fixture(scope="module")
def expected(predictor, photograph) -> Prediction:
    return predictor(photograph)


def from_runs(answer: dict) -> np.ndarray:
    runs = np.array(answer["mask"]["runs"]).reshape(-1, 2)
    return np.repeat(runs[:, 0], runs[:, 1]).reshape(answer["height"], answer["width"])


def picture(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


class TestSegment:
    def test_json(self, served: Running, photograph, expected):
        response = served.post(encoded(photograph))
        answer = response.json()
        assert response.status_code == 200 and response.headers["content-type"] == "application/json"
        assert (answer["model"], answer["width"], answer["height"]) == ("small", 90, 70)
        assert 0 < answer["seconds"] < answer["seconds_total"] < 60
        np.testing.assert_array_equal(from_runs(answer), expected.mask)
        shares = {entry["name"]: entry["share"] for entry in answer["classes"]}
        assert shares == pytest.approx({name: s for name, s in expected.statistics().items() if s})
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
        road = next(entry for entry in answer["classes"] if entry["name"] == "road")
        assert (road["id"], road["color"]) == (0, "#804080")

    def test_run_lengths_per_class(self, served, photograph, expected):
        answer = served.post(encoded(photograph), "/v1/segment?masks=rle").json()
        mask = np.full(expected.mask.shape, 255)
        for entry in answer["mask"]["rle"]:
            inside = np.repeat(np.arange(len(entry["counts"])) % 2, entry["counts"])
            mask[inside.reshape(entry["size"], order="F") == 1] = entry["id"]
        np.testing.assert_array_equal(mask, expected.mask)

    def test_polygons(self, served, photograph, expected):
        answer = served.post(encoded(photograph), "/v1/segment?masks=polygons").json()
        ids = [entry["id"] for entry in answer["mask"]["polygons"]]
        assert ids == np.unique(expected.mask).tolist()

    def test_without_a_mask(self, served, photograph):
        assert served.post(encoded(photograph), "/v1/segment?masks=none").json()["mask"] is None

    def test_mask(self, served, photograph, expected):
        response = served.post(encoded(photograph), "/v1/segment?output=mask")
        assert response.headers["content-type"] == "image/png"
        mask = picture(response.content)
        np.testing.assert_array_equal(np.array(mask), expected.mask)
        assert mask.getpalette()[:3] == [128, 64, 128]

    def test_overlay(self, served, photograph, expected):
        response = served.post(encoded(photograph), "/v1/segment?output=overlay")
        assert response.headers["content-type"] == "image/jpeg"
        overlay = picture(response.content)
        assert overlay.size == expected.overlay().size
        bare = served.post(encoded(photograph), "/v1/segment?output=overlay&alpha=0&legend=false")
        assert picture(bare.content).size == (90, 70)
        assert bare.content == bytes(expected.overlay_file(0, legend=False)[1])

    def test_a_form(self, served, photograph, expected):
        form = {"image": ("private name.png", encoded(photograph), "image/png")}

        answer = httpx.post(f"{served.url}/v1/segment", files=form).json()
        np.testing.assert_array_equal(from_runs(answer), expected.mask)

    def test_bytes_without_a_type(self, served, photograph, expected):
        headers = {"content-type": "application/octet-stream"}
        answer = served.post(encoded(photograph), headers=headers).json()
        np.testing.assert_array_equal(from_runs(answer), expected.mask)

    def test_a_turned_photograph_is_upright(self, served, photograph, predictor, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        content = encoded(photograph, format="JPEG", exif=exif.tobytes())
        (tmp_path / "turned.jpg").write_bytes(content)
        answer = served.post(content).json()
        assert (answer["width"], answer["height"]) == (70, 90)
        np.testing.assert_array_equal(from_runs(answer), predictor(tmp_path / "turned.jpg").mask)

    def test_another_model(self, served, photograph):
        assert served.post(encoded(photograph), "/v1/segment?model=other").json()["model"] == "other"


class TestBatch:
    def test_one_that_fails_does_not_stop_others(self, served, photograph, expected):

        small = photograph[:40, :50]
        contents = (encoded(photograph), b"GIF89a nothing", encoded(small))
        form = [("images", (f"{n}.png", content, "image/png")) for n, content in enumerate(contents)]
        response = httpx.post(f"{served.url}/v1/segment-batch", files=form)
        assert response.status_code == 200
        first, second, third = response.json()["results"]
        np.testing.assert_array_equal(from_runs(first), expected.mask)
        assert second["error"]["code"] in ("unsupported_image", "damaged_image")
        assert (third["width"], third["height"]) == (50, 40)

    def test_too_many(self, served, photograph):

        for count in (4, 40):
            form = [("images", ("a.png", encoded(photograph), "image/png"))] * count
            response = httpx.post(f"{served.url}/v1/segment-batch", files=form)
            assert response.status_code == 413
            assert response.json()["error"] == {
                "code": "too_many_images",
                "message": "a request must have at most 3 images, got more; send several requests",
            }

    def test_needs_a_form(self, served, photograph):
        response = served.post(encoded(photograph), "/v1/segment-batch")
        assert response.status_code == 415
        assert "multipart/form-data with a part 'images'" in response.json()["error"]["message"]


def test_models(served):
    found = served.get("/v1/models").json()
    assert [model["name"] for model in found["models"]] == ["small", "other"]
    assert [model["default"] for model in found["models"]] == [True, False]
    assert found["models"][0]["architecture"] == "segnext_t"
    assert [entry["name"] for entry in found["models"][0]["classes"]] == CLASSES
    assert found["limits"] == {"bytes": 32_000_000, "pixels": 25_000_000, "batch": 3}
    assert found["token_required"] is False


def test_answers_do_not_wait_for_acknowledgements(served):
    """An answer is headers and a body: with Nagle's algorithm, the body waits 40 ms for the client's system."""
    with connect(served.port) as connection:
        connection.sendall(head("/livez", "GET"))
        assert reply(connection).status == 200
        (kept,) = [one for one in served.connections if one.client == connection.getsockname()]
        option = kept.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert option != 0


def test_probes(served):
    assert served.get("/livez").json() == {"status": "alive"}
    assert served.get("/readyz").json() == {"status": "ready"}


def test_metrics(predictor, photograph):
    with running({"small": predictor}) as served:
        served.post(encoded(photograph))
        served.post(b"no image")
        lines = served.get("/metrics").text.splitlines()
    for line in (
        'segnext_requests_total{endpoint="/v1/segment",status="200"} 1.0',
        'segnext_requests_total{endpoint="/v1/segment",status="415"} 1.0',
        'segnext_request_seconds_count{endpoint="/v1/segment"} 2.0',
        'segnext_rejected_total{reason="unsupported_image"} 1.0',
        'segnext_images_total{model="small"} 2.0',  # one of them at the start
        'segnext_batch_images_count{model="small"} 2.0',
        'segnext_queue_images{model="small"} 0.0',
        "segnext_requests_active 0.0",
    ):
        assert line in lines
    assert any(line.startswith('segnext_model_seconds_total{model="small"} 0.') for line in lines)


def test_the_log_has_one_short_line_for_each_request(served, caplog):
    caplog.set_level("INFO", "segnext.serve")
    served.get("/%0Aforged%1B[31m" + 500 * "x")
    until(lambda: caplog.records)  # it is written after the answer
    (record,) = caplog.records
    for formatter in (JsonLines(), TextLines()):
        line = formatter.format(record)
        assert "\n" not in line and "\x1b" not in line and len(line) < 400


def test_the_log_says_nothing_of_what_came(predictor, photograph, caplog):

    caplog.set_level("INFO", "segnext.serve")
    with running({"small": predictor}, token="secret-of-the-test") as served:
        form = {"image": ("private name.png", encoded(photograph), "image/png")}
        headers = {"authorization": "Bearer secret-of-the-test", "user-agent": "private agent"}
        response = httpx.post(f"{served.url}/v1/segment?model=small", files=form, headers=headers)
    (fields,) = (record.fields for record in caplog.records if record.levelname == "INFO")
    assert fields["id"] == response.headers["x-request-id"]
    shown = {name: fields[name] for name in ("method", "path", "status", "model", "width", "height", "bytes")}
    assert shown == {
        "method": "POST",
        "path": "/v1/segment",
        "status": 200,
        "model": "small",
        "width": 90,
        "height": 70,
        "bytes": int(response.request.headers["content-length"]),
    }
    assert "private" not in json.dumps(fields) and "secret" not in caplog.text
