"""The page of the service, in a real browser: what a person does, sees, and gets."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segnext import Predictor
from segnext.serve import Settings
from segnext.serve.app import PAGE
from tests.serve.browser import chromium
from tests.serve.conftest import Held, Running, encoded, running, until

SAMPLE = PAGE / "sample.jpg"
EVIL = '<img src=x onerror="document.title=1">'  # a class name that would be markup
TOKEN = "only for tests, 31 characters"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def service(model: Any) -> Iterator[Running]:
    predictor = Predictor(model, device="cpu")
    predictor.classes = ("road", EVIL, "tree", "a very long name of a class that needs more than one line")
    with running({"first": predictor, "second": predictor}, Settings(max_bytes=3_000_000)) as there:
        yield there


@dataclass
class Visit:
    """A page that is open, and what went wrong in it."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def choose(self, name: str, content: bytes, kind: str = "image/png") -> None:
        """Choose a file, as the button does."""
        self.page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": content})

    def wait_for_result(self) -> None:
        """Wait until the busy line is gone and the legend is there."""
        self.page.wait_for_selector("#busy", state="hidden")
        self.page.wait_for_selector("#legend button")

    def alert(self) -> str:
        """Wait for an error; return its text."""
        self.page.wait_for_selector("#error:not([hidden])")
        return str(self.page.text_content("#error-text"))

    def until(self, expression: str) -> None:
        """Wait until JavaScript is true; Playwright's own way needs eval, which the page's policy forbids."""
        until(lambda: self.page.evaluate(expression))

    def pixels(self, canvas: str) -> np.ndarray:
        """Return what a canvas holds, (H, W, 4)."""
        address = self.page.evaluate(f"document.querySelector('{canvas}').toDataURL()")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGBA"))


@pytest.fixture
def visit(browser: Any, service: Running) -> Iterator[Callable[..., Visit]]:
    """Return a function that opens the page; in the end no script had an error, and nothing left the machine."""
    visits = []

    def open_page(url: str = service.url, **options: Any) -> Visit:
        page = browser.new_page(**options)
        visits.append((Visit(page), url))
        page.on("pageerror", lambda error: visits[-1][0].errors.append(str(error)))
        page.on("request", lambda request: visits[-1][0].requests.append(request.url))
        page.goto(url)
        return visits[-1][0]

    yield open_page
    for one, url in visits:
        one.page.close()
        assert one.errors == []
        assert [at for at in one.requests if not at.startswith((url, "blob:", "data:"))] == []


def test_the_sample_is_segmented_as_the_library_does(visit, service):
    there = visit()
    there.page.wait_for_selector("#known li")
    assert there.page.locator("#known li").count() == 4
    there.page.click("#sample")
    there.wait_for_result()
    predictor = service.service.models["first"].predictor
    wanted = predictor(SAMPLE)
    overlay = there.pixels("#overlay")
    inner = np.zeros(wanted.mask.shape, bool)
    inner[:-1, :-1] = (wanted.mask[:-1, :-1] == wanted.mask[1:, :-1]) & (
        wanted.mask[:-1, :-1] == wanted.mask[:-1, 1:]
    )
    assert np.array_equal(overlay[inner][:, :3], wanted.palette[wanted.mask[inner]])
    assert (overlay[..., 3] == 255).all()
    photograph = np.asarray(Image.open(SAMPLE).convert("RGB")).astype(int)
    assert np.abs(there.pixels("#photo")[..., :3] - photograph).mean() < 2
    shares = {name: share for name, share in wanted.statistics().items() if share}
    shown = dict(
        zip(
            there.page.locator(".name").all_text_contents(),
            there.page.locator(".share").all_text_contents(),
            strict=True,
        )
    )
    assert shown == {
        name: f"{100 * share:.1f} %" if share >= 5e-4 else "< 0.1 %" for name, share in shares.items()
    }
    assert "ms" in there.page.text_content("#summary") and "960 × 720, first" in there.page.text_content(
        "#summary"
    )


def test_names_are_text(visit):
    there = visit()
    there.page.click("#sample")
    there.wait_for_result()
    assert EVIL in there.page.locator("#known").inner_text()
    assert there.page.title() == "segnext" and there.page.locator("#known img, #legend img").count() == 0


