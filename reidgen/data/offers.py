"""What is asked where the names of own crops do not say who and where: patterns that may fit, and what each would read.

None is offered that `judge.against` would refuse, or that takes a day, a time or a hash for a person or a camera.
"""

import re
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from reidgen.data.judge import against
from reidgen.data.naming import number_of, same, shown
from reidgen.data.readings import READINGS, Names, difference, part_of, read_names

# Simple enough to be judged and changed by who knows the names: pattern, folders above the file that it looks at.
_OFFERS = (
    (r"(?P<pid>[^/]+)/(?P<camid>\d+)[_-][^/]*", 1),
    (r"(?P<pid>[^/]+)/[^/]*[_-](?P<camid>\d+)\.[^/.]+", 1),
    (r"(?P<camid>[^/]+)/(?P<pid>[^/]+)/[^/]+", 2),
    (r"(?P<pid>[^/]+)/(?P<camid>[^/]+)/[^/]+", 2),
    (r"(?P<pid>[^/]+)/[^/]+/(?P<camid>\d+)[_-][^/]*", 2),
    (r"(?P<camid>[^/]+)/(?P<pid>[^/_-]+)[_-][^/]*", 1),
    (r"(?P<pid>[^/_-]+)[_-](?P<camid>[^/_.-]+)[^/]*", 0),
    (r"(?P<camid>[^/_-]+)[_-](?P<pid>[^/_.-]+)[^/]*", 0),
    (r"\D*(?P<pid>\d+)\D+(?P<camid>\d+)[^/]*", 0),
    (r"\D*(?P<camid>\d+)\D+(?P<pid>\d+)[^/]*", 0),
    (r"(?P<pid>[^/]+)/(?P<camid>[^/_.-]+)[^/]*", 1),
    (r"(?P<pid>[^/]+)/[^/\d]*(?P<camid>\d+)[^/]*", 1),
    (r"(?P<camid>[^/]+)/(?P<pid>[^/_.-]+)[^/]*", 1),
    (r"(?P<pid>[^/]+)/[^/]*?(?P<camid>\d+)\.[^/.]+", 1),
)
LEAST = 2.5  # of what `_promise` gives; a name of its own for each image, taken for a camera, gets 2
_DAY = r"(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01])"
_TIME = r"(?:[01]\d|2[0-3])[-_.:h][0-5]\d[-_.:m][0-5]\d"
_HASH = r"(?=\d*[a-f])(?=[a-f]*\d)[0-9a-f]{8,}"
_STAMP = re.compile(rf"(?i)(?<!\d)(?:{_DAY}|{_TIME})(?!\d)|(?<![0-9a-z]){_HASH}(?![0-9a-z])")


class _Offer(NamedTuple):
    """A pattern, and the person and camera that it reads of each image."""

    pattern: str
    names: Names


def question(name: str, root: Path, inside: dict[str, list[str]], what: str, patterns: Iterable[str] = ()) -> str:
    """Return the question for a pattern: what is not clear, and at most three patterns with what each would read.

    inside: part -> its images. patterns: those of READINGS that fit and between which the user must choose.
    """
    paths = [path for some in inside.values() for path in some]
    offers = [
        _Offer(one.pattern, read_names(one.pattern, one.levels, paths)[0])
        for one in READINGS
        if one.pattern in patterns
    ]
    if len(offers) < 2:
        offers += _plausible(inside)
    lines: list[str] = []
    told: list[Names] = []
    for pattern, names in offers:
        if len(told) < 3 and all(difference(names, other) is not None for other in told):
            told.append(names)
            lines.append(f"  --pattern {shlex.quote(pattern)}\n      reads {_would_read(paths, names)}")
    again = f"reidgen prepare {name} --from {shlex.quote(str(root))}"
    what += "" if what.endswith(" or") else ";"
    if lines:
        how = f"add to {again} the pattern that reads them rightly, or give a CSV with path,pid,camid:"
        return "\n".join([f"{name}: {what} {how}", *lines])
    return (
        f"{name}: {what} put the camera into the names (anna/c1_0001.jpg), add a --pattern with the groups pid and "
        f"camid, or write a CSV with path,pid,camid and run: {again}/list.csv (no usual pattern reads these names "
        "plausibly; crops of nobody who is known belong into a folder called unknown)"
    )


def _plausible(inside: dict[str, list[str]]) -> list[_Offer]:
    """Return the offers that fit all names and that nothing speaks against, the likeliest first."""
    paths = [path for some in inside.values() for path in some]
    parts = [part for part, some in inside.items() for _ in some]
    found = []
    for pattern, levels in _OFFERS:
        names, left = read_names(pattern, levels, paths)
        stamps = any(_are_stamps(pattern, group, levels, paths) for group in ("pid", "camid"))
        if not left and not stamps and _promise(names) > LEAST and not _refused(parts, paths, names):
            found.append(_Offer(pattern, names))
    return sorted(found, key=lambda one: -_promise(one.names))


def _are_stamps(pattern: str, group: str, levels: int, paths: list[str]) -> bool:
    """Tell whether a group of the pattern reads a piece of a day, a time or a hash in the name of every image."""
    match = re.compile(pattern).fullmatch
    for path in paths:
        text = "/".join(path.split("/")[-levels - 1 :])
        found = match(text)
        start, end = found.span(group) if found else (0, 0)
        if not any(one.start() <= start and end <= one.end() for one in _STAMP.finditer(text)):
            return False
    return True


def _refused(parts: list[str], paths: list[str], names: Names) -> bool:
    """Tell whether the judge would refuse a reading, a part's folder is its camera, or no query could have a match."""
    people, cameras = ([same(one[side]) for one in names] for side in (0, 1))
    if any(map(part_of, set(cameras))):
        return True
    images = pd.DataFrame({"part": parts, "path": paths, "pid": people, "camid": cameras})
    images = images[[number_of(one) not in (0, -1) for one in people]]
    tested = images[images["part"] != "train"]
    matched = tested.groupby("pid")["camid"].nunique().gt(1).any()
    return bool(({"query", "test"} & set(parts) and not matched) or against(images, alone=len(images) == len(paths)))


def _promise(names: Names) -> float:
    """Return how likely a reading is right, from 0 to 5, by what real sets are like: few cameras, people seen by
    several of them, and several images of a person in a camera.
    """
    people: dict[str, set[str]] = {}
    seen: dict[str, set[str]] = {}
    images = Counter(names)
    for person, camera in names:
        people.setdefault(person, set()).add(camera)
        seen.setdefault(camera, set()).add(person)
    several = sum(len(cameras) > 1 for cameras in people.values()) / len(people)
    shared = sum(len(persons) > 1 for persons in seen.values()) / len(seen)
    repeated = sum(number > 1 for number in images.values()) / len(images)
    few = len(seen) <= min(64, max(2, len(names) // 4))
    return several + shared + repeated + few + (1 < len(people) < len(names))


def _would_read(paths: list[str], names: Names) -> str:
    """Return what a pattern reads of two images as unlike as there are, and how many people and cameras in all."""
    far = next((i for i, one in enumerate(names) if one[0] != names[0][0] and one[1] != names[0][1]), len(paths) - 1)
    reads = ", ".join(
        f"{shown(paths[i])} as person {shown(names[i][0])}, camera {shown(names[i][1])}"
        for i in dict.fromkeys((0, far))
    )
    people, cameras = (len({same(one[side]) for one in names}) for side in (0, 1))
    return f"{reads}: {people:,} {'person' if people == 1 else 'people'}, {cameras:,} camera{'s' * (cameras != 1)}"
