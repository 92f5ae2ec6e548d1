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
        for key, least in {"identities": 2, "images": 2, "epochs": 1, "height": 32, "width": 16, "seed": 0}.items():
            if getattr(self, key) < least:
                raise RecipeError(f"{key} must be at least {least}; got {getattr(self, key)}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
                raise RecipeError(f"{field.name} must be finite; got {value}")
        for key in ("zoom", "flip", "brightness", "contrast", "label_smoothing"):
            if not 0 <= getattr(self, key) <= 1:
                raise RecipeError(f"{key} must lie in 0..1; got {getattr(self, key)}")
        for key in ("lr", "weight_decay", "warmup_epochs", "batches_per_epoch"):
            if getattr(self, key) < 0:
                raise RecipeError(f"{key} must not be negative; got {getattr(self, key)}")

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
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a TOML file: {error}") from error
    if (base := settings.pop("base", "paper")) not in RECIPES:
        raise RecipeError(f"{path}: {unknown('base recipe', str(base), RECIPES)}")
    return _override(RECIPES[base], {"name": path.stem, **settings}, str(path))


def _override(base: Recipe, settings: dict[str, Any], where: str) -> Recipe:
    kinds = {field.name: type(getattr(base, field.name)) for field in dataclasses.fields(base)}
    for key, value in settings.items():
        if key not in kinds:
            raise RecipeError(f"{where}: {unknown('setting', key, kinds)}")
        kind = kinds[key]
        if kind is tuple and isinstance(value, list) and all(isinstance(item, int | float) for item in value):
            settings[key] = tuple(float(item) for item in value)
        elif kind is float and isinstance(value, int) and not isinstance(value, bool):
            settings[key] = float(value)
        elif type(value) is not kind:
            raise RecipeError(f"{where}: {key} must be a {kind.__name__}; got {value!r}")
    return dataclasses.replace(base, **settings)
