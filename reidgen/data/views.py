"""What is done to the images of a further view: BAU's strong augmentation.

Shapes: n images of one view on this rank out of B of the batch, H x W pixels. Images arrive behind the recipe's own
augmentation, float32 (n, 3, H, W) in 0..1, before ImageNet's mean and deviation are taken out.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from reidgen.contracts import IMAGENET_MEAN, IMAGENET_STD, Augmentation, Step
from reidgen.data.augment import draw_boxes, erase, jitter
from reidgen.errors import RecipeError

FILL = [mean + mean * std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]  # standardized, the mean [A]
MOST = 30  # the magnitude of RandAugment that is the strongest


def _affine(turn: float = 0, shift: tuple[float, float] = (0, 0), shear: tuple[float, float] = (0, 0)) -> "Operation":
    """Return an operation that turns (degrees), shifts (shares of width and height) or shears (a slope) images.

    Each is taken times the magnitude's share and a sign; nearest pixel, black outside, about the centre.
    """

    def apply(images: Tensor, share: float) -> Tensor:
        height, width = images.shape[-2:]
        moved: Tensor = functional.affine(
            images,
            angle=turn * share,
            translate=[round(shift[0] * share * width), round(shift[1] * share * height)],
            scale=1.0,
            shear=[math.degrees(math.atan(slope * share)) for slope in shear],
            interpolation=InterpolationMode.NEAREST,
        )
        return moved

    return apply


def _enhance(change: Callable[[Tensor, float], Tensor]) -> "Operation":
    """Return an operation by a factor of 0.1 to 1.9, which the sign does not touch."""
    return lambda images, share: change(images, 0.1 + 1.8 * abs(share))


def _solarize(images: Tensor, share: float) -> Tensor:
    threshold = 256 * abs(share)
    solarized: Tensor = functional.solarize(images, threshold) if threshold <= 255 else images
    return solarized


def _solarize_add(images: Tensor, share: float) -> Tensor:
    brighter = (images.int() + int(110 * abs(share))).clamp_(0, 255).to(torch.uint8)
    solarized: Tensor = functional.solarize(brighter, 128)
    return solarized


Operation = Callable[[Tensor, float], Tensor]  # uint8 (m, 3, H, W), the magnitude's share in -1..1 with a sign
OPERATIONS: dict[str, Operation] = {
    "identity": lambda images, share: images,
    "shift x": _affine(shift=(0.45, 0)),
    "shift y": _affine(shift=(0, 0.45)),
    "shear x": _affine(shear=(0.3, 0)),
    "shear y": _affine(shear=(0, 0.3)),
    "rotate": _affine(turn=30),
    "autocontrast": lambda images, share: functional.autocontrast(images),
    "equalize": lambda images, share: functional.equalize(images),
    "posterize": lambda images, share: functional.posterize(images, 2),
    "saturation": _enhance(functional.adjust_saturation),
    "contrast": _enhance(functional.adjust_contrast),
    "brightness": _enhance(functional.adjust_brightness),
    "sharpness": _enhance(functional.adjust_sharpness),
    "invert": lambda images, share: functional.invert(images),
    "solarize": _solarize,
    "solarize add": _solarize_add,
}


class StrongView(Augmentation):
    """RandAugment, then colour jitter, then random erasing, each with the probability given, per image.

    RandAugment: `operations` drawn from OPERATIONS with replacement, at magnitude 0..30 of 30, a sign for each that has
    one [A]. Jitter: factors of brightness, contrast and saturation in 1 / jitter .. jitter, hue within +-hue of a
    turn [A: 2 and 0.1]. Erasing: a rectangle of 2 to 40 % of the image, aspect 0.3 to 1 / 0.3, filled with what the
    authors write into the standardized image: ImageNet's mean itself [A].
    Source: Cho et al. (BAU), NeurIPS 2024, and the authors' code [A]. Differences: RandAugment meets the image behind
    mirror and crop, not before; jitter's factors are drawn evenly in the logarithm and its four steps keep one
    order; a rectangle that does not fit is cut, where they try a hundred times.
    """

    def __init__(
        self,
        *,
        probability: float = 0.5,
        operations: int = 2,
        magnitude: float = 10.0,
        jitter: float = 2.0,
        hue: float = 0.1,
    ) -> None:
        super().__init__()
        if not (0 <= probability <= 1 and 0 <= operations <= 16 and 0 <= magnitude <= MOST):
            raise RecipeError("probability must lie within 0..1, operations within 0..16, magnitude within 0..30")
        if not (1 <= jitter <= 100 and 0 <= hue <= 0.5):
            raise RecipeError(f"jitter must be at least 1 and hue within 0..0.5; got {jitter} and {hue}")
        self.probability, self.operations, self.share = probability, operations, magnitude / MOST
        self.jitter, self.hue = jitter, hue
        # Of RandAugment, for each turn: operation, share and number of images, which the host sorts by them.
        self.plan: list[list[tuple[int, float, int]]] = []

    def draw(self, step: Step) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return of this rank's images the jitter and the rectangle, float32 (n, 4) each, the order in which each turn
        takes them, int64 (turns, n), and which RandAugment changes at all, bool (n,).
        """
        rows, chance = len(step.pid), step.generator("strong view")
        coins = torch.rand((3, rows), generator=chance) < self.probability
        picks = torch.randint(len(OPERATIONS), (rows, self.operations), generator=chance)
        signs = torch.where(torch.rand((rows, self.operations), generator=chance) < 0.5, -1.0, 1.0)
        plans = [
            [(int(picks[row, turn]) if coins[0, row] else 0, float(signs[row, turn]) * self.share) for row in step.own]
            for turn in range(self.operations)
        ]
        orders = [sorted(range(len(plan)), key=plan.__getitem__) for plan in plans]
        self.plan = [[(*what, plan.count(what)) for what in sorted(set(plan))] for plan in plans]
        order = torch.tensor(orders, dtype=torch.int64).view(self.operations, len(step.own))
        changed = torch.tensor([any(pick for pick, _ in of_image) for of_image in zip(*plans, strict=True)] or [False])
        even = 2 * torch.rand((rows, 4), generator=chance) - 1
        factors = torch.cat([self.jitter ** even[:, :3], self.hue * even[:, 3:]], dim=1)
        still = torch.tensor([1.0, 1.0, 1.0, 0.0])
        factors = torch.where(coins[1, :, None], factors, still)
        return factors[step.own], draw_boxes(coins[2], chance)[step.own], order, changed

    def forward(self, images: Tensor) -> Tensor:
        factors, boxes, order, changed = self.drawn
        return erase(_jitter(self._rand_augment(images, order, changed), factors), boxes, FILL)

    def _rand_augment(self, images: Tensor, order_TB: Tensor, changed_B: Tensor) -> Tensor:
        pixels = (images * 255).round().to(torch.uint8)
        operations = list(OPERATIONS.values())
        for plan, order_B in zip(self.plan, order_TB, strict=True):
            groups = order_B.split([number for _, _, number in plan])
            for (pick, share, _), rows in zip(plan, groups, strict=True):
                if pick:
                    pixels[rows] = operations[pick](pixels[rows], share)
        return torch.where(changed_B[:, None, None, None], pixels.to(images.dtype) / 255, images)


def _jitter(images: Tensor, factors_B4: Tensor) -> Tensor:
    """Return what `jitter` does; factors of 1, 1, 1 and 0 leave an image exactly as it is."""
    still = (factors_B4[:, :3] == 1).all(1) & (factors_B4[:, 3] == 0)
    return torch.where(still[:, None, None, None], images, jitter(images, factors_B4))
