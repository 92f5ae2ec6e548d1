"""What a part must be: modules, backbones, losses, augmentations and test steps, the shipped ones and yours.

Shapes: B images of a batch on all ranks, V views of each, N = V B rows (all images of the first view, then of the
next); C channels, H x W positions, D features, K identities of the source. Under torchrun a rank's network meets its
own rows only, while losses see all N.

A class is built with what it stands on, then with its parameters as keywords: `MyNorm(channels, strength=0.5)`,
`MyLoss(given, weight=1.0)`, `MyBackbone(width=0.5)`. Its keyword-only arguments with their defaults are the parameters
that `--set` can change, of all but a backbone. What it draws, it draws in `draw`, from the step's own streams;
then an interrupted training goes on to the same bits, and all ranks draw alike.

capturable (of a module, a backbone and a loss): whether a GPU may record one training step with it and replay that for
the others, see `reidgen.graphs`. True only where forward, and after_step, do the same work on the same shapes at every
step: no number that changes on the host, no chance but `drawn`, nothing decided by a tensor's values (`.item()`, `if`
of a tensor, a boolean mask as an index). PyTorch refuses most of what is wrongly called so, but not a number that
changes. Not said, it is False: then the row trains as ever, only slower on a fast GPU.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from reidgen.errors import RecipeError
from reidgen.registry import blaming, load_class
from reidgen.seeds import stream_seed
from reidgen.teststeps import STAGES, StepRow

Batches = Callable[[int, int], Iterable[Tensor]]  # (size, most) -> images, see TestStep.adapt
Distances = Callable[[slice], Tensor]  # a slice of queries -> float32 (B, G), see TestStep.distances

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # R, G, B in 0..1: an image is ImageNet-normalised as (image - mean) / std
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Step:
    """What a part may know of a step before it: int64 on the CPU, (N,) each, of the batch of all ranks.

    pid: 0..K-1; camid and domain: 0.., numbered over all sources; view: 0..V-1. own: (n,), which rows this rank embeds.
    """

    pid: Tensor
    camid: Tensor
    domain: Tensor
    view: Tensor
    own: Tensor
    seed: int
    number: int
    where: str = ""

    def generator(self, word: str) -> torch.Generator:
        """Return a generator on the CPU for this step, this part and what `word` says; each call gives it anew."""
        words = [word, self.where] if self.where else [word]
        return torch.Generator().manual_seed(stream_seed(*words, self.seed, self.number))


class Look(NamedTuple):
    """What a module makes of a map: maps float (B, C, H, W) by name, gates float (B, C) in 0..1 by name."""

    maps: dict[str, Tensor]
    gates: dict[str, Tensor]


class Module(nn.Module):
    """Contract of a module: built with its channels, float (B, C, H, W) -> the same shape and dtype; the input is kept.

    It replaces a BatchNorm2d, or is inserted at a place. Any nn.Module of this form will do; this class adds what else
    one may do, each of it optional:

    draw(step) -> tensors on the CPU, of the same shapes at every step: they lie in `self.drawn`, on the device, in the
      training forward pass that follows. What is drawn per row must be drawn for all N rows and cut to `step.own`.
    keeps_signs: True where nothing negative comes out if nothing negative goes in: then the map behind the last stage
      can still be pooled by `gem`.
    offers (of a module at a place, not of a norm): the name of what `self.offered` holds after a training forward pass:
      a tuple (named or not) of float tensors (n, ...) with gradients, for a loss that reads that name; it is gathered
      over the ranks.
    take_over(norm): called when the module replaces a BatchNorm2d whose weights are loaded. Here: all that has the same
      name and shape is copied (weight, bias, running statistics).
    look(map_BCHW) -> what `reidgen show` draws; here nothing.
    running_mean, running_var, momentum: what a norm knows of its inputs, kept in training as torch's BatchNorm2d does;
      by these names the test step `bn` finds it and estimates it anew.
    rates: by the name of a parameter of its own, how many times the others' learning rate it has; such a parameter has
      no weight decay. after_step(): called after every step of the optimizer; here nothing.
    """

    capturable: ClassVar[bool] = False
    keeps_signs: ClassVar[bool] = False
    offers: ClassVar[str] = ""
    rates: Mapping[str, float] = MappingProxyType({})
    drawn: tuple[Tensor, ...] = ()
    offered: tuple[Tensor, ...] | None = None

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def draw(self, step: Step) -> tuple[Tensor, ...]:
        """Return what the next training forward pass needs of chance."""
        return ()

    def take_over(self, norm: nn.BatchNorm2d) -> None:
        """Start from the weights of the BatchNorm2d that this module replaces."""
        copy_alike(norm, self)

    def after_step(self) -> None:
        """Bring parameters back to where they may lie."""

    def look(self, map_BCHW: Tensor) -> Look:
        """Return what the module makes of the map, for pictures."""
        return Look({}, {})

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the last batch's graph, so that the module can be copied at any time."""
        return {**self.__dict__, "offered": None, "drawn": ()}


