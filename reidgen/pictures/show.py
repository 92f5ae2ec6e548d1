"""Pictures of a trained run: computed by `reidgen.pictures.probes`, drawn by `reidgen.pictures.drawings`, written into
<run folder>/show.

    <kind>-<target>.png     always
    <kind>-<target>.svg     of a plot, which shows no image of the data set
    <kind>-<target>.json    title, alt, caption, images (whether it shows images of the data set), files and
                            their digests, command, date, and a check of all this

The .json is written last: it says that the others are whole and belong together.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from reidgen.catalogue import split_all
from reidgen.data.augment import standardize, to_float
from reidgen.data.images import decode, file_of
from reidgen.data.manifest import Prepared, load_prepared, prepared_names, tested_part
from reidgen.devices import choose_device
from reidgen.errors import DataError, RecipeError, unknown
from reidgen.evaluation import (
    Sides,
    embed_tested,
    load_network,
    origins_of,
    refuse_shared_images,
    sides_of,
)
from reidgen.files import replacing, sha256_file, write_text
from reidgen.integrity import with_check
from reidgen.models.network import ReIDNet
from reidgen.pictures import drawings, probes
from reidgen.ranking import rank
from reidgen.recipe import Recipe
from reidgen.rows import percent
from reidgen.runs import Progress, Run, now

SAMPLE = 300  # images of each domain for tsne and gates
PEOPLE = 64  # whose maps are compared in several styles
MISSES, HITS = 6, 3
THUMBNAIL = (64, 128)  # width and height in pixels


@dataclass(frozen=True)
class Picture:
    """A figure, and what a reader who cannot see it, or wants to know more, is told."""

    figure: Figure
    alt: str
    caption: str
    images: bool = False


@dataclass(frozen=True)
class _Job:
    run: Run
    recipe: Recipe
    network: ReIDNet
    data: Path
    report: Progress
    title: str

    def domains(self, targets: list[Prepared]) -> list[Prepared]:
        """Return the sources that are prepared here and have a test part, then the targets, once each."""
        here = set(prepared_names(self.data))
        names = [name for name, _ in map(split_all, self.recipe.sources) if name in here]
        sources = [one for one in (load_prepared(name, self.data) for name in names) if one.counts.get("query")]
        return list({one.name: one for one in [*sources, *targets]}.values())


def show(
    run: Run, kind: str, targets: Sequence[str], *, data: Path, device: str = "auto", report: Progress
) -> list[Path]:
    """Draw pictures of a finished run into its folder and return their files, a picture's .json last.

    kind: "ranks" (the hardest misses and a few hits), "maps" (F, F~, F~+, F~- of a person in changed style),
    "distances" (of matches and others): a picture for each target; "tsne" (pooled features by domain), "gates" (SNR's
    channel gates by domain): one picture of the source and all targets, called by their names joined by "+". Of a
    target with several splits the first counts. The same run and data make the same files, but for the date.

    Raises RecipeError for an unknown kind or one that the method has nothing for, RunError for a run that is not
    finished, DataError when a target is not prepared, has no queries, was trained on or has lost its images.
    """
    if kind not in _MAKERS:
        raise RecipeError(unknown("picture", kind, _MAKERS))
    recipe = run.recipe()
    facts, method = run.facts(), run.method()
    network = load_network(run, choose_device(device))
    lacking = {}  # kind -> why this network has nothing to show for it
    if not probes.has_gates(network):
        lacking["gates"] = f"{method.label} has no channel gates, which SNR restores identity with"
    if not network.backbone.stages:
        lacking["maps"] = f"backbone {recipe.backbone} has no stages whose maps could be shown"
    if kind in lacking:
        others = "|".join(name for name in _MAKERS if name not in lacking)
        raise RecipeError(f"{lacking[kind]}; its other pictures are: reidgen show {others}")
    sets = [load_prepared(name, data) for name in dict.fromkeys(targets)]
    for prepared in sets:
        refuse_shared_images(origins_of(facts), prepared, tested_part(prepared), data=data)
    files = []
    for group in [sets] if kind in _TOGETHER else [[prepared] for prepared in sets]:
        names = [prepared.name for prepared in group]
        title = f"{method.full_title} ({recipe.backbone}, seed {recipe.seed}, trained on {recipe.source})"
        title += f": {_MAKERS[kind][1]}{', '.join(names)}"
        with drawings.styled():
            made = _MAKERS[kind][0](_Job(run, recipe, network, data, report, title), group)
            command = f"reidgen show {kind} {run.folder.parent.name}/{run.folder.name} --target {','.join(names)}"
            files += _write(run.folder / "show", f"{kind}-{'+'.join(names)}", made, title=title, command=command)
    return files


def _write(folder: Path, stem: str, made: Picture, *, title: str, command: str) -> list[Path]:
    """Write a picture's files; while they change, no .json vouches for them."""
    about = folder / f"{stem}.json"
    files = [folder / f"{stem}.{kind}" for kind in (("png",) if made.images else ("png", "svg"))]
    for file in files:
        with replacing(file) as temporary:
            about.unlink(missing_ok=True)
            metadata = {"Date": None} if file.suffix == ".svg" else None  # so that the same run makes the same bytes
            made.figure.savefig(temporary, format=file.suffix[1:], dpi=110 if made.images else 150, metadata=metadata)
    facts = {
        "title": title,
        "alt": made.alt,
        "caption": made.caption,
        "images": made.images,
        "files": [file.name for file in files],
        "digests": {file.name: sha256_file(file) for file in files},
        "command": command,
        "date": now(),
    }
    write_text(about, json.dumps(with_check(facts), indent=2, ensure_ascii=False) + "\n")
    return [*files, about]


