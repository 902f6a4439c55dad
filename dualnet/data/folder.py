"""Your own photos: one folder for each class, named after the class."""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy

from ..arguments import extents, flag, fraction, integer
from .images import colour, pixels, suffixes
from .reading import DataError, Split, check_dtype, check_folder

__all__ = ["load_folder"]

HOW = "Put the images of each class into their own folder inside it, such as photos/cat/1.jpg and photos/dog/1.jpg."
TRAIN = ("train", "training", "train_set", "training_set")
TEST = ("val", "valid", "validation", "dev", "test", "testing", "test_set", "eval")  # the first one found is taken
SYSTEM = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db", "desktop.ini")
"""Files and folders that operating systems leave behind, apart from names that start with a dot."""
UNREAD = (".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")
"""Photos from phones and cameras that Pillow may not be able to read."""

SHARE = 0.2
"""The fraction held out of every class by default."""

Classes = dict[str, list[Path]]  # the images of each class, in the order of their numbers
Labelled = tuple[Path, int]  # an image and the number of its class


def load_folder(
    folder: str | os.PathLike,
    size: int | tuple[int, int],
    *,
    grey: bool = False,
    held_out: float | None = None,
    names: Sequence[str] | None = None,
    background: str | tuple[int, int, int] = "white",
    seed: int = 0,
    dtype: str = "float32",
    skip_damaged: bool = False,
) -> tuple[Split, Split, tuple[str, ...]]:
    """Images in folders, one folder for each class: ``(x, t), (x_test, t_test), names``.

    Each image is read as :func:`read_image` does: upright, scaled to ``size``, over the ``background`` if it is
    transparent, in colour or ``grey``. x (N, H, W, C) is float32 in [0, 1], or bytes with ``dtype="uint8"``. t (N,) is
    int64: the position of the image's folder in ``names``, which are sorted as text (so "10" comes before "2").

    The fraction ``held_out`` of every class (default 0.2), at least one image, is drawn with ``seed`` and held out for
    testing; 0 holds out none. Identical files stay together, so no test image is also trained on.

    If a folder holds both ``train`` and ``val`` (or ``valid``, ``test`` ...), each with a folder for every class, that
    split is used: the test images come from the second, and you cannot choose ``held_out``.

    Pass ``names``, the classes in order, if a network has already learned them: every class then keeps its number, even
    if there are no images of some classes, and a folder with any other name is an error.

    Every file whose suffix Pillow knows is read, in deeper folders too. Hidden files and folders, and what operating
    systems leave behind (``.ipynb_checkpoints``, ``__MACOSX``, ``Thumbs.db``), are skipped; a warning counts and names
    all other files that were skipped, and identical files. An image that cannot be read raises an error, or with
    ``skip_damaged=True`` is skipped and named too.

    Needs Pillow (``pip install "dualnet[images]"``). Raises ``FileNotFoundError`` for a folder that does not exist and
    :class:`DataError` for one without classes, a class with too few images, or an image that cannot be read.

    >>> import dualnet as dn, tempfile, pathlib
    >>> photos = pathlib.Path(tempfile.mkdtemp())
    >>> for name, brightness in (("day", 200), ("night", 20)):
    ...     (photos / name).mkdir()
    ...     for i in range(5):
    ...         grey = bytes([brightness + i] * 12)
    ...         written = (photos / name / f"{i}.ppm").write_bytes(b"P6 2 2 255 " + grey)
    >>> (x, t), (x_test, t_test), names = dn.data.load_folder(photos, size=8)
    >>> x.shape, x_test.shape, sorted(t_test.tolist()), names
    ((8, 8, 8, 3), (2, 8, 8, 3), [0, 1], ('day', 'night'))
    """
    op = "load_folder"
    size, dtype, grey = extents(size, "size", op=op), check_dtype(dtype, op), flag(grey, "grey", op=op)
    share = fraction(SHARE if held_out is None else held_out, "held_out", op=op)
    draw = numpy.random.default_rng(integer(seed, "seed", op=op, least=0))
    known = None if names is None else _check_names(names)
    base = check_folder(folder, op, HOW)
    tone, skip_damaged = colour(background, op), flag(skip_damaged, "skip_damaged", op=op)

    notes = Notes(base)
    split = _split(base, notes)
    if split is None:
        classes = _classes(base, known, notes)
        kept, back = _drawn(base, classes, share, draw, known is not None, notes)
    else:
        train, test = split
        if held_out is not None:
            raise ValueError(
                f"{op}: {base} has its own split, {train.name} and {test.name}. Leave out held_out, or load {train}."
            )
        classes = _classes(train, known, notes)
        kept, back = _labelled(classes), _labelled(_classes(test, tuple(classes), notes))
        _tell_leaks(kept, back, test, notes)
    if not skip_damaged:
        notes.warn()  # before reading the images, which takes a while
    read = functools.partial(_read, size=size, grey=grey, background=tone, dtype=dtype)
    images, held = (read(files, notes=notes if skip_damaged else None) for files in (kept, back))
    if skip_damaged:
        notes.warn()
        _check_left(base, tuple(classes), (kept, back), (images, held))
    return images, held, tuple(classes)


