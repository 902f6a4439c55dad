"""Where ``dualnet train`` saves a network: under the name in ``--out``, under a free name, or in another folder."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import dualnet as dn

from ..files.formats import SUFFIXES
from ..files.network import file_of, saved

__all__ = ["Saved", "checkpoints_of", "place_of", "save", "stopped_of"]


def place_of(out: str, name: str) -> Path:
    """The file that ``--out`` names, or one of this name in the folder that it names."""
    path = Path(out).expanduser()
    if path.suffix in SUFFIXES and not path.is_dir():
        return file_of(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"--out {out} is a file; expected a folder, or a name that ends with {' or '.join(SUFFIXES)}")
    return path / name


def checkpoints_of(place: Path) -> Path:
    """The folder beside a model in which its training keeps checkpoints.

    >>> checkpoints_of(Path("models/digits-digits_cnn")).as_posix()
    'models/digits-digits_cnn.checkpoints'
    """
    name = _name(place)
    return place.with_name(f"{name}.checkpoints")


def stopped_of(place: Path) -> Path:
    """The file of a half-trained network whose training will continue: the model's own name stays free for the whole
    one.

    If ``--out`` names a file, that name is used: the whole network will replace the file.

    >>> stopped_of(Path("models/digits-digits_cnn")).as_posix(), stopped_of(Path("mine.npz")).as_posix()
    ('models/digits-digits_cnn-stopped.npz', 'mine.npz')
    """
    return place if place.suffix in SUFFIXES else place.with_name(f"{place.name}-stopped.npz")


def file_with(net: dn.Layer, place: Path) -> Path | None:
    """The file under this name, or under one with a number, that holds this very network; None if there is none."""
    name = _name(place)
    found = [path for path in place.parent.glob(f"{escape(name)}*") if path.suffix in SUFFIXES]
    state = net.state_dict()
    for path in sorted(found):
        with suppress(ValueError, OSError, ImportError):  # damaged, or not a network
            other = dn.load(path).state_dict()
            if other.keys() == state.keys() and all(_equal(other[key], value) for key, value in state.items()):
                return path
    return None


def _name(place: Path) -> str:
    """The name without the suffix of a model file; ``my.photos-lenet5`` has none."""
    return place.name.removesuffix(place.suffix) if place.suffix in SUFFIXES else place.name


def _equal(one: Any, other: Any) -> bool:
    same = one == other
    return bool(dn.to_numpy(same).all()) if hasattr(same, "shape") else bool(same)


@dataclass(frozen=True)
class Saved:
    """Where a network was saved, also in words, and what went wrong."""

    path: Path
    words: str
    failed: OSError | None = None


def save(net: dn.Layer, place: Path) -> Saved:
    """Save the network in its place or, if that fails, in another folder."""
    try:
        return _saved(net, place)
    except OSError as error:
        for folder in (Path.cwd, tempfile.gettempdir, Path.home):
            with suppress(OSError, RuntimeError):  # RuntimeError: there is no home folder
                instead = _saved(net, Path(folder()) / _name(place))
                why = f"{error.strerror or error}: {str(place.parent)!r}"
                return Saved(instead.path, f"{why}; {instead.words} instead", error)
        raise


def _saved(net: dn.Layer, place: Path) -> Saved:
    """Save the network under a file's name, or under a name without a suffix and, if that is taken, with a number."""
    if place.suffix in SUFFIXES:
        there = " instead of the one that was there" if place.exists() else ""
        path = net.save(place)
        return Saved(path, f"saved as {path}{there}")
    path = _reserved(place)
    try:
        net.save(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    there = "" if path.stem == place.name else f" ({next(iter(saved(place)), place).name} was there already)"
    return Saved(path, f"saved as {path}{there}")


def _reserved(place: Path) -> Path:
    """NAME.npz, or the first of NAME-2.npz, NAME-3.npz, ... that no network has, in either format.

    The file now exists and is empty: if two trainings end at once, only one gets the name.
    """
    name, number = place.name, 1
    while True:
        if not saved(place.with_name(name)):
            path = place.with_name(f"{name}.npz")
            with suppress(FileExistsError), open(path, "xb"):
                return path
        number += 1
        name = f"{place.name}-{number}"
