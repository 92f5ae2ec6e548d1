"""The backbones as data: a row says which class, with which parameters, and who says so. No torch here.

What a backbone must be is said in `reidgen.contracts`, what the evidence tags mean in `reidgen.methods`. Networks of
timm have no rows: `reidgen.registry` makes one where `timm:NAME` is asked for.
"""

from reidgen.parts import BackboneRow

_IBN_NET = "[A] XingangPan/IBN-Net@d167338; Pan et al., ECCV 2018"
_BACKBONES = [
    BackboneRow(
        name="resnet50",
        build="reidgen.models.backbones:ResNet50",
        source="[S]; torchvision's [B], He et al., CVPR 2016",
    ),
    BackboneRow(
        name="resnet18", build="reidgen.models.backbones:ResNet18", source="torchvision's [B]; He et al., CVPR 2016"
    ),
    BackboneRow(name="resnet50-ibn-a", build="reidgen.models.backbones:ResNet50IBNa", source=_IBN_NET),
    BackboneRow(name="resnet18-ibn-a", build="reidgen.models.backbones:ResNet18IBNa", source=_IBN_NET),
    BackboneRow(
        name="mobilenet_v2",
        build="reidgen.models.backbones:MobileNetV2",
        source="torchvision's [B]; Sandler et al., CVPR 2018",
    ),
    BackboneRow(
        name="mobilenet_v2-1.4",
        build="reidgen.models.backbones:MobileNetV2",
        source="torchvision's at 1.4 times the width [B]; the width of MetaBIN [A]",
        params={"width": 1.4},
    ),
    *(
        BackboneRow(
            name=f"osnet{'' if form == 'plain' else f'-{form}'}{'' if width == 1 else f'-x{width}'}",
            build="reidgen.models.osnet:OSNet",
            source=f"[A] KaiyangZhou/deep-person-reid@f8cd150; {paper}",
            params={"form": form, "width": width},
        )
        for form, paper, widths in (
            ("plain", "Zhou et al., ICCV 2019", (1.0, 0.75, 0.5, 0.25)),
            ("ibn", "Zhou et al., ICCV 2019", (1.0,)),
            ("ain", "Zhou et al., TPAMI 2021", (1.0, 0.75, 0.5, 0.25)),
        )
        for width in widths
    ),
    BackboneRow(
        name="vit_b_16",
        build="reidgen.models.transformers:ViTB16",
        source="torchvision's at any size [B]; Dosovitskiy et al., ICLR 2021",
    ),
    BackboneRow(name="tiny", build="reidgen.models.tiny:Tiny", source="reidgen's own: four small stages, for a CPU"),
]
BACKBONES: dict[str, BackboneRow] = {row.name: row for row in _BACKBONES}