def copy_alike(source: nn.Module, target: nn.Module) -> None:
    """Copy into `target` every tensor of `source` that has the same name and shape there."""
    theirs = source.state_dict()
    with torch.no_grad():
        for name, tensor in target.state_dict().items():
            if name in theirs and theirs[name].shape == tensor.shape:
                tensor.copy_(theirs[name])


class Network(nn.Module):
    """A network as evaluation, `embed` and `stress` use it, trained here or from elsewhere. dim: D, of an embedding.

    prepare(pixels_BCHW): RGB images, float32 (B, 3, H, W) in 0..1, as the network wants them, in the same shape.
    describe(images): what prepare made, (B, 3, H, W) -> features (B, D), not L2-normalised yet.
    device: where it wants them. fixed: whether it cannot be changed, so that no test step may adapt it or a copy of it.
    """

    dim: int
    fixed: ClassVar[bool] = False

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def prepare(self, pixels_BCHW: Tensor) -> Tensor:
        raise NotImplementedError

    def describe(self, images: Tensor) -> Tensor:
        raise NotImplementedError


class Backbone(nn.Module):
    """Contract of a backbone: float (B, 3, H, W), ImageNet-normalised -> a map (B, dim, H', W'), or a feature (B, dim).

    stages: what stands at places 0 (the stem), 1, 2, ...; channels: those that each place passes on, the last is `dim`.
    Modules of a row follow a place; `pool` comes behind the stem and its module. Written with BatchNorm2d: what a row
    puts in its place takes over its weights, once they are loaded. A backbone without places (channels == ()) gives its
    `dim` and a `forward` of its own; a row whose parts need places is refused there.

    blocks(place): the blocks of a stage, for norms that replace only the first BatchNorm2d of each; here its children.
    put_before_relu(place, module): puts a module before the place's last ReLU; a backbone that cannot, refuses.
    sized: whether the class must know the images' size: it is built with `size=(height, width)` then, beside its
    parameters, and refuses one that it cannot take (ValueError, RecipeError).
    imagenet: its ImageNet weights, "" for none: torchvision's name of them; or the https address of a file, behind
    a "#" the name that it is kept by; or any words, where `published` returns them.
    renames: (prefix in this network, prefix in published weight files), by which weights are mapped, the first that
    fits; leaves_out: prefixes of published names beside those, of layers that this network has not: a classifier.
    fit(found): what is made of tensors of a weight file, by their names here, before they are loaded: positions are
    brought to the images' size.
    """

    capturable: ClassVar[bool] = False
    imagenet: str = ""
    sized: ClassVar[bool] = False

    def __init__(
        self,
        stages: Sequence[nn.Module] = (),
        channels: Sequence[int] = (),
        *,
        dim: int = 0,
        pool: nn.Module | None = None,
        renames: Sequence[tuple[str, str]] = (),
        leaves_out: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if len(stages) != len(channels):
            raise RecipeError(f"a backbone of {len(stages)} stages needs as many channels; got {list(channels)}")
        self.stages = nn.ModuleList(stages)
        self.after = nn.ModuleList(nn.Identity() for _ in stages)
        self.pool = pool or nn.Identity()
        self.channels = tuple(channels)
        self.dim = dim or (channels[-1] if channels else 0)
        self.renames = tuple(renames)
        self.leaves_out = tuple(leaves_out)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for place, (stage, after) in enumerate(zip(self.stages, self.after, strict=True)):
            x = after(stage(x))
            if place == 0:
                x = self.pool(x)
        return x

    def blocks(self, place: int) -> list[nn.Module]:
        """Return the blocks of a place, in order."""
        return list(self.stages[place].children())

    def put_before_relu(self, place: int, module: nn.Module) -> None:
        """Put a module between the residual sum and the last ReLU of a place.

        Raises RecipeError where there is none.
        """
        raise RecipeError(f"{type(self).__name__} has no socket before the ReLU of place {place}")

    def published(self) -> Mapping[str, Tensor] | None:
        """Return the weights that `imagenet` stands for, where the backbone fetches them by itself. Raises
        WeightsError when they cannot be had.
        """
        return None

    def fit(self, found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the tensors of a weight file as this network needs them, under the same names."""
        return found


class Augmentation(nn.Module):
    """Contract of what is done to the images of the second and every further view, beside the recipe's augmentation.

    Built with its parameters as keywords; forward: float32 (n, 3, H, W) in 0..1 -> the same shape, dtype and range: the
    n rows of one view that this rank embeds. draw: as of a Module; `step` holds the rows of that view alone. It may
    decide on the host what it does, as no recording holds it.
    """

    drawn: tuple[Tensor, ...] = ()

    def draw(self, step: Step) -> tuple[Tensor, ...]:
        """Return what the next forward pass needs of chance."""
        return ()

    def forward(self, images: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Given:
    """What a loss is built on: places, in order, whose modules offer what it reads; D and K; the sources' number."""

    places: tuple[int, ...]
    dim: int
    classes: int
    domains: int


@dataclass(frozen=True)
class Batch:
    """What a loss sees of a batch, on the device: int64 (N,) each, as in Step.

    images: B, the rows of the first view.
    """

    pid: Tensor
    camid: Tensor
    domain: Tensor
    view: Tensor
    images: int


@dataclass(frozen=True)
class Output:
    """What the network gives a loss: float, with gradients.

    feature: (N, D) before the neck, float32 or wider; neck: (N, D) behind it; logits: (N, K).
    offered: by what modules offer, then by place: the tuple that a module left, (N, ...) each.
    """

    feature: Tensor
    neck: Tensor
    logits: Tensor
    offered: Mapping[str, Mapping[int, tuple[Tensor, ...]]]


class Loss(nn.Module):
    """Contract of a loss: built with what is `given`; forward(output, batch) -> a scalar, its weight in it.

    reads: the name of what modules must offer, "" for nothing; a row without such a module is refused. Parameters are
    trained with the network's, parameters and buffers live in the checkpoint, not in the weights of the model.
    draw: as of a Module, with `where` empty. begin(embed): called once, before the first step of a training: `embed()`
      gives the embeddings of the untrained network, in evaluation mode, of all images of the sources, unit float32
      (images, D), their identities and their domains, int64 (images,), all on the network's device.
    """

    capturable: ClassVar[bool] = False
    reads: ClassVar[str] = ""
    drawn: tuple[Tensor, ...] = ()

    def __init__(self, given: Given) -> None:
        super().__init__()
        self.given = given

    def draw(self, step: Step) -> tuple[Tensor, ...]:
        """Return what the next forward pass needs of chance."""
        return ()

    def begin(self, embed: Callable[[], tuple[Tensor, Tensor, Tensor]]) -> None:
        """Start from what the untrained network sees."""

    def forward(self, output: Output, batch: Batch) -> Tensor:
        raise NotImplementedError


class TestStep:
    """Contract of a test step: what stands between a trained network and its ranking; built with its parameters as
    keywords. It sees no identity.

    A class has one of these methods, which is the `stage` of its row (`reidgen.teststeps.StepRow`):

    adapt(network, batches): change the network, a copy that is in evaluation mode, before it embeds a group of images.
      batches(size, most) -> the group's images in batches, float (B, 3, H, W), ImageNet-normalised, on the device: the
      fewest batches of at most `size` images, alike in size, the first `most` of them; by the SHA-256 of the files, an
      order that says nothing of people and that file names do not move; with other views of each batch behind it.
      A group is the images of one camera, or, where the step's `cameras` is False, all.
    views(images_BCHW) -> the images, each (B, 3, H, W), to embed in the place of these: what the network makes of them
      behind its neck is averaged before it is L2-normalised.
    embeddings(embedding_ND, camid_N): unit float32 (N, D) on the device and int64 (N,) on the CPU, of all images of a
      split, queries and gallery, each once -> embeddings of the same shape, again of unit length.
    distances(query_QD, gallery_GD): the unit embeddings of a split's queries and gallery -> a function of a slice of
      queries that returns their distances to the gallery, float32 (B, G), smaller is closer; it is asked once for every
      query, in order, and never for all at once.
    """

    __test__: ClassVar[bool] = False  # for pytest, that this is no test
    cameras: bool = True

    def adapt(self, network: nn.Module, batches: Batches) -> None:
        raise NotImplementedError

    def views(self, images_BCHW: Tensor) -> Sequence[Tensor]:
        raise NotImplementedError

    def embeddings(self, embedding_ND: Tensor, camid_N: Tensor) -> Tensor:
        raise NotImplementedError

    def distances(self, query_QD: Tensor, gallery_GD: Tensor) -> Distances:
        raise NotImplementedError


def build_test_step(row: StepRow) -> TestStep:
    """Return the test step of a row, built.

    Raises RecipeError when it is none, lacks the method of its stage or has another one's, or a parameter does not fit;
    PluginError for a plug-in that is not loaded.
    """
    build = load_class(row.build, row.digest)
    if not issubclass(build, TestStep):
        raise RecipeError(f"the test step {row.name} is built by {row.build}, which is no reidgen.contracts.TestStep")
    has = [stage for stage in STAGES if getattr(build, stage) is not getattr(TestStep, stage)]
    if has != [row.stage]:
        raise RecipeError(
            f"the test step {row.name} is of the stage {row.stage}, and its class has {' and '.join(has) or 'none'} of "
            f"{', '.join(STAGES)}; it must have that one"
        )
    try:
        with blaming():
            step: TestStep = build(**row.params)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"the test step {row.name} cannot be built: {error}") from error
    return step
