"""What a row is made of: parts with their parameters, methods and backbones. No torch here.

A row names parts: a module in the place of BatchNorm2d (`norm`) or at places (`modules`), losses beside those of the
recipe, and what is done to further views. What a part must be is said in `reidgen.contracts`. Places are numbered 0
(the stem) to 4 (the last stage); a module stands *after* its place (after the stage's last ReLU), or, with
`before_relu`, between the residual sum and that ReLU; at the place IMAGES it meets the standardized images.
"""

import dataclasses
import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from reidgen.errors import RecipeError, unknown

IMAGES = -1  # the place before the stem: 3 channels, height and width of the recipe
Value = str | bool | int | float | tuple[float, ...]
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
TIMM = "timm:"  # before the names of timm's networks, which are backbones too
BACKBONE_NAME = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9_-])?")  # no folder's name may end in a dot on Windows
GROUPS = ("normalization", "mixing", "losses")  # what kind of thing a row changes, in the order of tables
COLUMNS = ("loss", "epoch", "lr", "images_per_s", "seconds")  # of log.csv, so that no loss may be called so


def check_fields(where: str, kinds: Mapping[str, tuple[object, type | tuple[type, ...]]]) -> None:
    """Raise RecipeError when a field is not of its kind; kinds: field -> its value and kind."""
    for name, (value, kind) in kinds.items():
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            wanted = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
            raise RecipeError(f"{where}: {name} must be a {wanted}; got {value!r}")


def _check_name(kind: str, name: object, pattern: re.Pattern[str] = NAME, more: str = "") -> None:
    if not isinstance(name, str) or not pattern.fullmatch(name):
        raise RecipeError(f"{name!r} cannot name a {kind}; use at most 64 of a-z, 0-9,{more} '-' and '_'")


