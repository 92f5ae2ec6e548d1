"""The methods as data: one row says which parts differ from Baseline, where they stand, and who says so. No torch here.

What a row is made of is said in `reidgen.parts`. To try another reading of a paper, add a row.

Evidence tags: [S] the paper's slides, [A] code with the authors' marks, [B] an independent re-implementation,
[C] computed here, [D] recollection of the paper, unconfirmed.
"""

from reidgen.parts import GROUPS, Method, Part

PAPER_TABLES = ("main", "loss", "stage", "design")
TABLES = (*PAPER_TABLES, "placement")  # the last: the readings of IN, IBN and SNR beside each other
FIRST, LAST = "baseline", "other"  # in the place of a group: Baseline, and a row that nobody here knows
WORDS = (*TABLES, *GROUPS, "all", "ablations")  # that stand for several methods, so that none may be called so

# The losses of every row; their parameters are settings of the recipe.
CROSS_ENTROPY = Part(
    name="cross_entropy",
    build="reidgen.losses:CrossEntropy",
    source="identity classification, label smoothing [A]",
    params={"smoothing": 0.1},
)
TRIPLET = Part(
    name="triplet",
    build="reidgen.losses:Triplet",
    source="batch-hard; Hermans et al., 2017 [A]",
    params={"margin": 0.0},
    tags={"margin": "0: soft margin [A]"},
)
CIRCLE = Part(
    name="circle",
    build="reidgen.losses:Circle",
    source="instead of the triplet loss, where the recipe says so; Sun et al., CVPR 2020; fast-reid [A]",
    params={"margin": 0.25, "gamma": 128.0},
)
SHARED = (CROSS_ENTROPY, TRIPLET, CIRCLE)  # what every method is trained with, as the recipe has it

IN = Part(
    name="in",
    build="reidgen.models.norms:InstanceNorm2d",
    source="Instance Norm; Ulyanov et al., 2016",
    params={"affine": True},
    tags={"affine": "with a learned scale and shift of each channel [A]; BAU's has none [A]"},
)
IBN_A = Part(
    name="ibn-a",
    build="reidgen.models.norms:InstanceBatchNorm2d",
    source="the first half of the channels IN, the second BN; Pan et al., ECCV 2018 [A]",
    places=(1, 2, 3),
    first_of_block=True,
)
BIN = Part(
    name="bin",
    build="reidgen.models.gates:BatchInstanceNorm2d",
    source="Choi et al. (MetaBIN), CVPR 2021: the layer without the meta part [A]",
    params={"rate": 20.0, "eps": 1e-5, "momentum": 0.1},
    tags={"rate": "of the gate, times the learning rate: 20 on Market, 50 on Duke, 10 with several sources [A]"},
)
SE = Part(
    name="se",
    build="reidgen.models.gates:SqueezeExcite",
    source="Hu et al., CVPR 2018, with SNR's gate [A]",
    params={"reduction": 16},
)
MIXING = {"probability": 0.5, "alpha": 0.1}
MIXING_TAGS = {
    "probability": "one coin for a layer and step [A]",
    "alpha": "of Beta(alpha, alpha), a weight for each image [A]",
    "partner": "random: any image of the batch [A]; camera: one of another camera, the batches as they are",
}
MIXSTYLE = Part(
    name="mixstyle",
    build="reidgen.models.mixing:MixStyle",
    source="Zhou et al., ICLR 2021 [A]",
    params={**MIXING, "partner": "random"},
    tags=MIXING_TAGS,
)
EFDMIX = Part(
    name="efdmix",
    build="reidgen.models.mixing:EFDMix",
    source="Zhang et al., CVPR 2022 [A]",
    params={**MIXING, "partner": "random"},
    tags=MIXING_TAGS,
)
DSU = Part(
    name="dsu",
    build="reidgen.models.mixing:DSU",
    source="Li et al., ICLR 2022 [A]",
    params={"probability": 0.5, "factor": 1.0},
    tags={"probability": "one coin for a layer and step [A]", "factor": "times the deviation over the batch [A]"},
)
SN = Part(
    name="sn",
    build="reidgen.models.norms:SwitchableNorm2d",
    source="Luo et al., ICLR 2019",
    params={"eps": 1e-5, "momentum": 0.1},
    tags={"momentum": "torch's BatchNorm2d"},
)
SNR = Part(
    name="snr",
    build="reidgen.models.norms:SNR",
    source="Jin et al., CVPR 2020 [S]",
    params={"reduction": 16, "gates": 1},
    tags={"reduction": "[A]", "gates": "1: a and 1 - a [S]; 2: independent [D]"},
)
SNR_CONV = Part(name="snr", build="reidgen.models.norms:SNRConv", source="R+ and R- from a 1x1 convolution each [A]")
STRONG_VIEW = Part(
    name="strong-view",
    build="reidgen.data.views:StrongView",
    source="RandAugment, colour jitter and erasing; Cho et al. (BAU), NeurIPS 2024 [A]",
    params={"probability": 0.5, "operations": 2, "magnitude": 10.0, "jitter": 2.0, "hue": 0.1},
    tags={"probability": "of each of the three, per image [A]", "magnitude": "of RandAugment, of 30 [A]"},
)
BAU_ALIGN = Part(
    name="bau-align",
    build="reidgen.balance:Alignment",
    source="pairs of both views, by how far their neighbours agree; BAU [A]",
    params={"weight": 1.5, "neighbours": 10},
    tags={"weight": "lambda [A]", "neighbours": "k, itself included [A]"},
)
BAU_UNIFORM = Part(
    name="bau-uniform",
    build="reidgen.balance:Uniformity",
    source="log mean exp(-2 d^2) of each view; BAU [A]",
    params={"weight": 1.0},
)
BAU_DOMAIN = Part(
    name="bau-domain",
    build="reidgen.balance:DomainUniformity",
    source="the same to the prototypes of the image's own source; BAU [A]",
    params={"weight": 1.0, "momentum": 0.1},
    tags={"momentum": "of the prototypes [A]"},
)
STAGES = (1, 2, 3, 4)
STAGE_WEIGHT = dict(zip(STAGES, (0.1, 0.1, 0.5, 0.5), strict=True))
SNR_LOSS = Part(
    name="snr",
    build="reidgen.losses:DualCausality",
    source="L_SNR = L+ + L- [S]",
    params={
        "plus": True,
        "minus": True,
        "distance": "cosine",
        "triplets": "random",
        "weights": tuple(STAGE_WEIGHT.values()),
    },
    tags={
        "plus": "the clarification loss L+ counts [S]",
        "minus": "the destruction loss L- counts [S]",
        "distance": (
            "cosine: 0.5 - cos / 2 [D]; cosine-b: twice that, as 0.5 - cos is but for a constant [B]; euclidean [A]"
        ),
        "triplets": "random: one positive and negative per anchor, alike in all three sets [B]; hard: mined [A]",
        "weights": "lambda of each place in order, or one number for all [B, D]; [A] has 1",
    },
)

