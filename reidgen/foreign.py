"""Models from elsewhere: an ONNX file, or a backbone with a torch file, as something that is judged like a run.

What is known of one lies in a folder of its own beside the runs, with the same result files:

    <results>/runs/<source or "undeclared">/<file>@<digest8>-elsewhere-s0-00000000-<row8>/
        model.json  results.csv  per_query.csv.gz  results.csv.sha256  (stress.csv)
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from reidgen.catalogue import family_of, load_catalogue, refuse_relatives, split_all, train_only
from reidgen.contracts import Network
from reidgen.data.batches import Origin
from reidgen.devices import choose_device, device_name
from reidgen.errors import DataError, ReidgenError, RunError, WeightsError, unknown
from reidgen.evaluation import Judged
from reidgen.extractor import Extractor, NetworkExtractor
from reidgen.files import sha256_file, write_text
from reidgen.integrity import with_check
from reidgen.models.inputs import Input, read_words
from reidgen.models.onnx_file import open_onnx
from reidgen.models.torch_file import open_torch
from reidgen.registry import get_backbone
from reidgen.rows import ELSEWHERE, NO_RECIPE, UNDECLARED
from reidgen.runs import Run, find_run, now, provenance
from reidgen.teststeps import Way
from reidgen.ways import only_way

OTHER = "other:"  # before the name of data that the catalogue lacks, in --trained-on
PLUGIN = "plugin:"  # may stand before the name of a backbone


@dataclass(frozen=True)
class Model:
    """A model from elsewhere, opened.

    file: the ONNX file, or that of the weights; digest: its SHA-256. sources: what it was trained on, none where that
    is not declared. unused: keys of the torch file that the network has no place for. asked: what opens it again,
    `open_model(**asked)`. made: what `reidgen export` wrote into it, {} of other files. runtime: what runs it, and its
    version, which is not of what the model is: `row` and `digest` stay when it is upgraded.
    """

    file: Path
    digest: str
    network: Network
    form: Input
    kind: str
    sources: tuple[Origin, ...] = ()
    unused: tuple[str, ...] = ()
    asked: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    runtime: str = torch.__version__

    @property
    def label(self) -> str:
        """The name in its rows, which no run has: the file's, with the first digits of its digest."""
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", self.file.stem).strip("-.") or "model"
        return f"{stem}@{self.digest[:8]}"

    @property
    def source(self) -> str:
        """What it was trained on, as a run's source is written."""
        return "+".join(source.name for source in self.sources) or UNDECLARED

    @cached_property
    def row(self) -> str:
        """8 digits of the file and of how it is fed: another reading of a file is another version of the model."""
        words = json.dumps([self.digest, self.kind, self.form.facts()], sort_keys=True)
        return hashlib.sha256(words.encode()).hexdigest()[:8]

    @property
    def info(self) -> dict[str, Any]:
        """What is known of the model."""
        return {
            "model": self.label,
            "title": self.label,
            "file": str(self.file),
            "sha256": self.digest,
            "kind": self.kind,
            "runtime": self.runtime,
            "source": self.source,
            "sources": [source._asdict() for source in self.sources],
            "input": self.form.facts(),
            "dim": self.network.dim,
            "unused": list(self.unused),
            "asked": self.asked,
            "made": self.made,
        }

    def run(self, results: Path) -> Run:
        """Return the folder of its rows, with what is known of it in model.json."""
        run = Run(results / "runs" / self.source / f"{self.label}-{ELSEWHERE}-s0-{NO_RECIPE}-{self.row}")
        facts = {**self.info, **provenance(), "date": now()}
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
            write_text(run.model_file, json.dumps(with_check(facts), indent=1, ensure_ascii=False) + "\n")
        except OSError as error:
            raise ReidgenError(f"cannot write {run.folder} ({error.strerror}); choose another --results") from error
        return run

    def judged(self, run: Run) -> Judged:
        """Return the model as `evaluation.judge` takes it."""
        row = {
            "source": self.source,
            "method": self.label,
            "backbone": ELSEWHERE,
            "seed": 0,
            "recipe": ELSEWHERE,
            "hash": NO_RECIPE,
            "source_data": "",
            **provenance(),
            "torch": self.runtime,
            "device": device_name(self.network.device),
            "threads": torch.get_num_threads(),
            "dtype": self.form.dtype,
            "title": self.label,
            "row": self.row,
            "model": self.digest[:16],
        }
        return Judged(run, self.network, self.form, self.sources, row)


class ModelExtractor(NetworkExtractor):
    """A model from elsewhere as something that embeds images, as `reidgen.load` gives for a run."""

    def __init__(self, model: Model, *, way: Way = Way()) -> None:
        self.model = model
        decisive = [model.digest, model.row, way.word]
        info = {
            "name": model.label,
            "digest": hashlib.sha256("\n".join(decisive).encode()).hexdigest(),
            "test": way.word,
            "height": model.form.height,
            "width": model.form.width,
            "dtype": model.form.dtype,
            **model.info,
        }
        super().__init__(model.network, model.network.dim, info, way)


