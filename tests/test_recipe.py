"""Recipes: files, overrides, mistakes."""

import dataclasses
from pathlib import Path

import pytest

from reidgen.errors import RecipeError
from reidgen.recipe import BOUNDS, RECIPES, Recipe, choose_recipe, load_recipe


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
        ('height = "128"', "height must be a whole number; got '128'"),
        ("height = true", "height must be a whole number; got True"),
        ('milestones = ["a"]', "milestones must be a list of numbers"),
        ('base = "papr"', "unknown base recipe 'papr'; did you mean 'paper'"),
        ('method = "snrr"', "unknown method 'snrr'; did you mean 'snr'"),
        ('backbone = "resnet5"', "unknown backbone 'resnet5'; did you mean 'resnet50'"),
        ("snr_weights = [1.0]", "unknown setting 'snr_weights'"),
        ('[set]\nsnr.distanc = "cosine"', "unknown parameter of snr 'distanc'; did you mean 'distance'"),
        ("[set]\nsnr.distance = 3", "snr.distance must be like 'cosine'"),
        ("[set]\nsnr = 3", "holds lines such as snr.distance"),
        ('plugins = ["absent.py"]', r"no plug-in .*absent\.py"),
        ("images = 1", "images must lie within 2 to 1,024; got 1"),
        ("zoom = 2.0", "zoom must lie within 0 to 1; got 2"),
        ("lr = -1.0", r"lr must lie within 0 to 1e\+30; got -1"),
        ("lr = nan", "lr must be finite"),
        ('sampling = "balancd"', "unknown sampling 'balancd'; did you mean 'balanced'"),
        ('source = "market+market"', "names a data set twice"),
        ('base = "mine.toml"', "unknown base recipe"),
        ("lr = = 1", "not a TOML file"),
        ("lr = 1e300", r"lr must lie within 0 to 1e\+30; got 1e\+300"),
        ("lr = 1e400", "lr must be finite; got inf"),
        ("lr = 1" + "0" * 400, "lr is too large a number"),
        (f"seed = {10**20}", "seed must lie within 0 to 9,223,372,036,854,775,807; got a number of 20 digits"),
        ("seed = 1" + "0" * 5000, "not a TOML file: it holds a number of thousands of digits"),
        ("seed = 0x" + "f" * 5000, "seed must lie within 0 to .* got a number of 6000 digits"),
        ("seed = -1", "seed must lie within 0 to .*; got -1"),
        ("lr = " + "[" * 5000, "its values are nested too deeply"),
        ("lr = " + "[" * 300 + "]" * 300, r"lr must be a number; got \[\[.*\.\.\."),
        ("base = []", r"unknown base recipe '\[\]'"),
        ("milestones = {a = 0x" + "f" * 5000 + "}", "milestones must be a list of numbers; got a dict"),
        ("base = {a = 1}", "unknown base recipe"),
        ("height = 1000000", "height must lie within 32 to 4,096; got 1,000,000"),
        ("width = 8", "width must lie within 16 to 4,096; got 8"),
        ("epochs = 1e18", r"epochs must be a whole number; got 1e\+18"),
        (f"epochs = {10**18}", "epochs must lie within 1 to 100,000; got 1,000,000,000,000,000,000"),
        ("images = 1e9", "images must be a whole number"),
        (f"images = {10**9}", "images must lie within 2 to 1,024; got 1,000,000,000"),
        (
            "identities = 4096\nimages = 1024",
            r"the batch \(identities x images\) must lie within 4 to 65,536; got 4,194,304",
        ),
        ("batches_per_epoch = 1e12", "batches_per_epoch must be a whole number"),
        (f"batches_per_epoch = {10**12}", "batches_per_epoch must lie within 0 to 100,000; got 1,000,000,000,000"),
        ("weight_decay = 1e300", "weight_decay must lie within"),
        ("warmup_epochs = 1e18", "warmup_epochs must lie within"),
        ("milestones = [-1]", "milestones must lie within 0 to 100,000; got -1"),
        ("milestones = [nan]", "milestones must be finite"),
        ("milestones = [true]", "milestones must be a list of numbers"),
        ("milestones = [1" + "0" * 400 + "]", "milestones is too large a number"),
        (f"milestones = {list(range(101))}", "milestones has 101 numbers; give 100 at most"),
    ],
)
def test_a_mistake_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(tmp_path / "mine.toml"))


def test_hashes_are_those_of_reidgen_0_2() -> None:
    """A setting that comes later counts only where it is used, so that older runs and rows stay comparable."""
    assert [recipe.hash("a", "none") for recipe in RECIPES.values()] == ["8b3542ae", "389ec7e0", "3fa3082b"]


def test_every_setting_counts_in_the_hash_but_what_names_a_run() -> None:
    base, values = Recipe(zoom=0.0), {str: "balanced", int: 77, float: 0.25, bool: True, tuple: (3.0,)}
    special = {"backbone": "tiny", "weights": "none", "dtype": "bfloat16", "pooling": "gem", "metric": "circle"}
    special |= {"optimizer": "sgd", "schedule": "cosine"}
    for field in dataclasses.fields(Recipe):
        if field.name in ("settings", "plugins"):
            continue
        value = special.get(field.name, values[type(field.default)])
        same = base.hash("a") == base.change(**{field.name: value}).hash("a")
        assert same == (field.name in ("name", "method", "source", "seed")), field.name


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbfheight = 128\n")
    assert load_recipe(str(tmp_path / "mine.toml")).height == 128


def test_the_bounds_themselves_are_allowed_and_leave_no_number_out() -> None:
    assert Recipe(seed=2**63 - 1, height=32, width=4096, epochs=100_000, milestones=(0.0, 100_000.0))
    numbers = {f.name for f in dataclasses.fields(Recipe) if f.type in ("int", "float", int, float, tuple[float, ...])}
    assert numbers == set(BOUNDS) - {"batch"}


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"unknown recipe 'quik'; did you mean 'quick'.*or the path of a TOML file"):
        load_recipe("quik")


def test_a_recipe_file_and_an_option_that_differ_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('base = "quick"\nmethod = "in"\nsource = "synth-night"\nseed = 3\n')
    told = choose_recipe(str(file), None)
    assert (told.method, told.source, told.seed) == ("in", "synth-night", 3)
    assert choose_recipe(str(file), "synth-night", method="in", seed=3) == told
    for source, changes in (("synth-plaza", {}), (None, {"method": "snr"}), (None, {"seed": 1})):
        with pytest.raises(RecipeError, match=r"mine\.toml says .* is asked for beside it; leave out one"):
            choose_recipe(str(file), source, **changes)


def test_a_cosine_ends_at_zero_and_two_ways_to_crop_are_refused() -> None:
    recipe = Recipe(schedule="cosine", lr=1.0, warmup_epochs=0.0, epochs=60)
    assert [round(recipe.lr_at(epoch), 6) for epoch in (0, 20, 30, 60)] == [1.0, 0.75, 0.5, 0.0]
    with pytest.raises(RecipeError, match=r"pad = 10 and zoom = 0.5 are two ways to crop; set one of them to 0"):
        Recipe(pad=10)
    modern = RECIPES["modern"]
    assert (modern.batch, modern.pad, modern.margin, modern.pooling) == (256, 10, 0.3, "gem")