_ROWS = [
    Method(name="baseline", title="Baseline", source="[S]", tables=TABLES),
    Method(name="a-in", title="Baseline-A-IN", source="every BatchNorm2d becomes IN [D]", norm=IN, tables=("main",)),
    Method(
        name="ibn",
        title="Baseline-IBN",
        source="IN at the end of stages 1 and 2, before the ReLU [D]; IBN-b, Pan et al., ECCV 2018",
        modules=[IN.at(1, 2, before_relu=True)],
        tables=("main", "placement"),
    ),
    Method(
        name="a-sn",
        title="Baseline-A-SN",
        source="every BatchNorm2d becomes Switchable Norm [D]; Luo et al., ICLR 2019",
        norm=SN,
        tables=("main",),
    ),
    Method(
        name="in",
        title="Baseline-IN",
        source="IN after stages 1, 2, 3 [A]",
        modules=[IN.at(1, 2, 3)],
        tables=("main", "placement"),
    ),
    Method(name="snr-no-loss", title="SNR w/o L_SNR", source="[S]", modules=[SNR.at(*STAGES)], tables=("loss",)),
    Method(
        name="snr-no-plus",
        title="SNR w/o L+",
        source="[S]",
        modules=[SNR.at(*STAGES)],
        losses=[SNR_LOSS.but(plus=False)],
        tables=("loss",),
    ),
    Method(
        name="snr-no-minus",
        title="SNR w/o L-",
        source="[S]",
        modules=[SNR.at(*STAGES)],
        losses=[SNR_LOSS.but(minus=False)],
        tables=("loss",),
    ),
    *(
        Method(
            name=f"snr-stage{place}",
            title=f"SNR after stage {place}",
            source="[S]",
            modules=[SNR.at(place)],
            losses=[SNR_LOSS.but(weights=(weight,))],
            tables=("stage",),
        )
        for place, weight in STAGE_WEIGHT.items()
    ),
    Method(
        name="snr-conv",
        title="SNR-conv",
        source="R+ and R- from a 1x1 convolution each [A]",
        modules=[SNR_CONV.at(*STAGES)],
        losses=[SNR_LOSS],
        tables=("design",),
    ),
    Method(
        name="snr-g2",
        title="SNR-g(.)2",
        source="two independent gates [D]",
        modules=[SNR.but(gates=2).at(*STAGES)],
        losses=[SNR_LOSS],
        tables=("design",),
    ),
    Method(
        name="snr",
        title="SNR",
        source="[S], places [A]",
        modules=[SNR.at(*STAGES)],
        losses=[SNR_LOSS],
        tables=TABLES,
    ),
    Method(
        name="dualnorm",
        title="DualNorm",
        source="IN after stages 1, 2, 3, before the ReLU, on ResNets; Jia et al., BMVC 2019 [A], who train with cross "
        "entropy alone and SGD; theirs on MobileNetV2 has IN for the stem's BN and after every block of stages 1 to 3",
        modules=[IN.at(1, 2, 3, before_relu=True)],
        tables=("placement",),
    ),
    Method(
        name="ibn-a",
        title="IBN-a",
        source="the first norm of every block of stages 1, 2, 3: half IN, half BN; Pan et al., ECCV 2018 [A]",
        norm=IBN_A,
        tables=("placement",),
    ),
    Method(
        name="ibn-b",
        title="IBN-b",
        source="IN at the end of the stem and of stages 1 and 2, before the ReLU; Pan et al., ECCV 2018 [A]; there the "
        "stem's IN replaces its BN: the same but for the sign of BN's weight [C]",
        modules=[IN.at(0, 1, 2, before_relu=True)],
        tables=("placement",),
    ),
    Method(
        name="ibn-stem-1",
        title="IBN (stem, 1)",
        source='the row ibn read with ResNet\'s own names: "Conv1 and Conv2" are the stem and stage 1 [D]',
        modules=[IN.at(0, 1, before_relu=True)],
        tables=("placement",),
    ),
    Method(
        name="in-0123",
        title="IN (stem, 1-3)",
        source='the row in read with ResNet\'s own names: "the first four blocks" are the stem and stages 1 to 3 [D]',
        modules=[IN.at(0, 1, 2, 3)],
        tables=("placement",),
    ),
    Method(
        name="in-plain",
        title="IN, no affine",
        source="IN without parameters after stages 1, 2, 3: BAU's backbone; Cho et al., NeurIPS 2024 [A]",
        modules=[IN.but(affine=False).at(1, 2, 3)],
        tables=("placement",),
    ),
    Method(
        name="snr-123",
        title="SNR (1-3)",
        source="the places of the journal version, TMM 2021, in all its code [A], with the loss of the first",
        modules=[SNR.at(1, 2, 3)],
        losses=[SNR_LOSS.but(weights=tuple(STAGE_WEIGHT[place] for place in (1, 2, 3)))],
        tables=("placement",),
    ),
    Method(
        name="se-stage4",
        title="SE after stage 4",
        source="squeeze-and-excitation without loss: all that SNR can do before average pooling [C]",
        modules=[SE.at(4)],
    ),
    Method(
        name="bin",
        title="BIN",
        source="every BatchNorm2d becomes Batch-Instance Norm; Choi et al., CVPR 2021, without the meta part [A]",
        norm=BIN,
    ),
    Method(
        name="mixstyle",
        title="MixStyle",
        source="after stages 1 and 2, in training; Zhou et al., ICLR 2021 [A], who train with softmax alone and SGD",
        modules=[MIXSTYLE.at(1, 2)],
        group="mixing",
    ),
    Method(
        name="mixstyle-camera",
        title="MixStyle (cam)",
        source="partners of another camera; Zhou et al., ICLR 2021 [A], whose batches hold two cameras",
        modules=[MIXSTYLE.but(partner="camera").at(1, 2)],
        group="mixing",
    ),
    Method(
        name="efdmix",
        title="EFDMix",
        source="after stages 1 and 2, in training; Zhang et al., CVPR 2022 [A], who train as MixStyle's do",
        modules=[EFDMIX.at(1, 2)],
        group="mixing",
    ),
    Method(
        name="dsu",
        title="DSU",
        source="after the stem and every stage, in training; Li et al., ICLR 2022 [A], who have two at the stem",
        modules=[DSU.at(0, *STAGES)],
        group="mixing",
    ),
    *(
        Method(
            name=name,
            title=title,
            source=f"{what}; Cho et al., NeurIPS 2024 [A], trained there as in the recipe modern and published "
            "from the best of three epochs on the target; two views: a step costs two forward passes",
            modules=[IN.but(affine=False).at(1, 2, 3)],
            losses=losses,
            views=2,
            augmentations=[STRONG_VIEW],
            group="losses",
        )
        for name, title, what, losses in (
            ("bau-align", "BAU (align)", "alignment of two views", [BAU_ALIGN]),
            ("bau-uniform", "BAU (uniform)", "uniformity of two views", [BAU_UNIFORM]),
            ("bau", "BAU", "alignment and uniformity of two views", [BAU_ALIGN, BAU_UNIFORM, BAU_DOMAIN]),
        )
    ),
]
METHODS: dict[str, Method] = {row.name: row for row in _ROWS}


def group_of(label: str) -> str:
    """Return the group of a method by its label in tables: one of GROUPS, FIRST for Baseline, LAST for one not known.

    >>> group_of("snr(distance=euclidean)"), group_of("dsu"), group_of("baseline"), group_of("mine")
    ('normalization', 'mixing', 'baseline', 'other')
    """
    name = label.partition("(")[0]
    if name == FIRST:
        return FIRST
    return METHODS[name].group if name in METHODS else LAST


def title_of(label: str) -> str:
    """Return the name that readers know a method by; a method that is not shipped keeps its name.

    >>> title_of("snr(distance=euclidean)"), title_of("mine")
    ('SNR (distance=euclidean)', 'mine')
    """
    name, bracket, changed = label.partition("(")
    title = METHODS[name].title if name in METHODS else name
    return f"{title} ({changed.replace(',', ', ')}" if bracket else title