class Notes:
    """The files that were skipped in a folder, and what else its owner should know."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.passed: dict[str, list[str]] = defaultdict(list)
        self.told: list[str] = []

    def name(self, path: Path) -> str:
        return path.relative_to(self.base).as_posix()

    def pass_over(self, path: Path, why: str) -> None:
        self.passed[why].append(self.name(path))

    def tell(self, paths: Sequence[Path], what: str) -> None:
        if paths:
            self.told.append(f"{_count(len(paths), what)} ({_some([self.name(path) for path in paths])})")

    def over(self) -> str:
        """How many files were skipped and why, or nothing."""
        number = sum(map(len, self.passed.values()))
        reasons = "; ".join(f"{why}: {_some(names)}" for why, names in self.passed.items())
        return f"skipped {_count(number, 'file|files')} ({reasons})" if number else ""

    def warn(self) -> None:
        if over := self.over():
            self.told.insert(0, over)
        if self.told:
            warnings.warn(f"load_folder: {self.base}: {'. '.join(self.told)}.", stacklevel=3)


def _count(number: int, what: str) -> str:
    """``_count(2, "file|files")`` is "2 files"."""
    one, many = what.split("|")
    return f"{number:,} {one if number == 1 else many}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + f" and {len(names) - 3:,} more" * (len(names) > 3)


# -- finding the images ------------------------------------------------------------------------------------------------


def _visible(folder: Path) -> list[Path]:
    """The content of a folder, sorted by name, except for what its user does not see."""
    found = (path for path in folder.iterdir() if not path.name.startswith(".") and path.name.lower() not in SYSTEM)
    return sorted(found, key=lambda path: path.name)


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _split(base: Path, notes: Notes) -> tuple[Path, Path] | None:
    """The folders of a split that the user made, (train, test), if this is one."""
    here = {path.name.lower(): path for path in _folders(base)}
    train = next((here[name] for name in TRAIN if name in here), None)
    test = next((here[name] for name in TEST if name in here), None)
    if train is None or test is None:
        return None
    if not (_folders(train) and _folders(test)):
        if len(here) > 2:
            return None  # train, test and bicycle, say, are classes
        empty = test if _folders(train) else train
        raise DataError(f"{empty}: it has no folders in it, so there are no classes. {HOW}")
    for path in here.values():
        if path not in (train, test):
            notes.pass_over(path, f"a folder next to {train.name} and {test.name}")
    _pass_over_files(base, notes)
    return train, test


def _check_names(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"load_folder: names must be the classes in order, such as ('cat', 'dog'); got {names!r}")
    if len(set(names)) != len(names) or len(names) < 2:
        raise ValueError(f"load_folder: names must hold at least two different classes; got {tuple(names)!r}")
    return tuple(names)


def _classes(base: Path, known: tuple[str, ...] | None, notes: Notes) -> Classes:
    """The images of each class, in the order of the classes' numbers."""
    folders = {path.name: path for path in _folders(base)}
    _pass_over_files(base, notes)
    if known is None:
        if len(folders) < 2:
            inside = f"one folder, {min(folders)!r}," if folders else "no folders"
            deeper = [path for path in folders.values() if len(_folders(path)) > 1]
            hint = f"Did you mean {deeper[0]}?" if deeper else HOW
            raise DataError(f"{base}: {inside} in it; expected at least two classes. {hint}")
        return {name: _images(path, notes) for name, path in folders.items()}
    for name, path in folders.items():
        if name not in known:
            raise DataError(f"{path}: {name!r} is not one of the classes, which are {', '.join(known)}")
    classes = {name: _images(folders[name], notes) if name in folders else [] for name in known}
    if not any(classes.values()):
        raise DataError(f"{base}: no images of {', '.join(known)}. {HOW}")
    return classes


def _images(folder: Path, notes: Notes) -> list[Path]:
    """The images in a folder and its subfolders, sorted. No folder is entered twice: links may form a cycle."""
    found: list[Path] = []
    entered: set[Path] = set()
    waiting, endings = [folder], suffixes()
    while waiting:
        inside = waiting.pop()
        if inside.resolve() in entered:
            continue
        entered.add(inside.resolve())
        for path in _visible(inside):
            if path.is_dir():
                waiting.append(path)
            elif _is_image(path, endings, notes):
                found.append(path)
    return sorted(found)


def photos_in(folder: Path) -> tuple[list[Path], str]:
    """All images in a folder and its subfolders, sorted, of any class; and which files were skipped, and why."""
    notes = Notes(folder)
    return _images(folder, notes), notes.over()


def _is_image(path: Path, endings: tuple[str, ...], notes: Notes) -> bool:
    ending = path.suffix.lower()
    if path.is_file() and ending in endings:
        return True
    notes.pass_over(path, _why_not(path, ending))
    return False


def _why_not(path: Path, ending: str) -> str:
    if not path.is_file():
        return "broken link" if path.is_symlink() else "not a regular file"
    if ending in UNREAD:
        return f"{ending} cannot be read; save as JPEG"
    return f"{ending} is not an image" if ending else "no suffix"