def _check_params(where: str, params: Mapping[str, Any]) -> None:
    for parameter, value in params.items():
        if not is_value(value):
            raise RecipeError(f"{where}: {parameter} must be a text, a number, true, false or numbers; got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A class, its parameters, and where it stands.

    name: what `--set NAME.parameter=value` and the log call it; a module and the loss that reads it share one.
    build: the class; shipped ones by their path, "reidgen.losses:Triplet", so that this room needs no torch.
    params: every parameter of its own with its value, which the class takes as keywords. tags: parameter -> who says
    so.
    places: of a module at places; of a norm, (): everywhere. before_relu: see above. first_of_block: of a norm, that
    it replaces only the first BatchNorm2d of each block.
    digest: SHA-256 of the plug-in that it comes from, "" for what ships with reidgen.
    """

    name: str
    build: str | type
    source: str = ""
    params: Mapping[str, Value] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    places: tuple[int, ...] = ()
    before_relu: bool = False
    first_of_block: bool = False
    digest: str = ""

    def __post_init__(self) -> None:
        _check_name("part", self.name)
        where = f"the part {self.name}"
        fields = {name: (getattr(self, name), str) for name in ("source", "digest")}
        flags = {name: (getattr(self, name), bool) for name in ("before_relu", "first_of_block")}
        check_fields(where, {**fields, **flags, "build": (self.build, (str, type))})
        check_fields(where, {"params": (self.params, Mapping), "places": (self.places, (tuple, list))})
        if not all(type(place) is int for place in self.places) or len(set(self.places)) < len(self.places):
            raise RecipeError(f"{where}: places must be whole numbers, each once, such as (1, 2); got {self.places!r}")
        object.__setattr__(self, "places", tuple(self.places))
        _check_params(where, self.params)

    def at(self, *places: int, before_relu: bool = False) -> Self:
        """Return the part standing at these places."""
        return dataclasses.replace(self, places=places, before_relu=before_relu)

    def but(self, **params: Value) -> Self:
        """Return the part with some of its parameters changed."""
        return dataclasses.replace(self, params={**self.params, **params})

    def with_value(self, parameter: str, value: Value) -> Self:
        """Return the part with one parameter changed, in the kind that it has.

        Raises RecipeError when there is no such parameter (the nearest is named) or the value is of another kind.
        """
        key = f"{self.name}.{parameter}"
        check_parameter(key, [self])
        return self.but(**{parameter: _like(self.params[parameter], value, key)})

    def facts(self) -> dict[str, Any]:
        """Return what decides a result, as JSON has it."""
        build = self.build if isinstance(self.build, str) else f"{self.build.__module__}:{self.build.__qualname__}"
        params = {key: list(value) if isinstance(value, tuple) else value for key, value in self.params.items()}
        return {
            "name": self.name,
            "build": build,
            "params": params,
            "places": list(self.places),
            "before_relu": self.before_relu,
            "first_of_block": self.first_of_block,
            "digest": self.digest,
        }


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row: how a ReID network and its training differ from Baseline.

    norm: what stands in the place of BatchNorm2d, at its `places` or everywhere. modules: what is added, each at its
    places. losses: what is added to the recipe's. views: how many augmented views of each image a batch holds;
    augmentations: what is done to those behind the first, beside the recipe's own augmentation.
    tables: which of TABLES hold this row. group: which of GROUPS it belongs to.
    changed: parameters that `--set` changed, as "distance=euclidean"; they are part of the name in every table.
    origin: "reidgen", or the plug-in that the row comes from.
    """

    name: str
    title: str
    source: str
    norm: Part | None = None
    modules: Sequence[Part] = ()
    losses: Sequence[Part] = ()
    views: int = 1
    augmentations: Sequence[Part] = ()
    tables: Sequence[str] = ()
    group: str = "normalization"
    changed: tuple[str, ...] = ()
    origin: str = "reidgen"

    def __post_init__(self) -> None:
        _check_name("method", self.name)
        where = f"the method {self.name}"
        check_fields(where, {name: (getattr(self, name), str) for name in ("title", "source", "origin")})
        check_fields(where, {"norm": (self.norm, (Part, type(None))), "views": (self.views, int)})
        for name in ("modules", "losses", "augmentations", "tables", "changed"):
            check_fields(where, {name: (getattr(self, name), (tuple, list))})
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for part in [*self.modules, *self.losses, *self.augmentations]:
            check_fields(where, {"a module, a loss or an augmentation": (part, Part)})
        check_fields(where, {f"changed[{number}]": (one, str) for number, one in enumerate(self.changed)})
        if self.group not in GROUPS:
            raise RecipeError(f"{where}: {unknown('group', str(self.group), GROUPS)}")
        if not 1 <= self.views <= 8:
            raise RecipeError(f"{where}: views must be 1 to 8; got {self.views}")
        if self.augmentations and self.views == 1:
            raise RecipeError(f"{where}: augmentations are of further views; give it views=2, or leave them out")
        for part in self.losses:
            if part.name in COLUMNS:
                raise RecipeError(f"{where}: a loss cannot be called {part.name!r}, as a column of log.csv is")

    @property
    def parts(self) -> list[Part]:
        """All parts: the norm, the modules, the losses, the augmentations."""
        return [*([self.norm] if self.norm else []), *self.modules, *self.losses, *self.augmentations]

    @property
    def label(self) -> str:
        """The name of the variant in rows and tables: `snr`, or `snr(distance=euclidean)`."""
        return self.name + (f"({','.join(self.changed)})" if self.changed else "")

    @property
    def full_title(self) -> str:
        """The title of the variant: `SNR`, or `SNR (distance=euclidean)`."""
        return self.title + (f" ({', '.join(self.changed)})" if self.changed else "")

    @property
    def digest(self) -> str:
        """8 hex digits that stand for all parts, places and parameters, and for the plug-ins they come from."""
        facts = self.facts()
        for key in ("name", "title", "source", "group", "changed", "origin"):
            del facts[key]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]

    def facts(self) -> dict[str, Any]:
        """Return the whole row as JSON has it, for the run folder."""
        return {
            **{key: getattr(self, key) for key in ("name", "title", "source", "views", "group", "origin")},
            "changed": list(self.changed),
            "norm": self.norm.facts() if self.norm else None,
            "modules": [part.facts() for part in self.modules],
            "losses": [part.facts() for part in self.losses],
            "augmentations": [part.facts() for part in self.augmentations],
        }

    def with_parts(self, change: Callable[[Part], Part]) -> Self:
        """Return the row with every part replaced by what `change` makes of it."""
        return dataclasses.replace(
            self,
            norm=change(self.norm) if self.norm else None,
            modules=tuple(map(change, self.modules)),
            losses=tuple(map(change, self.losses)),
            augmentations=tuple(map(change, self.augmentations)),
        )

    def set(self, settings: Mapping[str, Value]) -> Self:
        """Return the row with those of the settings that it has: "part.parameter" -> value, of the kind of the default.

        A setting of a part that the row lacks changes nothing; one that repeats the default is no change.
        Raises RecipeError when the part has no such parameter (the nearest is named) or the value is of another kind.
        """
        row, changed = self, list[str]()
        for key, value in settings.items():
            part_name, _, parameter = key.partition(".")
            own = [part for part in self.parts if part.name == part_name]
            if not own:
                continue
            check_parameter(key, own)
            before = row

            def change(
                part: Part, part_name: str = part_name, parameter: str = parameter, value: Value = value
            ) -> Part:
                if part.name != part_name or parameter not in part.params:
                    return part
                return part.with_value(parameter, value)

            if (row := row.with_parts(change)) != before:
                several = len({part.name for part in self.parts}) > 1
                changed.append(f"{f'{part_name}.' if several else ''}{parameter}={words_of(value)}")
        return dataclasses.replace(row, changed=tuple(sorted((*self.changed, *changed))))


def check_parameter(key: str, parts: Iterable[Part]) -> None:
    """Raise RecipeError where none of some parts of one name has the parameter of a setting "part.parameter"."""
    part, _, parameter = key.partition(".")
    known = sorted({name for one in parts for name in one.params})
    if not known:
        raise RecipeError(f"--set {key}: the part {part} has no parameters; leave it out")
    if parameter not in known:
        raise RecipeError(f"--set {key}: {unknown(f'parameter of {part}', parameter, known)}")


