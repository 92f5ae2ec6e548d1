"""The numbers behind the pictures: what happens inside a network, how domains separate, how queries are ranked.

Shapes: B images of a batch, N of a sample, C channels, H x W positions, D features, Q queries, G gallery images.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reidgen.contracts import Look, Module
from reidgen.data.augment import LUMA, standardize, to_float
from reidgen.data.manifest import Prepared, tested_part
from reidgen.data.pack import load_pack
from reidgen.errors import DataError
from reidgen.evaluation import Sides
from reidgen.models.network import ReIDNet
from reidgen.ranking import JUNK, Ranking
from reidgen.recipe import Recipe
from reidgen.runs import Progress
from reidgen.seeds import stream_seed

BATCH = 8  # images whose maps are held at a time: of ResNet-50 at 256x128, in five styles, 100 MB each
MAPS = ("F", "F~", "F~+", "F~-")
PAIRS = 4 << 20  # distances computed at a time
BINS = 2000  # of the distances 0..2
Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]


@torch.inference_mode()
def look_inside(network: ReIDNet, images: Tensor) -> tuple[dict[str, Look], Tensor]:
    """Return what each stage makes of the images, and their embeddings (B, D); the network stays as it is.

    images: float32 (B, 3, H, W), ImageNet-normalised, on the network's device. A stage's map F is its output; where
    modules follow, what they say of it (`Module.look`, of SNR also F~, F~+ and F~-, and gates). A module before the
    ReLU looks at the sum before that ReLU. The stem counts as a stage where a module follows it. Computed in float32.
    """
    found: dict[str, Look] = {}
    looking = [(place, module) for place, module in network.placed if isinstance(module, Module) and place >= 0]

    def of_stage(place: int) -> Hook:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            maps, gates = found.get(_stage(place), Look({}, {}))
            found[_stage(place)] = Look({"F": output} | maps, gates)

        return note

    def of_module(place: int) -> Hook:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            maps, gates = found.get(_stage(place), Look({}, {}))
            look = cast(Module, module).look(inputs[0])
            found[_stage(place)] = Look(maps | look.maps, gates | look.gates)

        return note

    handles = [
        stage.register_forward_hook(of_stage(place))
        for place, stage in enumerate(network.backbone.stages)
        if place or 0 in dict(looking)
    ]
    handles += [module.register_forward_hook(of_module(place)) for place, module in looking]
    try:
        embedding_BD = network(images)
    finally:
        for handle in handles:
            handle.remove()
    order = [_stage(place) for place in range(len(network.backbone.stages))]
    return {stage: found[stage] for stage in order if stage in found}, embedding_BD


def _stage(place: int) -> str:
    return f"stage {place}" if place else "stem"


@torch.inference_mode()
def has_gates(network: ReIDNet) -> bool:
    """Tell whether a module of the network has channel gates to show."""
    device, channels = next(network.parameters()).device, network.backbone.channels
    return any(
        bool(module.look(torch.zeros(1, channels[place], 2, 2, device=device)).gates)
        for place, module in network.placed
        if isinstance(module, Module) and place >= 0
    )


def vary_style(images: Tensor) -> dict[str, Tensor]:
    """Return the same images in five styles; float32 (B, 3, H, W) in 0..1 before and after, the first unchanged."""
    grey = (images * images.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    warm = images.new_tensor((1.3, 1.0, 0.7)).view(3, 1, 1)
    styles = {
        "unchanged": images,
        "brighter": images * 1.6,
        "darker": images * 0.5,
        "warmer": images * warm,
        "less contrast": grey + (images - grey) * 0.5,
    }
    return {name: varied.clamp(0, 1) for name, varied in styles.items()}


def strength(map_BCHW: Tensor) -> Tensor:
    """Return how strongly each position is activated: the root of the mean square over the channels, (B, H, W).

    Source: torchreid@f8cd150:tools/visualize_actmap.py sums the squares; a mean compares stages of different width.
    """
    return map_BCHW.square().mean(dim=1).sqrt()


def style_shifts(
    network: ReIDNet, pixels_NHWC: NDArray[np.uint8], *, report: Progress
) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Return how far each change of style moves each map: by (stage, map), float64 (styles of `vary_style`, N).

        shift = |map(changed image) - map(image)| / root mean square of |map(image) - map(another image)|

    0: the style changes nothing; 1: it moves the map as far as another person does. Euclidean over all channels and
    positions; the images should be of N >= 2 different people. Unlike a cosine it is not raised by what all maps have
    in common, so that F behind a ReLU and the centred F~ can be compared. Maps are held for BATCH images only.
    """
    count, device = len(pixels_NHWC), next(network.parameters()).device
    moved: defaultdict[tuple[str, str], list[Tensor]] = defaultdict(list)
    total: dict[tuple[str, str], Tensor] = {}
    square: defaultdict[tuple[str, str], float] = defaultdict(float)
    for start in range(0, count, BATCH):
        images = to_float(torch.from_numpy(pixels_NHWC[start : start + BATCH]).to(device))
        inside = [look_inside(network, standardize(varied))[0] for varied in vary_style(images).values()]
        for key in [(stage, name) for stage, one in inside[0].items() for name in one.maps]:
            first_BF, *others = (one[key[0]].maps[key[1]].flatten(1).double() for one in inside)
            moved[key].append(torch.stack([(other - first_BF).norm(dim=1) for other in [first_BF, *others]]).cpu())
            total[key] = total.get(key, torch.zeros(())).to(device) + first_BF.sum(dim=0)
            square[key] += first_BF.square().sum().item()
        report("looking inside", min(start + BATCH, count), count)
    # The mean over all pairs of |x - y|^2 is 2 / (N - 1) (sum of |x|^2 - |sum of x|^2 / N).
    apart = {key: 2 / (count - 1) * (square[key] - total[key].square().sum().item() / count) for key in total}
    return {key: torch.cat(parts, dim=1).numpy() / max(apart[key], 1e-300) ** 0.5 for key, parts in moved.items()}


