"""The methods as data: one row says what differs from Baseline, where, and who says so. No torch here.

Places are numbered 0 (the stem) to 4 (the last stage). A module stands *after* its place (after the stage's last
ReLU), or, with `before_relu`, between the residual sum and that ReLU. To try another reading of a paper, add a row.

Evidence tags: [S] the paper's slides, [A] code with the authors' marks, [B] an independent re-implementation,
[D] recollection of the paper, unconfirmed.
"""

from dataclasses import dataclass

from reidgen.errors import RecipeError, unknown


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to normalize a ReID network, as a difference from Baseline.

    norm: what stands where the backbone has BatchNorm2d: "bn", "in" or "sn".
    module: what is added at `places`: "in", "snr", "snr-conv", "snr-g2" or "" for nothing.
    plus, minus: whether the clarification loss L+ and the destruction loss L- count.
    tables: the paper's tables ("main", "loss", "stage", "design") that hold this row.
    """

    name: str
    title: str
    source: str
    norm: str = "bn"
    module: str = ""
    places: tuple[int, ...] = ()
    before_relu: bool = False
    plus: bool = False
    minus: bool = False
    tables: tuple[str, ...] = ()


_ROWS = [
    Method(name="baseline", title="Baseline", source="[S]", tables=("main", "loss", "stage", "design")),
    Method(name="a-in", title="Baseline-A-IN", source="every BatchNorm2d becomes IN [D]", norm="in", tables=("main",)),
    Method(name="ibn", title="Baseline-IBN", source="IN at the end of stages 1 and 2, before the ReLU [D]; IBN-b, Pan et al., ECCV 2018",
           module="in", places=(1, 2), before_relu=True, tables=("main",)),
    Method(name="a-sn", title="Baseline-A-SN", source="every BatchNorm2d becomes Switchable Norm [D]; Luo et al., ICLR 2019",
           norm="sn", tables=("main",)),
    Method(name="in", title="Baseline-IN", source="IN after stages 1, 2, 3 [A]", module="in", places=(1, 2, 3), tables=("main",)),
    Method(name="snr-no-loss", title="SNR w/o L_SNR", source="[S]", module="snr", places=(1, 2, 3, 4), tables=("loss",)),
    Method(name="snr-no-plus", title="SNR w/o L+", source="[S]", module="snr", places=(1, 2, 3, 4), minus=True, tables=("loss",)),
    Method(name="snr-no-minus", title="SNR w/o L-", source="[S]", module="snr", places=(1, 2, 3, 4), plus=True, tables=("loss",)),
    *(
        Method(name=f"snr-stage{place}", title=f"SNR after stage {place}", source="[S]", module="snr", places=(place,),
               plus=True, minus=True, tables=("stage",))
        for place in (1, 2, 3, 4)
    ),
    Method(name="snr-conv", title="SNR-conv", source="R+ and R- from a 1x1 convolution each [A]", module="snr-conv",
           places=(1, 2, 3, 4), plus=True, minus=True, tables=("design",)),
    Method(name="snr-g2", title="SNR-g(.)2", source="two independent gates [D]", module="snr-g2", places=(1, 2, 3, 4),
           plus=True, minus=True, tables=("design",)),
    Method(name="snr", title="SNR", source="[S], places [A]", module="snr", places=(1, 2, 3, 4), plus=True, minus=True,
           tables=("main", "loss", "stage", "design")),
]  # fmt: skip
METHODS: dict[str, Method] = {row.name: row for row in _ROWS}


def get_method(name: str) -> Method:
    """Return the row of METHODS called `name`. Raises RecipeError, naming the nearest one."""
    if name not in METHODS:
        raise RecipeError(unknown("method", name, METHODS))
    return METHODS[name]


def select_methods(words: str) -> list[str]:
    """Return the methods that `words` asks for, once each: names, tables' names, "ablations" or "all", joined by commas.

    Raises RecipeError, naming the nearest method, for an unknown word.

    >>> select_methods("main")
    ['baseline', 'a-in', 'ibn', 'a-sn', 'in', 'snr']
    >>> select_methods("snr, design")
    ['snr', 'baseline', 'snr-conv', 'snr-g2']
    """
    chosen: list[str] = []
    for word in (word.strip() for word in words.split(",")):
        if word == "all":
            chosen += METHODS
        elif word == "ablations":
            chosen += [name for name, row in METHODS.items() if set(row.tables) - {"main"}]
        else:
            chosen += [name for name, row in METHODS.items() if word in row.tables] or [get_method(word).name]
    return list(dict.fromkeys(chosen))
