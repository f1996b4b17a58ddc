"""Tests a service that has more to do than it can: queues, batches, limits, clients that leave, and the end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import threading

import httpx
import numpy as np
import pytest

from segnext.serve import Settings
from segnext.serve.room import Room
from tests.serve.conftest import encoded, running, until
from tests.serve.sockets import connect, head, reply

SMALL, LARGE = (40, 50), (60, 70)


def image(size: tuple[int, int], value: int = 0) -> bytes:
    return encoded(np.full((*size, 3), value, np.uint8))


@pytest.fixture
def pool():
    with concurrent.futures.ThreadPoolExecutor(32) as executor:
        yield executor


class Sender:
    """Sends images from threads, and waits until they are in the model's queue."""

    def __init__(self, served, pool) -> None:
        self.served, self.pool = served, pool
        (self.model,) = served.service.models.values()

    def send(self, *contents: bytes, path: str = "/v1/segment?masks=none") -> list[concurrent.futures.Future]:
        answers = []
        for content in contents:  # one after another: their order is known
            before = len(self.model.worker._waiting) + len(self.model.predictor.batches)
            answers.append(self.pool.submit(self.served.post, content, path))
            until(lambda: len(self.model.worker._waiting) + len(self.model.predictor.batches) > before)  # noqa: B023
        return answers


def test_images_of_one_size_run_together(held, pool):
    with running({"held": held}, Settings(max_batch=3)) as served:
        sender = Sender(served, pool)
        answers = sender.send(image(SMALL))
        assert held.begun.acquire(timeout=60)
        answers += sender.send(image(LARGE), *[image(SMALL)] * 2, image(LARGE), *[image(SMALL)] * 2)
        held.go.set()
        sizes = [(answer["height"], answer["width"]) for answer in (one.result().json() for one in answers)]
    assert sizes == [SMALL, LARGE, SMALL, SMALL, LARGE, SMALL, SMALL]
    # The first one is the warm-up; the second was alone. Then the oldest and its like, up to three.
    assert held.batches == [1, 1, 2, 3, 1]


def test_on_a_cpu_images_run_one_by_one(held, pool):
    with running({"held": held}) as served:
        sender = Sender(served, pool)
        answers = sender.send(*[image(SMALL)] * 4)
        held.go.set()
        assert [one.result().status_code for one in answers] == [200] * 4
    assert held.batches == [1] * 5


def test_an_image_that_fails_does_not_take_its_batch_along(held, pool):
    held.failing[7] = MemoryError("too large")
    with running({"held": held}, Settings(max_batch=8)) as served:
        sender = Sender(served, pool)
        answers = sender.send(image(SMALL), image(SMALL, 1), image(SMALL, 7), image(SMALL, 2))
        held.go.set()
        assert [one.result().status_code for one in answers] == [200, 200, 413, 200]


def test_a_full_queue(held, pool):
    with running({"held": held}, Settings(queue=3)) as served:
        sender = Sender(served, pool)
        answers = sender.send(*[image(SMALL)] * 3)
        sender.model.worker.seconds_per_image = 2.5
        refused = served.post(image(SMALL))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
        assert refused.headers["retry-after"] == "8"  # three images of 2.5 s
        form = [("images", ("a.png", image(SMALL), "image/png"))] * 2
        assert httpx.post(f"{served.url}/v1/segment-batch", files=form).status_code == 503
        assert served.get("/livez").status_code == 200
        assert 'segnext_queue_images{model="held"} 3.0' in served.get("/metrics").text
        held.go.set()
        assert [one.result().status_code for one in answers] == [200] * 3


def test_a_batch_for_which_the_queue_has_some_places(held):
    held.go.set()
    with running({"held": held}, Settings(queue=3)) as served:
        form = [("images", ("a.png", image(SMALL), "image/png"))] * 5
        results = httpx.post(f"{served.url}/v1/segment-batch", files=form).json()["results"]
    codes = [result.get("error", {}).get("code") for result in results]
    assert codes == [None, None, None, "queue_full", "queue_full"]


def test_too_many_requests(held, pool):
    with running({"held": held}, Settings(max_concurrency=2)) as served:
        sender = Sender(served, pool)
        (answer,) = sender.send(image(SMALL))
        with connect(served.port) as uploading:
            uploading.sendall(head(Content_Length=1000) + b"x")
            until(lambda: served.service.active == 2)
            refused = served.post(image(SMALL))
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_busy")
            assert int(refused.headers["retry-after"]) >= 1
        held.go.set()
        assert answer.result().status_code == 200