class Sample(NamedTuple):
    """Images of one domain's test people: uint8 (N, H, W, 3), and int64 (N,) who they are."""

    name: str
    pixels_NHWC: NDArray[np.uint8]
    pid_N: NDArray[np.int64]


def draw_samples(sets: list[Prepared], *, size: int, recipe: Recipe, report: Progress) -> list[Sample]:
    """Return equally many images of each set, at most `size`: of the people that its queries of split 0 ask for.

    Distractors stay out, since they share one number in some sets. The choice depends on the set's name and index
    alone. Raises DataError when a set is no target.
    """
    candidates = []
    for prepared in sets:
        tested = tested_part(prepared)
        tested = tested[tested["split"] == tested["split"].min()]
        asked = tested.loc[tested["part"] == "query", "pid"]
        candidates.append(tested[tested["pid"].isin(asked)].drop_duplicates("path").sort_values("path"))
    size = min(size, *map(len, candidates))
    samples = []
    for prepared, rows in zip(sets, candidates, strict=True):
        rng = np.random.Generator(np.random.PCG64(stream_seed("show", prepared.name)))
        chosen = rows.iloc[np.sort(rng.choice(len(rows), size, replace=False))]
        paths, pack = load_pack(prepared, recipe.height, recipe.width, report)
        pixels = pack[np.searchsorted(paths, chosen["path"].to_numpy(dtype=str))]
        samples.append(Sample(prepared.name, pixels, chosen["pid"].to_numpy()))
    return samples


@dataclass(frozen=True)
class PooledSample:
    """Of a sample, float32 arrays (N, C): the spatial means of the maps by (stage, map), the gates by (stage, gate)."""

    maps: dict[tuple[str, str], NDArray[np.float32]]
    gates: dict[tuple[str, str], NDArray[np.float32]]
    embedding_ND: NDArray[np.float32]


