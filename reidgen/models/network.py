"""The ReID network: a backbone with a method's modules, global average pooling, BNNeck and classifier."""

import contextlib
import dataclasses
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from reidgen import parallel
from reidgen.contracts import Augmentation, Backbone, Batch, Given, Loss, Module, Network, Output, Step, copy_alike
from reidgen.data.augment import standardize
from reidgen.errors import RecipeError
from reidgen.models.weights import Loaded, build_backbone
from reidgen.parts import IMAGES, BackboneRow, Method, Part
from reidgen.recipe import Recipe
from reidgen.registry import blaming, get_backbone, load_class

Placed = Sequence[tuple[int, nn.Module]]
_CHANCE = threading.RLock()  # held while a network is built: threads that train at once draw from one generator


class ReIDNet(Network):
    """Backbone, global average pool, BNNeck (BatchNorm1d with its bias frozen at 0), linear classifier without bias
    [A].

    forward: float (n, 3, H, W), ImageNet-normalised.
      training: an Output. Under torchrun it holds the rows of all ranks, N = n times their number, so that the neck and
      the losses see the whole batch, in the batch's order.
      evaluation: the embedding (n, D), after the neck and L2-normalised [B], so that Euclidean distance ranks as
      cosine.
    images: modules that meet the images before the backbone. placed: (place, module) of all modules of the row, in
    order.
    Source: the head of the authors' code [A]; BNNeck: Luo et al., CVPR Workshops 2019.
    """

    def __init__(
        self, backbone: Backbone, *, classes: int, placed: Placed = (), views: int = 1, pooling: str = "avg"
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.dim = backbone.dim
        self.images = nn.Sequential(*(module for place, module in placed if place == IMAGES))
        self.pool = GeM() if pooling == "gem" else None
        self.neck = nn.BatchNorm1d(backbone.dim)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(backbone.dim, classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)
        self.views = views
        self.placed = list(placed)
        self.replaced: list[nn.Module] = []
        self.started = Loaded()

    def forward(self, images: Tensor) -> Any:
        if not self.training:
            return functional.normalize(self.describe(images), dim=1)
        feature = parallel.gather(self.pooled(images), self.views)
        neck = self.neck(feature)
        return Output(feature=feature, neck=neck, logits=self.classifier(neck), offered=self._offered())

    def prepare(self, pixels_BCHW: Tensor) -> Tensor:
        """Return RGB images in 0..1 normalised with ImageNet's mean and deviation."""
        return standardize(pixels_BCHW)

    def pooled(self, images: Tensor) -> Tensor:
        """Return the features of images before the neck, (n, D), float32 or wider."""
        found: Tensor = self.backbone(self.images(images))
        wide = torch.promote_types(found.dtype, torch.float32)
        if self.pool is not None:
            pooled: Tensor = self.pool(found.to(wide))
            return pooled
        return found.mean(dim=(2, 3), dtype=wide) if found.ndim == 4 else found.to(wide)

    def describe(self, images: Tensor) -> Tensor:
        """Return the features of images behind the neck, (n, D): embeddings before they are L2-normalised."""
        found: Tensor = self.neck(self.pooled(images))
        return found

    def _offered(self) -> dict[str, dict[int, tuple[Tensor, ...]]]:
        """Return what modules left in this forward pass, of all ranks."""
        kept: defaultdict[str, dict[int, tuple[Tensor, ...]]] = defaultdict(dict)
        for place, module in self.placed:
            if isinstance(module, Module) and module.offers and module.offered is not None:
                parts = [parallel.gather(part, self.views) for part in module.offered]
                named = hasattr(module.offered, "_fields")
                kept[module.offers][place] = type(module.offered)(*parts) if named else tuple(parts)
        return dict(kept)

    @property
    def parts(self) -> list[nn.Module]:
        """The parts that a row chose: backbone and modules."""
        return [self.backbone, *(module for _, module in self.placed), *self.replaced]

    def drawing(self) -> Iterator[tuple[str, Module]]:
        """Yield every module that may draw, with a name of its own."""
        for name, module in self.named_modules():
            if isinstance(module, Module):
                yield name, module


class GeM(nn.Module):
    """Generalized-mean pooling: float32 (B, C, H, W) -> (B, C), (mean of max(x, 1e-6)^p)^(1/p), p learned from 3 on.

    It means something for maps that are never negative, that is behind a ReLU. Raises RecipeError for features.
    Source: Radenovic et al., TPAMI 2018, as in BAU and fast-reid's SBS [A].
    """

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([3.0]))

    def forward(self, map_BCHW: Tensor) -> Tensor:
        if map_BCHW.ndim != 4:
            raise RecipeError("pooling = gem pools a map, and this backbone gives features; set pooling = avg")
        return map_BCHW.clamp_min(1e-6).pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)


