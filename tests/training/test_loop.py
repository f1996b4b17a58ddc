"""The training loop learns, writes what it promises, refuses what it must, and stops at a bad loss."""

import csv
import dataclasses
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from segnext import create_model
from segnext.data.config import load_data_config
from segnext.evaluation.evaluate import evaluate
from segnext.training.loop import CHECKPOINT, Diverged
from segnext.training.settings import Reporting
from tests.data.synthetic import CLASSES, COLOURS, scene, write_data_set, write_pair
from tests.training.runs import Trigger, narrow, rows, run, tensors

CAMVID = Path(os.environ.get("SEGNEXT_CAMVID", Path(__file__).parents[3] / "shared" / "camvid"))


@pytest.fixture(scope="module")
def learned(data, tmp_path_factory):
    """Return folder and evaluation of a run of 90 steps."""
    folder = tmp_path_factory.mktemp("learned")
    reporting = Reporting(eval_every=45, checkpoint_every=0, log_every=9, workers=0)
    settings = {"steps": 90, "batch_size": 2, "warmup": 5, "lr": 1e-2, "ema": 0.9, "label_smoothing": 0.05}
    return folder, run(data, folder, reporting=reporting, **settings)


def test_it_learns(learned):
    folder, evaluation = learned
    assert (
        evaluation.confusion.miou > 0.6
    )  # one class everywhere would give less than 0.25; 60 steps 0.57 on AVX2
    losses = [float(row[1]) for row in rows(folder) if row[1]]
    assert len(losses) == 10 and losses[-1] < 0.6 * losses[0]


