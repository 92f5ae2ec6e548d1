"""Recipes: files, overrides, mistakes."""

import dataclasses
from pathlib import Path

import pytest

from reidgen.errors import RecipeError
from reidgen.recipe import RECIPES, Recipe, load_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_its_file(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name].change(
        source="market+pku",
        seed=3,
        weights="some dir/\U0001f600 weights.pth",
        settings=(("snr.weights", (1.0, 0.5)), ("snr.distance", "euclidean")),
    )
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
        ("snr_weights = [1.0]", "unknown setting 'snr_weights'"),
        ('[set]\nsnr.distanc = "cosine"', "unknown parameter of snr 'distanc'; did you mean 'distance'"),
        ("[set]\nsnr.distance = 3", "snr.distance must be like 'cosine'"),
        ("[set]\nsnr = 3", "holds lines such as snr.distance"),
        ('plugins = ["absent.py"]', r"no plug-in .*absent\.py"),
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


def test_hashes_are_those_of_reidgen_0_2() -> None:
    """A setting that comes later counts only where it is used, so that older runs and rows stay comparable."""
    assert [recipe.hash("a", "none") for recipe in RECIPES.values()] == ["8b3542ae", "389ec7e0"]


def test_every_setting_counts_in_the_hash_but_what_names_a_run() -> None:
    base, values = Recipe(), {str: "balanced", int: 77, float: 0.25, bool: True, tuple: (3.0,)}
    special = {"backbone": "tiny", "weights": "none", "dtype": "bfloat16"}
    for field in dataclasses.fields(Recipe):
        if field.name in ("settings", "plugins"):
            continue
        value = special.get(field.name, values[type(field.default)])
        same = base.hash("a") == base.change(**{field.name: value}).hash("a")
        assert same == (field.name in ("name", "method", "source", "seed")), field.name


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"unknown recipe 'quik'; did you mean 'quick'.*or the path of a TOML file"):
        load_recipe("quik")
