"""`segnext predict`: one bad file ends nothing but itself, nothing is lost, and nothing is written elsewhere."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segnext.locks import sole_use
from segnext.predict.prediction import Prediction
from tests.full_disk import MESSAGE, full_disk


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def summary(folder: Path) -> dict:
    return json.loads((folder / "predictions.json").read_text())


def images(folder: Path) -> list[str]:
    return [Path(record["image"]).name for record in summary(folder)["images"]]


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


class TestOneFileEndsNothing:
    def test_names_and_links_of_every_kind(self, run, photos, out):
        (photos / "circle.png").symlink_to("circle.png")
        long = photos / f"{'x' * 251}.png"
        (photos / "1.png").rename(long)
        odd = ["~nobody-has-this-name/a.jpg", "y" * 300, "a\nb.jpg", str(photos / "circle.png")]
        status, _, errors = run(photos, *odd)
        lines = errors.splitlines()
        assert status == 1 and lines[-1] == "segnext: 3 of 7 done, 4 failed" and len(lines) == 5
        for name, line in zip(["~nobody", "yyy", "a\\nb.jpg", "circle.png"], lines, strict=False):
            assert line.startswith("segnext: ") and name in line
        assert images(out) == ["0.png", "2.png", long.name] and len(names(out)) == 7

    def test_overlays_that_are_too_large_for_a_jpeg(self, run, photos, out, monkeypatch):
        # The real limit is met in tests/predict; here the legend makes every overlay larger than this one.
        monkeypatch.setattr("segnext.predict.prediction.LARGEST_JPEG", 100)
        Image.new("RGB", (32, 16)).save(photos / "a.png")
        assert run(photos)[0] == 0
        overlays = [record["overlay"] for record in summary(out)["images"]]
        assert overlays == ["0_overlay.png", "1_overlay.png", "2_overlay.png", "a_overlay.png"]
        before = (out / "0_mask.png").stat().st_mtime_ns
        assert run(photos, "--resume")[0] == 0
        assert (out / "0_mask.png").stat().st_mtime_ns == before
        (out / "predictions.json").unlink()
        for mask in out.glob("*_mask.png"):
            mask.unlink()
        status, _, errors = run(photos)
        assert status == 1 and "0_overlay.png" in errors

    def test_an_overlay_that_fails_leaves_the_mask(self, run, photos, out):
        (out / "1_overlay.jpg").mkdir(parents=True)
        status, _, errors = run(photos, "--overwrite")
        assert status == 1 and "its mask is written, its overlay is not" in errors.splitlines()[0]
        assert errors.splitlines()[-1] == "segnext: 3 of 3 done, 1 failed"
        assert [record.get("overlay") for record in summary(out)["images"]] == [
            "0_overlay.jpg",
            None,
            "2_overlay.jpg",
        ]
        (out / "1_overlay.jpg").rmdir()
        assert run(photos, "--resume")[0] == 0
        assert all("overlay" in record for record in summary(out)["images"])

    def test_a_full_disk_is_named_for_each_file(self, run, photos, out):
        pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
        Image.fromarray(pixels).save(photos / "1.png")
        with full_disk(9_000):
            status, _, errors = run(photos)
        assert status == 1 and errors.splitlines() == [
            f"segnext: {photos / '1.png'}: {out / '1_overlay.jpg'}: {MESSAGE}; its mask is written, its overlay is not",
            "segnext: 3 of 3 done, 1 failed",
        ]
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        with full_disk(40):
            status, _, errors = run(photos, "--overwrite")
        assert status == 1 and errors.splitlines() == [
            *(f"segnext: {photos / f'{n}.png'}: {out / f'{n}_mask.png'}: {MESSAGE}" for n in (0, 1, 2)),
            f"segnext: {out / 'predictions.json'}: {MESSAGE}; go on with --resume",
            "segnext: 0 of 3 done, 4 failed",
        ]
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


class TestLinks:
    @pytest.mark.parametrize("name", ["0_mask.png", "0_overlay.jpg", "predictions.json", "predictions.jsonl"])
    def test_links_are_replaced_and_not_followed(self, run, photos, tmp_path, out, name):
        out.mkdir()
        (out / name).symlink_to(tmp_path / "mine")
        status, _, errors = run(photos / "0.png")  # it dangles, but it is there
        assert status == 1 and "results must not exist yet" in errors and name in errors
        (tmp_path / "mine").write_text("mine")
        assert run(photos / "0.png", "--overwrite")[0] == 0
        assert (tmp_path / "mine").read_text() == "mine" and not (out / name).is_symlink()
        assert names(out) == ["0_mask.png", "0_overlay.jpg", "predictions.json"]


class TestResume:
    @pytest.fixture
    def stopped(self, run, photos, monkeypatch):
        """Return what a call said that got a signal while it saved the second image."""
        save = Prediction.save_mask

        def save_mask(prediction: Prediction, path: Path) -> None:
            if path.name == "1_mask.png":
                signal.raise_signal(signal.SIGTERM)
            save(prediction, path)

        with monkeypatch.context() as patch:
            patch.setattr(Prediction, "save_mask", save_mask)
            return run(photos)

    def test_a_signal_ends_it_after_the_image(self, stopped, run, photos, out):
        status, _, errors = stopped
        assert status == 130 and errors.endswith(
            "segnext: 2 of 3 done, 0 failed; stopped, go on with --resume\n"
        )
        assert "predictions.jsonl" in names(out) and "predictions.json" not in names(out)
        status, _, errors = run(photos)
        assert status == 1 and "--resume to go on" in errors
        before = {name: (out / name).stat().st_mtime_ns for name in names(out) if "_" in name}
        assert run(photos, "--resume")[0] == 0
        assert images(out) == ["0.png", "1.png", "2.png"] and len(names(out)) == 7
        assert {name: (out / name).stat().st_mtime_ns for name in before} == before

    def test_what_is_missing_or_half_recorded_is_made_again(self, stopped, run, photos, out):
        (out / "0_mask.png").unlink()
        with (out / "predictions.jsonl").open("a") as file:
            file.write('{"image": "half')
        assert run(photos, "--resume")[0] == 0
        assert sorted(images(out)) == ["0.png", "1.png", "2.png"] and len(names(out)) == 7

    def test_other_settings_are_refused(self, stopped, run, photos, out):
        before = (out / "predictions.jsonl").read_bytes()
        status, _, errors = run(photos, "--resume", "--alpha", 0.3, "--flip")
        assert status == 1 and "settings to resume with must be those of the results" in errors
        assert (
            "got inference.flip False -> True, overlay 0.5 -> 0.3; repeat" in errors
            and errors.count("\n") == 1
        )
        assert (out / "predictions.jsonl").read_bytes() == before

    def test_other_weights_of_the_same_name_are_refused(self, stopped, run, photos, out):
        lines = (out / "predictions.jsonl").read_text().splitlines(keepends=True)
        run_ = json.loads(lines[0])
        run_["weights_digest"] = "0" * 16
        (out / "predictions.jsonl").write_text("".join([json.dumps(run_) + "\n", *lines[1:]]))
        assert "got weights_digest 0000000000000000 -> " in run(photos, "--resume")[2]

    @pytest.mark.parametrize(
        "content", ["", "{", "[]\n", "{}\n[]\n", '{}\n{"image": 1}\n', "\0\n", "[" * 99_999 + "\n"]
    )
    def test_a_damaged_journal_is_one_line(self, run, photos, out, content):
        out.mkdir()
        (out / "predictions.jsonl").write_text(content)
        status, _, errors = run(photos, "--resume")
        assert status == 1 and errors.count("\n") == 1
        assert "must hold the records of a run, got a damaged file; begin anew with --overwrite" in errors

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("overlay", 5),
            ("seconds", "soon"),
            ("width", None),
            ("statistics", {"a": "much"}),
            ("statistics", []),
        ],
    )
    def test_a_damaged_record_is_one_line(self, run, photos, out, key, value):
        assert run(photos / "0.png")[0] == 0
        content = summary(out)
        content["images"][0][key] = value
        (out / "predictions.json").write_text(json.dumps(content))
        status, _, errors = run(photos / "0.png", "--resume")
        assert status == 1 and errors.count("\n") == 1
        assert "must hold the records of a run, got a damaged file; begin anew with --overwrite" in errors

    def test_a_finished_run_takes_more_photographs(self, run, photos, out):
        assert run(photos / "0.png")[0] == 0
        before = (out / "0_mask.png").stat().st_mtime_ns
        assert run(photos, "--resume")[0] == 0
        assert (
            images(out) == ["0.png", "1.png", "2.png"] and (out / "0_mask.png").stat().st_mtime_ns == before
        )

    def test_results_of_another_photograph_are_not_replaced(self, run, photos, out):
        """One photograph alone is named by its stem, so that its results would be those of another of that name."""
        (photos / "more").mkdir()
        (photos / "2.png").rename(photos / "more" / "0.png")
        assert run(photos / "0.png")[0] == 0
        before = (out / "0_mask.png").read_bytes(), (out / "predictions.json").read_bytes()
        status, _, errors = run(photos / "more" / "0.png", "--resume")
        assert status == 1 and "got 0_mask.png in" in errors and f"which is of {photos / '0.png'};" in errors
        assert ((out / "0_mask.png").read_bytes(), (out / "predictions.json").read_bytes()) == before
        assert names(out) == ["0_mask.png", "0_overlay.jpg", "predictions.json"]
        assert (
            run(photos / "0.png", photos / "more" / "0.png", "--resume")[0] == 0
        )  # two names of more letters
        assert len(images(out)) == 2

    def test_a_photograph_that_took_the_name_of_another_is_not_done(
        self, run, photos, out, tmp_path, monkeypatch
    ):
        """The same line in another folder means other photographs."""
        monkeypatch.chdir(photos)
        assert run("0.png", "1.png")[0] == 0
        before = (out / "0_mask.png").read_bytes()
        (tmp_path / "others").mkdir()
        (photos / "2.png").rename(tmp_path / "others" / "0.png")
        monkeypatch.chdir(tmp_path / "others")
        status, _, errors = run("0.png", "--resume")
        assert status == 1 and errors.count("\n") == 1 and f"which is of {photos / '0.png'};" in errors
        assert (out / "0_mask.png").read_bytes() == before

        monkeypatch.chdir(tmp_path)
        modified = (out / "0_mask.png").stat().st_mtime_ns
        assert run(os.path.relpath(photos / "0.png"), "--resume")[0] == 0
        assert (out / "0_mask.png").stat().st_mtime_ns == modified, "it is the same one under another name"

        os.replace(tmp_path / "others" / "0.png", photos / "0.png")
        assert run(photos / "0.png", photos / "1.png", "--resume")[0] == 0
        assert (out / "0_mask.png").stat().st_mtime_ns != modified and len(images(out)) == 2
        (photos / "1.png").write_bytes(b"no image")
        status, _, errors = run(photos / "0.png", photos / "1.png", "--resume")
        assert status == 1 and "1 of 2 done, 1 failed" in errors and images(out) == ["0.png"]

    def test_a_folder_that_was_moved_is_done(self, run, photos, out, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert run(Path(photos.name) / "0.png")[0] == 0
        modified = (out / "0_mask.png").stat().st_mtime_ns
        (tmp_path / "elsewhere").mkdir()
        photos.rename(tmp_path / "elsewhere" / photos.name)
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert run(Path(photos.name) / "0.png", "--resume")[0] == 0
        assert (out / "0_mask.png").stat().st_mtime_ns == modified
        assert summary(out)["images"][0]["file"] == str(tmp_path / "elsewhere" / photos.name / "0.png")

    @pytest.mark.parametrize("name", ["predictions.jsonl", "predictions.json"])
    def test_records_in_a_pipe_are_not_waited_for(self, run, photos, out, name):
        out.mkdir()
        os.mkfifo(out / name)
        status, _, errors = run(photos, "--resume")
        assert status == 1 and errors.count("\n") == 1
        assert (
            f"{out / name} must be the records of a run, got something that is no file; remove it" in errors
        )

    def test_without_anything_to_go_on_from_it_begins(self, run, photos, out):
        assert run(photos, "--resume")[0] == 0 and len(images(out)) == 3
        status, _, errors = run(photos, "--resume", "--overwrite")
        assert status == 1 and "must not both be given" in errors

    def test_files_of_someone_else_are_not_replaced(self, run, photos, out):
        out.mkdir()
        (out / "0_mask.png").write_text("mine")
        assert run(photos, "--resume")[0] == 1 and (out / "0_mask.png").read_text() == "mine"


def test_results_in_the_folder_of_the_photographs(run, photos, out):
    photos.rename(out)
    assert run(out)[0] == 0
    assert run(out, "--overwrite")[0] == 0
    assert images(out) == ["0.png", "1.png", "2.png"]


def test_a_photograph_that_is_named_like_a_result_is_left_out_with_a_note(run, photos, out):
    photos.rename(out)
    (out / "2.png").rename(out / "gas_mask.png")
    for words in ((), ("--overwrite",), ("--overwrite", "--no-overlay")):
        status, _, errors = run(out, *words)
        assert status == 0 and images(out) == ["0.png", "1.png"]
        assert errors == (
            "segnext: note: 1 file of a result's name left out: gas_mask.png; name what is a photograph itself\n"
        )
    assert run(out, out / "gas_mask.png", "--overwrite")[2] == "" and images(out)[-1] == "gas_mask.png"


def test_results_never_replace_a_photograph_of_the_call(run, photos, out):
    (photos / "1.png").rename(photos / "0_mask.png")
    photos.rename(out)
    before = (out / "0_mask.png").read_bytes()
    status, _, errors = run(out / "0.png", out / "0_mask.png", "--overwrite")
    assert (
        status == 1
        and f"must not replace photographs, got {out / '0_mask.png'} for {out / '0.png'}" in errors
    )
    assert (out / "0_mask.png").read_bytes() == before and names(out) == ["0.png", "0_mask.png", "2.png"]


def test_an_output_that_is_a_link_to_nothing(run, photos, out):
    out.symlink_to("nowhere")
    status, _, errors = run(photos)
    assert status == 1 and f"--output must be a folder, got {out}, which is none" in errors


def test_two_calls_in_one_folder(run, photos, out):
    out.mkdir()
    with sole_use("predict", out):
        status, _, errors = run(photos)
    assert status == 1 and "output must not be in use" in errors and names(out) == []


def test_permissions_follow_the_umask(run, photos, out):
    before = os.umask(0o027)
    try:
        run(photos)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o640}
