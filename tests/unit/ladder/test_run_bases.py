"""The rungs with a base, on other bases than their own."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from builders import short_recipe

from convspec import models, training
from convspec.data.datasets import Dataset
from convspec.ladder import saved_model
from convspec.ladder.recipe import Recipe, with_base
from convspec.ladder.result import Result
from convspec.ladder.run import preparation, run_key, run_recipe
from convspec.ladder.rungs import RECIPES, find_recipe, select_recipes

SMALL, BASES = "MobileNetV3Small", ("MobileNetV3Small", "EfficientNetV2B0", "ConvNeXtTiny", "resnet50")
WITH_BASE = [recipe.name for recipe in select_recipes("mini", "both") if recipe.base]


@pytest.fixture(scope="session")
def ran(few_shapes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Result, Path]]:
    """Return a function that runs a rung on a base with random weights out of a file, and says where."""
    folder = tmp_path_factory.mktemp("bases")

    def run(rung: str, base: str) -> tuple[Result, Path]:
        weights = folder / f"{base}.weights.h5"
        if not weights.is_file():
            models.conv_base(base, None, (48, 48, 3)).save_weights(weights)
        recipe = with_base(short_recipe(rung), base)
        result = run_recipe(recipe, few_shapes, 0, folder, weights=weights)
        return result, folder / "models" / f"{run_key(recipe, few_shapes, 0, weights)}.keras"

    return cache(run)


@pytest.mark.slow
@pytest.mark.parametrize("rung", WITH_BASE)
@pytest.mark.parametrize("base", BASES)
def test_a_rung_on_another_base_saves_the_model_that_it_tested(
    base: str, rung: str, ran: Callable[[str, str], tuple[Result, Path]], few_shapes: Dataset
) -> None:
    """The test is by cached features and the head alone where the rung caches; the saved model is whole."""
    result, file = ran(rung, base)
    saved = saved_model.load(file)
    known = models.PREPROCESSING | {"rescale": lambda pictures: pictures / 255}
    prepared = known[str(saved.preprocessing)](few_shapes.test.images.astype(np.float32))
    confidence = training.confidence(saved.model.predict(prepared, verbose=0))
    np.testing.assert_allclose(confidence, result.confidence, atol=0.02 if rung.endswith("_fast") else 1e-3)
    assert np.isfinite(result.history["loss"]).all()


@pytest.mark.slow
def test_fine_tuning_moves_the_last_stage_of_another_base_alone(ran: Callable[[str, str], tuple[Result, Path]]) -> None:
    files = [ran(rung, SMALL)[1] for rung in ("frozen_end_to_end_fast", "fine_tuned_fast")]
    before, after = (saved_model.load(file).model.layers[0] for file in files)
    first = models.first_thawed(before, models.LAST_STAGE)
    moved = [
        layer.name
        for layer, same in zip(before.layers, after.layers, strict=True)
        for old, new in zip(layer.get_weights(), same.get_weights(), strict=True)
        if not np.array_equal(old, new)
    ]
    names = [layer.name for layer in before.layers]
    assert {names.index(name) >= names.index(first) for name in moved} == {True}
    assert moved[0] == first


@pytest.mark.parametrize("recipe", [recipe for rungs in RECIPES.values() for recipe in rungs.values()])
def test_a_recipe_with_its_own_base_stays_as_it_is(recipe: Recipe) -> None:
    """So that its runs, their keys and their baselines do."""
    assert with_base(recipe, (recipe.base or "vgg16").upper()) is recipe


def test_another_base_changes_what_decides_the_accuracy(few_shapes: Dataset) -> None:
    recipe = short_recipe("fine_tuned")
    other = with_base(recipe, "EfficientNet-V2-B0")
    assert (other.base, other.thaw, other.published) == ("efficientnetv2b0", models.LAST_STAGE, {})
    assert other.starts_from
    assert (other.starts_from.base, other.starts_from.thaw) == ("efficientnetv2b0", None)
    assert run_key(other, few_shapes, 0, "imagenet") != run_key(recipe, few_shapes, 0, "imagenet")


@pytest.mark.parametrize(
    ("rung", "scale", "base", "size"),
    [
        ("fine_tuned", "mini", "vgg16", 48),
        ("fine_tuned", "mini", "xception", 71),
        ("fine_tuned", "full", "EfficientNetV2B0", 224),
        ("feature_extraction_fast", "full", "EfficientNetV2S", 384),
        ("feature_extraction_best", "full", "EfficientNetV2S", 288),
        ("from_scratch", "full", "EfficientNetV2S", 150),
    ],
)
def test_pictures_have_a_size_that_the_base_takes_and_at_full_its_own(
    rung: str, scale: str, base: str, size: int
) -> None:
    assert with_base(RECIPES[scale][rung], base).size == size


@pytest.mark.parametrize(
    ("base", "black", "white"),
    [("vgg16", 0, 1), ("mini", 0, 1), ("xception", -1, 1), ("ResNet50V2", -1, 1),
     ("EfficientNetV2B0", 0, 255), ("ConvNeXtTiny", 0, 255), ("MobileNetV3Large", 0, 255)],
)  # fmt: skip
def test_pictures_are_prepared_as_another_bases_weights_expect_them(
    base: str, black: float, white: float, few_shapes: Dataset
) -> None:
    """Divided by 255, as in the listings, for VGG16; the last three bases prepare pictures themselves."""
    prepare = preparation(with_base(find_recipe("feature_extraction", "mini"), base), few_shapes)
    for value, expected in ((0, black), (255, white)):
        np.testing.assert_array_equal(prepare(np.full((1, 2, 2, 3), value, np.float32)), expected)