def _embedded(job: _Job, target: Prepared) -> tuple[Sides, list[str], list[str], str]:
    """Return both sides of the target's first split as evaluation ranks them, their paths, and words for the split."""
    tested = tested_part(target)
    paths, embedding_ND = embed_tested(job.network, target, tested, recipe=job.recipe, report=job.report)
    splits = sorted(tested["split"].unique())
    first = tested[tested["split"] == splits[0]]
    query, gallery = (first.loc[first["part"] == part, "path"].tolist() for part in ("query", "gallery"))
    words = f", split {splits[0]} of {len(splits)}" if len(splits) > 1 else ""
    return sides_of(first, paths, embedding_ND), query, gallery, target.name + words


def _ranks(job: _Job, targets: list[Prepared]) -> Picture:
    target = targets[0]
    sides, query, gallery, name = _embedded(job, target)
    ranking = rank(**sides._asdict())
    lists = probes.ranked_lists(sides, ranking, misses=MISSES, hits=HITS)
    picture = partial(_thumbnail, target)
    rows = [
        drawings.Row(
            caption=f"{_who(target, sides, one.query)}: AP {percent(one.ap)} %, first match at rank {one.first_match}",
            query=picture(query[one.query]),
            gallery=[picture(gallery[number]) for number in one.gallery],
            right=one.right,
            match=(picture(gallery[one.match]), one.first_match) if one.first_match > len(one.gallery) else None,
        )
        for one in lists
    ]
    missed = [one for one in lists if one.first_match > 1]
    hit = [one for one in lists if one.first_match == 1]
    shown = [
        f"{len(part)} {word} with average precision {percent(part[0].ap)} to {percent(part[-1].ap)} %"
        for word, part in (("misses", missed), ("hits", hit))
        if part
    ]
    asked = len(query) - ranking.unmatched
    counts = f"mAP {percent(ranking.mAP)} %, Rank-1 {percent(ranking.rank(1))} % over {asked:,} queries"
    return Picture(
        drawings.draw_ranks(rows, title=job.title),
        alt=f"Ranked lists on {name}: {' and '.join(shown)}; {counts}.",
        caption=f"{name}: {counts}. Each row is a query and its {len(rows[0].gallery)} nearest gallery images, "
        "without those of the same person in the same camera and without junk: a tick and a green frame mark the "
        "right person, a cross and an orange frame another one. Behind the dots: the first right image, where it "
        "comes later. The hardest misses come first (lowest average precision, AP), then the easiest hits; each "
        "person once.",
        images=True,
    )


def _who(target: Prepared, sides: Sides, query: int) -> str:
    """Return a query's person and camera as its user calls them; a dollar sign would begin a formula."""
    person, camera = target.person(int(sides.pid_Q[query])), target.camera(int(sides.camid_Q[query]))
    return f"person {person}, camera {camera}".replace("$", r"\$")


def _thumbnail(target: Prepared, path: str) -> NDArray[np.uint8]:
    """Return an image of the set, decoded anew: the pack may be much smaller."""
    try:
        image, _ = decode(file_of(target.root, path))
    except DataError as error:
        raise DataError(f"{target.name}: {target.root / path} {error}; run: {target.again}") from error
    return np.asarray(image.resize(THUMBNAIL, Image.Resampling.BILINEAR))


