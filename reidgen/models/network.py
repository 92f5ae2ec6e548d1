"""The ReID network: a backbone with a method's modules, global average pooling, BNNeck and classifier."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from reidgen import parallel
from reidgen.methods import Method, get_method
from reidgen.models.backbones import Backbone, Norm, build_backbone
from reidgen.models.norms import SNR, InstanceNorm2d, Pooled, SNRConv, SwitchableNorm2d

NORMS: dict[str, Norm] = {"bn": nn.BatchNorm2d, "in": InstanceNorm2d, "sn": SwitchableNorm2d}
MODULES: dict[str, Norm] = {
    "in": InstanceNorm2d,
    "snr": SNR,
    "snr-conv": SNRConv,
    "snr-g2": lambda channels: SNR(channels, gates=2),
}


class ReIDNet(nn.Module):
    """Backbone, global average pool, BNNeck (BatchNorm1d with its bias frozen at 0), linear classifier without bias [A].

    forward: float (B, 3, H, W), ImageNet-normalised.
      training: (feature (B, D) before the neck, logits (B, classes)); `pooled()` then holds what the SNR loss needs.
      Under torchrun these hold the rows of all ranks, so that the neck and the losses see the whole batch.
      evaluation: the embedding (B, D), after the neck and L2-normalised [B], so that Euclidean distance ranks as cosine.
    Source: the head of the authors' code [A]; BNNeck: Luo et al., CVPR Workshops 2019.
    """

    def __init__(self, backbone: Backbone, *, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = nn.BatchNorm1d(backbone.channels[-1])
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(backbone.channels[-1], classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        map_BDHW = self.backbone(images)
        feature_BD = map_BDHW.mean(dim=(2, 3), dtype=torch.promote_types(map_BDHW.dtype, torch.float32))
        if self.training:
            feature_BD = parallel.gather(feature_BD)
            return feature_BD, self.classifier(self.neck(feature_BD))
        return functional.normalize(self.neck(feature_BD), dim=1)

    def pooled(self) -> dict[int, Pooled]:
        """Return, by place, the pooled features of the last training forward pass of each SNR module."""
        modules = enumerate(self.backbone.after)
        kept = {place: m.pooled for place, m in modules if isinstance(m, SNR | SNRConv) and m.pooled is not None}
        return {place: Pooled(*map(parallel.gather, pooled)) for place, pooled in kept.items()}


def build_network(method: str, backbone: str, *, classes: int, weights: str = "none") -> ReIDNet:
    """Return the network of one row of METHODS on one backbone, initialised from torch's global random state.

    classes: identities of the source. weights: as in `build_backbone`.
    Raises RecipeError for an unknown method, WeightsError for weights that cannot be had or do not fit.
    """
    row = get_method(method)
    body = build_backbone(
        backbone,
        norm_layer=NORMS[row.norm],
        after_stage=lambda place, channels: _fill(row, place, channels, before_relu=False),
        before_relu=lambda place, channels: _fill(row, place, channels, before_relu=True),
        weights=weights,
    )
    return ReIDNet(body, classes=classes)


def _fill(row: Method, place: int, channels: int, *, before_relu: bool) -> nn.Module:
    if not row.module or place not in row.places or row.before_relu != before_relu:
        return nn.Identity()
    return MODULES[row.module](channels)