def test_the_slider_changes_the_strength_at_once(visit):
    there = visit()
    there.page.click("#sample")
    there.wait_for_result()
    there.page.focus("#opacity")
    there.page.keyboard.press("End")
    assert there.page.evaluate("getComputedStyle(document.querySelector('#overlay')).opacity") == "1"
    assert there.page.text_content("#opacity-value") == "100 %"
    before = len(there.requests)
    there.page.keyboard.press("Home")
    assert there.page.evaluate("getComputedStyle(document.querySelector('#overlay')).opacity") == "0"
    assert len(there.requests) == before


def test_a_class_is_highlighted_by_hover_focus_and_click(visit, service):
    there = visit()
    there.page.click("#sample")
    there.wait_for_result()
    mask = service.service.models["first"].predictor(SAMPLE).mask
    button = there.page.locator("#legend button").nth(1)
    chosen = int(button.get_attribute("data-id"))
    button.hover()
    assert np.array_equal(there.pixels("#overlay")[..., 3] == 255, mask == chosen)
    there.page.mouse.move(1, 1)
    assert (there.pixels("#overlay")[..., 3] == 255).all()
    button.focus()
    assert np.array_equal(there.pixels("#overlay")[..., 3] == 255, mask == chosen)
    there.page.keyboard.press("Enter")  # pins it
    there.page.locator("#opacity").focus()
    assert button.get_attribute("aria-pressed") == "true"
    assert np.array_equal(there.pixels("#overlay")[..., 3] == 255, mask == chosen)


def test_the_picture_names_what_is_under_the_pointer(visit, service):
    there = visit()
    there.page.click("#sample")
    there.wait_for_result()
    prediction = service.service.models["first"].predictor(SAMPLE)
    box = there.page.locator("#overlay").bounding_box()
    for column, row in ((100, 100), (700, 500)):
        x, y = box["x"] + (column + 0.5) * box["width"] / 960, box["y"] + (row + 0.5) * box["height"] / 720
        there.page.mouse.move(x, y)
        assert there.page.text_content("#name-tag") == prediction.classes[prediction.mask[row, column]]


def test_by_keyboard_alone(visit):
    there = visit()
    there.page.wait_for_selector("#known li")
    reached = []
    for _ in range(40):
        there.page.keyboard.press("Tab")
        reached.append(there.page.evaluate("document.activeElement.id || document.activeElement.className"))
        if reached[-1] == "sample":
            there.page.keyboard.press("Enter")
            there.wait_for_result()
        outline = there.page.evaluate(
            "document.activeElement.id === 'file' ? 'label' : getComputedStyle(document.activeElement).outlineStyle"
        )
        assert outline != "none", reached[-1]
        if reached[-1] == "save-overlay":
            break
    assert {"model", "file", "sample", "camera", "opacity", "save-mask", "save-overlay"} <= set(reached)


def test_downloads(visit, service):
    there = visit()
    there.choose("my.holiday.png", encoded(np.asarray(Image.open(SAMPLE).convert("RGB").resize((96, 64)))))
    there.wait_for_result()
    there.until("document.querySelector('#photo').width === 96")
    with there.page.expect_download() as mask:
        there.page.click("#save-mask")
    assert mask.value.suggested_filename == "my.holiday_mask.png"
    assert np.asarray(Image.open(mask.value.path())).shape == (64, 96)
    with there.page.expect_download() as overlay:
        there.page.click("#save-overlay")
    assert overlay.value.suggested_filename == "my.holiday_overlay.jpg"
    assert Image.open(overlay.value.path()).width >= 96


def test_a_paste_and_a_drop(visit):
    small = base64.b64encode(encoded(np.full((40, 56, 3), 90, np.uint8))).decode()
    there = visit()
    there.page.wait_for_selector("#known li")
    event = (
        (
            "([kind, data]) => {{ const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));"
            "const carried = new DataTransfer(); carried.items.add(new File([bytes], 'a.png', {{type: 'image/png'}}));"
            "dispatchEvent(kind === 'paste' ? new ClipboardEvent(kind, {{clipboardData: carried}})"
            " : new DragEvent(kind, {{dataTransfer: carried, cancelable: true}})) }}"
        )
        .replace("{{", "{")
        .replace("}}", "}")
    )
    for kind in ("paste", "drop"):
        there.page.evaluate(event, [kind, small])
        there.wait_for_result()
        assert "56 × 40" in there.page.text_content("#summary")
        there.page.reload()
        there.page.wait_for_selector("#known li")