def pool(network: ReIDNet, pixels_NHWC: NDArray[np.uint8], *, report: Progress) -> PooledSample:
    """Return the pooled maps, the gates and the embeddings of all images, batch by batch."""
    device = next(network.parameters()).device
    maps: defaultdict[tuple[str, str], list[Tensor]] = defaultdict(list)
    gates: defaultdict[tuple[str, str], list[Tensor]] = defaultdict(list)
    embeddings = []
    for start in range(0, len(pixels_NHWC), BATCH):
        block = torch.from_numpy(pixels_NHWC[start : start + BATCH]).to(device)
        stages, embedding_BD = look_inside(network, standardize(to_float(block)))
        embeddings.append(embedding_BD.cpu())
        for stage, inside in stages.items():
            for name, map_BCHW in inside.maps.items():
                maps[stage, name].append(map_BCHW.mean(dim=(2, 3)).cpu())
            for name, gate_BC in inside.gates.items():
                gates[stage, name].append(gate_BC.cpu())
        report("looking inside", min(start + BATCH, len(pixels_NHWC)), len(pixels_NHWC))
    return PooledSample(
        {key: torch.cat(parts).numpy() for key, parts in maps.items()},
        {key: torch.cat(parts).numpy() for key, parts in gates.items()},
        torch.cat(embeddings).numpy(),
    )


def is_one_point(feature_NC: NDArray[np.float32]) -> bool:
    """Tell whether all images have the same features, but for rounding, as pooled F~ does: IN's mean is its bias."""
    return bool(feature_NC.std(axis=0).max() <= 1e-5 * (1 + np.abs(feature_NC).max()))


def neighbour_accuracy(
    feature_NC: NDArray[np.float32], *, domain_N: NDArray[np.int64], person_N: NDArray[np.int64]
) -> float:
    """Return for what share of the images the nearest image of *another* person is of the same domain.

    Euclidean. With equally many images of K domains, 1/K (a little less) says that the domains cannot be told apart.
    An image's own person is left out, because nobody is seen in two domains. person_N: unique over the domains.
    """
    feature = torch.from_numpy(feature_NC)
    distance_NN = torch.cdist(feature, feature)
    distance_NN[torch.from_numpy(person_N[:, None] == person_N[None, :])] = torch.inf
    nearest_N = distance_NN.argmin(dim=1).numpy()
    return float((domain_N[nearest_N] == domain_N).mean())


