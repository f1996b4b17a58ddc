"""bench.film measures a film beside the loop, and writes the film that the documents use."""

import pytest

pytest.importorskip("av", reason="PyAV is not installed")

from bench import film, results
from segnext.film import read_frames


def test_measures_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(film, "SIZES", ((48, 64),))
    film.main(["--frames", "2", "--seconds", "0", "--results", str(tmp_path)])
    (path,) = tmp_path.glob("*/film/*.json")
    run = results.read(path)
    (row,) = run.rows
    assert set(row.times) == {results.OURS, film.LOOP} and row.notes["frames"] == 2
    assert film.table(run) in capsys.readouterr().out


def test_masks_are_compared_first(monkeypatch):
    expected = film._expect_equal
    monkeypatch.setattr(
        film, "_expect_equal", lambda p, clip, frames, to: expected(p, clip, frames[::-1], to)
    )
    with pytest.raises(ValueError, match="masks of frame 0 must be equal"):
        film.measure(48, 64, 4, 0)


def test_clip(tmp_path):
    film.main(["--clip", str(tmp_path / "clip.mp4"), "--frames", "3"])
    frames = list(read_frames(tmp_path / "clip.mp4"))
    assert [frame.pixels.shape for frame in frames] == [(480, 640, 3)] * 3
