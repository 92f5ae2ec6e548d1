"""Every setting of a training run in one frozen dataclass; three recipes ship. No torch here.

A setting has one way: command-line option -> field of Recipe -> train(recipe) -> recipe.toml in the run folder -> the
hash in every result row. Evidence tags as in `reidgen.methods`: [S] slides, [A] author code, [B] re-implementation,
[D] recollection; [BAU] is the published ResNet-50 recipe that fills what the authors left open (Cho et al., NeurIPS
2024).
"""

import dataclasses
import hashlib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from reidgen.catalogue import DEFAULT_SYNTH
from reidgen.errors import RecipeError, unknown
from reidgen.files import read_regular
from reidgen.methods import CIRCLE, CROSS_ENTROPY, METHODS, TRIPLET
from reidgen.parts import Method, Part, Value, check_parameter
from reidgen.registry import get_backbone, get_method, load_plugins
from reidgen.teststeps import TEST_STEPS

CHOICES = {
    "dtype": ("float32", "bfloat16"),
    "sampling": ("concat", "balanced"),
    "pooling": ("avg", "gem"),
    "metric": ("triplet", "circle"),
    "optimizer": ("adam", "sgd"),
    "schedule": ("steps", "cosine"),
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
    "saturation": (0, 1),
    "hue": (0, 0.5),
    "jitter": (0, 1),
    "pad": (0, 1024),
    "erasing": (0, 1),
    "epochs": (1, 100_000),
    "batches_per_epoch": (0, 100_000),
    "lr": (0, 1e30),
    "weight_decay": (0, 1e6),
    "warmup_epochs": (0, 100_000),
    "milestones": (0, 100_000),
    "label_smoothing": (0, 1),
    "margin": (0, 1e6),
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
    weights: str = "imagenet"  # "imagenet", "none" or the path of a state dict [A]
    height: int = 256  # pixels [A]
    width: int = 128  # pixels [A]
    dtype: str = "float32"  # of the forward pass; "bfloat16" uses autocast
    compile: bool = False  # by torch.compile: other rounding, so other bits
    pooling: str = "avg"  # "gem": generalized mean with a learned exponent (BAU, fast-reid's SBS, AGW [A])
    # the batches
    identities: int = 16  # per batch [A]
    images: int = 4  # per identity [A]
    sampling: str = "concat"  # of several sources: one pool of identities; "balanced": as many of each in every batch
    zoom: float = 0.5  # probability to enlarge by 1.125 and crop at random [A]
    flip: float = 0.5  # probability to mirror [A]
    brightness: float = 0.2  # factor drawn from 1 - b .. 1 + b [A]
    contrast: float = 0.15  # likewise [A]
    saturation: float = 0.0  # likewise; 0.1 in MetaBIN and fast-reid [A]
    hue: float = 0.0  # turns, at most to either side; 0.1 in MetaBIN and fast-reid [A]
    jitter: float = 1.0  # probability that an image gets these four at all; 0.5 where fast-reid uses them [A]
    pad: int = 0  # pixels of black around, then a crop at random, instead of zoom; 10 nearly everywhere else [A]
    erasing: float = 0.0  # probability that a rectangle is erased; 0.5 in BoT and fast-reid [A]
    # the schedule
    epochs: int = 60  # [BAU]
    batches_per_epoch: int = 0  # 0: one pass over as many images as the source has
    optimizer: str = "adam"  # [BAU]; "sgd", with momentum 0.9: MetaBIN, CBN, TransReID, DualNorm [A]
    lr: float = 3.5e-4  # [BAU]
    weight_decay: float = 5e-4  # [A]
    warmup_epochs: float = 10.0  # linear [BAU]
    schedule: str = "steps"  # [BAU]; "cosine" to 0 over all epochs: TransReID, OSNet-AIN [A]
    milestones: tuple[float, ...] = (30.0, 50.0)  # epochs after which the rate is a tenth, of "steps" [BAU]
    # the losses
    label_smoothing: float = 0.1  # [A], behind a flag there
    metric: str = "triplet"  # [A]; "circle": pairwise circle loss, fast-reid [A]
    margin: float = 0.0  # of the triplet loss; 0: soft margin [A]; 0.3 in BAU, MetaBIN and BoT [A]
    # the parameters of the method's parts, and where parts from outside come from
    settings: tuple[tuple[str, Value], ...] = ()  # ("part.parameter", value), as `--set` and the table [set] give them
    plugins: tuple[str, ...] = ()  # files and modules, see `reidgen.registry`

    def __post_init__(self) -> None:
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                raise RecipeError(unknown(key, str(getattr(self, key)), choices))
        if "" in (names := [word.strip() for word in self.source.replace(",", "+").split("+")]):
            raise RecipeError(f"source {self.source!r} has an empty name; write one, or several joined by plus")
        if "," in self.source:
            together = "+".join(names)
            raise RecipeError(f"source {self.source!r}: what is trained on together is joined by plus, as {together}")
        if len(set(self.sources)) < len(self.sources):
            raise RecipeError(f"source {self.source!r} names a data set twice; name each once")
        if self.pad and self.zoom:
            raise RecipeError(f"pad = {self.pad} and zoom = {self.zoom:g} are two ways to crop; set one of them to 0")
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
    def size(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        return self.height, self.width

    @property
    def sources(self) -> list[str]:
        """The source data sets, each with "-all" where all its images are trained on."""
        return self.source.split("+")

    def change(self, **settings: Any) -> Self:
        """Return a copy with some settings replaced; a None leaves its setting as it is."""
        return dataclasses.replace(self, **{key: value for key, value in settings.items() if value is not None})

    def lr_at(self, epoch: float) -> float:
        """Return the learning rate at a moment counted in epochs (1.5: half through the second epoch).

        Linear warm-up from a hundredth; times a tenth from each milestone on, or times half a cosine to 0.

        >>> recipe = Recipe(lr=1.0, warmup_epochs=10, milestones=(30, 50))
        >>> [round(recipe.lr_at(epoch), 3) for epoch in (0, 5, 10, 29.9, 30, 50)]
        [0.01, 0.505, 1.0, 1.0, 0.1, 0.01]
        """
        warm = min(1.0, 0.01 + 0.99 * epoch / self.warmup_epochs) if self.warmup_epochs else 1.0
        if self.schedule == "cosine":
            return self.lr * warm * (1 + math.cos(math.pi * min(epoch / self.epochs, 1))) / 2
        return self.lr * warm * float(0.1 ** sum(epoch >= milestone for milestone in self.milestones))

    def known(self) -> Self:
        """Return the recipe itself. Raises RecipeError when its method, backbone or a parameter is not known."""
        get_backbone(self.backbone)
        assert self.row
        return self

    @property
    def row(self) -> Method:
        """The method's row with the recipe's settings. Raises RecipeError for an unknown method or parameter."""
        return get_method(self.method).set(dict(self.settings))

    def row_facts(self) -> dict[str, Any]:
        """Return the method's row and the backbone as JSON has them: what a run keeps of what its parts are."""
        return {**self.row.facts(), "backbone": dataclasses.asdict(get_backbone(self.backbone))}

    def own(self) -> Self:
        """Return the recipe with those settings alone that its method has: what a run keeps."""
        parts = {part.name for part in get_method(self.method).parts}
        return dataclasses.replace(
            self, settings=tuple(one for one in self.settings if one[0].partition(".")[0] in parts)
        )

    @property
    def losses(self) -> list[Part]:
        """The losses of every row."""
        metric = TRIPLET.but(margin=self.margin) if self.metric == "triplet" else CIRCLE
        return [CROSS_ENTROPY.but(smoothing=self.label_smoothing), metric]

    def hash(self, *digests: str) -> str:
        """Return 8 hex digits that stand for every setting but method, source and seed, and for the digests given.

        A setting counts where it is not the default (so that one that comes later changes no hash); the defaults of
        this class never change. The method's own parameters do not count: a run is told by this and by its row's
        digest.
        `digests`: of the source's index and of the weight file, which decide the result and are not in the recipe.
        Two rows may share a table only if their hashes agree.
        """
        aside = {"name", "method", "source", "seed", "settings", "plugins"}
        if self.weights not in ("imagenet", "none"):
            aside.add("weights")  # the file's digest counts, not its place
        used = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in aside and getattr(self, field.name) != field.default
        }
        backbone = get_backbone(self.backbone).digest  # of the plug-in that it comes from
        return hashlib.sha256(json.dumps([used, digests, backbone], sort_keys=True).encode()).hexdigest()[:8]

    def to_toml(self) -> str:
        """Return the recipe as TOML, one line per setting, the parameters of parts in a table [set]."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        settings = values.pop("settings")
        text = "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())
        return text + "".join(["\n[set]\n", *(f"{key} = {_toml(value)}\n" for key, value in settings)]) * bool(settings)


def _toml(value: Value | tuple[str, ...]) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


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
    "modern": Recipe(  # BAU's plain ResNet-50 [BAU]: of 200 to 1,000 batches an epoch there, the least
        name="modern",
        identities=64,
        images=4,
        zoom=0.0,
        pad=10,
        brightness=0.0,
        contrast=0.0,
        pooling="gem",
        margin=0.3,
        batches_per_epoch=200,
        dtype="bfloat16",
    ),
}


def load_recipe(name: str, *, without: Sequence[str] = ()) -> Recipe:
    """Return a shipped recipe by its name, or one from a TOML file of single settings.

    The file's key `base` names the shipped recipe that it starts from ("paper" where it is absent); its table [set]
    holds parameters of parts (`snr.distance = "euclidean"`), its list `plugins` files and modules, which are imported.
    without: keys that the file must not have, as the command takes them from elsewhere.
    Raises RecipeError for an unknown recipe, an unknown key (the nearest one is named) or a value of the wrong type,
    PluginError for a plug-in that cannot be used.
    """
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name)
    if not path.is_file():
        raise RecipeError(f"{unknown('recipe', name, RECIPES)}, or the path of a TOML file")
    recipe = read_recipe(path)
    if barred := [key for key in without if key in _read_toml(path)]:
        raise RecipeError(
            f"{path}: a grid has its methods and seeds from --methods and --seeds; leave out {' and '.join(barred)}"
        )
    plugins = [str(path.parent / one) if (path.parent / one).is_file() else one for one in recipe.plugins]
    recipe = recipe.change(plugins=load_plugins(plugins)).known()
    if steps := [key for key, _ in recipe.settings if key.partition(".")[0] in TEST_STEPS]:
        raise RecipeError(
            f"{path}: [set] holds {steps[0]}, of a test step, and a recipe says how to train; leave it out and give it "
            f"with --test, as --set {steps[0]}=VALUE"
        )
    return recipe


def choose_recipe(
    name: "str | Recipe | None",
    source: str | None,
    *,
    grid: bool = False,
    plugins: Sequence[str] = (),
    settings: Mapping[str, Value] = {},
    **changes: Any,
) -> Recipe:
    """Return the recipe that a command's options, or a function's arguments, mean; plug-ins are imported.

    name: by default `quick` where all sources are built in, else `paper`. source: "synth" is the built-in default; None
    leaves the recipe's own. grid: of a whole grid, whose methods and seeds a recipe file cannot name. settings and
    plugins: beside the recipe's own. changes: fields of Recipe; None leaves a field as it is.
    Raises RecipeError for what is unknown or of the wrong type, PluginError.
    """
    loaded = load_plugins(plugins)
    names = [] if source is None else [DEFAULT_SYNTH if one == "synth" else one for one in source.split("+")]
    source = "+".join(names) if names else None
    if not isinstance(name, Recipe):
        default = "quick" if all(one.startswith("synth-") for one in names) else "paper"
        asked = {**changes, "source": source}
        _refuse_two_words(name, {key: asked.get(key) for key in ("method", "seed", "source")})
        name = load_recipe(default if name is None else name, without=("method", "seed") if grid else ())
    parts = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    return name.change(
        source=source,
        plugins=tuple(dict.fromkeys([*name.plugins, *loaded])),
        settings=tuple((dict(name.settings) | parts).items()),
        **_typed_fields(changes),
    ).known()


def _refuse_two_words(name: str | None, asked: Mapping[str, Any]) -> None:
    """Raise RecipeError when a recipe file says one thing and what is asked for beside it another."""
    own = _read_toml(Path(name)) if name and name not in RECIPES and Path(name).is_file() else {}
    for key, value in asked.items():
        if value is not None and own.get(key, value) != value:
            raise RecipeError(f"{name} says {key} = {own[key]!r}, and {value!r} is asked for beside it; leave out one")


def idle(settings: Mapping[str, Value], methods: Sequence[str]) -> list[str]:
    """Return a sentence for each setting that changes none of the methods, as they lack the part.

    Raises RecipeError for a setting of a part that no known method has, or of a parameter that such parts lack.
    """
    said, parts = [], [part for row in METHODS.values() for part in row.parts]
    for key in settings:
        name = key.partition(".")[0]
        if name not in (known := {part.name for part in parts}):
            raise RecipeError(f"--set {key}: {unknown('part', name, sorted(known))}")
        check_parameter(key, [part for part in parts if part.name == name])
        if not any(part.name == name for method in methods for part in get_method(method).parts):
            said.append(f"note: the setting {key} changes nothing of {', '.join(methods)}")
    return said


def read_recipe(path: Path) -> Recipe:
    """Return the recipe of a TOML file, as `load_recipe` does, without importing any plug-in: a run's own record."""
    settings = _read_toml(path)
    base = settings.pop("base", "paper")
    if not isinstance(base, str) or base not in RECIPES:
        raise RecipeError(f"{path}: {unknown('base recipe', base if isinstance(base, str) else _short(base), RECIPES)}")
    parts = settings.pop("set", {})
    recipe = _override(RECIPES[base], {"name": path.stem, **settings}, str(path))
    return dataclasses.replace(recipe, settings=_flat(parts, str(path)))


def _flat(parts: object, where: str) -> tuple[tuple[str, Value], ...]:
    """Return the table [set] as ("part.parameter", value)."""
    found: list[tuple[str, Value]] = []
    for part, own in parts.items() if isinstance(parts, dict) else [("", None)]:
        for parameter, value in own.items() if isinstance(own, dict) else [("", None)]:
            value = tuple(value) if isinstance(value, list) else value
            if not isinstance(value, str | bool | int | float | tuple):
                raise RecipeError(f'{where}: [set] holds lines such as snr.distance = "euclidean"')
            found.append((f"{part}.{parameter}", value))
    return tuple(found)


def _read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file says; a byte order mark before it is passed over."""
    try:
        return tomllib.loads(read_regular(path).decode("utf-8-sig").replace("\r\n", "\n"))
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    except RecursionError as error:
        raise RecipeError(f"{path}: not a recipe: its values are nested too deeply; give single settings") from error
    except ValueError as error:  # no TOML, no UTF-8, or a number of thousands of digits
        what = "it holds a number of thousands of digits" if "int_max_str_digits" in str(error) else str(error)
        raise RecipeError(f"{path}: not a TOML file: {what}") from error


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
        if key not in kinds or key == "settings":
            raise RecipeError(f"{where}: {unknown('setting', key, [one for one in kinds if one != 'settings'])}")
        if key == "plugins" and isinstance(value, list) and all(isinstance(one, str) for one in value):
            settings[key] = tuple(value)
        else:
            settings[key] = _typed(value, kinds[key], f"{where}: {key}")
    try:
        return dataclasses.replace(base, **settings)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error


def _typed_fields(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings given by name, each as its field has it; None leaves a setting as it is.

    Raises RecipeError for an unknown name (the nearest one is named) or a value of the wrong type.
    """
    base, found = RECIPES["paper"], {}
    kinds = {field.name: type(getattr(base, field.name)) for field in dataclasses.fields(base)}
    for key, value in changes.items():
        if key not in kinds:
            raise RecipeError(unknown("setting", key, kinds))
        listed = list(value) if isinstance(value, tuple) else value
        found[key] = None if value is None else _typed(listed, kinds[key], key)
    return found


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
