"""The test steps that ship with reidgen, by the contract `contracts.TestStep`; their rows stand in `teststeps`."""

# N different images of a split, queries and gallery; D features

import torch
from torch import Tensor
from torch.nn import functional

from reidgen.contracts import TestStep


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


TINY = 1e-6  # of a unit vector's feature: below it float32 knows no deviation


def groups_of(camid_N: Tensor, *, cameras: bool) -> list[Tensor]:
    """Return the row numbers of each camera, cameras in the order of their numbers; without `cameras` all in one."""
    if not cameras:
        return [torch.arange(len(camid_N))]
    return [(camid_N == camera).nonzero().squeeze(1) for camera in sorted(set(camid_N.tolist()))]
