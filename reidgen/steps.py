"""The test steps that ship with reidgen, by the contract `contracts.TestStep`; their rows stand in `teststeps`."""

# N different images of a split, queries and gallery; D features

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from reidgen.contracts import Batches, Distances, TestStep
from reidgen.errors import RecipeError
from reidgen.reranking import rerank

TINY = 1e-6  # of a unit vector's feature: below it float32 knows no deviation


class Flip(TestStep):
    """Embed every image and its mirror image: the mean of both behind the neck, then L2.

    It changes nothing where an image is its own mirror image. Twice the embedding's time.
    Source: the sum behind the neck, then L2, in CBN's code, which is the same [A]; fast-reid takes the mean as well.
    """

    def views(self, images_BCHW: Tensor) -> Sequence[Tensor]:
        return images_BCHW, images_BCHW.flip(3)


class BatchNorm(TestStep):
    """Estimate what BatchNorm knows of its inputs anew for each camera, from the camera's unlabelled images.

    Each group's running means and variances are the plain averages over its batches (of `size` images, at most
    `batches` of them, drawn by the SHA-256 of the files) of the batches' own, as torch computes them; in that pass the
    norms work on the batch, as in training, and all else as in evaluation. Then the group's images are embedded.
    What has `running_mean`, `running_var` and `momentum` is such a norm: BatchNorm1d (the neck) and 2d, also inside
    another module, and Switchable Norm, whose share of BatchNorm it is. Instance and Layer Norm have no statistics, so
    of a network without any BatchNorm2d only the neck's are estimated. A camera with a single image keeps the trained
    ones.

    cameras: False makes one group of all images (AdaBN).
    Source: Zhuang et al., ECCV 2020; automan000/Camera-based-Person-ReID@5cade2a [A]: 50 batches of 64 per camera. The
    paper says 10 do [N, its Table 7]. Differences: queries and gallery of a camera are one group, there each is one of
    its own; the batches are always the same, alike in size, and hold mirrored images only with the step `flip`.
    """

    def __init__(self, *, batches: int = 50, size: int = 64, cameras: bool = True) -> None:
        if batches < 1 or size < 2:
            raise ValueError(f"batches must be at least 1, size at least 2; got {batches} and {size}")
        self.batches, self.size, self.cameras = batches, size, cameras

    def adapt(self, network: nn.Module, batches: Batches) -> None:
        norms = [module for module in network.modules() if getattr(module, "running_mean", None) is not None]
        if not norms:
            raise RecipeError("the test step bn re-estimates BatchNorm, and the network has none; leave it out")
        for norm in norms:
            norm.train()
        for number, images in enumerate(batches(self.size, self.batches), start=1):
            if len(images) < 2:
                break  # a single image has no variance
            for norm in norms:
                norm.momentum = 1 / number  # type: ignore[assignment]  # the first replaces, all weigh alike at the end
            network(images)
        network.eval()


class Rerank(TestStep):
    """k-reciprocal re-ranking, see `reidgen.reranking.rerank`: k1, k2, and lambda as `weight`."""

    def __init__(self, *, k1: int = 20, k2: int = 6, weight: float = 0.3) -> None:
        if k1 < 1 or k2 < 1 or not 0 <= weight <= 1:
            raise ValueError(f"k1 and k2 must be at least 1 and weight within 0 to 1; got {k1}, {k2} and {weight}")
        self.k1, self.k2, self.weight = k1, k2, weight

    def distances(self, query_QD: Tensor, gallery_GD: Tensor) -> Distances:
        return rerank(query_QD, gallery_GD, k1=self.k1, k2=self.k2, weight=self.weight)


class Centre(TestStep):
    """Take each camera's mean away, divide by its deviation, feature by feature; then L2 again.

    Mean and deviation are those of the unit embeddings of all images of the camera in the split, queries and
    gallery, each image once: the target's unlabelled images and its camera numbers. A feature that does not deviate in
    a camera is left undivided (it is 0 then); a camera with a single image says nothing of its mean and keeps its
    embedding as it is. An image whose features are all 0 afterwards stays 0.

    cameras: False takes one mean and deviation over all images, without camera numbers.
    Source: arXiv 2502.10195, "camera bias" (ICLR 2025) [N]. Whether its deviation is of n or n - 1 is not known here
    and changes nothing: it is one factor for a whole camera, which L2 takes away.
    """

    def __init__(self, *, cameras: bool = True) -> None:
        self.cameras = cameras

    def embeddings(self, embedding_ND: Tensor, camid_N: Tensor) -> Tensor:
        found_ND = embedding_ND.clone()
        for group in groups_of(camid_N, cameras=self.cameras):
            rows = group.to(embedding_ND.device)
            if len(rows) > 1:
                own = embedding_ND[rows].double()
                deviation_D = own.std(dim=0)
                found_ND[rows] = ((own - own.mean(dim=0)) / deviation_D.where(deviation_D > TINY, 1)).float()
        return functional.normalize(found_ND, dim=1)


def groups_of(camid_N: Tensor, *, cameras: bool) -> list[Tensor]:
    """Return the row numbers of each camera, cameras in the order of their numbers; without `cameras` all in one."""
    if not cameras:
        return [torch.arange(len(camid_N))]
    return [(camid_N == camera).nonzero().squeeze(1) for camera in sorted(set(camid_N.tolist()))]