def test_the_time_limit(held, pool):
    """The one that runs and the one that waits are both answered; the latter never reaches the model."""
    with running({"held": held}, Settings(timeout=0.5)) as served:
        sender = Sender(served, pool)
        for answer in sender.send(image(SMALL), image(SMALL)):
            response = answer.result()
            assert (response.status_code, response.json()["error"]["code"]) == (504, "timed_out")
        assert sender.model.pending == 0 and not sender.model.worker._waiting
        held.go.set()
        assert served.post(image(SMALL)).status_code == 200
    assert held.batches == [1, 1, 1]


def test_clients_that_leave_lose_their_place(held, pool):
    with running({"held": held}) as served:
        sender = Sender(served, pool)
        (answer,) = sender.send(image(SMALL))
        assert held.begun.acquire(timeout=60)
        content = image(SMALL)
        with connect(served.port) as leaving:
            leaving.sendall(head(Content_Length=len(content)) + content)
            until(lambda: len(sender.model.worker._waiting) == 1)
        until(lambda: sender.model.pending == 1 and not sender.model.worker._waiting)
        held.go.set()
        assert answer.result().status_code == 200
    assert held.batches == [1, 1]


def test_the_end_waits_for_all_that_came(held, pool):
    letting_go = threading.Timer(0.5, held.go.set)
    with running({"held": held}) as served:
        sender = Sender(served, pool)
        answers = sender.send(*[image(SMALL)] * 5)
        content = image(SMALL)
        uploading = connect(served.port)
        uploading.sendall(head(Content_Length=len(content)) + content[:20])
        until(lambda: served.service.active == 6)
        letting_go.start()
        threading.Timer(0.3, uploading.sendall, [content[20:]]).start()
    assert [one.result().status_code for one in answers] == [200] * 5
    assert reply(uploading).status == 200
    with pytest.raises(OSError):
        connect(served.port)


def test_a_request_that_arrives_while_the_end_begins_is_answered(predictor):
    with running({"small": predictor}) as served:
        idle = connect(served.port)
        until(lambda: served.connections)

        def ask() -> None:
            until(lambda: served.service.is_draining)
            idle.sendall(head("/livez", "GET"))

        asking = threading.Thread(target=ask)
        asking.start()
    asking.join()
    assert reply(idle).status == 200


def test_ready_only_while_it_is(held):
    held.batches.append(0)  # the warm-up waits
    with running({"held": held}, warm=False) as served:
        response = served.get("/readyz")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")
        assert "warming up" in response.json()["error"]["message"]
        assert served.get("/livez").status_code == 200
        held.go.set()
        until(lambda: served.get("/readyz").status_code == 200)
        served.service.is_draining = True
        assert "about to end" in served.get("/readyz").json()["error"]["message"]


@pytest.mark.parametrize("requests", [1, 2])
def test_an_answer_that_nobody_reads_is_cut_off(predictor, requests):
    """The first answer is in the server's memory, and a second one waits until there is room for it."""
    noise = np.random.default_rng(0).integers(0, 256, (1100, 1100, 3), np.uint8)
    content = encoded(noise, format="JPEG", quality=30)
    with running({"small": predictor}, Settings(timeout=1)) as served, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", served.port))
        until(lambda: served.connections)
        (kept,) = served.connections
        kept.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        whole = head("/v1/segment?output=overlay&alpha=0", Content_Length=len(content)) + content
        deaf.sendall(requests * whole)
        until(lambda: kept.transport.get_write_buffer_size() > 100_000)
        until(lambda: not served.connections, seconds=4)  # uvicorn would end an idle connection after 5 s


class TestRoom:
    def test_order_and_capacity(self):
        async def run() -> list[tuple[str, int]]:
            room, seen = Room(10), []

            async def hold(name: str, units: int) -> None:
                async with room.holding(units):
                    seen.append((name, room.used))
                    await asyncio.sleep(0.001)

            await asyncio.gather(hold("a", 6), hold("b", 6), hold("c", 3), hold("huge", 99), hold("d", 1))
            assert room.used == 0
            return seen

        seen = asyncio.run(run())
        assert [name for name, _ in seen] == ["a", "b", "c", "huge", "d"]
        assert [used for _, used in seen] == [6, 9, 9, 99, 1]  # b and c got in together

    def test_one_that_gives_up_leaves_no_gap(self):
        async def run() -> None:
            room = Room(10)
            async with room.holding(6):
                waiting = [asyncio.ensure_future(room._enter(units)) for units in (9, 3)]
                await asyncio.sleep(0)
                waiting[0].cancel()
                await asyncio.wait_for(waiting[1], 1)  # it has room beside the first
                assert room.used == 9
                waiting[0] = asyncio.ensure_future(room._enter(5))
                await asyncio.sleep(0)
                room._leave(3)
                room.used += 1  # 7: no room for 5
            waiting[0].cancel()  # in the same moment as it got in
            await asyncio.gather(*waiting, return_exceptions=True)
            assert room.used == 1

        asyncio.run(run())