def maker_of(
    features: Path, info: Mapping[str, Any], *, run: str | None, results: Path, device: str
) -> NetworkExtractor:
    """Return the network that made a feature file, found by what the file's `info` says, or as `run` says.

    Whether it is the same one its digest tells, see `features.search.embed_queries`. Raises RunError when there is no
    such run, DataError when `info` does not say in a known form how a model is opened, WeightsError when the file of a
    model from elsewhere is gone, and what `Extractor` raises.
    """
    way = only_way(str(info["test"]))
    if "asked" in info:
        asked = _asked(features, info["asked"])
        key = "weights" if asked["weights"] else "name"
        if run:  # where its file is now
            asked = {**asked, key: run}
        elif not Path(asked[key]).expanduser().is_file():
            raise WeightsError(
                f"{features} was embedded by {asked[key]}, which is not there any more; say where it is with --run FILE"
            )
        return ModelExtractor(open_model(**asked, device=device), way=way)
    name = run or str(info["name"])
    try:
        found = find_run(name, results)
    except RunError as error:
        if run:
            raise
        raise RunError(
            f"{features} was embedded by {name}, which is not in {results}; say where it is with --run FOLDER, or "
            "--results"
        ) from error
    return Extractor(found, device=device, way=way)


def _asked(features: Path, said: object) -> dict[str, Any]:
    """Return what opens the model of a feature file again. Raises DataError for what `open_model` does not take."""
    if isinstance(said, dict) and said.keys() == {"name", "weights", "inputs", "trained_on"}:
        words = [said["name"], said["trained_on"], said["weights"] or ""]
        if isinstance(said["inputs"], list) and all(isinstance(word, str) for word in [*words, *said["inputs"]]):
            return said
    raise DataError(
        f"{features} does not say in a form that is known here how its model is opened; another version of reidgen "
        "may have written it: embed the images again"
    )


def open_model(
    name: str,
    *,
    weights: str | Path | None = None,
    inputs: Sequence[str] = (),
    trained_on: str = "",
    device: str = "auto",
) -> Model:
    """Return a model from elsewhere.

    name: an .onnx file, or the name of a backbone (shipped, timm:NAME, or of a loaded plug-in, also as plugin:NAME),
    whose torch file is `weights`. inputs: "key=value" as `inputs.read_words` takes them. trained_on: names of the
    catalogue, or of its families, joined by + or commas; "other:NAME" for what it lacks.
    Raises WeightsError, RecipeError (a backbone that is unknown), DataError (an unknown source), ReidgenError
    (onnxruntime is not installed).
    """
    asked, declared = read_words(inputs), _origins(trained_on)
    again = {"name": name, "weights": weights and str(weights), "inputs": [*inputs], "trained_on": trained_on}
    if Path(name).suffix.lower() == ".onnx":
        if weights:
            raise WeightsError(f"--model {name} holds its weights itself; leave out --weights {weights}")
        file = _there(Path(name).expanduser(), name)
        network, said = open_onnx(file, asked, device=device)
        kind, runtime, form, unused = "onnx", f"onnxruntime {_version()}", network.form, tuple[str, ...]()
        made = {key: value for key, value in said.items() if key != "input"}
        declared = _agreed(file, declared, made)
        opened: Network = network
    else:
        if not weights:
            raise WeightsError(
                f"--model {name}: give an .onnx file, or a backbone and its torch file: --model NAME --weights FILE"
            )
        file = _there(Path(weights).expanduser(), name)
        backbone = get_backbone(name.removeprefix(PLUGIN))
        opened, form, unused = open_torch(backbone, file, asked, device=choose_device(device))
        kind, made = f"torch {backbone.name}{f'@{backbone.digest[:8]}' if backbone.digest else ''}", {}
        runtime = torch.__version__
    return Model(file, sha256_file(file), opened, form, kind, declared, unused, again, made, runtime)


def _version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _there(file: Path, model: str) -> Path:
    if not file.is_file():
        raise WeightsError(f"--model {model}: there is no file {file}")
    return file


def _agreed(file: Path, declared: tuple[Origin, ...], made: dict[str, Any]) -> tuple[Origin, ...]:
    """Return the sources of an ONNX file: what `reidgen export` wrote into it, else what is declared."""
    try:
        own = tuple(Origin(**one) for one in made.get("sources", []))
    except TypeError as error:
        raise WeightsError(
            f"{file}: its metadata do not say what it was trained on ({error}); export it again"
        ) from error
    if own and declared and {one.name for one in own} != {one.name for one in declared}:
        says = "+".join(one.name for one in own)
        raise DataError(f"{file} says itself that it was trained on {says}; leave out --trained-on")
    return own or declared


def _origins(words: str) -> tuple[Origin, ...]:
    """Return the sources that --trained-on names. Raises DataError for a name that is in no catalogue."""
    sets = load_catalogue()
    families = {family_of(name, sets) for name in sets}
    names = [name.strip() for name in re.split(r"[+,]", words) if name.strip()]
    found = []
    for name in names:
        own, everything = split_all(name)
        if name.startswith(OTHER):
            found.append(_unlisted(name.removeprefix(OTHER), {*sets, *families}))
            continue
        if own not in sets and own not in families:
            raise DataError(
                f"--trained-on {name}: {unknown('data set', own, [*sets, *families])} (for data that the catalogue "
                f"lacks: --trained-on {OTHER}NAME)"
            )
        found.append(Origin(name, family_of(own, sets), everything or train_only(own, sets)))
    refuse_relatives([one.name for one in found], sets)
    return tuple(found)


def _unlisted(name: str, known: Collection[str]) -> Origin:
    """Return data that the catalogue lacks. Raises DataError for a name that it has, or that no folder can have."""
    if name in known:
        raise DataError(f"--trained-on {OTHER}{name}: the catalogue has {name}; give --trained-on {name}")
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise DataError(f"--trained-on {OTHER}{name}: a name has letters, digits, '.', '_' and '-' only")
    return Origin(name, name, False)
