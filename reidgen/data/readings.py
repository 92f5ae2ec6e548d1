"""How names of people's own crops may be read: what parts, cameras and persons are called, and patterns for them."""

import re
from dataclasses import dataclass

from reidgen.data.naming import same

# What folders of parts are called, in any case, with "_", "-" or " " between the words.
PART_NAMES = {
    "train": (
        "train training trainset train_set bounding_box_train bbox_train image_train images_train train_images "
        "mask_train"
    ),
    "query": (
        "query queries probe probes image_query images_query query_images bounding_box_query bbox_query "
        "test_query test_probe query_set"
    ),
    "gallery": (
        "gallery galleries image_gallery images_gallery gallery_images bounding_box_gallery bbox_gallery "
        "test_gallery gallery_set"
    ),
    "test": "test testing testset test_set bounding_box_test bbox_test image_test images_test test_images mask_test",
    "val": "val valid validation dev eval valset val_set bounding_box_val image_val",
}
# What folders are called whose images are of nobody: distractors, which need no names.
NOBODY = "unknown unknowns nobody unidentified unlabelled unlabeled no_identity distractor distractors".split()
_PART = {word: part for part, words in PART_NAMES.items() for word in words.split()}

_CAMERA = r"(?:(?:camera|cam)[ _-]?|c(?=\d{1,3}(?!\d)))(?P<camid>\d{1,4})(?!\d)"
# what may follow a camera: _0001, s1_0001 (sequence), t3 (tracklet), f7 (frame)
_MORE = r"(?:[^a-z0-9/][^/]*|[stf]\d[^/]*)"
_IN_NAME = rf"(?:[^/]*[^a-z0-9/])?{_CAMERA}{_MORE}"
_CAMERA_FOLDER = (
    r"(?:(?:camera|cam)[ _-]?(?=\d|[a-z](?![a-z0-9]))|c(?=\d{1,3}(?!\d)))(?P<camid>\d{1,4}(?!\d)|[a-z])" + f"{_MORE}?"
)
_PERSON_WORD = r"(?:person|pers|pid|id|p)[ _-]?\d+"
_TRACKLET = r"(?:(?P=pid)[^/]*|(?:tracklet|track|trk|sequence|seq|t|images?|imgs?|frames?)[ _-]?\d*|\d+)"


@dataclass(frozen=True)
class Reading:
    """One way to read names. levels: folders above the file that it looks at; market: the whole name says it, so that
    it wins over what folders are called; flat: the folders above need not be the same for all images."""

    pattern: str
    levels: int
    market: bool = False
    flat: bool = False


# In the order in which they are preferred where they say the same.
READINGS = (
    Reading(r"(?i)(?P<pid>-?\d+)_c(?P<camid>\d+)s\d+_.*", 0, market=True, flat=True),  # 0002_c1s1_000451_03.jpg
    Reading(r"(?P<pid>\d+|00-1)C(?P<camid>\d+)T\d+F\d+\..*", 0, market=True, flat=True),  # MARS: 0001C1T0001F001.jpg
    Reading(rf"(?i)(?P<pid>[^/]+)/{_IN_NAME}", 1),  # anna/c1_0001.jpg, anna/x_cam1_0001.jpg
    Reading(rf"(?i)(?P<pid>[^/]+)/{_CAMERA_FOLDER}/[^/]+", 2),  # anna/cam1/0001.jpg
    Reading(rf"(?i){_CAMERA_FOLDER}/(?P<pid>[^/]+)/[^/]+", 2),  # cam1/anna/0001.jpg
    Reading(rf"(?i)(?P<pid>[^/]+)/{_TRACKLET}/{_IN_NAME}", 2),  # anna/0003/c1_0001.jpg: person, tracklet, image
    Reading(rf"(?i)(?P<pid>[^/]+)/{_CAMERA_FOLDER}/[^/]+/[^/]+", 3),  # anna/cam1/0003/0001.jpg
    Reading(rf"(?i){_CAMERA_FOLDER}/(?P<pid>[^/]+)/{_TRACKLET}/[^/]+", 3),  # cam1/anna/0003/0001.jpg
    Reading(rf"(?i){_CAMERA_FOLDER}/(?P<pid>{_PERSON_WORD})[^a-z0-9/][^/]*", 1),  # cam_a/person_0001.png
    Reading(
        rf"(?i)(?P<pid>-?\d+|{_PERSON_WORD})_c(?P<camid>\d{{1,3}})[sf_.-][^/]*", 0, flat=True
    ),  # 0001_c001_0016.jpg
    Reading(rf"(?i)(?P<pid>{_PERSON_WORD})[_ -]{_CAMERA}{_MORE}", 0, flat=True),  # person01_cam3_x.jpg
    Reading(rf"(?i)(?P<pid>-?\d+)_{_CAMERA}{_MORE}", 0),  # 0001_cam3.jpg
)

