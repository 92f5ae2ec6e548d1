"""Recipes: files, overrides, mistakes."""

from pathlib import Path

import pytest

from reidgen.errors import RecipeError
from reidgen.recipe import RECIPES, Recipe, load_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_its_file(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name].change(source="market+pku", seed=3, weights="some dir/\U0001f600 weights.pth")
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    assert load_recipe(str(tmp_path / "recipe.toml")) == recipe


def test_a_file_overrides_single_settings_of_its_base(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('base = "quick"\nlr = 1\nmilestones = [3, 4]\n')
    assert load_recipe(str(tmp_path / "mine.toml")) == RECIPES["quick"].change(
        name="mine", lr=1.0, milestones=(3.0, 4.0)
    )
    (tmp_path / "mine.toml").write_text("height = 128\n")
    assert load_recipe(str(tmp_path / "mine.toml")) == Recipe(name="mine", height=128)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hieght = 128", "unknown setting 'hieght'; did you mean 'height'"),
        ('height = "128"', "height must be a int; got '128'"),
        ("height = true", "height must be a int; got True"),
        ('milestones = ["a"]', "milestones must be a tuple"),
        ('base = "papr"', "unknown base recipe 'papr'; did you mean 'paper'"),
        ('method = "snrr"', "unknown method 'snrr'; did you mean 'snr'"),
        ('backbone = "resnet5"', "unknown backbone 'resnet5'; did you mean 'resnet50'"),
        ("snr_weights = [1.0]", "snr_weights needs one number per stage"),
        ("images = 1", "images must be at least 2; got 1"),
        ("zoom = 2.0", r"zoom must lie in 0\.\.1; got 2\.0"),
        ("lr = -1.0", "lr must not be negative"),
        ("lr = nan", "lr must be finite"),
        ('sampling = "balancd"', "unknown sampling 'balancd'; did you mean 'balanced'"),
        ('source = "market+market"', "names a data set twice"),
        ('base = "mine.toml"', "unknown base recipe"),
        ("lr = = 1", "not a TOML file"),
    ],
)
def test_a_mistake_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(tmp_path / "mine.toml"))


def test_hashes_are_those_of_reidgen_0_1() -> None:
    """A setting that came later counts only where it is used, so that older runs and rows stay comparable."""
    assert [recipe.hash("a", "none") for recipe in RECIPES.values()] == ["a30ea345", "fc571844"]
    assert Recipe(sampling="balanced").hash("a", "none") != "a30ea345"


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"unknown recipe 'quik'; did you mean 'quick'.*or the path of a TOML file"):
        load_recipe("quik")