def tsne(feature_NC: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the t-SNE of the images in the plane, (N, 2); seed 0, from the first two principal components.

    Perplexity 30, less for fewer than 91 images; above 50 channels, of the first 50 principal components.
    Source: van der Maaten and Hinton, JMLR 2008; scikit-learn's TSNE.
    """
    from sklearn.decomposition import PCA  # type: ignore[import-untyped]
    from sklearn.manifold import TSNE  # type: ignore[import-untyped]

    if min(feature_NC.shape) > 50:
        feature_NC = PCA(50, random_state=0).fit_transform(feature_NC)
    perplexity = min(30.0, (len(feature_NC) - 1) / 3)
    plane: NDArray[np.float32] = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(feature_NC)
    return plane


class RankedList(NamedTuple):
    """The beginning of one query's ranking.

    query: row of the query. ap: average precision. first_match: its rank, from 1. gallery: rows of the nearest images,
    nearest first. right: whether each is a match. match: row of the first match.
    """

    query: int
    ap: float
    first_match: int
    gallery: list[int]
    right: list[bool]
    match: int


def ranked_lists(sides: Sides, ranking: Ranking, *, misses: int, hits: int, top: int = 10) -> list[RankedList]:
    """Return the hardest misses, lowest average precision first, then hits from the easiest on; a person once in each.

    A miss is a query whose nearest image is wrong. Images with the query's pid and camid and junk are left out, as in
    `reidgen.ranking.rank`, whose result for the same sides is `ranking`; equal distances keep gallery order.
    """
    ap_Q, first_Q = ranking.average_precision.numpy(), ranking.first_match.numpy()
    hardest = [int(query) for query in np.argsort(ap_Q, kind="stable") if first_Q[query]]
    easiest = [int(query) for query in np.argsort(-ap_Q, kind="stable") if first_Q[query]]
    chosen = [
        *_one_each([query for query in hardest if first_Q[query] > 1], sides.pid_Q)[:misses],
        *_one_each([query for query in easiest if first_Q[query] == 1], sides.pid_Q)[:hits],
    ]
    norm_G = sides.gallery_GD.square().sum(dim=1)
    lists = []
    for query in chosen:
        same_G = sides.pid_G == sides.pid_Q[query]
        out_G = (sides.pid_G == JUNK) | (same_G & (sides.camid_G == sides.camid_Q[query]))
        distance_G = (norm_G - 2 * sides.gallery_GD @ sides.query_QD[query]).cpu()
        order = distance_G.argsort(stable=True)
        order = order[~out_G[order]]
        right = same_G[order]
        lists.append(
            RankedList(
                query=query,
                ap=float(ap_Q[query]),
                first_match=int(first_Q[query]),
                gallery=order[:top].tolist(),
                right=right[:top].tolist(),
                match=int(order[right][0]),
            )
        )
    return lists


def _one_each(queries: list[int], pid_Q: Tensor) -> list[int]:
    """Return the first query of each person, in order."""
    first: dict[int, int] = {}
    for query in queries:
        first.setdefault(int(pid_Q[query]), query)
    return list(first.values())


@dataclass(frozen=True)
class Distances:
    """How many matching and other pairs of query and gallery image lie how far apart: int64 (BINS,), of 0..2 alike."""

    positive: NDArray[np.int64]
    negative: NDArray[np.int64]

    @property
    def auc(self) -> float:
        """The chance that a match is nearer than another image; pairs of the same bin count half."""
        nearer = self.positive.cumsum() - self.positive / 2
        return float((self.negative * nearer).sum() / (self.positive.sum() * self.negative.sum()))

    @property
    def equal_error(self) -> tuple[float, float]:
        """The distance at which as many matches are missed as others are taken for matches, and that
        share (of a bin).
        """
        missed = 1 - self.positive.cumsum() / self.positive.sum()
        taken = self.negative.cumsum() / self.negative.sum()
        place = int(np.abs(missed - taken).argmin())
        return 2 * (place + 1) / BINS, float((missed[place] + taken[place]) / 2)


def count_distances(sides: Sides, *, name: str) -> Distances:
    """Return the Euclidean distances of all query-gallery pairs, counted; of L2-normalised embeddings, so 0..2.

    Pairs of the same pid and camid, and junk, are left out. Blocks of queries keep memory at a few times 4 PAIRS bytes.
    Raises DataError, naming the set, when there is no match or nothing but matches.
    """
    counts = torch.zeros(2, BINS, dtype=torch.int64)
    rows = max(1, PAIRS // len(sides.gallery_GD))
    for start in range(0, len(sides.query_QD), rows):
        part = slice(start, start + rows)
        square_BG = 2 - 2 * (sides.query_QD[part] @ sides.gallery_GD.T).cpu()
        bin_BG = (square_BG.clamp_(0, 4).sqrt_() * (BINS / 2)).long().clamp_(max=BINS - 1)
        same_BG = sides.pid_Q[part, None] == sides.pid_G
        other_camera_BG = sides.camid_Q[part, None] != sides.camid_G
        for kind, pairs_BG in enumerate((same_BG & other_camera_BG, ~same_BG & (sides.pid_G != JUNK))):
            counts[kind] += bin_BG[pairs_BG].bincount(minlength=BINS)
    if not counts.sum(dim=1).all():
        lacking = "another person" if counts[0].any() else "a match"
        raise DataError(
            f"{name}: no query finds {lacking} in the gallery, so there is nothing to compare; choose another target"
        )
    return Distances(counts[0].numpy(), counts[1].numpy())
