"""What a run leaves in its folder when it ends early, replaces an earlier run, or meets another one."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segnext import create_model
from segnext.data.config import DataConfig, load_data_config
from segnext.locks import sole_use
from segnext.signals import StoppedAtOnce
from segnext.training.folder import CHECKPOINT, RECIPE
from segnext.training.settings import Reporting
from tests.data.synthetic import write_data_set
from tests.full_disk import MESSAGE, full_disk
from tests.training.runs import Trigger, assert_equal_runs, header, rows, run, tensors

FINAL = "final.safetensors"
RARELY = Reporting(checkpoint_every=100, log_every=1, workers=0)


@pytest.fixture
def data(tmp_path) -> DataConfig:
    return load_data_config(write_data_set(tmp_path / "houses"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stop_at_once() -> None:
    """Stand for a process that is killed between two steps."""
    raise StoppedAtOnce


class TestSavedFirst:
    def test_an_error_of_the_data_leaves_a_checkpoint(self, data, tmp_path, capsys):
        image = data.splits["train"].images / "scene03.png"  # the fifth of this seed
        good = image.read_bytes()
        one = {"reporting": RARELY, "batch_size": 1, "crop": 64, "seed": 4}
        damage = Trigger("step 1/6", lambda: image.write_bytes(good[:200]))
        with pytest.raises(ValueError, match=r"scene03\.png"):
            run(data, tmp_path / "run", file=damage, **one)
        step = header(tmp_path / "run" / CHECKPOINT)["step"]
        assert f"stopped at step {step}; go on with --resume" in capsys.readouterr().err and int(step) > 0
        image.write_bytes(good)
        run(data, tmp_path / "run", resume=True, **one)
        run(data, tmp_path / "whole", **one)
        assert_equal_runs(tmp_path / "whole", tmp_path / "run")

    @pytest.mark.parametrize("steps", [4, 6])
    def test_an_evaluation_that_fails(self, data, tmp_path, steps):
        """The weights of the last step are there, and so is the checkpoint; the evaluation is made up for."""
        label = data.splits["val"].labels / "scene01.png"
        good = label.read_bytes()
        often = Reporting(eval_every=4, checkpoint_every=100, log_every=1, workers=0)
        damage = Trigger("step 1/", lambda: label.write_bytes(b"no image"))
        with pytest.raises(ValueError, match=r"scene01\.png"):
            run(data, tmp_path / "run", reporting=often, steps=steps, file=damage)
        assert header(tmp_path / "run" / CHECKPOINT)["step"] == "4"
        if steps == 4:
            assert create_model(weights=tmp_path / "run" / FINAL).metadata["metrics"] == {}
        label.write_bytes(good)
        run(data, tmp_path / "run", reporting=often, steps=steps, resume=True)
        run(data, tmp_path / "whole", reporting=often, steps=steps)
        assert_equal_runs(tmp_path / "whole", tmp_path / "run")
        metrics = [
            create_model(weights=tmp_path / name / FINAL).metadata["metrics"] for name in ("run", "whole")
        ]
        assert metrics[0] == metrics[1] != {}

    def test_a_signal_ends_an_evaluation(self, data, tmp_path):
        often = Reporting(eval_every=3, checkpoint_every=3, log_every=1, workers=0)
        stop = Trigger("step 3/6  loss", lambda: signal.raise_signal(signal.SIGHUP))
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path / "run", reporting=often, file=stop)
        assert [row[0] for row in rows(tmp_path / "run")] == ["1", "2", "3"]
        run(data, tmp_path / "run", reporting=often, resume=True)
        assert [row[0] for row in rows(tmp_path / "run")] == ["1", "2", "3", "3", "4", "5", "6", "6"]

    def test_curves_that_cannot_be_drawn_end_nothing(self, data, tmp_path):
        pytest.importorskip("matplotlib")
        (tmp_path / "run" / "curves.png").mkdir(parents=True)
        report = io.StringIO()
        run(data, tmp_path / "run", steps=2, warmup=0, file=report, resume=True)
        assert "curves.png was not drawn: " in report.getvalue()


class TestFullDisk:
    def test_at_a_checkpoint(self, data, tmp_path):
        """The earlier checkpoint survives; one line says which it is."""
        with pytest.raises(StoppedAtOnce):
            run(data, tmp_path, file=Trigger("step 5/6", stop_at_once))
        before = (tmp_path / CHECKPOINT).read_bytes()
        with full_disk(20_000), pytest.raises(OSError) as error:
            run(data, tmp_path, resume=True)
        assert str(error.value) == (
            f"train: {tmp_path / CHECKPOINT} must be written at step 6, got {MESSAGE}; that of step 3 is "
            "unharmed; make room and go on with --resume"
        )
        assert (tmp_path / CHECKPOINT).read_bytes() == before
        run(data, tmp_path, resume=True)
        assert header(tmp_path / CHECKPOINT)["step"] == "6"

    def test_at_the_first_checkpoint(self, data, tmp_path):
        with (
            full_disk(20_000),
            pytest.raises(OSError, match="at step 3, got .*; there is none yet; make room"),
        ):
            run(data, tmp_path / "run")
        assert sorted(content(tmp_path / "run")) == ["results.csv", "results.jsonl"]

    def test_at_the_first_checkpoint_of_a_run_that_replaces_another(self, data, tmp_path):
        run(data, tmp_path / "run", steps=2, warmup=0)
        with full_disk(20_000), pytest.raises(OSError) as error:
            run(data, tmp_path / "run", overwrite=True)
        # --resume would go on with the earlier run
        assert "the earlier run is unharmed; make room and repeat --overwrite" in str(error.value)
        run(data, tmp_path / "run", overwrite=True)
        assert header(tmp_path / "run" / CHECKPOINT)["step"] == "6"

    def test_half_a_row_counts_for_nothing(self, data, tmp_path):
        def half() -> None:
            for name, part in (("results.csv", "2,0.1"), ("results.jsonl", '{"step": 2, "lo')):
                with (tmp_path / "run" / name).open("a") as file:
                    file.write(part)
            stop_at_once()

        with pytest.raises(StoppedAtOnce):
            run(data, tmp_path / "run", file=Trigger("step 4/6", half))
        run(data, tmp_path / "run", resume=True)
        run(data, tmp_path / "whole")
        assert_equal_runs(tmp_path / "whole", tmp_path / "run")


class TestOverwrite:
    def test_the_old_run_stays_until_there_is_a_checkpoint(self, data, tmp_path):
        run(data, tmp_path / "run", steps=2, warmup=0)
        before = content(tmp_path / "run")
        with pytest.raises(StoppedAtOnce):
            stop = Trigger("step 2/6", stop_at_once)
            run(data, tmp_path / "run", overwrite=True, file=stop)
        assert content(tmp_path / "run") == before
        with pytest.raises(StoppedAtOnce):
            stop = Trigger("step 4/6", stop_at_once)
            run(data, tmp_path / "run", overwrite=True, file=stop)
        assert sorted(content(tmp_path / "run")) == [CHECKPOINT, RECIPE, "results.csv", "results.jsonl"]
        assert [row[0] for row in rows(tmp_path / "run")] == ["1", "2", "3", "4"]
        run(data, tmp_path / "run", resume=True)
        run(data, tmp_path / "whole")
        assert_equal_runs(tmp_path / "whole", tmp_path / "run")

    @pytest.mark.parametrize("name", ["checkpoint.safetensors", "results.csv", "results.jsonl"])
    def test_killed_while_the_old_run_gives_way(self, data, tmp_path, monkeypatch, name):
        run(data, tmp_path / "run", steps=2, warmup=0)
        rename = os.replace

        def killed(source: Path, target: Path) -> None:
            if Path(source) == tmp_path / "run" / f".first-{name}":
                raise StoppedAtOnce
            rename(source, target)

        with monkeypatch.context() as patch, pytest.raises(StoppedAtOnce):
            patch.setattr(os, "replace", killed)
            run(data, tmp_path / "run", overwrite=True)
        run(data, tmp_path / "run", resume=True)
        run(data, tmp_path / "whole")
        assert_equal_runs(tmp_path / "whole", tmp_path / "run")
        assert sorted(content(tmp_path / "run")) == sorted(content(tmp_path / "whole"))

    @pytest.mark.parametrize("name", [CHECKPOINT, FINAL, "results.csv", "results.jsonl", "curves.png"])
    def test_a_folder_with_the_name_of_a_file_is_refused_before_a_step(self, data, tmp_path, name):
        (tmp_path / "run" / name).mkdir(parents=True)
        with pytest.raises(FileExistsError) as error:
            run(data, tmp_path / "run", steps=2, warmup=0, overwrite=True)
        assert str(error.value) == (
            f"train: {tmp_path / 'run' / name} must be a file, got a folder; remove it, or choose another --output"
        )
        assert [path.name for path in (tmp_path / "run").iterdir()] == [name]

    def test_links_of_an_old_run_are_replaced_and_not_followed(self, data, tmp_path):
        folder = tmp_path / "run"
        folder.mkdir()
        for name in (CHECKPOINT, FINAL, "results.csv"):
            (tmp_path / f"my-{name}").write_text("mine")
            (folder / name).symlink_to(tmp_path / f"my-{name}")
        run(data, folder, steps=2, warmup=0, overwrite=True)
        assert all(
            (tmp_path / f"my-{name}").read_text() == "mine" for name in (CHECKPOINT, FINAL, "results.csv")
        )
        assert not any(path.is_symlink() for path in folder.iterdir()) and tensors(folder / FINAL)

    def test_dangling_links_count_as_a_run(self, data, tmp_path):
        (tmp_path / FINAL).symlink_to(tmp_path / "nowhere")
        with pytest.raises(FileExistsError, match=r"must not hold a run, got .* with final\.safetensors"):
            run(data, tmp_path)


class TestOneRunPerFolder:
    def test_the_second_is_refused_while_the_first_is_at_work(self, data, tmp_path):
        messages = []

        def second() -> None:
            for options in ({"resume": True}, {"overwrite": True}):
                # The refused run draws random numbers, which in a process of its own are its own.
                with torch.random.fork_rng(), pytest.raises(FileExistsError) as error:
                    run(data, tmp_path / "run", **options)
                messages.append(str(error.value))

        run(data, tmp_path / "run", file=Trigger("step 4/6", second))
        run(data, tmp_path / "whole")
        assert_equal_runs(tmp_path / "whole", tmp_path / "run")
        assert len(messages) == 2 and all("output must not be in use" in message for message in messages)
        assert not (tmp_path / "run" / ".lock").exists()

    def test_a_link_for_a_lock_is_refused(self, tmp_path):
        (tmp_path / ".lock").symlink_to("elsewhere")
        with (
            pytest.raises(FileExistsError, match=r"train: .*/\.lock must be no link, .* remove it"),
            sole_use("train", tmp_path),
        ):
            pass
        assert not (tmp_path / "elsewhere").exists()

    def test_death_frees_the_folder(self, tmp_path):
        program = (
            "import os, signal, sys; from pathlib import Path; from segnext.locks import sole_use\n"
            "with sole_use('train', Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
        )
        root = str(Path(__file__).parents[2])
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": root},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout.readline() == b"locked\n"
        with (
            pytest.raises(FileExistsError, match="where another process is at work"),
            sole_use("train", tmp_path),
        ):
            pass
        process.kill()
        process.wait()
        assert (tmp_path / ".lock").exists()
        with sole_use("train", tmp_path):
            pass
        assert not (tmp_path / ".lock").exists()


def test_files_have_the_permissions_of_new_files(data, tmp_path):
    before = os.umask(0o027)
    try:
        run(data, tmp_path / "run", steps=2, warmup=0)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "run").iterdir()} == {0o640}