# The guesses of reidgen 0.1, which sets prepared by it still name.
_OLD = (
    r"(?i)(?P<pid>[^/]+)/(?:camera|cam|c)[ _-]?(?P<camid>\d+)/[^/]+",
    r"(?i)(?P<pid>[^/]+)/(?:[^/]*[^a-z/])?(?:camera|cam|c)[ _-]?(?P<camid>\d+)(?!\d)[^/]*",
    r"(?P<pid>[^/]+)/(?P<camid>\d{1,4})[_-][^/]+",
    r"(?i)(?P<pid>-?\d+)_(?:cam|c)(?P<camid>\d+).*",
)
AUTOMATIC = (*(one.pattern for one in READINGS), *_OLD)  # patterns that `prepare` finds by itself

_IMAGES = r"images?|imgs?|pictures?|photos?|frames?|crops?|all[ _-]?(?:images?|imgs?)|jpe?g|png|data|dataset"
_TIMES = (  # days and the like hold people, but are none
    r"(?:19|20)\d\d[-_.]?\d\d[-_.]?\d\d.*|\d\d?[-_.]\d\d?[-_.](?:19|20)\d\d.*"
    r"|(?:mon|tues|wednes|thurs|fri|satur|sun)day|(?:day|session|site|scene|batch|location)[ _-]?\d+"
)


def part_of(name: str) -> str:
    """Return the part as which a folder is called, "" for another name."""
    return _PART.get(_word(name), "")


def holds_nobody(name: str) -> bool:
    """Tell whether a folder is called as one whose images are of nobody who is known."""
    return _word(name) in NOBODY


def never_a_person(name: str) -> bool:
    """Tell whether a folder's name is that of a part, of a camera, or such as `images`."""
    return bool(part_of(name)) or bool(re.fullmatch(f"{_CAMERA_FOLDER}|{_IMAGES}|{_TIMES}", name, re.IGNORECASE))


def _word(name: str) -> str:
    return re.sub(r"_v\d+$", "", re.sub(r"[ -]", "_", name.casefold()))


Names = list[tuple[str, str]]  # person and camera of each image


def read_names(pattern: str, levels: int, paths: list[str]) -> tuple[Names, list[str]]:
    """Return person and camera of each path that fits, and the paths that do not."""
    match = re.compile(pattern).fullmatch
    names, left = [], []
    people: dict[str, bool] = {}
    for path in paths:
        found = match("/".join(path.split("/")[-levels - 1 :]))
        person = found["pid"] if found else ""
        if person not in people:
            people[person] = bool(person) and not never_a_person(person)
        if found and people[person]:
            names.append((person, found["camid"]))
        else:
            left.append(path)
    return names, left


def varies(paths: list[str], levels: int) -> bool:
    """Tell whether the folders above those that a reading looks at differ; such as `images` do not count."""
    above = set()
    for path in paths:
        folders = path.split("/")[: -levels - 1]
        above.add(tuple(one for one in folders if not re.fullmatch(_IMAGES, one, re.IGNORECASE)))
    return len(above) > 1


def cameras_in(path: str) -> list[str]:
    """Return the cameras of which the folders of a path speak, and its name."""
    *folders, file = path.split("/")
    found = [one["camid"] for folder in folders if (one := re.fullmatch(_CAMERA_FOLDER, folder, re.IGNORECASE))]
    return found + [one["camid"] for one in re.finditer(rf"(?<![a-z0-9]){_CAMERA}(?={_MORE})", file, re.IGNORECASE)]


def difference(names: Names, others: Names) -> int | None:
    """Return the first image at which two readings do not tell the same people and cameras apart, None
    where they do.
    """
    for side in (0, 1):
        there: dict[str, str] = {}
        back: dict[str, str] = {}
        for place, (one, other) in enumerate(zip(names, others, strict=True)):
            left, right = same(one[side]), same(other[side])
            if there.setdefault(left, right) != right or back.setdefault(right, left) != left:
                return place
    return None