def test_what_a_browser_cannot_show(visit):
    """A TIFF: the service draws the photograph for the page."""
    there = visit()
    there.choose(
        "scan.tif", encoded(np.full((40, 56, 3), (200, 90, 40), np.uint8), format="TIFF"), "image/tiff"
    )
    there.wait_for_result()
    assert there.pixels("#photo").shape == (40, 56, 4)
    assert np.abs(there.pixels("#photo")[5, 5, :3].astype(int) - (200, 90, 40)).max() < 5


@pytest.mark.parametrize(
    ("name", "content", "kind", "message"),
    [
        ("notes.txt", b"no image", "text/plain", "Not an image in a format that is read"),
        ("cut.png", encoded(np.zeros((300, 400, 3), np.uint8))[:-40], "image/png", "damaged or truncated"),
        ("large.png", bytes(3_100_000), "image/png", "The photograph has 3.1 MB. This service takes 3 MB"),
    ],
)
def test_errors_are_a_line_and_the_page_stays(visit, name, content, kind, message):
    there = visit()
    there.page.wait_for_selector("#known li")
    there.choose(name, content, kind)
    assert message in there.alert()
    assert there.page.locator("#start").is_visible()
    there.page.click("#sample")
    there.wait_for_result()
    assert there.page.locator("#error").is_hidden()
    there.choose(name, content, kind)
    assert message in there.alert()
    there.page.wait_for_selector("#busy", state="hidden")
    assert there.page.locator("#legend button").count() > 0 and there.pixels("#overlay").shape == (
        720,
        960,
        4,
    )


def test_a_request_can_be_cancelled(visit, held: Held):
    with running({"slow": held}) as there_is:
        there = visit(there_is.url)
        there.page.wait_for_selector("#known li")
        there.page.click("#sample")
        there.page.wait_for_selector("#busy:not([hidden])")
        there.page.click("#cancel")
        assert there.page.locator("#start").is_visible() and there.page.locator("#busy").is_hidden()
        held.go.set()
        there.page.click("#sample")
        there.wait_for_result()
        assert there.page.locator("#error").is_hidden()


def test_what_fails_leaves_the_last_result_whole(visit, held: Held, predictor):
    """The photograph, its mask and its model belong together, also where the service drew the photograph."""
    colour = np.full((40, 56, 3), (200, 90, 40), np.uint8)
    with running({"quick": predictor, "slow": held}) as there_is:
        there = visit(there_is.url)
        there.page.wait_for_selector("#known li")
        there.choose("scan.tif", encoded(colour, format="TIFF"), "image/tiff")
        there.wait_for_result()
        there.choose("cut.png", encoded(np.zeros((300, 400, 3), np.uint8))[:-40])
        assert "damaged" in there.alert()
        assert there.pixels("#photo").shape == there.pixels("#overlay").shape == (40, 56, 4)
        held.failing[200] = RuntimeError("no such luck")
        held.go.set()
        there.page.select_option("#model", "slow")
        there.page.wait_for_selector("#error:not([hidden])")
        until(lambda: there.page.eval_on_selector("#model", "(e) => e.value") == "quick")
        with there.page.expect_request("**/v1/segment?*") as asked, there.page.expect_download():
            there.page.click("#save-mask")
        assert "model=quick" in asked.value.url


def test_the_newest_photograph_and_model_count(visit, held: Held, predictor):
    """A photograph replaces one that is under way, and another model is asked about the newest one."""
    small, large = (encoded(np.full((side, side + 8, 3), 90, np.uint8)) for side in (40, 64))
    with running({"slow": held, "quick": predictor}) as there_is:
        there = visit(there_is.url)
        there.page.wait_for_selector("#known li")
        there.choose("small.png", small)
        there.page.wait_for_selector("#busy:not([hidden])")
        there.choose("large.png", large)
        there.page.select_option("#model", "quick")
        there.wait_for_result()
        assert "72 × 64, quick" in there.page.text_content("#summary")
        held.go.set()
        until(lambda: there_is.service.active == 0)
        assert "72 × 64, quick" in there.page.text_content("#summary")


