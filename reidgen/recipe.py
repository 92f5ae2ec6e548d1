"""Every setting of a training run in one frozen dataclass; two recipes ship. No torch here.

A setting has one way: command-line option -> field of Recipe -> train(recipe) -> recipe.toml in the run folder -> the
hash in every result row. Evidence tags as in `reidgen.methods`: [S] slides, [A] author code, [B] re-implementation,
[D] recollection; [BAU] is the published ResNet-50 recipe that fills what the authors left open (Cho et al., NeurIPS 2024).
"""

import dataclasses
import hashlib
import json
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from reidgen.errors import RecipeError, unknown
from reidgen.methods import get_method

BACKBONES = ("resnet50", "resnet18", "mobilenet_v2", "tiny")
CHOICES = {
    "backbone": BACKBONES,
    "snr_distance": ("cosine", "cosine-b", "euclidean"),
    "snr_triplets": ("random", "hard"),
    "dtype": ("float32", "bfloat16"),
    "sampling": ("concat", "balanced"),
}
# key: least, most of its number, or of each of its numbers. Beyond them a run overflows or never ends.
BOUNDS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "height": (32, 4096),
    "width": (16, 4096),
    "identities": (2, 4096),
    "images": (2, 1024),
    "batch": (4, 65_536),
    "zoom": (0, 1),
    "flip": (0, 1),
    "brightness": (0, 1),
    "contrast": (0, 1),
    "epochs": (1, 100_000),
    "batches_per_epoch": (0, 100_000),
    "lr": (0, 1e30),
    "weight_decay": (0, 1e6),
    "warmup_epochs": (0, 100_000),
    "milestones": (0, 100_000),
    "label_smoothing": (0, 1),
    "snr_weights": (-1e6, 1e6),
}
MILESTONES = 100  # at most


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides the result of a run, but the images and the weight file's bytes (both enter `hash` by digest).

    Raises RecipeError for a value out of its range or list. The defaults are the recipe `paper`.
    """

    name: str = "paper"
    # what is compared
    method: str = "snr"
    source: str = "synth-plaza"  # several joined by "+"; "-all" behind a name: all its images, not its training part
    seed: int = 0
    # the network
    backbone: str = "resnet50"  # [S]
    weights: str = "imagenet"  # "imagenet", "none" or the path of a torchvision state dict [A]
    height: int = 256  # pixels [A]
    width: int = 128  # pixels [A]
    dtype: str = "float32"  # of the forward pass; "bfloat16" uses autocast
    compile: bool = False  # by torch.compile: other rounding, so other bits
    # the batches
    identities: int = 16  # per batch [A]
    images: int = 4  # per identity [A]
    sampling: str = "concat"  # of several sources: one pool of identities; "balanced": as many of each in every batch
    zoom: float = 0.5  # probability to enlarge by 1.125 and crop at random [A]
    flip: float = 0.5  # probability to mirror [A]
    brightness: float = 0.2  # factor drawn from 1 - b .. 1 + b [A]
    contrast: float = 0.15  # likewise [A]
    # the schedule
    epochs: int = 60  # [BAU]
    batches_per_epoch: int = 0  # 0: one pass over as many images as the source has
    lr: float = 3.5e-4  # Adam [BAU]
    weight_decay: float = 5e-4  # [A]
    warmup_epochs: float = 10.0  # linear [BAU]
    milestones: tuple[float, ...] = (30.0, 50.0)  # epochs after which the rate is a tenth [BAU]
    # the losses
    label_smoothing: float = 0.1  # [A], behind a flag there
    snr_distance: str = (
        "cosine"  # 0.5 - cos / 2 [D]; "cosine-b": twice that, as 0.5 - cos is but for a constant [B]; [A]
    )
    snr_triplets: str = "random"  # one positive and negative per anchor, alike in all three sets [B]; "hard": mined [A]
    snr_weights: tuple[float, ...] = (0.1, 0.1, 0.5, 0.5)  # lambda of stages 1..4 [B, D]; [A] has 1

    def __post_init__(self) -> None:
        get_method(self.method)
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                raise RecipeError(unknown(key, str(getattr(self, key)), choices))
        if len(set(self.sources)) < len(self.sources):
            raise RecipeError(f"source {self.source!r} names a data set twice; name each once")
        if len(self.snr_weights) != 4:
            raise RecipeError(f"snr_weights needs one number per stage, 4 in all; got {len(self.snr_weights)}")
        if len(self.milestones) > MILESTONES:
            raise RecipeError(f"milestones has {len(self.milestones):,} numbers; give {MILESTONES} at most")
        for key, (least, most) in BOUNDS.items():
            self._check_bounds(key, least, most)

    def _check_bounds(self, key: str, least: float, most: float) -> None:
        """Raise RecipeError when a number of the setting is not finite, or not within its bounds."""
        value = getattr(self, key)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise RecipeError(f"{key} must be finite; got {value}")
            if not least <= number <= most:
                bounds = f"{_number(least)} to {_number(most)}"
                what = "the batch (identities x images)" if key == "batch" else key
                raise RecipeError(f"{what} must lie within {bounds}; got {_number(number)}")

    @property
    def batch(self) -> int:
        """Images in a batch."""
        return self.identities * self.images

    @property
    def sources(self) -> list[str]:
        """The source data sets, each with "-all" where all its images are trained on."""
        return self.source.split("+")

    def change(self, **settings: Any) -> Self:
        """Return a copy with some settings replaced; a None leaves its setting as it is."""
        return dataclasses.replace(self, **{key: value for key, value in settings.items() if value is not None})

    def lr_at(self, epoch: float) -> float:
        """Return the learning rate at a moment counted in epochs (1.5: half through the second epoch).

        Linear warm-up from a hundredth, then a tenth at each milestone.

        >>> recipe = Recipe(lr=1.0, warmup_epochs=10, milestones=(30, 50))
        >>> [round(recipe.lr_at(epoch), 3) for epoch in (0, 5, 10, 29.9, 30, 50)]
        [0.01, 0.505, 1.0, 1.0, 0.1, 0.01]
        """
        warm = min(1.0, 0.01 + 0.99 * epoch / self.warmup_epochs) if self.warmup_epochs else 1.0
        return self.lr * warm * float(0.1 ** sum(epoch >= milestone for milestone in self.milestones))

    def hash(self, *digests: str) -> str:
        """Return 8 hex digits that stand for every setting but method, source and seed, and for the digests given.

        `digests`: of the source's index and of the weight file, which decide the result and are not in the recipe.
        Two rows may share a table only if their hashes agree.
        """
        settings = dataclasses.asdict(self)
        for key in ("name", "method", "source", "seed"):
            del settings[key]
        if self.sampling == "concat":
            del settings["sampling"]  # runs from before there was a choice keep their hash
        if not self.compile:
            del settings["compile"]
        if self.weights not in ("imagenet", "none"):
            del settings["weights"]  # the file's digest counts, not its place
        return hashlib.sha256(json.dumps([settings, digests], sort_keys=True).encode()).hexdigest()[:8]

    def to_toml(self) -> str:
        """Return the recipe as TOML, one line per setting."""
        values = {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}
        return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())


RECIPES: dict[str, Recipe] = {
    "paper": Recipe(),
    "quick": Recipe(
        name="quick",
        backbone="tiny",
        weights="none",
        height=64,
        width=32,
        epochs=20,
        lr=2e-3,
        warmup_epochs=2.0,
        milestones=(14.0, 18.0),
    ),
}


def load_recipe(name: str) -> Recipe:
    """Return a shipped recipe by its name, or one from a TOML file of single settings.

    The file's key `base` names the shipped recipe that it starts from ("paper" where it is absent).
    Raises RecipeError for an unknown recipe, an unknown key (the nearest one is named) or a value of the wrong type.
    """
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name)
    if not path.is_file():
        raise RecipeError(f"{unknown('recipe', name, RECIPES)}, or the path of a TOML file")
    settings = _read_toml(path)
    base = settings.pop("base", "paper")
    if not isinstance(base, str) or base not in RECIPES:
        raise RecipeError(f"{path}: {unknown('base recipe', base if isinstance(base, str) else _short(base), RECIPES)}")
    return _override(RECIPES[base], {"name": path.stem, **settings}, str(path))


def _read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file says; a byte order mark before it is passed over."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    except RecursionError as error:
        raise RecipeError(f"{path}: not a recipe: its values are nested too deeply; give single settings") from error
    except ValueError as error:  # no TOML, no UTF-8, or a number of thousands of digits
        raise RecipeError(f"{path}: not a TOML file: {error}") from error


def _number(number: float) -> str:
    """Return a number for a sentence: whole ones with commas, the longest and the fractions short."""
    if isinstance(number, int) and abs(number) < 10**19:
        return f"{number:,}"
    return f"a number of {number.bit_length() * 3 // 10} digits" if isinstance(number, int) else f"{number:g}"


def _short(value: object) -> str:
    """Return a value for a sentence, cut where it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:100]}..."


def _override(base: Recipe, settings: dict[str, Any], where: str) -> Recipe:
    kinds = {field.name: type(getattr(base, field.name)) for field in dataclasses.fields(base)}
    for key, value in settings.items():
        if key not in kinds:
            raise RecipeError(f"{where}: {unknown('setting', key, kinds)}")
        settings[key] = _typed(value, kinds[key], f"{where}: {key}")
    try:
        return dataclasses.replace(base, **settings)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error


def _typed(value: object, kind: type, where: str) -> object:
    """Return a value of a TOML file as the kind that its setting has; whole numbers may stand for fractions."""
    try:
        if kind is tuple and isinstance(value, list) and all(type(item) in (int, float) for item in value):
            return tuple(float(item) for item in value)
        if kind is float and type(value) is int:
            return float(value)
    except OverflowError as error:
        raise RecipeError(f"{where} is too large a number") from error
    if type(value) is not kind:
        wanted = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
        raise RecipeError(f"{where} must be {wanted.get(kind, 'a list of numbers')}; got {_short(value)}")
    return value
