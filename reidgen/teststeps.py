"""The test steps as data: what may stand between a trained network and its ranking. No torch here.

    plain                       the network's embeddings, ranked: what is meant wherever no other word is said
    flip+centre+rerank(k1=30)   three steps, the last with a parameter changed; this word stands in every row

The user may write the steps of a word in any order; they act in the order of STAGES, and so the word is kept. What a
step must be is said in `reidgen.contracts.TestStep`. Evidence tags as in `reidgen.methods`; [N] a secondary note that
names the paper's table.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from reidgen.errors import RecipeError
from reidgen.parts import Part, Value, check_fields, words_of

PLAIN = "plain"
# When a step acts: before the target is embedded (on a copy of the network), while it is, on the embeddings, and on the
# distances. Of the first and the last stage a word holds one step at most: a second would undo the first.
STAGES = ("adapt", "views", "embeddings", "distances")
ALONE = ("adapt", "distances")


@dataclass(frozen=True, kw_only=True)
class StepRow(Part):
    """A test step: a part with its parameters, and what a reader of its numbers must know.

    stage: one of STAGES, the method that its class has. unlabelled: whether an image's embedding or rank depends on
    other, unlabelled images of the target. transductive: whether a query's result depends on the other queries.
    changed: parameters that differ from those of the row in TEST_STEPS, as "k1=30". origin: as of a Method.
    """

    stage: str
    unlabelled: bool = False
    transductive: bool = False
    changed: tuple[str, ...] = ()
    origin: str = "reidgen"

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"the test step {self.name}"
        flags = {name: (getattr(self, name), bool) for name in ("unlabelled", "transductive")}
        check_fields(where, {**flags, "origin": (self.origin, str), "changed": (self.changed, tuple)})
        if self.stage not in STAGES:
            raise RecipeError(f"{where}: stage must be one of {', '.join(STAGES)}; got {self.stage!r}")
        if self.name == PLAIN:
            raise RecipeError(f"a test step cannot be called {PLAIN}: that is a test without any; choose another name")

    @property
    def label(self) -> str:
        """The step in a word: `rerank`, `rerank(k1=30)`; of a plug-in with its source's digits, `mine@1a2b3c4d`."""
        changed = f"({','.join(self.changed)})" if self.changed else ""
        return f"{self.name}{changed}{f'@{self.digest[:8]}' if self.digest else ''}"

    def set(self, settings: Mapping[str, Value]) -> Self:
        """Return the step with parameters changed; one that repeats the default is no change.

        Raises RecipeError when there is no such parameter (the nearest is named) or the value is of another kind.
        """
        row, changed = self, list[str]()
        for parameter, value in settings.items():
            before, row = row, row.with_value(parameter, value)
            words = words_of(row.params[parameter])
            if re.search(r"[(),@]", words):  # a word could not be read again
                raise RecipeError(f"--set {self.name}.{parameter}: {words!r} holds one of ( ) , @; give another text")
            if row != before:
                changed.append(f"{parameter}={words}")
        return dataclasses.replace(row, changed=tuple(sorted(changed)))


@dataclass(frozen=True)
class Way:
    """One way to test a run: its steps, in the order in which they act; none is the plain way."""

    steps: tuple[StepRow, ...] = ()

    @property
    def word(self) -> str:
        """The word of the result rows, such as `flip+centre`, or `plain`."""
        return "+".join(step.label for step in self.steps) or PLAIN

    @property
    def embedding(self) -> str:
        """The word of what acts until the embeddings are there: ways with the same one can share them."""
        return Way(tuple(step for step in self.steps if step.stage in STAGES[:2])).word

    def of_stage(self, stage: str) -> list[StepRow]:
        """Return the steps of one of the STAGES."""
        return [step for step in self.steps if step.stage == stage]


def split_word(word: str) -> list[str]:
    """Return the steps of a word as they are written; a plus within parentheses belongs to its step.

    >>> split_word("flip + rerank(weight=1e+0)")
    ['flip', 'rerank(weight=1e+0)']
    """
    return [step.strip() for step in re.split(r"\+(?![^(]*\))", word)]


def same_way(word: str, other: str) -> bool:
    """Tell whether two words name one way, whatever the order of their steps; a plug-in's digits may be left out.

    >>> same_way("centre+flip", "flip+centre"), same_way("mine", "mine@1a2b3c4d"), same_way("flip", "plain")
    (True, True, False)
    """
    first, second = (sorted(split_word(one)) for one in (word, other))
    return len(first) == len(second) and all(
        ours == theirs or ours in theirs.split("@")[:1] or theirs in ours.split("@")[:1]
        for ours, theirs in zip(first, second, strict=True)
    )


def names_in(word: str) -> list[str]:
    """Return the names of a word's steps, without their parameters.

    >>> names_in("flip+rerank(k1=30)"), names_in("plain")
    (['flip', 'rerank'], [])
    """
    return [re.split(r"[(@]", step)[0] for step in split_word(word) if step != PLAIN]


_ROWS = [
    StepRow(
        name="bn",
        build="reidgen.steps:BatchNorm",
        stage="adapt",
        source="BatchNorm re-estimated per camera; Zhuang et al., ECCV 2020 [A]",
        params={"batches": 50, "size": 64, "cameras": True},
        tags={
            "batches": "at most, per camera [A]; 10 do [N]",
            "size": "[A]",
            "cameras": "false: one estimate over all images, AdaBN [N]",
        },
        unlabelled=True,
        transductive=True,
    ),
    StepRow(
        name="flip",
        build="reidgen.steps:Flip",
        stage="views",
        source="mean of an image's and its mirror image's output behind the neck, then L2 [A]",
    ),
    StepRow(
        name="centre",
        build="reidgen.steps:Centre",
        stage="embeddings",
        source="per camera minus the mean, divided by the deviation; arXiv 2502.10195 [N]",
        params={"cameras": True},
        tags={"cameras": "false: one mean and deviation over all images, [N] too"},
        unlabelled=True,
        transductive=True,
    ),
    StepRow(
        name="rerank",
        build="reidgen.steps:Rerank",
        stage="distances",
        source="k-reciprocal re-ranking; Zhong et al., CVPR 2017 [A]",
        params={"k1": 20, "k2": 6, "weight": 0.3},
        tags={"k1": "[A]", "k2": "1: no query expansion [A]", "weight": "lambda, of the distance itself [A]"},
        unlabelled=True,
        transductive=True,
    ),
]
TEST_STEPS: dict[str, StepRow] = {row.name: row for row in _ROWS}
