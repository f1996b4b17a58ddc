"""The published recipes are complete and hold the numbers of the paper and of the official code."""

import pytest

from segnext.models.registry import SIZES
from segnext.training.classifier_settings import ClassifierSettings, ViewSettings
from segnext.training.recipes import SMALL, list_recipes, load_recipe, recipe_for
from segnext.training.settings import TrainSettings

PUBLISHED = [name for name in list_recipes() if not (name == SMALL or load_recipe(name).is_classification)]
STEPS = {"ade20k": 160_000, "cityscapes": 160_000, "isaid": 160_000}  # the others: 80,000


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_those_of_the_official_code(name):
    settings = TrainSettings(**load_recipe(name).settings)
    assert settings.steps == STEPS.get(name, 80_000)
    assert settings.batch_size == (8 if name == "cityscapes" else 16)
    assert settings.crop == {"cityscapes": 1024, "isaid": 896}.get(name, 512)
    assert (settings.lr, settings.head_lr_multiplier, settings.weight_decay) == (6e-5, 10, 0.01)
    assert (settings.warmup, settings.schedule, settings.scale) == (1500, "linear", (0.5, 2.0))
    assert settings.reduction == "mean_all" and settings.flip and settings.distort
    assert not (settings.clip or settings.ema or settings.balance or settings.label_smoothing)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_paper_says_what_each_size_reaches(name):
    miou = load_recipe(name).miou
    assert set(miou) in (set(), set(SIZES))
    for single, several in miou.values():
        assert 30 < single < 95 and (several is None or single < several < single + 3)


def test_the_encoder_is_pretrained_as_deit():
    recipe = load_recipe("imagenet")
    settings = ClassifierSettings(**recipe.settings, views=ViewSettings(**recipe.views))
    batches_per_epoch = 1_281_167 // settings.batch_size
    assert (settings.steps, settings.warmup) == (300 * batches_per_epoch, 5 * batches_per_epoch)
    assert settings.views == ViewSettings() and set(recipe.top1) == set(SIZES)
    assert (settings.lr, settings.weight_decay, settings.ema, settings.label_smoothing) == (
        1e-3,
        0.05,
        0.99996,
        0.1,
    )


def test_streets_and_aerial_photographs_are_seen_in_windows():
    modes = {name: load_recipe(name).evaluation["mode"] for name in PUBLISHED}
    assert [name for name, mode in modes.items() if mode == "slide"] == ["cityscapes", "isaid"]
    assert load_recipe("cityscapes").evaluation["stride"] == 768
    assert load_recipe("isaid").evaluation["crop"] == 896  # tiles of that side are seen whole


def test_other_data_have_the_small_recipe():
    assert recipe_for("mine") == recipe_for("camvid") == load_recipe(SMALL)
    assert TrainSettings(**recipe_for("mine").settings) == TrainSettings()


def test_an_unknown_recipe():
    with pytest.raises(ValueError, match="name must be one of small, ade20k, cityscapes, .*got 'ade'"):
        load_recipe("ade")
