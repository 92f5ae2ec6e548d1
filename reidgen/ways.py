"""From words to ways to test: `flip+centre,rerank(k1=30)` and settings -> the steps, in their order. No torch here."""

import re
from collections.abc import Mapping

from reidgen.errors import RecipeError
from reidgen.escapes import split_names
from reidgen.parts import Value, settings_of
from reidgen.registry import get_test_step
from reidgen.teststeps import ALONE, PLAIN, STAGES, TEST_STEPS, StepRow, Way, split_word


def of_steps(settings: Mapping[str, Value]) -> tuple[dict[str, Value], dict[str, Value]]:
    """Return settings "part.parameter" -> value in two: those of methods' parts, and those of test steps."""
    own = {key: value for key, value in settings.items() if key.partition(".")[0] in TEST_STEPS}
    return {key: value for key, value in settings.items() if key not in own}, own


def select_ways(words: str, settings: Mapping[str, Value] = {}) -> list[Way]:
    """Return the ways to test that `words` asks for, once each: steps joined by plus, ways joined by commas.

    settings: "step.parameter" -> value, for the steps that are named; a step may also have its own in parentheses.
    Raises RecipeError for an unknown word (the nearest is named), a step twice in one word, two steps that each make
    the network or the distances, a parameter or a value that does not fit, and a setting of a step that no word names.

    >>> [way.word for way in select_ways("plain,centre(cameras=false),centre", {"centre.cameras": True})]
    ['plain', 'centre(cameras=false)', 'centre']
    """
    ways = [_read_way(word, settings) for word in split_names(words)]
    if not ways:
        raise RecipeError("--test names no test; give plain, or steps such as flip+centre (see: reidgen methods)")
    named = {step.name for way in ways for step in way.steps}
    for key in settings:
        if (name := key.partition(".")[0]) not in named:
            raise RecipeError(f"--set {key}: --test names no step {name}")
    return list({way.word: way for way in ways}.values())


def only_way(words: str, settings: Mapping[str, Value] = {}) -> Way:
    """Return the one way that `words` names, as `select_ways` does. Raises RecipeError for several, too."""
    ways = select_ways(words, settings)
    if len(ways) > 1:
        raise RecipeError(f"--test {words} names {len(ways)} tests, which have embeddings of their own; name one")
    return ways[0]


def _read_way(word: str, settings: Mapping[str, Value]) -> Way:
    parts = split_word(word)
    if parts == [PLAIN]:
        return Way()
    if PLAIN in parts:
        raise RecipeError(f"--test {word}: {PLAIN} stands alone; leave it out beside steps")
    steps = [_read_step(part, settings) for part in parts]
    for number, step in enumerate(steps):
        if step.name in {other.name for other in steps[:number]}:
            raise RecipeError(f"--test {word} names {step.name} twice; once is enough")
    for stage in ALONE:
        if len(same := [step.name for step in steps if step.stage == stage]) > 1:
            what = "the network" if stage == "adapt" else "the distances"
            raise RecipeError(f"--test {word}: {' and '.join(same)} each make {what} anew; name one of them")
    shipped = [name for name, row in TEST_STEPS.items() if not row.digest]  # others by name, whichever was loaded first
    order = [*shipped, *sorted(set(TEST_STEPS) - set(shipped))]
    return Way(tuple(sorted(steps, key=lambda step: (STAGES.index(step.stage), order.index(step.name)))))


def _read_step(text: str, settings: Mapping[str, Value]) -> StepRow:
    """Return the step that a part of a word means, such as `rerank(k1=30)`, or `mine@1a2b3c4d` of a plug-in."""
    found = re.fullmatch(r"([^()@]*)(?:\(([^()]*)\))?(?:@([0-9a-f]{8}))?", text)
    if not found:
        raise RecipeError(f"--test {text!r} is no test step; write name or name(parameter=value,...)")
    row = get_test_step(found[1])
    if found[3] and not row.digest.startswith(found[3]):
        raise RecipeError(f"--test {text}: the plug-in's {row.name} is {row.label} now; leave out the digits")
    asked = {key.partition(".")[2]: value for key, value in settings.items() if key.partition(".")[0] == row.name}
    words = [] if found[2] is None else found[2].split(",")
    own = settings_of((f"{row.name}.{one.replace('/', ',')}" for one in words), said=f"--test {text}:")
    return row.set(asked | {key.partition(".")[2]: value for key, value in own.items()})