def test_results_csv(learned):
    folder, evaluation = learned
    with (folder / "results.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert ",".join(found[0]) == "step,loss,learning_rate,images_per_second,val_miou,val_pixel_accuracy"
    trained = [row for row in found if row["loss"]]
    assert [int(row["step"]) for row in trained] == list(range(9, 91, 9))
    assert all(float(row["images_per_second"]) > 0 for row in trained)
    # Row 45 shows the rate of step 44, counted from 0.
    assert float(trained[4]["learning_rate"]) == pytest.approx(1e-2 * 46 / 90, rel=1e-3)
    evaluated = [row for row in found if row["val_miou"]]
    assert [int(row["step"]) for row in evaluated] == [45, 90]
    assert float(evaluated[1]["val_miou"]) == pytest.approx(evaluation.confusion.miou, abs=1e-5)
    assert float(evaluated[1]["val_pixel_accuracy"]) == pytest.approx(
        evaluation.confusion.pixel_accuracy, abs=1e-5
    )


def test_the_final_file_is_the_averaged_model_with_its_story(learned, data):
    folder, evaluation = learned
    model = create_model(weights=folder / "final.safetensors").eval()
    checkpoint, final = tensors(folder / CHECKPOINT), model.state_dict()
    assert all(torch.equal(final[name], checkpoint[f"average.{name}"]) for name in final)
    assert not torch.equal(final["decoder.classifier.bias"], checkpoint["model.decoder.classifier.bias"])
    again = evaluate(model, data.open("val"))
    assert torch.equal(again.confusion.counts, evaluation.confusion.counts)
    metadata = model.metadata
    assert metadata["classes"] == CLASSES and metadata["palette"] == COLOURS.tolist()
    assert metadata["preprocessing"]["mean"] == [123.675, 116.28, 103.53]
    assert metadata["metrics"] == evaluation.summary(data.classes)
    recipe = metadata["recipe"]
    assert (recipe["data"], recipe["images"], recipe["steps"], recipe["seed"]) == ("houses", 5, 90, 3)
    assert recipe["torch"] == torch.__version__ and re.fullmatch(r"\d{4}-\d\d-\d\d", recipe["finished"])


def test_the_data_sets_image_size_goes_with_the_weights(data, tmp_path):
    sized = dataclasses.replace(data, short_side=48)
    run(sized, tmp_path / "run", steps=1, warmup=0)
    model = create_model(weights=tmp_path / "run" / "final.safetensors")
    assert model.metadata["preprocessing"]["short_side"] == 48


def test_mean_and_std_are_those_of_the_weights_it_starts_from(data, tmp_path):
    stored = {"mean": [0.0, 10.0, 20.0], "std": [255.0, 200.0, 100.0]}
    first = narrow()
    first.metadata = {"preprocessing": stored | {"short_side": 48}}
    evaluation = run(data, tmp_path / "run", model=first, steps=2, warmup=0)
    model = create_model(weights=tmp_path / "run" / "final.safetensors").eval()
    # The image size comes from the new data set, which names none.
    assert model.metadata["preprocessing"] == stored
    assert torch.equal(evaluate(model, data.open("val")).confusion.counts, evaluation.confusion.counts)
    run(data, tmp_path / "imagenet", steps=2, warmup=0)
    assert [row[1] for row in rows(tmp_path / "run")] != [row[1] for row in rows(tmp_path / "imagenet")]


def test_training_sees_images_at_the_size_that_it_is_evaluated_at(data, tmp_path):
    shared = {"steps": 1, "warmup": 0, "reporting": Reporting(log_every=1, workers=0)}
    losses = []
    for short_side in (None, 40, 20):  # the images have 40
        run(dataclasses.replace(data, short_side=short_side), tmp_path / str(short_side), **shared)
        losses.append(rows(tmp_path / str(short_side))[0][1])
    assert losses[0] == losses[1] != losses[2]


def test_balance_weighs_rare_classes_in_the_loss(data, tmp_path):
    losses = []
    for balance in (0.0, 1.0):
        folder = tmp_path / str(balance)
        run(data, folder, reporting=Reporting(log_every=1, workers=0), steps=1, warmup=0, balance=balance)
        losses.append(float(rows(folder)[0][1]))
    assert losses[0] != losses[1]


def test_curves(learned):
    pytest.importorskip("matplotlib")
    from PIL import Image

    with Image.open(learned[0] / "curves.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[0] > 300 and pixels.shape[1] > 600
    blue, orange = np.array([31, 119, 180]), np.array([255, 127, 14])
    for colour in (blue, orange):  # both lines are there
        assert (np.abs(pixels - colour).sum(2) < 10).sum() > 200


def test_without_a_val_split_there_is_no_evaluation(data, tmp_path):
    alone = dataclasses.replace(data, splits={"train": data.splits["train"]})
    assert run(alone, tmp_path, steps=3, reporting=Reporting(eval_every=1, log_every=2, workers=0)) is None
    assert [row[0] for row in rows(tmp_path)] == ["2", "3"]
    assert create_model(weights=tmp_path / "final.safetensors").metadata["metrics"] == {}


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": "bfloat16"},
        {"reduction": "mean_all"},
        {"schedule": "cosine", "clip": 0.0, "ema": 0.0, "weight_decay": 0.0, "head_lr_multiplier": 10.0},
        {"flip": False, "distort": False, "scale": (1.0, 1.0), "crop": 45},
    ],
    ids=["bfloat16", "mean_all", "cosine", "plain"],
)
def test_settings_matter(data, tmp_path, settings):
    shared = {"steps": 3, "warmup": 0, "reporting": Reporting(log_every=1, workers=0)}
    run(data, tmp_path / "default", **shared)
    run(data, tmp_path / "changed", **shared, **settings)
    default, changed = (
        [float(row[1]) for row in rows(tmp_path / name) if row[1]] for name in ("default", "changed")
    )
    assert len(changed) == 3 and all(0 < loss < 10 for loss in changed) and changed != default


def test_gradients_are_clipped(data, tmp_path):
    """Adam's first step hardly depends on the gradient's size, but its first moment does."""
    run(data, tmp_path / "free", steps=1, warmup=0, clip=0)
    run(data, tmp_path / "clipped", steps=1, warmup=0, clip=0.01)
    free, clipped = (
        {k: v for k, v in tensors(tmp_path / name / CHECKPOINT).items() if k.endswith(".exp_avg")}
        for name in ("free", "clipped")
    )
    norms = [
        torch.cat([moment.flatten() for moment in run_.values()]).norm() / 0.1 for run_ in (free, clipped)
    ]
    assert norms[0] > 0.02 and norms[1] == pytest.approx(0.01, rel=1e-3)


