"""`segnext predict` on films: results, what exists already, what fails, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

from segnext.cli._films import FilmOptions, film_results, is_done
from tests import processes
from tests.cli.test_signals import start

pytest.importorskip("av", reason="PyAV is not installed")

from tests.film.conftest import film_of, picture, write_film


@pytest.fixture
def film(tmp_path):
    return write_film(tmp_path / "clip.mp4", [picture(i) for i in range(4)])


def test_film_beside_photographs(run, film, photos, tmp_path):
    status, text, _ = run(film, photos, "--masks")
    out = tmp_path / "out"
    assert status == 0 and "clip.mp4: 4 frames of 64x48" in text
    assert len(film_of(out / "clip_overlay.mp4")) == 4
    assert len(list((out / "clip_masks").iterdir())) == 4 and len(list(out.glob("?_mask.png"))) == 3
    summary = json.loads((out / "clip_film.json").read_text())
    assert (summary["frames"], summary["skipped"]) == (4, 0)
    assert sum(summary["statistics"].values()) == pytest.approx(1)
    assert len((out / "clip_frames.jsonl").read_text().splitlines()) == 4


def test_json_is_a_line_per_film(run, film):
    status, text, _ = run(film, "--json", "--frames", 2, "--no-overlay")
    assert status == 0
    summary = json.loads(text)
    assert summary["frames"] == 2 and "overlay" not in summary["results"]


def test_results_that_exist(run, film, tmp_path):
    assert run(film, "--masks")[0] == 0
    status, _, errors = run(film)
    assert status == 1 and "results of films must not exist yet" in errors and "--resume" in errors
    before = (tmp_path / "out/clip_overlay.mp4").stat().st_mtime_ns
    assert run(film, "--masks", "--resume")[:2] == (0, "")
    assert (tmp_path / "out/clip_overlay.mp4").stat().st_mtime_ns == before
    write_film(film, [picture(i) for i in range(2)])  # another film of this name
    assert "2 frames" in run(film, "--masks", "--resume")[1]
    assert sorted(os.listdir(tmp_path / "out/clip_masks")) == ["000000.png", "000001.png"]
    assert run(film, "--overwrite")[0] == 0


def test_one_that_fails_ends_none_of_the_others(run, film, tmp_path):
    (tmp_path / "bad.mp4").write_text("no film")
    status, text, errors = run(tmp_path / "bad.mp4", film, tmp_path / "none.mov")
    assert status == 1 and "clip.mp4: 4 frames" in text
    assert f"{tmp_path / 'bad.mp4'}: cannot be opened as a film" in errors
    assert "none.mov" in errors and "1 of 3 done, 2 failed" in errors
    assert not list((tmp_path / "out").glob("bad*"))


def test_patterns_numbers_and_animations(run, tmp_path):
    frames = [Image.fromarray(picture(i)) for i in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:], duration=40)
    (tmp_path / "frames").mkdir()
    for index, frame in enumerate(frames):
        frame.save(tmp_path / f"frames/{index:03d}.png")
    for name in ("a.mkv", "b.mkv"):
        write_film(tmp_path / name, [picture(0)])
    status, text, _ = run(
        tmp_path / "*.mkv", tmp_path / "moving.gif", tmp_path / "frames/%03d.png", "--rate", 5
    )
    assert status == 0, text
    made = {path.name for path in (tmp_path / "out").glob("*_overlay.mp4")}
    assert made == {"a_overlay.mp4", "b_overlay.mp4", "moving_overlay.mp4", "frames_overlay.mp4"}
    assert film_of(tmp_path / "out/frames_overlay.mp4")[1][0] == pytest.approx(0.2, abs=1e-3)


def test_names_of_the_results_of_numbered_images(tmp_path):
    films = [tmp_path / "frames.1/%06d.png", tmp_path / "shots/view_%d.png", "/%d.png"]
    names = film_results([str(film) for film in films], None)
    assert list(names.values()) == ["frames.1", "view", "frames"]
    with pytest.raises(ValueError, match=r"got \S*camera.mp4 too; use two calls"):
        film_results(["camera.mp4"], "0")


def test_what_a_folder_and_a_pattern_leave_out_is_said(run, film, photos, tmp_path):
    out = tmp_path / "out"
    write_film(photos / "b.mov", [picture(0)])
    assert run(film)[0] == 0
    write_film(out / "a.mp4", [picture(0)])
    status, text, errors = run(photos, out / "*.mp4")
    assert status == 0 and "a.mp4: 1 frames" in text and "clip_overlay.mp4:" not in text
    assert f"note: 1 film (b.mov) in {photos} left out; a folder means its photographs" in errors
    assert "clip_overlay.mp4) left out as results" in errors


@pytest.mark.parametrize(
    ("first", "then"), [(["--frames", 2], []), ([], ["--masks"]), (["--no-overlay"], [])], ids=str
)
def test_resume_makes_what_an_earlier_call_was_not_asked_for(run, film, first, then):
    assert run(film, *first)[0] == 0
    status, text, _ = run(film, "--resume", *then)
    assert status == 0 and "4 frames" in text


def test_several_processes_share_no_film(weights, film, tmp_path):
    words = ("-m", "segnext", "predict", film, "-w", weights, "-o", tmp_path / "out")
    for status, _, errors in processes.ended(processes.start(2, *words)):
        assert status == 1
        assert "films must run in one process, got 2; give each process its own films" in errors
        assert "Traceback" not in errors


def test_no_input_is_one_line(run):
    status, _, errors = run()
    assert status == 1 and "inputs must name photographs or films, got nothing; or use --camera 0" in errors


def test_a_camera_that_is_not_there(run):
    status, _, errors = run("--camera", "/dev/video77")
    assert status == 1 and "/dev/video77: cannot be opened as a film (No such file or directory)" in errors


def test_without_pyav(film, weights, tmp_path, monkeypatch, segnext):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    status, _, errors = segnext("predict", film, "-w", weights, "-o", tmp_path / "out")
    assert status == 1 and "films need PyAV: pip install 'segnext[video]'" in errors


def test_ctrl_c_leaves_a_film_of_what_is_done(weights, tmp_path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 96, 3), np.uint8)] * 2000
    film = write_film(tmp_path / "long.mkv", noise, "mpeg4")
    process = start("predict", film, "-w", weights, "-o", tmp_path / "out", "--masks", "--threads", 1)
    masks = tmp_path / "out/long_masks"
    while process.poll() is None and not (masks.exists() and any(masks.iterdir())):
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130 and "stopping after this frame" in errors and "Traceback" not in errors
    assert 1 <= len(film_of(tmp_path / "out/long_overlay.mp4")) < 2000
    summary = json.loads((tmp_path / "out/long_film.json").read_text())
    assert summary["stopped"] is True
    wanted = FilmOptions(tmp_path / "out", True, 0.5, True, None, None, summary["run"])
    assert not is_done(tmp_path / "out/long_film.json", str(film), wanted), (
        "--resume would leave out the rest"
    )
    (tmp_path / "out/long_film.json").write_text(json.dumps({**summary, "stopped": False}))
    assert is_done(tmp_path / "out/long_film.json", str(film), wanted)
