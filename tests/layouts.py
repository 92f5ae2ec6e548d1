"""Small sets in the layouts in which their authors published them: file names, folders, list files, MATLAB files.

    build("prid", tmp_path)            -> tmp_path/prid_2011, as it lies after unpacking
    build("cuhk03", tmp_path, form="images")  -> another form in which people have it
    archive("prid", tmp_path)          -> tmp_path/prid_2011.zip, or a folder of several archives

prid, grid, viper, ilids and cuhk01 have as many people and images as the real ones; of the others `people` train and
as many are tested. Every image has pixels of its own, but for CUHK02's first camera pair, which is CUHK01 in reality too,
and the entries of a family, which share their files. Nothing here is a real image.
"""

import functools
import io
import random
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".bmp": "BMP"}
CUHK03 = ("cuhk03-np-detected", "cuhk03-np-labelled", "cuhk03-detected", "cuhk03-labelled")
PAIRS = (1, 2, 3, 4, 5)
GRID_SPLITS = 10
CLASSIC_SPLITS = 20

Files = dict[str, bytes]


@dataclass(frozen=True)
class Layout:
    """files: (people, seed) -> path below `folder` -> bytes. archives: published file -> (folder inside it, which
    paths go into it, as a prefix); a plain file (such as a .mat) is published as it is."""

    folder: str
    files: Callable[[int, int], Files]
    archives: dict[str, tuple[str, str]]


def build(name: str, root: Path, *, people: int = 6, seed: int = 0, form: str = "") -> Path:
    """Write the set `name` below `root` in the given form (see FORMS; "": as published and unpacked); return its folder."""
    layout = _layout(name, form)
    folder = root / layout.folder
    files = _files(name, form, people, seed)
    for parent in {path.rpartition("/")[0] for path in files}:
        (folder / parent).mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        Path(f"{folder}/{path}").write_bytes(content)
    return folder


def archive(name: str, root: Path, *, people: int = 6, seed: int = 0) -> Path:
    """Write the set's published archives into `root`; return the only one, or else the folder that holds them."""
    layout, files = _layout(name, ""), _files(name, "", people, seed)
    root.mkdir(parents=True, exist_ok=True)
    written = []
    for file, (inside, prefix) in layout.archives.items():
        chosen = {inside + path: content for path, content in files.items() if path.startswith(prefix)}
        if inside:  # what another archive of the set holds is not in this one
            others = [one for _, one in layout.archives.values() if len(one) > len(prefix)]
            chosen = {
                path: content for path, content in chosen.items() if not path[len(inside) :].startswith(tuple(others))
            }
        written.append(root / file)
        pack(chosen, written[-1])
    return written[0] if len(written) == 1 else root


def pack(files: Files, target: Path) -> None:
    """Write `files` as the zip or tar archive that the suffix of `target` says, or the only one as it is."""
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as zipped:
            for path, content in files.items():
                zipped.writestr(path, content)
    elif ".tar" in target.name or target.suffix == ".tgz":
        how = {".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz", ".tar": "w"}[target.suffix]
        with tarfile.open(target, how) as tar:
            for path, content in files.items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    else:
        [content] = files.values()
        target.write_bytes(content)


def pixels(key: str, seed: int = 0) -> np.ndarray:
    """Return the uint8 pixels (16, 8, 3) that belong to `key`."""
    return np.frombuffer(random.Random(f"{seed} {key}").randbytes(16 * 8 * 3), np.uint8).reshape(16, 8, 3)


def image(key: str, seed: int = 0) -> bytes:
    """Return the pixels of `key` as a file of the kind that its suffix names."""
    file = io.BytesIO()
    Image.fromarray(pixels(key, seed)).save(file, FORMATS[Path(key).suffix.lower()], compress_level=1)
    return file.getvalue()


def images(paths: list[str], top: str, seed: int) -> Files:
    return {path: image(f"{top}/{path}", seed) for path in paths}


@functools.cache
def _files(name: str, form: str, people: int, seed: int) -> Files:
    return _layout(name, form).files(people, seed)


def _layout(name: str, form: str) -> Layout:
    family = "cuhk03" if name in CUHK03 else "msmt17-v" + name[8] if name.startswith("msmt17-v") else name
    return FORMS[family, form] if form else LAYOUTS[family]


# --- Market-1501 and what looks like it ---------------------------------------------------------------------------