def test_batches_without_labels_teach_nothing_and_harm_nothing(tmp_path):
    yaml = write_data_set(tmp_path, train=1, val=1)
    for index in range(2):
        image, label = scene(0)
        write_pair(tmp_path, "train", f"unlabelled{index}", image, np.full_like(label, 255))
    model = narrow()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    # The seed draws an image without labels first.
    run(
        load_data_config(yaml),
        tmp_path / "run",
        model=model,
        steps=1,
        warmup=0,
        batch_size=1,
        crop=64,
        seed=3,
    )
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert [row[1] for row in rows(tmp_path / "run")] == ["nan", ""]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_damaged_data_set_is_found_before_the_first_step(tmp_path, split):
    config = load_data_config(write_data_set(tmp_path))
    image = tmp_path / "images" / split / "scene01.png"
    whole = image.read_bytes()
    image.write_bytes(whole[:200])
    with pytest.raises(ValueError, match=rf"{image}: cannot be decoded, it is damaged or truncated .*; mend"):
        run(config, tmp_path / "run")
    label = tmp_path / "labels" / split / "scene00.png"
    write_pair(tmp_path, split, "scene00", scene(0)[0], np.full((40, 48), 9, np.uint8))
    with pytest.raises(ValueError, match=r"scene01\.png: .*; segnext doctor shows all 2 errors"):
        run(config, tmp_path / "run")
    image.write_bytes(whole)
    with pytest.raises(ValueError, match=rf"{label}: ids must be 0\.\.2, or 255 to be ignored, got 9 in"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_warnings_about_labels_are_printed_and_do_not_stop_a_run(tmp_path):
    yaml = write_data_set(tmp_path)
    for label in (tmp_path / "labels" / "train").iterdir():
        ids = scene(0)[1]
        write_pair(tmp_path, "train", label.stem, scene(0)[0], np.where(ids == 2, 0, ids).astype(np.uint8))
    printed = io.StringIO()
    run(load_data_config(yaml), tmp_path / "run", steps=1, warmup=0, file=printed)
    assert (
        "warning: train: class door never occurs, so that the network cannot learn it" in printed.getvalue()
    )
    assert "val" not in printed.getvalue().partition("warning: ")[2].partition("\n")[0]


def diverging(data, folder, model=None, **settings) -> str:
    with pytest.raises(Diverged) as error:
        run(data, folder, model=model, **settings)
    message = str(error.value)
    assert "\n" not in message and message.startswith("train: the loss must be finite and not 0, got ")
    assert len(re.findall(r"/scene\d\d\.png", message)) in (2, 4)  # the batch's files, and the one's before
    return message


def test_nan_before_any_checkpoint(data, tmp_path):
    model = narrow()
    torch.nn.init.constant_(model.decoder.classifier.weight, 3e38)  # finite, but no logits can be
    message = diverging(data, tmp_path, model)
    assert (
        "got nan (gradient norm nan) at step 0 with " in message and "there is no checkpoint yet" in message
    )
    assert not (tmp_path / "final.safetensors").exists()


EVERY_STEP = Reporting(checkpoint_every=1, log_every=1, workers=0)


def test_a_bad_loss_right_after_a_checkpoint(data, tmp_path):
    """The checkpoint of finite weights that give NaN is not called good."""
    message = diverging(data, tmp_path, lr=1e30, warmup=0, reporting=EVERY_STEP)
    assert f" at step 1 with {data.splits['train'].images}" in message
    assert f"; {tmp_path / CHECKPOINT} holds the weights that gave it; try a lower --lr" in message
    assert not (tmp_path / "final.safetensors").exists()


def test_a_bad_loss_after_a_good_one(data, tmp_path):
    reporting = Reporting(checkpoint_every=2, log_every=1, workers=0)
    model = narrow()

    def spoil() -> None:
        with torch.no_grad():
            model.decoder.classifier.bias[0] = float("nan")

    message = diverging(data, tmp_path, model, reporting=reporting, file=Trigger("step 3/6", spoil))
    assert " at step 3 with " in message and "not finite since the step before, with " in message
    assert f"the last good checkpoint is {tmp_path / CHECKPOINT}, of step 2;" in message


@pytest.mark.parametrize("steps", [1, 3])
def test_weights_that_are_not_finite_are_never_saved(data, tmp_path, steps):
    with pytest.raises(
        Diverged, match=r"the weights must be finite, got \d+ of \d+ tensors .*step 0"
    ) as error:
        run(data, tmp_path, lr=1e38, warmup=0, steps=steps, reporting=EVERY_STEP)
    message = str(error.value)
    assert len(re.findall(r"/scene\d\d\.png", message)) == 2 and "there is no checkpoint yet" in message
    assert not {CHECKPOINT, "final.safetensors"} & {path.name for path in tmp_path.iterdir()}


def test_finite_weights_whose_logits_are_not_are_not_left_as_final(data, tmp_path):
    with pytest.raises(
        Diverged, match=r"must give finite logits, got others on the val split after step 0"
    ) as error:
        run(data, tmp_path, lr=1e30, warmup=0, steps=1)
    assert f"{tmp_path / CHECKPOINT} holds the weights that gave it" in str(error.value)
    assert not (tmp_path / "final.safetensors").exists()


def test_a_gradient_that_is_not_finite(data, tmp_path):
    model = narrow()
    model.decoder.classifier.bias.register_hook(lambda gradient: gradient * float("inf"))
    message = diverging(data, tmp_path, model)
    assert re.search(r"got \d+\.\d+ \(gradient norm (nan|inf)\) at step 0", message)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_a_loss_of_zero(tmp_path):
    yaml = write_data_set(tmp_path)
    for label in (tmp_path / "labels" / "train").iterdir():
        write_pair(tmp_path, "train", label.stem, scene(0)[0], np.zeros((40, 48), np.uint8))
    model = narrow()
    torch.nn.init.zeros_(model.decoder.classifier.weight)
    with torch.no_grad():
        model.decoder.classifier.bias.copy_(torch.tensor([1e4, 0, 0]))
    message = diverging(load_data_config(yaml), tmp_path / "run", model)
    assert "got 0.0 (gradient norm 0.0) at step 0" in message


def test_nothing_is_overwritten_unasked(data, tmp_path):
    run(data, tmp_path, steps=1, warmup=0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        FileExistsError,
        match=r"must not hold a run, got .* with checkpoint\.safetensors, final\.safetensors, results\.csv.*;"
        r" go on with --resume, replace it with --overwrite",
    ):
        run(data, tmp_path, steps=1, warmup=0)
    with pytest.raises(ValueError, match="resume and overwrite must not both be set"):
        run(data, tmp_path, steps=1, warmup=0, resume=True, overwrite=True)
    with pytest.raises(ValueError, match="ema: decay must be"):  # refused before anything is removed
        run(data, tmp_path, steps=1, warmup=0, overwrite=True, ema=1.0)
    with pytest.raises(ValueError, match="crop must be"):
        run(data, tmp_path, steps=1, warmup=0, overwrite=True, crop=0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    run(data, tmp_path, steps=2, warmup=0, overwrite=True, ema=0.5)
    assert [row[0] for row in rows(tmp_path)] == ["1", "2", "2"]
    (tmp_path / CHECKPOINT).unlink()
    with pytest.raises(FileExistsError, match=r"must hold checkpoint\.safetensors, got .* with only final"):
        run(data, tmp_path, steps=2, warmup=0, ema=0.5, resume=True)


def test_the_output_must_be_a_folder(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        FileExistsError, match=r"output must be a folder, got .*file, which is none; choose another"
    ):
        run(data, tmp_path / "file")


def test_the_model_must_have_the_data_s_classes(data, tmp_path):
    with pytest.raises(ValueError, match=r"num_classes of the model must be 3 for houses, got 4"):
        run(data, tmp_path, model=narrow(num_classes=4))


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"CamVid is not at {CAMVID}")
def test_camvid(tmp_path):
    """Three steps on real images bring the loss down, and three real images are evaluated."""
    config = load_data_config("camvid", CAMVID)
    train_only = dataclasses.replace(config, splits={"train": config.splits["train"]})
    model = narrow(num_classes=11)
    assert run(train_only, tmp_path, model=model, steps=8, warmup=0, batch_size=4, crop=64, lr=3e-3) is None
    losses = [float(row[1]) for row in rows(tmp_path)]
    assert 1.5 < losses[0] < 5 and np.mean(losses[-3:]) < losses[0]
    dataset = config.open("val")
    dataset.pairs = dataset.pairs[::40]
    evaluation = evaluate(create_model(weights=tmp_path / "final.safetensors").eval(), dataset)
    labelled = sum(int((dataset[index][1] != 255).sum()) for index in range(len(dataset)))
    assert evaluation.images == len(dataset) == 3 and int(evaluation.confusion.counts.sum()) == labelled