def _maps(job: _Job, targets: list[Prepared]) -> Picture:
    sample = probes.draw_samples(targets, size=SAMPLE, recipe=job.recipe, report=job.report)[0]
    people = np.sort(np.unique(sample.pid_N, return_index=True)[1])[:PEOPLE]
    if len(people) < 2:
        raise DataError(f"{sample.name} has queries of one person only, maps compares people; choose another target")
    pixels_NHWC = sample.pixels_NHWC[people]
    shifts = probes.style_shifts(job.network, pixels_NHWC, report=job.report)
    device = next(job.network.parameters()).device
    styles = probes.vary_style(to_float(torch.from_numpy(pixels_NHWC[:1]).to(device)))
    images = torch.cat(list(styles.values()))
    stages = probes.look_inside(job.network, standardize(images))[0]
    pixels = (255 * images).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    heat = drawings.Heat(
        images=dict(zip(styles, pixels, strict=True)),
        heat={key: probes.strength(stages[key[0]].maps[key[1]]).cpu().numpy() for key in shifts},
        shift={key: shift_SN[:, 0] for key, shift_SN in shifts.items()},
    )
    means = {key: f"{key[1]} {shift_SN[1:].mean():.2f}" for key, shift_SN in shifts.items()}
    words = "; ".join(f"{stage}: {', '.join(one for key, one in means.items() if key[0] == stage)}" for stage in stages)
    numbers = f"Mean shift over {len(people)} people and {len(styles) - 1} changes: {words}"
    return Picture(
        drawings.draw_maps(heat, title=job.title),
        alt=f"Activation maps of one person of {sample.name} in {len(styles)} styles. {numbers} (1: as far as "
        f"another person).",
        caption=f"One person of {sample.name}, unchanged and brighter, darker, warmer and with less contrast. Heat: "
        "root mean square over the channels, on one scale per stage. Numbers: how far the change of style moves the "
        "map, as a share of the distance between two people's maps (Euclidean, all channels and positions): 0 means "
        f"that it changes nothing, 1 that it moves the map as far as another person does. {numbers}.",
        images=True,
    )


def _tsne(job: _Job, targets: list[Prepared]) -> Picture:
    samples = _samples(job, targets)
    pooled = _pooled(job, samples)
    domain_N = np.repeat(np.arange(len(samples)), [len(sample.pid_N) for sample in samples])
    pid_N = np.concatenate([sample.pid_N for sample in samples])
    person_N = domain_N * (pid_N.max() + 1) + pid_N  # nobody is seen in two domains
    features = {key: np.concatenate([one.maps[key] for one in pooled]) for key in pooled[0].maps}
    features["embedding", ""] = np.concatenate([one.embedding_ND for one in pooled])
    panels = []
    for number, ((stage, name), feature_NC) in enumerate(features.items(), 1):
        points = None if probes.is_one_point(feature_NC) else probes.tsne(feature_NC)
        accuracy = probes.neighbour_accuracy(feature_NC, domain_N=domain_N, person_N=person_N)
        panels.append(drawings.Panel(stage, name, points, accuracy))
        job.report("t-SNE", number, len(features))
    names = [sample.name for sample in samples]
    shares = ", ".join(
        f"{one.stage}{' ' + one.name if one.name else ''} {100 * one.accuracy:.0f} %"
        for one in panels
        if one.points is not None
    )
    chance = f"{100 / len(samples):.0f} %"
    of_stages = "the spatial mean of each stage's maps, and by " if len(panels) > 1 else ""
    constant = (
        " Pooled F~ is one point for all images, by construction: the spatial mean of an affine IN's output is its "
        "bias (and the deviation its weight)."
        if any(one.points is None for one in panels)
        else ""
    )
    return Picture(
        drawings.draw_tsne(panels, domain_N, names, title=job.title),
        alt=f"t-SNE of {len(samples[0].pid_N)} images each of {', '.join(names)}. Share of the images whose nearest "
        f"image of another person is of the same domain (chance: {chance}): {shares}.",
        caption=f"{len(samples[0].pid_N)} test images each of {', '.join(names)} (seed 0; at most {SAMPLE}), by "
        f"{of_stages}the embedding. Distances between groups mean little in a t-SNE; "
        "the number below is computed from the features themselves: the share of the images whose nearest image of "
        f"another person is of the same domain, {chance} when the domains cannot be told apart, 100 % when they are "
        f"apart.{constant}",
    )