def build_network(
    row: Method,
    backbone: str | BackboneRow,
    *,
    classes: int,
    weights: str = "none",
    size: tuple[int, int] = (256, 128),
    pooling: str = "avg",
) -> ReIDNet:
    """Return the network of a row on one backbone, initialised from torch's global random state.

    classes: identities of the source. weights, size: as in `build_backbone`; what was loaded stands in `started`.
    pooling: "avg" or "gem".
    Waits while another thread builds one, a download of its weights included.
    Raises RecipeError for a row that has no meaning on this backbone, WeightsError for weights that cannot be had or do
    not fit, PluginError for a part whose plug-in is not loaded.
    """
    with _CHANCE:
        kind = get_backbone(backbone) if isinstance(backbone, str) else backbone
        body, started = build_backbone(kind, weights=weights, size=size)
        _refuse_places(row, body, kind.name)
        behind = [part for part in row.modules if len(body.channels) - 1 in part.places and not part.before_relu]
        last = [part.name for part in behind if not getattr(load_class(part.build, part.digest), "keeps_signs", False)]
        if pooling == "gem" and last:
            raise RecipeError(
                f"{row.label}: pooling = gem needs a map that is never negative, and {last[0]} stands behind the last "
                "ReLU; set pooling = avg, or leave that row out"
            )
        replaced = _replace_norms(row, row.norm, body, kind.name) if row.norm else []
        placed = [
            (place, _insert(body, part, place))
            for before_relu in (True, False)
            for place in range(IMAGES, len(body.channels))
            for part in row.modules
            if place in part.places and part.before_relu == before_relu
        ]
        placed.sort(key=lambda one: one[0])
        network = ReIDNet(body, classes=classes, placed=placed, views=row.views, pooling=pooling)
        network.started, network.replaced = started, replaced
        return network


def _insert(body: Backbone, part: Part, place: int) -> nn.Module:
    """Return the part's module for a place, and put it there, behind what stands there already; images' are not put."""
    module = _make(part, 3 if place == IMAGES else body.channels[place])
    if part.before_relu:
        body.put_before_relu(place, module)
    elif place != IMAGES:
        bare = isinstance(body.after[place], nn.Identity)
        body.after[place] = module if bare else nn.Sequential(body.after[place], module)
    return module


def _make(part: Part, channels: int) -> nn.Module:
    build = load_class(part.build, part.digest)
    try:
        with blaming():
            module = build(channels, **part.params)
    except (TypeError, ValueError, RecipeError) as error:
        raise RecipeError(f"the part {part.name} cannot be built on {channels} channels: {error}") from error
    if not isinstance(module, nn.Module):
        raise RecipeError(f"the part {part.name} is built by {part.build}, which is no torch module")
    return module


def _refuse_places(row: Method, body: Backbone, backbone: str) -> None:
    """Raise RecipeError when a part stands where the backbone has no place, or two offer the same at one place."""
    last = len(body.channels) - 1
    offers: set[tuple[str, int]] = set()
    for part in [*row.modules, *([row.norm] if row.norm else [])]:
        is_norm = part is row.norm
        if not is_norm and not part.places:
            raise RecipeError(f"{row.label}: the module {part.name} stands at no place; give it places")
        for place in part.places:
            if place == IMAGES and not is_norm and not part.before_relu:
                continue
            if not 0 <= place <= last:
                has = f"0 to {last}" if body.channels else "none"
                raise RecipeError(f"{row.label}: {part.name} stands at place {place}; backbone {backbone} has {has}")
            offered = str(getattr(load_class(part.build, part.digest), "offers", ""))
            if offered and not is_norm:
                if (offered, place) in offers:
                    raise RecipeError(f"{row.label}: two modules offer {offered!r} at place {place}; leave one out")
                offers.add((offered, place))


def _replace_norms(row: Method, part: Part, body: Backbone, backbone: str) -> list[nn.Module]:
    """Put the part in the place of every BatchNorm2d of its places (all where it names none); return what is there.

    Of a part that is `first_of_block`, in the place of the first one of each block.
    """
    places = part.places or range(len(body.channels))
    roots: list[nn.Module] = [body.stages[place] for place in places] if body.channels else [body]
    build = load_class(part.build, part.digest)
    if part.first_of_block and any(isinstance(module, build) for root in roots for module in root.modules()):
        raise RecipeError(f"{row.label}: backbone {backbone} has the norm {part.name} already; train baseline on it")
    first = {id(_first_norm(block)) for place in places for block in body.blocks(place)}
    replaced = list[nn.Module]()
    for root in roots:
        for name, norm in list(root.named_modules()):
            if isinstance(norm, nn.BatchNorm2d) and type(norm) is not nn.BatchNorm2d:
                raise RecipeError(
                    f"{row.label}: the norm {part.name} replaces BatchNorm2d; backbone {backbone} has "
                    f"{type(norm).__name__}, which is more than that"
                )
            if type(norm) is nn.BatchNorm2d and name and (id(norm) in first or not part.first_of_block):
                parent, _, own = name.rpartition(".")
                module = _make(part, norm.num_features)
                module.take_over(norm) if isinstance(module, Module) else copy_alike(norm, module)
                setattr(root.get_submodule(parent), own, module)
                replaced.append(module)
    if not replaced:
        where = f" at its places ({', '.join(map(str, part.places))})" if part.places else ""
        raise RecipeError(
            f"{row.label}: the norm {part.name} replaces BatchNorm2d; backbone {backbone} has none{where}"
        )
    return replaced