def test_a_service_that_is_gone_and_comes_back(visit, predictor):
    with running({"m": predictor}) as there_is:
        there = visit(there_is.url)
        there.page.wait_for_selector("#known li")
        there.page.route("**/v1/segment?*", lambda route: route.abort())  # the network ends
        there.page.click("#sample")
        assert there.alert() == "The service does not answer. Is it still running?"
        there.page.unroute("**/v1/segment?*")
        there.page.click("#retry")
        there.wait_for_result()


def test_the_token_is_asked_for_and_kept_in_the_tab(visit, predictor):
    with running({"m": predictor}, token=TOKEN) as there_is:
        there = visit(there_is.url)
        there.page.fill("#token", "wrong")
        there.page.keyboard.press("Enter")
        there.page.wait_for_selector("#token-wrong:not([hidden])")
        there.page.keyboard.press("Escape")
        assert there.alert() == "The service needs a token."
        there.page.click("#retry")
        there.page.fill("#token", TOKEN)
        there.page.keyboard.press("Enter")
        there.page.click("#sample")
        there.wait_for_result()
        assert there.page.evaluate("JSON.stringify(localStorage) + document.cookie") == "{}"
        there.page.reload()
        there.page.click("#sample")
        there.wait_for_result()


def test_the_camera(visit, browser, service):
    """Chromium's own test camera; and none."""
    context = browser.new_context(permissions=["camera"])
    page = context.new_page()
    page.goto(service.url)
    page.click("#camera")
    until(lambda: page.evaluate("document.querySelector('#video').videoWidth > 0"))
    page.click("#take")
    page.wait_for_selector("#legend button")
    tracks = "document.querySelector('#video').srcObject.getTracks()"
    assert page.evaluate(f"{tracks}.every((track) => track.readyState === 'ended')")
    context.close()
    there = visit()
    missing = "Promise.reject(new DOMException('', 'NotFoundError'))"
    there.page.evaluate(f"void (navigator.mediaDevices.getUserMedia = () => {missing})")
    there.page.click("#camera")
    assert there.alert() == "The camera cannot be used: there is none."


def test_models_can_be_chosen(visit):
    there = visit()
    there.page.click("#sample")
    there.wait_for_result()
    there.page.select_option("#model", "second")
    there.until("document.querySelector('#summary').textContent.includes('second')")


@pytest.mark.parametrize("width", [320, 360, 640, 1280])
def test_nothing_is_wider_than_the_window(visit, width):
    there = visit(viewport={"width": width, "height": 700})
    there.page.click("#sample")
    there.wait_for_result()
    assert there.page.evaluate("document.documentElement.scrollWidth") <= width
    too_small = there.page.evaluate(
        "[...document.querySelectorAll('main button, main .button')].filter((b) => b.offsetParent && "
        "b.getBoundingClientRect().height < 32).map((b) => b.id)"
    )
    assert too_small == [], "hard to hit by a finger"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(visit, scheme):
    """WCAG's contrast of 4.5, in both colour schemes."""
    there = visit(color_scheme=scheme)
    there.page.wait_for_selector("#known li")
    there.page.evaluate("document.querySelector('#error-text').textContent = 'x'")
    there.page.evaluate("document.querySelector('#error').hidden = false")
    for selector in (
        "h1",
        "#invitation",
        "#start p",
        "#known li",
        ".primary",
        "#sample",
        "#error-text",
        "header a",
    ):
        ink, paper = there.page.evaluate(
            "(s) => { let e = document.querySelector(s); const ink = getComputedStyle(e).color; let paper;"
            "while (e && (paper = getComputedStyle(e).backgroundColor) === 'rgba(0, 0, 0, 0)') e = e.parentElement;"
            "return [ink, paper] }",
            selector,
        )
        assert _contrast(ink, paper) >= 4.5, selector
    assert (_luminance(there.page.evaluate("getComputedStyle(document.body).backgroundColor")) < 0.2) == (
        scheme == "dark"
    )


def _luminance(color: str) -> float:
    channels = [float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_files_are_in_the_package() -> None:
    names = {path.name for path in Path(PAGE).iterdir()}
    assert {"index.html", "page.css", "page.js", "sample.jpg"} <= names
    assert SAMPLE.stat().st_size < 150_000


def test_a_file_that_is_not_there(service) -> None:
    assert service.get("/page/none.js").status_code == 404
    answer = service.get("/page/page.js")
    assert answer.status_code == 200 and "javascript" in answer.headers["content-type"]