def is_value(value: object) -> bool:
    """Tell whether a parameter may have this value: a short text, true or false, a number, or a tuple of numbers."""
    if isinstance(value, tuple):
        return all(is_value(one) and not isinstance(one, str | bool | tuple) for one in value)
    if isinstance(value, str):
        return len(value) <= 100 and value.isprintable()
    return isinstance(value, bool) or (isinstance(value, int | float) and abs(value) < 1e300)


def _like(default: Value, value: Value, key: str) -> Value:
    """Return the value in the kind of the default. A number may stand for a tuple: one for every place."""
    if is_value(value):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if isinstance(default, tuple) and (number or isinstance(value, tuple)):
            return tuple(map(float, value)) if isinstance(value, tuple) else (float(value),)
        if isinstance(default, float) and number:
            return float(value)  # type: ignore[arg-type]
        if type(value) is type(default):
            return value
    shown = repr(value) if len(repr(value)) < 60 else repr(value)[:60] + "..."
    raise RecipeError(f"{key} must be like {words_of(default)!r} ({type(default).__name__}); got {shown}")


def words_of(value: Value) -> str:
    """Return a value as names and listings show it: all digits of a number, the numbers of a tuple with strokes."""
    if isinstance(value, tuple):
        return "/".join(map(words_of, value))
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def read_setting(text: str, *, said: str = "--set") -> tuple[str, Value]:
    """Return the key and the value of one `--set part.parameter=value`. Raises RecipeError when it is none.

    said: what gave it, as errors call that.

    >>> read_setting("snr.weights=1,1,0.5,0.5"), read_setting("snr.distance=euclidean")
    (('snr.weights', (1, 1, 0.5, 0.5)), ('snr.distance', 'euclidean'))
    """
    key, _, words = text.partition("=")
    if not words.strip() or key.count(".") != 1:
        raise RecipeError(f"{said} {text}: write part.parameter=value, for example snr.distance=euclidean")
    found: object = words.strip()
    for attempt in (words, f"[{words}]"):
        try:
            found = tomllib.loads(f"value = {attempt}")["value"]
            break
        except (ValueError, RecursionError):
            continue
    value = tuple(found) if isinstance(found, list) else found
    if not is_value(value):
        raise RecipeError(f"{said} {text[:80]}: a value is a text, a number, true, false, or numbers joined by commas")
    return key.strip(), value  # type: ignore[return-value]


def settings_of(texts: Iterable[str], *, said: str = "--set") -> dict[str, Value]:
    """Return settings, each read as `read_setting` does. Raises RecipeError where one is none, or a key comes twice."""
    found: dict[str, Value] = {}
    for text in texts:
        key, value = read_setting(text, said=said)
        if key in found:
            raise RecipeError(f"{said} {key} is given twice, as {words_of(found[key])} and as {words_of(value)}")
        found[key] = value
    return found


@dataclass(frozen=True, kw_only=True)
class BackboneRow:
    """A backbone: its class and parameters, as in a Part, and who says so. digest, origin: as of a Part and a Method;
    of a network of timm: "timm" and its version.
    """

    name: str
    build: str | type
    source: str
    params: Mapping[str, Value] = field(default_factory=dict)
    digest: str = ""
    origin: str = "reidgen"

    def __post_init__(self) -> None:
        fields = {name: (getattr(self, name), str) for name in ("source", "digest", "origin")}
        check_fields(f"the backbone {self.name}", {**fields, "build": (self.build, (str, type))})
        own = self.name.removeprefix(TIMM) if self.origin.startswith("timm ") else self.name
        _check_name("backbone", own, BACKBONE_NAME, " '.',")
        check_fields(f"the backbone {self.name}", {"params": (self.params, Mapping)})
        _check_params(f"the backbone {self.name}", self.params)


def method_from(facts: Mapping[str, Any]) -> Method:
    """Return the row that `Method.facts` gave. Raises RecipeError when they are none."""

    def part_from(found: Mapping[str, Any]) -> Part:
        return Part(**{**found, "params": _params_from(found["params"]), "places": tuple(found["places"])})

    try:
        norm = facts["norm"]
        return Method(
            **{
                **{key: value for key, value in facts.items() if key != "backbone"},
                "changed": tuple(facts["changed"]),
                "norm": part_from(norm) if norm else None,
                "modules": tuple(map(part_from, facts["modules"])),
                "losses": tuple(map(part_from, facts["losses"])),
                "augmentations": tuple(map(part_from, facts["augmentations"])),
            }
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RecipeError(f"that is no row of a method ({error!r})") from error


def _params_from(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as rows have them: JSON makes lists of tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def backbone_from(facts: Mapping[str, Any]) -> BackboneRow:
    """Return the backbone beside the row, as `Run.row_file` holds it. Raises RecipeError when there is none."""
    try:
        found = facts["backbone"]
        return BackboneRow(**{**found, "params": _params_from(found.get("params", {}))})
    except (KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"that is no row of a backbone ({error!r})") from error