def _samples(job: _Job, targets: list[Prepared]) -> list[probes.Sample]:
    """Return the samples of at least two domains."""
    domains = job.domains(targets)
    if len(domains) < 2:
        raise DataError(
            f"only {domains[0].name} has test images here, and domains are to be compared; prepare the source "
            f"({job.recipe.source}) or name another set with --target"
        )
    return probes.draw_samples(domains, size=SAMPLE, recipe=job.recipe, report=job.report)


def _pooled(job: _Job, samples: list[probes.Sample]) -> list[probes.PooledSample]:
    return [
        probes.pool(job.network, one.pixels_NHWC, report=partial(_of_domain, job.report, one.name)) for one in samples
    ]


def _of_domain(report: Progress, name: str, what: str, done: int, total: int) -> None:
    report(f"{name}: {what}", done, total)


def _distances(job: _Job, targets: list[Prepared]) -> Picture:
    sides, query, gallery, name = _embedded(job, targets[0])
    found = probes.count_distances(sides, name=targets[0].name)
    threshold, error = found.equal_error
    centre = (np.arange(probes.BINS) + 0.5) * 2 / probes.BINS
    near, far = (float((counts * centre).sum() / counts.sum()) for counts in (found.positive, found.negative))
    numbers = (
        f"A match is nearer than another image in {100 * found.auc:.2f} % of the comparisons (area under the ROC "
        f"curve); at distance {threshold:.2f} as many matches are missed as others are taken for matches, "
        f"{100 * error:.1f} % (equal error rate)"
    )
    return Picture(
        drawings.draw_distances(found.positive, found.negative, threshold=threshold, error=error, title=job.title),
        alt=f"Histograms of distances on {name}: {found.positive.sum():,} matching pairs, mean distance {near:.2f}, "
        f"and {found.negative.sum():,} pairs of different people, mean {far:.2f}. {numbers}.",
        caption=f"{name}: {len(query):,} queries against {len(gallery):,} gallery images, without pairs of the same "
        f"person in the same camera and without junk. {numbers}. The threshold holds for all queries alike, the "
        "ranking (mAP) asks each query by itself.",
    )


def _gates(job: _Job, targets: list[Prepared]) -> Picture:
    samples = _samples(job, targets)
    pooled = _pooled(job, samples)
    names = [sample.name for sample in samples]
    values = {key: [one.gates[key] for one in pooled] for key in pooled[0].gates}
    titles = {
        key: f"{key[0]}{'' if key[1] == 'a' else ', gate of ' + key[1]} ({one[0].shape[1]} channels)"
        for key, one in values.items()
    }
    words = []
    for key, (first, *others) in values.items():
        mean_C = first.mean(axis=0)
        apart = max(float(np.abs(other.mean(axis=0) - mean_C).mean()) for other in others)
        words.append(
            f"{titles[key]}: mean {mean_C.mean():.2f}, from {mean_C.min():.2f} to {mean_C.max():.2f}; the other "
            f"domains' channel means differ by up to {apart:.3f} on average"
        )
    numbers = ". ".join(words)
    return Picture(
        drawings.draw_gates(
            {titles[key]: one for key, one in values.items()},
            names,
            label="gate: share of R let through",
            title=job.title,
        ),
        alt=f"SNR's channel gates over {len(samples[0].pid_N)} images each of {', '.join(names)}. On {names[0]}, "
        f"{numbers}.",
        caption="What the gate keeps of the residual R that Instance Norm removed, channel by channel: at 0 the "
        f"channel stays normalized, at 1 it is passed on as it came. Mean over {len(samples[0].pid_N)} test images of "
        f"each domain; channels in the order of {names[0]}. On {names[0]}, {numbers}.",
    )


_MAKERS: dict[str, tuple[Callable[[_Job, list[Prepared]], Picture], str]] = {
    "ranks": (_ranks, "ranked lists on "),
    "maps": (_maps, "activation maps on "),
    "tsne": (_tsne, "t-SNE with "),
    "distances": (_distances, "distances on "),
    "gates": (_gates, "channel gates with "),
}
_TOGETHER = ("tsne", "gates")  # one picture for all targets
KINDS = tuple(_MAKERS)