def _pass_over_files(base: Path, notes: Notes) -> None:
    """Skip files next to the class folders: their class is unknown."""
    endings = suffixes()
    for path in _visible(base):
        if not path.is_dir() and _is_image(path, endings, notes):
            notes.pass_over(path, "not in a class folder")


# -- holding some of them out ------------------------------------------------------------------------------------------


def _labelled(classes: Classes) -> list[Labelled]:
    return [(file, label) for label, files in enumerate(classes.values()) for file in files]


def _drawn(
    base: Path, classes: Classes, share: float, draw: numpy.random.Generator, may_lack: bool, notes: Notes
) -> tuple[list[Labelled], list[Labelled]]:
    """The images to learn from and the held-out ones: a share of every class; copies of an image stay together."""
    twins = _twins(file for files in classes.values() for file in files) if share else {}
    sides: dict[Path | str, bool] = {}  # is this content held out?
    kept: list[Labelled] = []
    back: list[Labelled] = []
    for label, (name, files) in enumerate(classes.items()):
        number = max(1, round(share * len(files))) if share else 0
        if len(files) <= number and not (may_lack and not files):
            found = ", ".join(filter(None, [_count(len(files), "image|images"), notes.over()]))
            raise DataError(f"{base / name}: {found}; expected at least {number + 1}. Add some, or remove the folder.")
        groups: dict[Path | str, int] = Counter(twins.get(file, file) for file in files)
        _choose(groups, number, draw, sides)
        for file in files:
            (back if sides[twins.get(file, file)] else kept).append((file, label))
        if share and len({sides[group] for group in groups}) == 1:
            raise DataError(
                f"{base / name}: its {len(files)} images are copies of one another or of images in another class; "
                "expected at least two different ones"
            )
    _tell_copies(kept + back, twins, notes)
    return kept, back


def _choose(groups: dict[Path | str, int], number: int, draw: numpy.random.Generator, sides: dict) -> None:
    """Hold out ``number`` images of a class: whole groups of copies, drawn until no more fit, but at least one."""
    order = [list(groups)[place] for place in draw.permutation(len(groups))]
    free = [group for group in order if group not in sides]
    room = number - sum(groups[group] for group in order if sides.get(group))
    for group in free:
        sides[group] = groups[group] <= room
        room -= groups[group] * sides[group]
    if number and free and not any(sides[group] for group in order):
        sides[min(free, key=groups.__getitem__)] = True


def _twins(files: Iterable[Path]) -> dict[Path, str]:
    """A hash of the content of each file that may have a copy: those with the same length as another."""
    lengths = defaultdict(list)
    for file in files:
        lengths[file.stat().st_size].append(file)
    return {file: _hash(file) for alike in lengths.values() if len(alike) > 1 for file in alike}


def _hash(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _tell_copies(labelled: list[Labelled], twins: dict[Path, str], notes: Notes) -> None:
    first: dict[str, int] = {}
    copies: list[Path] = []
    elsewhere: list[Path] = []
    for file, label in sorted(labelled):
        if file not in twins:
            continue
        if twins[file] in first:
            (copies if first[twins[file]] == label else elsewhere).append(file)
        first.setdefault(twins[file], label)
    notes.tell(copies, "image is a copy of another|images are copies of others")
    notes.tell(elsewhere, "image is a copy of one in another class|images are copies of those in other classes")


def _tell_leaks(kept: list[Labelled], back: list[Labelled], test: Path, notes: Notes) -> None:
    """Warn of images in the user's own test folder that are also trained on."""
    twins = _twins(file for file, _ in (*kept, *back))
    learned = {twins[file] for file, _ in kept if file in twins}
    leaks = [file for file, _ in back if twins.get(file) in learned]
    what = f"in {test.name} also trained on, so the accuracy will look too good"
    notes.tell(leaks, f"image {what}|images {what}")


def _read(
    files: list[Labelled],
    size: tuple[int, int],
    grey: bool,
    background: tuple[int, int, int],
    dtype: str,
    notes: Notes | None = None,
) -> Split:
    """The images and their labels. If there are notes, images that cannot be read are skipped and noted."""
    x = numpy.empty((len(files), *size, 1 if grey else 3), dtype)
    labels: list[int] = []
    for file, label in files:
        try:
            x[len(labels)] = pixels(file, size, grey, background, dtype)
        except DataError:
            if notes is None:
                raise
            notes.pass_over(file, "damaged")
            continue
        labels.append(label)
    return x[: len(labels)], numpy.array(labels, numpy.int64)


def _check_left(base: Path, names: tuple[str, ...], wanted: tuple[list[Labelled], ...], got: tuple[Split, ...]) -> None:
    """Raise if all images of a class were damaged."""
    for files, (_, labels) in zip(wanted, got):
        lost = {label for _, label in files} - set(labels.tolist())
        if lost:
            raise DataError(f"{base / names[min(lost)]}: none of its images could be read")