def _first_norm(block: nn.Module) -> nn.Module | None:
    return next((module for module in block.modules() if type(module) is nn.BatchNorm2d), None)


def build_losses(row: Method, shared: list[Part], network: ReIDNet, *, domains: int) -> nn.ModuleDict:
    """Return the losses of a row by name: those that the recipe gives every row, then its own.

    Raises RecipeError when a loss reads what no module of the row offers, or has a parameter that does not fit.
    """
    losses = nn.ModuleDict()
    for part in [*shared, *row.losses]:
        build = load_class(part.build, part.digest)
        reads = str(getattr(build, "reads", ""))
        offering = [p for p, module in network.placed if reads and getattr(module, "offers", "") == reads]
        if reads and not offering:
            raise RecipeError(
                f"{row.label}: the loss {part.name} reads {reads!r}, which no module of the row offers (a norm offers "
                "nothing); add the module or leave out the loss"
            )
        given = Given(tuple(offering), network.backbone.dim, network.classifier.out_features, domains)
        try:
            with blaming():
                loss = build(given, **part.params)
        except (TypeError, ValueError, RecipeError) as error:
            raise RecipeError(f"{row.label}: the loss {part.name} cannot be built: {error}") from error
        if not isinstance(loss, Loss):
            raise RecipeError(f"{row.label}: {part.build} is no reidgen.contracts.Loss")
        if part.name in losses or part.name == "loss":
            raise RecipeError(f"{row.label}: two losses are called {part.name}; rename one")
        losses[part.name] = loss
    return losses


def build_augmentations(row: Method) -> list[Augmentation]:
    """Return what is done to a row's further views, in order. Raises RecipeError when a part is none."""
    found = []
    for part in row.augmentations:
        try:
            with blaming():
                built = load_class(part.build, part.digest)(**part.params)
        except (TypeError, ValueError, RecipeError) as error:
            raise RecipeError(f"{row.label}: the augmentation {part.name} cannot be built: {error}") from error
        if not isinstance(built, Augmentation):
            raise RecipeError(f"{row.label}: {part.build} is no reidgen.contracts.Augmentation")
        found.append(built)
    return found


def named_losses(losses: nn.ModuleDict) -> Iterator[tuple[str, Loss]]:
    """Yield the losses that `build_losses` returned, with their names."""
    for name, loss in losses.items():
        assert isinstance(loss, Loss)
        yield name, loss


def draws(network: ReIDNet, losses: nn.ModuleDict, step: Step) -> list[tuple[Tensor, ...]]:
    """Return what each part draws for a step, on the CPU, in an order that `hand_out` knows."""
    drawn = [tuple(module.draw(dataclasses.replace(step, where=name))) for name, module in network.drawing()]
    return [*drawn, *(tuple(loss.draw(step)) for _, loss in named_losses(losses))]


def hand_out(network: ReIDNet, losses: nn.ModuleDict, drawn: Sequence[tuple[Tensor, ...]]) -> None:
    """Leave in each part what it drew, once that is where the network is."""
    parts: list[Module | Loss] = [module for _, module in network.drawing()]
    parts += [loss for _, loss in named_losses(losses)]
    for part, own in zip(parts, drawn, strict=True):
        part.drawn = own


@contextlib.contextmanager
def own_chance(seed: int | None = None) -> Iterator[None]:
    """Build a network while no other thread does: modules draw their start from the CPU's one generator, which begins
    at the seed, where one is given, and afterwards is as it was. What other code draws meanwhile is not kept apart.
    """
    with _CHANCE, torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        yield


