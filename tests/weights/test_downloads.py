"""Tests downloads of published weights against a real server on this machine, which does what goes wrong elsewhere."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from segnext.weights import downloads, published, transfer
from segnext.weights.transfer import DownloadError
from tests.full_disk import full_disk
from tests.weights.file_server import Answer, FileServer, checksum, serving, tag_of
from tests.weights.registry import HOST, use

NAME = "ade20k-t"
ROOT = Path(__file__).parents[2]
CONTENT = b"\x80" + hashlib.shake_256(b"weights").digest(3 * 2**20)
OTHER = b"\x80" + hashlib.shake_256(b"other weights").digest(3 * 2**20)


@pytest.fixture
def server(tmp_path, monkeypatch):
    with serving({}) as running:
        monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.01)
        use(monkeypatch, tmp_path, running, {NAME: CONTENT})
        yield running


def entry() -> published.Published:
    return published.load_published(NAME)


def fetched() -> Path:
    return downloads.fetch(entry())


def lying() -> list[str]:
    """Return the ends of the names in the cache folder."""
    file = entry().file
    return sorted(path.name.removeprefix(file) for path in downloads.place(entry()).parent.iterdir())


def refusal(match: str) -> str:
    """Fetch, which must fail with one line."""
    with pytest.raises(DownloadError, match=match) as error:
        fetched()
    assert "\n" not in str(error.value) and str(error.value).startswith("weights: ")
    return str(error.value)


def zipped() -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": {"a": torch.arange(50_000.0)}}, file)
    return file.getvalue()


# --- what goes well ---


def test_a_file_is_fetched_once(server: FileServer, capsys) -> None:
    path = fetched()
    assert path.read_bytes() == CONTENT
    assert path == Path(os.environ["TORCH_HOME"]) / "hub" / "checkpoints" / entry().file
    assert fetched() == path and len(server.asked) == 1
    assert lying() == ["", ".checked"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"segnext: downloading {NAME} (3 MB) from 127.0.0.1:")


def test_a_file_that_others_left_in_the_cache_is_checked_once(server: FileServer, monkeypatch) -> None:
    path = downloads.place(entry())
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert fetched() == path and not server.asked and lying() == ["", ".checked"]
    monkeypatch.setattr(downloads, "_sha256", lambda path: pytest.fail("read again"))
    fetched()


def test_a_damaged_file_in_the_cache_is_fetched_again(server: FileServer, capsys, monkeypatch) -> None:
    path = fetched()
    path.write_bytes(OTHER)
    monkeypatch.setenv("SEGNEXT_OFFLINE", "1")
    assert f"got {path}, with SHA-256 {hashlib.sha256(OTHER).hexdigest()[:8]}... instead of" in refusal(
        "in the cache"
    )
    monkeypatch.delenv("SEGNEXT_OFFLINE")
    assert fetched().read_bytes() == CONTENT
    assert "segnext: note: it is fetched again: the cache has" in capsys.readouterr().err


@pytest.mark.parametrize("variable", downloads.OFFLINE)
def test_offline(server: FileServer, monkeypatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    message = refusal(f"must be in the cache, as {variable} is set, got no ")
    assert f"fetch {HOST}/ade20k/" in message and f"copy it to {downloads.place(entry())}" in message
    assert not server.asked
    monkeypatch.setenv(variable, "0")
    fetched()
    monkeypatch.setenv(variable, "yes")
    assert fetched().read_bytes() == CONTENT


def test_a_folder_can_be_the_mirror(server: FileServer, tmp_path, monkeypatch) -> None:
    copy = tmp_path / "a mirror" / "ade20k" / entry().url.removeprefix(f"{HOST}/ade20k/")
    copy.parent.mkdir(parents=True)
    copy.write_bytes(CONTENT)
    monkeypatch.setenv("SEGNEXT_MIRROR", str(tmp_path / "a mirror"))
    assert fetched().read_bytes() == CONTENT and not server.asked
    downloads.place(entry()).unlink()
    copy.unlink()
    refusal("must be at file://.*, got no such file; connect")


def test_a_mirror_has_the_same_paths(server: FileServer, monkeypatch) -> None:
    assert downloads.address(entry()) == f"{server.url}/ade20k/{entry().url.removeprefix(f'{HOST}/ade20k/')}"
    monkeypatch.setenv("SEGNEXT_MIRROR", "https://mirror.example.org/copies/")
    assert downloads.address(entry()).startswith("https://mirror.example.org/copies/ade20k/")
    monkeypatch.delenv("SEGNEXT_MIRROR")
    assert downloads.address(entry()) == entry().url
    for wrong in ("ftp://mirror", "no/such/folder"):
        monkeypatch.setenv("SEGNEXT_MIRROR", wrong)
        with pytest.raises(ValueError, match=r"SEGNEXT_MIRROR must be https://\.\.\. or a folder, got"):
            fetched()


def test_redirections_are_followed_but_not_away_from_https(server: FileServer) -> None:
    moved = "/elsewhere/file"
    server.files[moved] = CONTENT
    server.answers = [Answer(status=302, headers={"Location": server.url + moved})]
    assert fetched().read_bytes() == CONTENT and server.asked[-1]["path"] == moved
    asked = transfer.urllib.request.Request("https://here/file")
    with pytest.raises(OSError, match="away from https"):
        transfer._HttpsOnly().redirect_request(asked, None, 302, "Found", {}, "http://there/file")


# --- what passes ---


@pytest.mark.parametrize(
    ("answer", "requests"),
    [
        (Answer(status=503), 2),
        (Answer(status=429, headers={"Retry-After": "0"}), 2),
        (Answer(cut=0), 2),
        (Answer(cut=2 * 2**20), 2),
        # the rest that was promised is asked for, and is not there (416)
        (Answer(headers={"Content-Length": str(len(CONTENT) + 5)}), 3),
        (Answer(headers={"Content-MD5": checksum(OTHER)}), 2),
    ],
    ids=["503", "429", "cut-at-once", "cut", "less-than-promised", "wrong-checksum"],
)
def test_what_may_pass_is_tried_again(server: FileServer, answer: Answer, requests: int) -> None:
    server.answers = [answer]
    assert fetched().read_bytes() == CONTENT
    assert len(server.asked) == requests and lying() == ["", ".checked"]


def test_silence_ends(server: FileServer, monkeypatch) -> None:
    monkeypatch.setattr(transfer, "SILENCE", 0.2)
    server.answers = [Answer(stall=0.8)]
    start = time.monotonic()
    assert fetched().read_bytes() == CONTENT
    assert len(server.asked) == 2 and time.monotonic() - start < 0.8


def test_a_server_says_when_to_come_again(server: FileServer, monkeypatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(transfer, "sleep", pauses.append)
    server.answers = [Answer(status=503, headers={"Retry-After": text}) for text in ("7", "9999", "soon")]
    fetched()
    assert pauses == [7, transfer.LONGEST_PAUSE, 0.04]


def test_a_cut_download_goes_on(server: FileServer) -> None:
    server.usual = Answer(cut=500_000)
    message = refusal(
        r"whole, got [\d,]+ of 3,145,729 bytes 5 times; 2,500,000 bytes are kept in .*\.part; the same"
    )
    assert lying() == [".part", ".part.json"] and message.endswith("goes on later")
    server.usual = Answer()
    assert fetched().read_bytes() == CONTENT
    assert [asked.get("range") for asked in server.asked] == [
        None,
        *(f"bytes={count * 500_000}-" for count in range(1, 6)),
    ]
    assert lying() == ["", ".checked"]


def test_a_slow_line_that_breaks_often_brings_the_file(server: FileServer, monkeypatch) -> None:
    monkeypatch.setattr(transfer, "GAIN", 200_000)
    server.usual = Answer(cut=262_144)
    assert fetched().read_bytes() == CONTENT and len(server.asked) == 13


def test_a_server_without_parts_sends_the_whole_file(server: FileServer) -> None:
    server.usual = Answer(ranges=False)
    server.answers = [Answer(cut=2 * 2**20)]
    assert fetched().read_bytes() == CONTENT and server.asked[1]["range"] == f"bytes={2 * 2**20}-"


def test_parts_of_two_files_are_not_glued(server: FileServer) -> None:
    (path,) = server.files
    server.files[path] = OTHER
    server.usual = Answer(cut=300_000)
    refusal("5 times")
    server.files[path] = CONTENT
    server.usual = Answer()
    assert fetched().read_bytes() == CONTENT and len(server.asked) == 6
    assert (server.asked[-1]["range"], server.asked[-1]["if-range"]) == ("bytes=1500000-", tag_of(OTHER))


def test_glued_parts_are_found_and_fetched_again(server: FileServer, monkeypatch) -> None:
    """A server that ignores If-Range sends the rest of another file."""
    (path,) = server.files
    server.files[path] = OTHER
    server.usual = Answer(cut=300_000)
    refusal("5 times")
    part = downloads.place(entry()).with_name(f"{entry().file}.part")
    notes = part.with_name(f"{part.name}.json")
    notes.write_text(json.dumps({**json.loads(notes.read_text()), "validator": tag_of(CONTENT)}))
    server.files[path], server.usual = CONTENT, Answer()
    assert fetched().read_bytes() == CONTENT
    assert [asked.get("range") for asked in server.asked[5:]] == ["bytes=1500000-", None]


def test_a_part_that_is_whole_needs_no_server(server: FileServer) -> None:
    """The process was killed before the file got its name."""
    fetched()
    path = downloads.place(entry())
    part = path.with_name(f"{path.name}.part")
    path.rename(part)
    notes = {
        "url": downloads.address(entry()),
        "validator": '"x"',
        "size": len(CONTENT),
        "md5": checksum(CONTENT),
    }
    part.with_name(f"{part.name}.json").write_text(json.dumps(notes))
    assert fetched().read_bytes() == CONTENT and len(server.asked) == 1


# --- what does not pass ---


def test_a_missing_file_is_asked_for_once(server: FileServer) -> None:
    server.files.clear()
    message = refusal(r"must be at http://.*, got HTTP 404 \(Not Found\); connect, set SEGNEXT_MIRROR to")
    assert len(server.asked) == 1 and lying() == [] and f"copy it to {downloads.place(entry())}" in message


@pytest.mark.parametrize(
    "answer",
    [
        Answer(headers={"Content-Type": "text/html; charset=utf-8"}),
        Answer(body=b"\n  <!DOCTYPE html><html>Please log in</html>"),
    ],
    ids=["by-type", "by-content"],
)
def test_a_page_of_a_proxy_is_no_checkpoint(server: FileServer, answer: Answer) -> None:
    server.usual = answer
    refusal(r"as a checkpoint, got a web page \(.*\), as a proxy or a login sends; connect")
    assert lying() == [] and len(server.asked) == 1


def test_another_file_is_refused_and_not_kept(server: FileServer) -> None:
    (path,) = server.files
    server.files[path] = OTHER
    digits = [hashlib.sha256(content).hexdigest()[:8] for content in (OTHER, CONTENT)]
    refusal(rf"with SHA-256 {digits[0]}\.\.\. instead of {digits[1]}\.\.\.; try again")
    assert lying() == []
    server.files[path] = CONTENT[:-1]
    refusal("3,145,728 bytes instead of 3,145,729")
    assert lying() == []


def test_a_file_of_unknown_digest_is_checked_by_its_own(tmp_path, monkeypatch, server: FileServer) -> None:
    """Nobody has measured most published files: a torch file has checksums inside."""
    whole, folder = zipped(), tmp_path / "unknown"
    folder.mkdir()
    use(monkeypatch, folder, server, {NAME: whole}, digest=False)
    (path,) = (path for path, content in server.files.items() if content is whole)
    assert entry().sha256 is None
    for damaged, reason in (
        (whole[:150_000] + b"?" + whole[150_001:], "whose entry .*data/0 is damaged"),
        (whole[:150_000], "which is cut or damaged"),
        (b"version https://git-lfs.github.com/spec/v1", "which begins with b'vers' and is no checkpoint"),
    ):
        server.files[path] = damaged
        refusal(reason)
        assert lying() == []
    server.files[path] = whole
    file = fetched()
    assert (
        json.loads(file.with_name(f"{file.name}.checked").read_text())["sha256"]
        == hashlib.sha256(whole).hexdigest()
    )


def test_no_network(server: FileServer, monkeypatch) -> None:
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("SEGNEXT_MIRROR", f"http://127.0.0.1:{closed.getsockname()[1]}")
        refusal(r"must be fetched from 127\.0\.0\.1:\d+, got no connection \(Connection refused\); connect")
    monkeypatch.setenv("SEGNEXT_MIRROR", "http://no-such-host.invalid")
    refusal(r"must be fetched from no-such-host\.invalid, got no connection \(.+\); connect")


def test_a_full_disk(server: FileServer) -> None:
    with full_disk(2**20):
        refusal(
            r"disk must have room for ade20k-t of 3,145,729 bytes, got 'File too large' in .*; free some, or let"
        )
    assert lying() == []
    assert fetched().read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written(server: FileServer, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    refusal(
        r"cache must be writable for ade20k-t, got 'Not a directory' for .*; let TORCH_HOME name another folder"
    )
    assert not server.asked


def test_a_part_that_cannot_be_written(server: FileServer) -> None:
    part = downloads.place(entry()).with_name(f"{entry().file}.part")
    part.mkdir(parents=True)
    refusal(r"cache must be writable for ade20k-t, got 'Is a directory' for .*\.part; let TORCH_HOME")


def test_of_two_processes_one_downloads(server: FileServer, tmp_path) -> None:
    server.usual = Answer(pause=0.05)  # 49 pieces: 2.5 seconds
    script = (
        "import sys; from pathlib import Path; from segnext.weights import downloads, published\n"
        f"published.FILE = Path({str(published.FILE)!r})\n"
        f"print(downloads.fetch(published.load_published({NAME!r})))"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert {out.strip() for out, _ in outputs} == {str(downloads.place(entry()))}
    said = "".join(err for _, err in outputs)
    assert said.count("segnext: downloading ade20k-t") == 1 and len(server.asked) == 1
    assert said.count("segnext: waiting for another process, which downloads ade20k-t") == 1
    assert lying() == ["", ".checked"]
