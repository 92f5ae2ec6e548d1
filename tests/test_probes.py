"""What happens inside a network, how domains separate, how queries are ranked: against the equations and naive loops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, quiet
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from reidgen.data.augment import standardize, to_float
from reidgen.data.manifest import load_index, load_prepared
from reidgen.errors import DataError
from reidgen.evaluation import Sides
from reidgen.methods import METHODS
from reidgen.models.network import ReIDNet, build_network
from reidgen.pictures import probes
from reidgen.ranking import JUNK, rank

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 64, 32, 3), dtype=np.uint8)
IMAGES = standardize(to_float(torch.from_numpy(PIXELS)))


def lively(method: str, backbone: str = "tiny") -> ReIDNet:
    """Return a network in evaluation mode whose every parameter differs from its start (biases are 0 there)."""
    torch.manual_seed(0)
    network = build_network(METHODS[method], backbone, classes=4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


@pytest.mark.parametrize("method", METHODS)
def test_maps_and_gates_are_those_of_the_network(method: str) -> None:
    network = lively(method)
    passed_on: dict[str, tuple[nn.Module, Tensor, Tensor]] = {}
    names = ["stem", *(f"stage {place}" for place in (1, 2, 3, 4))]
    for name, module in zip(names, network.backbone.after, strict=True):
        module.register_forward_hook(lambda m, x, y, name=name: passed_on.update({name: (m, x[0], y)}))
    parts = METHODS[method].modules
    before = {names[place] for part in parts if part.before_relu for place in part.places}
    shown = names if any(0 in part.places for part in parts) else names[1:]
    with torch.inference_mode():
        expected = network(IMAGES)
    stages, embedding = probes.look_inside(network, IMAGES)
    assert torch.equal(embedding, expected) and list(stages) == shown
    for stage, (maps, gates) in stages.items():
        module, entered, left = passed_on[stage]
        if stage in before:  # looks at the sum before the ReLU, and leaves F~'s
            torch.testing.assert_close(maps["F~"].clamp(min=0), entered, rtol=1e-4, atol=1e-4)
            continue
        torch.testing.assert_close(maps["F"], entered)
        torch.testing.assert_close(maps["F~+" if len(maps) == 4 else list(maps)[-1]], left, rtol=1e-4, atol=1e-4)
        if len(maps) < 4:
            continue
        mean, deviation = entered.mean((2, 3), keepdim=True), entered.std((2, 3), correction=0, keepdim=True)
        weight, bias = (value.detach().view(1, -1, 1, 1) for value in (module.weight, module.bias))
        by_hand = (entered - mean) / (deviation.square() + 1e-5).sqrt() * weight + bias
        torch.testing.assert_close(maps["F~"], by_hand, rtol=1e-4, atol=1e-4)
        if method in ("snr-conv", "snr-g2"):
            continue
        torch.testing.assert_close(maps["F~+"] + maps["F~-"], maps["F"] + maps["F~"], rtol=1e-4, atol=1e-4)
        removed = mean.flatten(1) - module.bias
        first, _, second, _ = module.gate
        hidden = (removed @ first.weight.T + first.bias).clamp(min=0)
        by_hand = 1 / (1 + (-(hidden @ second.weight.T + second.bias)).exp())
        assert list(gates) == ["a"] and gates["a"].min() > 0 and gates["a"].max() < 1
        torch.testing.assert_close(gates["a"], by_hand, rtol=1e-4, atol=1e-5)
    assert [len(one.gates) for one in stages.values()] == [
        sum(int(part.params.get("gates", part.name == "se")) for part in parts if place in part.places)  # type: ignore[arg-type]
        for place in range(len(names) - len(shown), len(names))
    ]


@pytest.mark.parametrize("method", ["snr", "snr-g2", "snr-conv"])
def test_pooled_maps_are_what_the_loss_compares(method: str) -> None:
    network = lively(method)
    pooled = probes.pool(network, PIXELS, report=quiet)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.eval()
    offered = network(IMAGES).offered["pooled"]
    for place, features in offered.items():
        for name, feature in zip(probes.MAPS[1:], features, strict=True):
            found = pooled.maps[f"stage {place}", name]
            np.testing.assert_allclose(found, feature.detach().numpy(), rtol=1e-3, atol=1e-4)
            assert probes.is_one_point(found) == (name == "F~")
        assert not probes.is_one_point(pooled.maps[f"stage {place}", "F"])


def test_styles_by_hand() -> None:
    image = torch.tensor([0.2, 0.4, 0.8]).view(1, 3, 1, 1).expand(1, 3, 2, 2).clone()
    image[..., 1, 1] = 0
    before, styles = image.clone(), probes.vary_style(image)
    assert torch.equal(image, before) and torch.equal(styles["unchanged"], image)
    corner = {name: varied[0, :, 0, 0].tolist() for name, varied in styles.items()}
    assert corner["brighter"] == pytest.approx([0.32, 0.64, 1.0])
    assert corner["darker"] == pytest.approx([0.1, 0.2, 0.4])
    assert corner["warmer"] == pytest.approx([0.26, 0.4, 0.56])
    grey = 0.75 * (0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.8)
    assert corner["less contrast"] == pytest.approx([(grey + value) / 2 for value in (0.2, 0.4, 0.8)])


def test_shifts_are_shares_of_the_distance_between_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "BATCH", 2)
    network = lively("snr")
    shifts = probes.style_shifts(network, PIXELS, report=quiet)
    styles = probes.vary_style(to_float(torch.from_numpy(PIXELS)))
    inside = [probes.look_inside(network, standardize(varied))[0] for varied in styles.values()]
    assert set(shifts) == {(stage, name) for stage in inside[0] for name in probes.MAPS}
    for stage, name in shifts:
        maps = [one[stage].maps[name].double() for one in inside]
        pairs = [(maps[0][i] - maps[0][j]).square().sum() for i in range(5) for j in range(5) if i != j]
        apart = torch.stack(pairs).mean().sqrt()
        naive = [[((varied[i] - maps[0][i]).norm() / apart).item() for i in range(5)] for varied in maps]
        np.testing.assert_allclose(shifts[stage, name], naive, rtol=1e-3, atol=1e-6)


def test_strength_is_the_root_mean_square_of_the_channels() -> None:
    assert probes.strength(torch.tensor([3.0, 4.0, 0.0, 0.0]).view(1, 4, 1, 1)).item() == pytest.approx(2.5)


def test_samples_are_equally_large_of_asked_people_and_always_the_same(small_data: Path) -> None:
    sets = [load_prepared(name, small_data) for name in ("synth-plaza", "synth-night")]
    samples = probes.draw_samples(sets, size=10, recipe=SMALL, report=quiet)
    again = probes.draw_samples(sets[1:], size=10, recipe=SMALL, report=quiet)[0]
    np.testing.assert_array_equal(samples[1].pixels_NHWC, again.pixels_NHWC)
    everything = probes.draw_samples(sets, size=10_000, recipe=SMALL, report=quiet)
    for prepared, sample, whole in zip(sets, samples, everything, strict=True):
        index = load_index(prepared)
        asked = set(index.loc[index["part"] == "query", "pid"])
        assert sample.pixels_NHWC.shape == (10, 48, 32, 3) and set(sample.pid_N) <= asked
        assert len(whole.pid_N) == ((index["part"] != "train") & index["pid"].isin(asked)).sum()
        assert len({image.tobytes() for image in sample.pixels_NHWC}) == 10


def test_neighbours_of_another_person_tell_domains_apart() -> None:
    feature = np.array([[0.0], [0.1], [1.0], [5.0], [5.1], [6.0]], dtype=np.float32)
    domain = np.array([0, 0, 1, 1, 1, 0])
    person = np.array([0, 0, 1, 2, 3, 4])
    # Nearest of another person: 0 -> 1.0 (other), 0.1 -> 1.0 (other), 1.0 -> 0.1 (other), 5.0 -> 5.1 (same),
    # 5.1 -> 5.0 (same), 6.0 -> 5.1 (other); with their own person the first two would be "same".
    assert probes.neighbour_accuracy(feature, domain_N=domain, person_N=person) == pytest.approx(2 / 6)
    noise = np.random.default_rng(0).normal(size=(900, 8)).astype(np.float32)
    mixed = probes.neighbour_accuracy(noise, domain_N=np.arange(900) % 3, person_N=np.arange(900))
    assert mixed == pytest.approx(1 / 3, abs=0.05)


def test_tsne_keeps_clusters_apart_and_is_repeatable() -> None:
    feature = np.random.default_rng(0).normal(size=(60, 70)).astype(np.float32)
    feature[30:] += 5
    plane = probes.tsne(feature)
    np.testing.assert_array_equal(plane, probes.tsne(feature))
    distance = np.linalg.norm(plane[:, None] - plane[None], axis=2) + 1e9 * np.eye(60)
    assert ((distance.argmin(axis=1) >= 30) == (np.arange(60) >= 30)).all()


@pytest.fixture
def sides() -> Sides:
    """Unit vectors of few people and cameras, with junk, in which every kind of pair occurs."""
    torch.manual_seed(0)
    query, gallery = (nn.functional.normalize(torch.randn(count, 6), dim=1) for count in (12, 40))
    pid_G = torch.randint(-1, 4, (40,))
    assert (pid_G == JUNK).any()
    return Sides(query, gallery, torch.arange(12) % 4, pid_G, torch.randint(0, 2, (12,)), torch.randint(0, 2, (40,)))


def test_ranked_lists_against_a_full_sort(sides: Sides) -> None:
    ranking = rank(**sides._asdict())
    lists = probes.ranked_lists(sides, ranking, misses=3, hits=2, top=7)
    for one in lists:
        pid, camid = int(sides.pid_Q[one.query]), int(sides.camid_Q[one.query])
        distances = [float((sides.query_QD[one.query] - image).norm()) for image in sides.gallery_GD]
        order = [
            number
            for number in sorted(range(40), key=lambda number: distances[number])
            if sides.pid_G[number] != JUNK and (int(sides.pid_G[number]), int(sides.camid_G[number])) != (pid, camid)
        ]
        right = [int(sides.pid_G[number]) == pid for number in order]
        assert one.gallery == order[:7] and one.right == right[:7]
        assert one.match == order[right.index(True)] and one.first_match == right.index(True) + 1
        hits = np.flatnonzero(right)
        assert one.ap == pytest.approx(np.mean([(i + 1) / (hit + 1) for i, hit in enumerate(hits)]))
    missed, hit = ([one for one in lists if (one.first_match > 1) == kind] for kind in (True, False))
    assert lists == missed + hit and 1 <= len(missed) <= 3 and 1 <= len(hit) <= 2
    ap, first = ranking.average_precision, ranking.first_match
    assert missed[0].ap == pytest.approx(ap[first > 1].min().item())
    assert hit[0].ap == pytest.approx(ap[first == 1].max().item())
    assert [one.ap for one in missed] == sorted(one.ap for one in missed)
    for part in (missed, hit):
        assert len({int(sides.pid_Q[one.query]) for one in part}) == len(part)


def test_distances_against_a_naive_loop(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "PAIRS", 100)  # two queries at a time
    found = probes.count_distances(sides, name="set")
    values: dict[bool, list[float]] = {True: [], False: []}
    for query in range(12):
        for image in range(40):
            same = bool(sides.pid_Q[query] == sides.pid_G[image])
            if sides.pid_G[image] == JUNK or (same and sides.camid_Q[query] == sides.camid_G[image]):
                continue
            values[same].append(float((sides.query_QD[query].double() - sides.gallery_GD[image].double()).norm()))
    for counts, kind in ((found.positive, True), (found.negative, False)):
        naive = np.histogram(values[kind], bins=probes.BINS, range=(0, 2))[0]
        # A distance within a rounding error of a bin's edge may fall on either side of it.
        assert counts.sum() == len(values[kind]) and np.abs(counts.cumsum() - naive.cumsum()).max() <= 1
    labels = [1] * len(values[True]) + [0] * len(values[False])
    exact = roc_auc_score(labels, [-value for value in values[True] + values[False]])
    assert found.auc == pytest.approx(exact, abs=2e-3)
    threshold, error = found.equal_error
    missed = np.mean(np.array(values[True]) > threshold)
    taken = np.mean(np.array(values[False]) <= threshold)
    assert error == pytest.approx((missed + taken) / 2, abs=0.01) and abs(missed - taken) < 0.05


def test_distances_by_hand() -> None:
    positive, negative = np.zeros(probes.BINS, np.int64), np.zeros(probes.BINS, np.int64)
    positive[[100, 200, 300, 900]] = 1
    negative[[500, 900, 1000, 1100]] = 1
    found = probes.Distances(positive, negative)
    assert found.auc == pytest.approx(
        (3 + 3.5 + 4 + 4) / 16
    )  # for each negative: the positives nearer, the tie by half
    # From bin 500 on one negative of four is taken, and one positive of four is missed until bin 900.
    assert found.equal_error == pytest.approx((0.501, 0.25))


def test_distances_without_both_kinds_of_pairs_say_so() -> None:
    one, two = torch.eye(2), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(DataError, match="mycams: no query finds another person in the gallery"):
        probes.count_distances(Sides(one, one, two, two, two, two + 1), name="mycams")
    with pytest.raises(DataError, match="mycams: no query finds a match"):
        probes.count_distances(Sides(one, one, two, two + 1, two, two), name="mycams")