class _Undrawn(TorchFunctionMode):
    """Draws no start of a tensor: one without memory holds nothing, and PyTorch imports its compiler to draw it."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        drawn = function in (Tensor.normal_, Tensor.uniform_) or getattr(function, "__module__", "") == nn.init.__name__
        return function(*args, **named) if not drawn else args[0] if args else named["tensor"]


def check_row(
    row: Method, backbone: str, shared: list[Part], *, height: int = 64, width: int = 32, pooling: str = "avg"
) -> None:
    """Raise RecipeError for a row that cannot mean anything on a backbone, before any data are touched.

    All parts are built, without memory. Where a part or the backbone comes from a plug-in, they are built for real, and
    a batch of two people goes through them: each module must keep its map's shape, the feature must be (N, dim), each
    loss a finite scalar; what the plug-in's code raises is a PluginError with file and line.
    """
    outside = bool(get_backbone(backbone).digest) or any(part.digest for part in row.parts)
    where = torch.device("cpu" if outside else "meta")
    undrawn = contextlib.nullcontext() if outside else _Undrawn()
    with parallel.alone(), own_chance(), where, undrawn, blaming():
        network = build_network(row, backbone, classes=2, size=(height, width), pooling=pooling)
        if pooling == "gem" and not network.backbone.channels:
            _refuse_features(row, network, backbone, (3, height, width))
        losses = build_losses(row, shared, network, domains=1)
        augmentations = build_augmentations(row)
        if outside:
            _try_augmentations(row, augmentations, (3, height, width))
            _try_out(row, network.train(), losses.train(), (3, height, width))


@torch.no_grad()
def _refuse_features(row: Method, network: ReIDNet, backbone: str, shape: tuple[int, int, int]) -> None:
    """Raise RecipeError when the backbone gives features, which cannot be pooled once more."""
    if network.backbone.eval()(torch.zeros(2, *shape)).ndim != 4:
        raise RecipeError(
            f"{row.label}: pooling = gem pools a map, and backbone {backbone} gives features; set pooling = avg"
        )


def check_recipe(recipe: Recipe) -> None:
    """Raise what `check_row` does for the row and the settings of a recipe."""
    check_row(
        recipe.row,
        recipe.backbone,
        recipe.losses,
        height=recipe.height,
        width=recipe.width,
        pooling=recipe.pooling,
    )


def check_grid(recipe: Recipe, methods: Iterable[str]) -> None:
    """Raise what `check_recipe` does for the first of a grid's methods that has no meaning."""
    for method in methods:
        check_recipe(recipe.change(method=method))


def _try_augmentations(row: Method, augmentations: list[Augmentation], shape: tuple[int, int, int]) -> None:
    pid = torch.tensor([0, 0, 1, 1])
    zero, images = torch.zeros_like(pid), torch.rand(len(pid), *shape)
    for number, augmentation in enumerate(augmentations):
        step = Step(pid, zero, zero, zero + 1, torch.arange(len(pid)), seed=0, number=0, where=f"view.{number}")
        augmentation.drawn = tuple(augmentation.draw(step))
        changed = augmentation(images.clone())
        if not isinstance(changed, Tensor) or changed.shape != images.shape or changed.dtype != images.dtype:
            got = f"{changed.dtype} {tuple(changed.shape)}" if isinstance(changed, Tensor) else type(changed).__name__
            raise RecipeError(f"{row.label}: {type(augmentation).__name__} makes {got} of {tuple(images.shape)}")


def _try_out(row: Method, network: ReIDNet, losses: nn.ModuleDict, shape: tuple[int, int, int]) -> None:
    pid = torch.tensor([0, 0, 1, 1]).repeat(row.views)
    zero, view = torch.zeros_like(pid), torch.arange(row.views).repeat_interleave(4)
    step = Step(pid, zero, zero, view, torch.arange(len(pid)), seed=0, number=0)
    hand_out(network, losses, draws(network, losses, step))

    def keeps_shape(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        if not isinstance(output, Tensor) or output.shape != inputs[0].shape:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise RecipeError(
                f"{row.label}: the module {type(module).__name__} makes {got} of {tuple(inputs[0].shape)}; "
                "it must keep the shape"
            )

    for module in [*(module for _, module in network.placed), *network.replaced]:
        module.register_forward_hook(keeps_shape)
    found = network.backbone(network.images(torch.rand(len(pid), *shape)))
    width = found.shape[1] if isinstance(found, Tensor) and found.ndim in (2, 4) else 0
    if width != network.backbone.dim:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise RecipeError(
            f"the backbone gives {got}; it must give (B, {network.backbone.dim}) or such maps, as its dim says"
        )
    output = network(torch.rand(len(pid), *shape))
    for place, module in network.placed:
        if isinstance(module, Module) and module.offers and place not in output.offered.get(module.offers, {}):
            raise RecipeError(f"{row.label}: {type(module).__name__} offers {module.offers!r} and leaves nothing")
    batch = Batch(pid, zero, zero, view, images=4)
    for name, loss in named_losses(losses):
        value = loss(output, batch)
        if not isinstance(value, Tensor) or value.ndim != 0 or not torch.isfinite(value):
            got = f"{tuple(value.shape)}" if isinstance(value, Tensor) and value.ndim else repr(value)
            raise RecipeError(f"{row.label}: the loss {name} gives {got}; it must give a finite scalar")