def _market(people: int, seed: int) -> Files:
    """Each person under two of six cameras, two images each, and the junk, distractors and hand-drawn boxes."""
    train, query, gallery = [], [], []
    for pid in range(2, 2 + 4 * people, 2):
        cameras = (pid % 6 + 1, (pid + 2) % 6 + 1)
        names = [f"{pid:04d}_c{camera}s1_{1000 * pid + 25 * k:06d}_0{k}.jpg" for camera in cameras for k in (1, 2)]
        if pid % 4 == 2:
            train += names
        else:
            query += [f"{pid:04d}_c{camera}s1_{1000 * pid:06d}_00.jpg" for camera in cameras]
            gallery += [f"{one}.jpg" if pid == 4 else one for one in names]  # the published names have some .jpg.jpg
    gallery += [f"-1_c{camera}s2_{camera:06d}_05.jpg" for camera in (1, 3, 5)]
    gallery += [f"0000_c{camera}s2_{camera:06d}_05.jpg" for camera in (2, 4)]
    folders = {"bounding_box_train": train, "query": query, "bounding_box_test": gallery, "gt_bbox": train[:3]}
    paths = [f"{folder}/{one}" for folder, names in folders.items() for one in names]
    texts = {f"{folder}/Thumbs.db": b"\xd0\xcf\x11\xe0" for folder in folders}
    texts |= {f"gt_query/{query[0][:-4]}_good.mat": b"MATLAB 5.0 MAT-file", "readme.txt": b"For research only."}
    return images(paths, "Market-1501-v15.09.15", seed) | texts


def _market_500k(people: int, seed: int) -> Files:
    names = [f"images/0000_c{k % 6 + 1}s3_{k:06d}_00.jpg" for k in range(5 * people)]
    return _market(people, seed) | images(names, "Market-1501-v15.09.15", seed)


def _duke(people: int, seed: int) -> Files:
    """The gallery holds people too whom no query shows."""
    paths = []
    for pid in range(1, 1 + 2 * people + 2):
        part = "bounding_box_train" if pid <= people else "bounding_box_test"
        cameras = (pid % 8 + 1, (pid + 3) % 8 + 1)
        paths += [f"{part}/{pid:04d}_c{camera}_f{4000 * pid + k:07d}.jpg" for camera in cameras for k in range(2)]
        if people < pid <= 2 * people:
            paths.append(f"query/{pid:04d}_c{cameras[0]}_f{4000 * pid + 9:07d}.jpg")
    licence = {"LICENSE_DukeMTMC-reID.txt": b"Non-commercial.", "README.md": b"# DukeMTMC-reID"}
    return images(paths, "DukeMTMC-reID", seed) | licence


def _personx(people: int, seed: int) -> Files:
    """Cameras 3, 4, 8, 10, 11 and 12, as the authors number them."""
    paths = []
    for pid in range(1, 1 + 2 * people):
        part = "bounding_box_train" if pid % 2 else "bounding_box_test"
        for camera in (3, 4, 8, 10, 11, 12):
            paths += [f"{part}/{pid:04d}_c{camera}s{pid}_{k:02d}.jpg" for k in range(2)]
            if pid % 2 == 0:
                paths.append(f"query/{pid:04d}_c{camera}s{pid}_09.jpg")
    return images(paths, "PersonX", seed)


def _pku(people: int, seed: int) -> Files:
    """Two cameras, eight orientations each; the numbers have gaps."""
    paths = [f"{1 + 3 * n:03d}/{camera:02d}_{o}.png" for n in range(people) for camera in (1, 2) for o in range(1, 9)]
    return images(paths, "PKU-Reid", seed)


# --- CUHK ---------------------------------------------------------------------------------------------------------


def _cuhk01(people: int, seed: int) -> Files:
    return images([f"campus/{pid:04d}{k:03d}.png" for pid in range(1, 972) for k in (1, 2, 3, 4)], "CUHK01", seed)


def _cuhk02(people: int, seed: int) -> Files:
    """Five camera pairs that each count people from 1: 5 + 4 + 3 + 2 + 2 people for people = 6, and the last pair
    lacks a number. The first pair's images are those of CUHK01."""
    files = {}
    for pair in PAIRS:
        for pid in range(1, max(3, people - pair + 1)):
            number = pid + (pair == 5 and pid > 1)
            for camera in (1, 2):
                for k in (1, 2):
                    path = f"Dataset/P{pair}/cam{camera}/{number:03d}_{k}.png"
                    same = f"CUHK01/campus/{pid:04d}{2 * (camera - 1) + k:03d}.png"
                    files[path] = image(same if pair == 1 else f"CUHK02/{path}", seed)
    return files


