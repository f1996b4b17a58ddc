"""The page while a request is under way: photograph, mask and names always belong together."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.serve.conftest import encoded
from tests.serve.test_page import browser, service, visit  # noqa: F401 (fixtures)

SEGMENT = "**/v1/segment?*"
RED = encoded(np.full((40, 56, 3), (200, 30, 40), np.uint8))
TIFF = encoded(np.full((30, 80, 3), (20, 90, 240), np.uint8), format="TIFF")


@pytest.fixture
def there(visit):  # noqa: F811
    page = visit()
    page.page.wait_for_selector("#known li")
    return page


def hold(there) -> list:
    """Keep requests to segment from the service; return them as they come."""
    kept: list = []
    there.page.route(SEGMENT, lambda route: kept.append(route))  # Playwright takes no built-in function
    return kept


def wait_for(there, kept: list, count: int = 1) -> None:
    while len(kept) < count:
        there.page.wait_for_timeout(10)


def refuse(route) -> None:
    error = {"error": {"code": "queue_full", "message": "too many images wait"}}
    route.fulfill(status=503, headers={"Retry-After": "3"}, body=json.dumps(error))


def colour(there) -> tuple[int, ...]:
    return tuple(int(value) for value in there.pixels("#photo")[5, 5, :3])


def test_an_older_answer_does_not_replace_a_newer_one(there):
    """The drawing of a TIFF is decoded after another photograph was chosen."""
    there.page.evaluate(
        "() => { const whole = createImageBitmap; window.createImageBitmap = (blob) => blob.type === 'image/jpeg'"
        " ? new Promise((go) => (window.letGo = go)).then(() => whole(blob)) : whole(blob) }"
    )
    there.choose("scan.tif", TIFF, "image/tiff")
    there.until("!!window.letGo")
    there.choose("red.png", RED)
    there.wait_for_result()
    there.page.evaluate("letGo()")
    there.page.wait_for_timeout(200)
    assert "56 × 40" in there.page.text_content("#summary")
    assert there.pixels("#photo").shape == there.pixels("#overlay").shape == (40, 56, 4)


@pytest.mark.parametrize("end", ["refused", "cancelled"])
def test_the_last_photograph_comes_back_with_its_mask(there, end):
    """The browser cannot draw it a second time: it is a TIFF."""
    there.choose("scan.tif", TIFF, "image/tiff")
    there.wait_for_result()
    button = there.page.locator("#legend button").first
    button.click()
    if end == "refused":
        there.page.route(SEGMENT, refuse)
        there.choose("red.png", RED)
        assert "It is busy for about 3 s" in there.alert()
    else:
        kept = hold(there)
        there.choose("red.png", RED)
        wait_for(there, kept)
        assert colour(there) == (200, 30, 40)
        there.page.click("#cancel")
    assert there.pixels("#photo").shape == there.pixels("#overlay").shape == (30, 80, 4)
    assert np.abs(np.subtract(colour(there), (20, 90, 240))).max() < 5
    assert button.is_visible() and button.get_attribute("aria-pressed") == "true"
    assert there.page.evaluate("document.body.classList.contains('is-highlighting')")


def test_the_old_mask_is_not_on_the_new_photograph(there):
    """A class is pinned, and the pointer is on the picture."""
    there.page.click("#sample")
    there.wait_for_result()
    there.page.locator("#legend button").first.click()
    there.page.locator("#overlay").hover()
    assert there.page.locator("#name-tag").is_visible()
    kept = hold(there)
    there.choose("red.png", RED)
    wait_for(there, kept)
    for _ in range(2):
        assert there.pixels("#overlay").shape[:2] == (1, 1)
        assert there.page.locator("#name-tag").is_hidden()
        there.page.locator("#overlay").click(position={"x": 20, "y": 20})
    there.page.unroute(SEGMENT)  # what was kept goes on
    there.page.wait_for_selector("#side:not([hidden])")
    assert not there.page.evaluate("document.body.classList.contains('is-highlighting')")
    assert (there.pixels("#overlay")[..., 3] == 255).all()


def test_it_says_that_it_is_busy_with_what_it_cannot_show(there):
    kept = hold(there)
    there.choose("scan.tif", TIFF, "image/tiff")
    wait_for(there, kept)
    assert there.page.locator("#busy").is_visible()
    there.page.click("#cancel")
    assert there.page.locator("#start").is_visible()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_photograph_is_upright(there, kind, orientation):
    """Photograph and mask have the same upper left corner."""
    stored = np.zeros((40, 64, 3), np.uint8)
    stored[:20, :32] = (250, 20, 20)
    exif = Image.Exif()
    exif[274] = orientation
    there.choose(f"a.{kind.lower()}", encoded(stored, format=kind, exif=exif), f"image/{kind.lower()}")
    there.wait_for_result()
    shown = there.pixels("#photo")
    assert shown.shape == there.pixels("#overlay").shape == ((40, 64, 4) if orientation == 3 else (64, 40, 4))
    row, column = (-5, -5) if orientation == 3 else (5, -5)
    assert shown[row, column, 0] > 200 and shown[5, 5, 0] < 50