def cuhk03_names(people: int) -> list[str]:
    """Return the images pair_pid_view_index.png: six people of the first pair and two of each other, up to five images
    under each view. The first pair's last person has no second view."""
    counts = {1: people, 2: max(2, people // 2), 3: 2, 4: 2, 5: 2}
    return [
        f"{pair}_{pid:03d}_{view}_{5 * (view - 1) + k:02d}.png"
        for pair in PAIRS
        for pid in range(1, 1 + counts[pair])
        for view in (1, 2)
        for k in range(1, 6 - (pid + view) % 3)
        if not (pair == 1 and pid == people and view == 2)
    ]


def cuhk03_test_sets(people: int) -> list[list[tuple[int, int]]]:
    """Return the (pair, person) tested in each of the 20 classic splits: people of both views."""
    able = sorted({(int(one[0]), int(one[2:5])) for one in cuhk03_names(people)} - {(1, people)})
    rng = np.random.default_rng(3)
    return [[able[i] for i in sorted(rng.choice(len(able), len(able) // 3, False))] for _ in range(CLASSIC_SPLITS)]


def _cuhk03(people: int, seed: int) -> Files:
    """The archive's cuhk-03.mat, and beside it the new protocol's files, which others publish."""
    files = {"cuhk03_release/cuhk-03.mat": _cuhk03_mat(people, seed), "cuhk03_release/README.md": b"Research only."}
    return files | {
        f"cuhk03_new_protocol_config_{kind}.mat": _new_protocol(people, kind) for kind in ("detected", "labeled")
    }


def _cuhk03_images(people: int, seed: int) -> Files:
    """As unpacked: the images of both kinds and the classic test sets."""
    paths = [f"images_{kind}/{one}" for kind in ("detected", "labeled") for one in cuhk03_names(people)]
    rows = [f"{split},{pair},{pid}" for split, some in enumerate(cuhk03_test_sets(people)) for pair, pid in some]
    files = {path: image(path, seed) for path in paths}
    files["testsets.csv"] = "\n".join(["split,pair,pid", *rows, ""]).encode()
    return files | {
        f"cuhk03_new_protocol_config_{kind}.mat": _new_protocol(people, kind) for kind in ("detected", "labeled")
    }


def _cuhk03_market(people: int, seed: int) -> Files:
    """CUHK03-NP in Market-like folders, as it is passed on; its people are numbered as in the new protocol."""
    files = {}
    for folder, kind in (("detected", "detected"), ("labeled", "labeled")):
        names, (labels, parts) = cuhk03_names(people), _new_protocol_parts(people)
        for i, (name, label) in enumerate(zip(names, labels, strict=True)):
            part = next(one for one, chosen in parts.items() if i in chosen)
            where = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}[part]
            files[f"{folder}/{where}/{label:04d}_c{name[6]}_{int(name[8:10])}.png"] = image(
                f"images_{kind}/{name}", seed
            )
    return files


def _new_protocol_parts(people: int) -> tuple[list[int], dict[str, set[int]]]:
    """Return each image's label, people counted from 1, and the places (from 0) of the images of each part: every second
    person of both views is tested, by the first image of each view."""
    names = cuhk03_names(people)
    persons = sorted({one[:5] for one in names})
    labels = [persons.index(one[:5]) + 1 for one in names]
    tested = [one for one in persons if f"{one}_2" in {name[:7] for name in names}][1::2]
    query = {
        next(i for i, name in enumerate(names) if name.startswith(f"{one}_{view}")) for one in tested for view in "12"
    }
    test = {i for i, name in enumerate(names) if name[:5] in tested}
    return labels, {"train": set(range(len(names))) - test, "query": query, "gallery": test - query}


def _new_protocol(people: int, kind: str) -> bytes:
    """cuhk03_new_protocol_config_*.mat: MATLAB v5, columns, counted from 1, in the published types."""
    from scipy.io import savemat

    names, (labels, parts) = cuhk03_names(people), _new_protocol_parts(people)
    table = {
        "filelist": np.array([[name] for name in names], dtype=object),
        "labels": np.array(labels, dtype=np.uint16)[:, None],
        "camId": np.array([int(name[6]) for name in names], dtype=np.uint8)[:, None],
    }
    table |= {f"{part}_idx": np.array(sorted(chosen), dtype=np.uint16)[:, None] + 1 for part, chosen in parts.items()}
    file = io.BytesIO()
    savemat(file, table, do_compression=True)
    return file.getvalue()


def _cuhk03_mat(people: int, seed: int) -> bytes:
    """cuhk-03.mat: MATLAB v7.3, which is HDF5 with a MATLAB header; cells are object references, arrays transposed."""
    import h5py

    names = cuhk03_names(people)
    kind = h5py.ref_dtype
    file = io.BytesIO()
    with h5py.File(file, "w", userblock_size=512) as mat:
        refs = mat.create_group("#refs#")

        def keep(array: np.ndarray, matlab: str) -> object:
            made = refs.create_dataset(f"r{len(refs)}", data=array, dtype=kind if matlab == "cell" else None)
            made.attrs["MATLAB_class"] = np.bytes_(matlab)
            return made.ref

        empty = keep(np.zeros(2, dtype=np.uint64), "double")
        refs["r0"].attrs["MATLAB_empty"] = np.int32(1)
        for word in ("detected", "labeled"):
            pairs = []
            for pair in PAIRS:
                of_pair = [one for one in names if one.startswith(f"{pair}_")]
                cells = np.full(
                    (10, max(int(one[2:5]) for one in of_pair)), empty, dtype=object
                )  # transposed: 10 x people
                for one in of_pair:
                    crop = pixels(f"images_{word}/{one}", seed)
                    cells[int(one[8:10]) - 1, int(one[2:5]) - 1] = keep(crop.transpose(2, 1, 0), "uint8")
                pairs.append(keep(cells, "cell"))
            mat.create_dataset(word, data=np.array([pairs], dtype=object), dtype=kind).attrs["MATLAB_class"] = (
                np.bytes_("cell")
            )
        sets = [keep(np.array(one, dtype=np.float64).T, "double") for one in cuhk03_test_sets(people)]
        mat.create_dataset("testsets", data=np.array([sets], dtype=object), dtype=kind).attrs["MATLAB_class"] = (
            np.bytes_("cell")
        )
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jun 30 20:06:37 2014 HDF5 schema 1.00 ."
    return header.ljust(124) + b"\x00\x02IM" + file.getvalue()[128:]


def _cuhk_sysu(people: int, seed: int) -> Files:
    paths = [
        f"cropped_images/p{pid}_s{17 * pid + k}_{k + 1}.jpg" for pid in range(1, 2 * people) for k in range(1 + pid % 3)
    ]
    return images(paths, "CUHK-SYSU", seed)


def _cuhk_sysu_named(people: int, seed: int) -> Files:
    """The names that another script gives the same crops."""
    paths = [
        f"cropped_image/p{pid:05d}_n{k + 1:02d}_s{17 * pid + k:05d}_hard{k % 2}.png"
        for pid in range(1, 2 * people)
        for k in range(1 + pid % 3)
    ]
    return images(paths, "CUHK-SYSU", seed)


# --- MSMT17 -------------------------------------------------------------------------------------------------------


def _msmt17(train: str, test: str, top: str) -> Callable[[int, int], Files]:
    def files(people: int, seed: int) -> Files:
        """Train and test both count people from 0; the val list takes some images of every training person."""
        lists: dict[str, list[str]] = {"train": [], "val": [], "query": [], "gallery": []}
        for part in ("train", "test"):
            for pid in range(people):
                for k in range(6):
                    camera = (pid + 4 * (k % 2)) % 15 + 1
                    line = f"{pid:04d}/{pid:04d}_{k:03d}_{camera:02d}_0303morning_{10 * pid + k:04d}_{k % 3}.jpg {pid}"
                    kind = ("val" if k == 5 else "train") if part == "train" else ("query" if k < 2 else "gallery")
                    lists[kind].append(line)
        folder = {"train": train, "val": train, "query": test, "gallery": test}
        paths = [f"{folder[kind]}/{line.split()[0]}" for kind, lines in lists.items() for line in lines]
        texts = {f"list_{kind}.txt": ("\n".join(lines) + "\n").encode() for kind, lines in lists.items()}
        return images(paths, top, seed) | texts

    return files


# --- small sets, in their real size -------------------------------------------------------------------------------


def _prid(people: int, seed: int) -> Files:
    """385 people of camera a, 749 of camera b; 1 to 200 are the same in both, 201 and more are not."""
    paths = [f"single_shot/cam_a/person_{pid:04d}.png" for pid in range(1, 386)]
    paths += [f"single_shot/cam_b/person_{pid:04d}.png" for pid in range(1, 750)]
    paths += [f"multi_shot/cam_{c}/person_{pid:04d}/{k:04d}.png" for c in "ab" for pid in (1, 2) for k in (1, 2)]
    return images(paths, "prid_2011", seed) | {"readme.txt": b"PRID 2011"}


def grid_training_people() -> list[list[int]]:
    """Return the 125 training people of each of the ten partitions."""
    rng = np.random.default_rng(5)
    return [sorted(rng.permutation(np.arange(1, 251))[:125].tolist()) for _ in range(GRID_SPLITS)]


def _grid(people: int, seed: int) -> Files:
    """250 people in probe and gallery, and 775 images of person 0 in the gallery."""
    from scipy.io import savemat

    box = "107_32_106_221"
    paths = [f"probe/{pid:04d}_{pid % 8 + 1}_{25000 + pid}_{box}.jpeg" for pid in range(1, 251)]
    paths += [f"gallery/{pid:04d}_{(pid + 3) % 8 + 1}_{26000 + pid}_{box}.jpeg" for pid in range(1, 251)]
    paths += [f"gallery/0000_{k % 8 + 1}_{27000 + k}_{box}.jpeg" for k in range(775)]
    cells = np.empty((1, GRID_SPLITS), dtype=object)
    for split, train in enumerate(grid_training_people()):
        rows = {"probe": np.array(train)[None], "gallery": np.array(train)[None] + 775, "person": np.array(train)[None]}
        cells[0, split] = rows  # the third field holds the people
    file = io.BytesIO()
    savemat(file, {"features": np.zeros((4, 3)), "trainIdxAll": cells}, do_compression=True)
    return images(paths, "underground_reid", seed) | {
        "features_and_partitions.mat": file.getvalue(),
        "README.txt": b"GRID",
    }


def viper_people() -> list[int]:
    """Return 632 numbers from 0 to 873: the real ones have gaps too."""
    return sorted([0, *np.random.default_rng(7).permutation(np.arange(1, 873))[:630].tolist(), 873])


def _viper(people: int, seed: int) -> Files:
    paths = [f"cam_a/{pid:03d}_{45 * (pid % 3)}.bmp" for pid in viper_people()]
    paths += [f"cam_b/{pid:03d}_{45 * (pid % 3 + 1)}.bmp" for pid in viper_people()]
    return images(paths, "VIPeR", seed) | {"README.txt": b"VIPeR"}


# How many images each of the 119 people of i-LIDS has, 476 in all.
# Source: the published labels, BJTUJia/person_reID_DualNorm@f4b93ab:evaluate/data/iLIDS.
ILIDS = (
    "443344224455337722663366886653885577666636665533344554433333"
    "34455333333335544446644222233222222226622222444334335523344"
)


def _ilids(people: int, seed: int) -> Files:
    paths = [f"Persons/{pid:04d}{k:03d}.jpg" for pid in range(1, 120) for k in range(1, 1 + int(ILIDS[pid - 1]))]
    return images(paths, "i-LIDS_Pedestrian", seed)


def _sensereid(people: int, seed: int) -> Files:
    """Probe and gallery hold each person once per camera; half of the gallery's people are in no probe."""
    paths = [f"test_probe/{pid:05d}_{camera}.jpg" for pid in range(people) for camera in (0, 1)]
    paths += [f"test_gallery/{pid:05d}_{camera}.jpg" for pid in range(2 * people) for camera in (0, 1)]
    return images(paths, "SenseReID", seed)


# --- rendered sets ------------------------------------------------------------------------------------------------


def _randperson(people: int, seed: int) -> Files:
    """Scenes that each count their cameras from 0."""
    paths = [
        f"{pid:06d}_s{scene:02d}_c{camera:02d}_f{100 * pid + k:06d}.jpg"
        for pid in range(people)
        for scene, camera, k in ((pid % 3, 0, 1), (pid % 3, 1, 2), (4, 0, 3), (4, 0, 4))
    ]
    return images(paths, "randperson_subset", seed)


def _clonedperson(people: int, seed: int) -> Files:
    paths = []
    for pid in range(700_000, 700_000 + 2 * people):
        names = [f"{pid}_s{2 + pid % 2:02d}_c{k % 3:02d}_f{pid % 100:03d}{k:03d}.jpg" for k in range(5)]
        if pid < 700_000 + people:
            paths += [f"train/{one}" for one in names]
        else:
            paths += [f"test/query/{names[0]}", *(f"test/gallery/{one}" for one in names[1:])]
    return images(paths, "clonedperson", seed)


def unreal_names(people: int) -> list[tuple[str, int, int]]:
    """Return (path, person, camera): a person is a model version and a number, a camera a scene and a number."""
    return [
        (f"unreal_v{scene}.{version}/images/{pid}_c{camera:03d}_{70 + k}.jpg", 10 * version + pid, 10 * scene + camera)
        for version in (1, 2)
        for pid in range(people // 2)
        for scene, camera, k in ((1, 1, 0), (1, 2, 1), (3, 1, 2), (3, 1, 3))
    ]


def _unrealperson(people: int, seed: int) -> Files:
    """All images, and the list of those that the paper trained on: one in four is not on it."""
    names = unreal_names(people)
    persons, cameras = sorted({one[1] for one in names}), sorted({one[2] for one in names})
    lines = [
        f"{path} {persons.index(pid)} {cameras.index(camera)} \n" for path, pid, camera in names if "_73." not in path
    ]
    return images([one[0] for one in names], "UnrealPerson", seed) | {"list_unreal_train.txt": "".join(lines).encode()}


LAYOUTS = {
    "market": Layout("Market-1501-v15.09.15", _market, {"Market-1501-v15.09.15.zip": ("Market-1501-v15.09.15/", "")}),
    "market-500k": Layout(
        "Market-1501-v15.09.15",
        _market_500k,
        {"Market-1501-v15.09.15.zip": ("Market-1501-v15.09.15/", ""), "distractors_500k.zip": ("", "images/")},
    ),
    "duke": Layout("DukeMTMC-reID", _duke, {"DukeMTMC-reID.zip": ("DukeMTMC-reID/", "")}),
    "cuhk03": Layout(
        "cuhk03",
        _cuhk03,
        {
            "cuhk03_release.zip": ("", "cuhk03_release/"),
            "cuhk03_new_protocol_config_detected.mat": ("", "cuhk03_new_protocol_config_detected"),
            "cuhk03_new_protocol_config_labeled.mat": ("", "cuhk03_new_protocol_config_labeled"),
        },
    ),
    "cuhk02": Layout("cuhk02", _cuhk02, {"CUHK02.zip": ("", "")}),
    "cuhk01": Layout("cuhk01", _cuhk01, {"CUHK01.zip": ("", "")}),
    "cuhk-sysu": Layout("cuhksysu", _cuhk_sysu, {"cropped_images.zip": ("", "")}),
    "msmt17-v1": Layout("MSMT17_V1", _msmt17("train", "test", "MSMT17_V1"), {"MSMT17_V1.tar.gz": ("MSMT17_V1/", "")}),
    "msmt17-v2": Layout(
        "MSMT17_V2", _msmt17("mask_train_v2", "mask_test_v2", "MSMT17_V2"), {"MSMT17_V2.zip": ("MSMT17_V2/", "")}
    ),
    "prid": Layout("prid_2011", _prid, {"prid_2011.zip": ("prid_2011/", "")}),
    "grid": Layout("underground_reid", _grid, {"underground_reid.zip": ("underground_reid/", "")}),
    "viper": Layout("VIPeR", _viper, {"VIPeR.v1.0.zip": ("VIPeR/", "")}),
    "ilids": Layout("i-LIDS_Pedestrian", _ilids, {"i-LIDS_Pedestrian.tgz": ("i-LIDS_Pedestrian/", "")}),
    "sensereid": Layout("SenseReID", _sensereid, {"SenseReID.zip": ("SenseReID/", "")}),
    "pku": Layout("PKU-Reid", _pku, {"PKU-Reid.zip": ("PKU-Reid/", "")}),
    "randperson": Layout("randperson_subset", _randperson, {"randperson_subset.zip": ("randperson_subset/", "")}),
    "clonedperson": Layout("clonedperson", _clonedperson, {"clonedperson.tar.gz": ("", "")}),
    "unrealperson": Layout("UnrealPerson", _unrealperson, {"unrealperson.zip": ("", "")}),
    "personx": Layout("PersonX", _personx, {"PersonX.zip": ("PersonX/", "")}),
}
FORMS = {
    ("cuhk03", "images"): Layout("cuhk03", _cuhk03_images, {}),  # as unpacked by reidgen or torchreid
    ("cuhk03", "market"): Layout("cuhk03-np", _cuhk03_market, {}),  # Market-like folders
    ("cuhk-sysu", "named"): Layout("CUHK-SYSU", _cuhk_sysu_named, {}),
}
