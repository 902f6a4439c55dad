"""ModelCheckpoint: which epochs are saved, which files stay, and errors before the first step."""

from __future__ import annotations

import pytest
from bars import bars, small

import dualnet as dn

SCORES = [3.0, 1.0, 2.0, 0.5, 0.75]


def score(run):
    run.logs["figure"] = SCORES[run.epoch]


def saved(folder, **options):
    x, t = bars(16)
    net = small()
    net.fit(x, t, epochs=5, batch_size=8, callbacks=[score, dn.callbacks.ModelCheckpoint(folder, **options)], verbose=0)
    return sorted(path.stem for path in folder.iterdir())


@pytest.mark.parametrize(
    "options, names",
    [
        ({"best": "figure", "keep": 9}, ["epoch-0001", "epoch-0002", "epoch-0004"]),
        ({"best": "figure"}, ["epoch-0004"]),
        ({"best": "figure", "mode": "max", "keep": 9}, ["epoch-0001"]),
        ({"best": False, "keep": 2}, ["epoch-0004", "epoch-0005"]),
        ({"best": False, "every": 2, "keep": 9}, ["epoch-0002", "epoch-0004"]),
        ({"best": False, "steps": 3, "keep": 2}, ["step-000006", "step-000009"]),
    ],
)
def test_which_files_there_are(tmp_path, options, names):
    assert saved(tmp_path / "new" / "folder", **options) == names


def test_one_file_holds_the_best(tmp_path):
    x, t = bars(16)
    seen = []

    def look(run):
        seen.append(run.net.evaluate(x, t)["loss"])

    keep = dn.callbacks.ModelCheckpoint(tmp_path / "best.npz", best="figure")
    small().fit(x, t, epochs=5, batch_size=8, callbacks=[score, look, keep], verbose=0)
    assert [path.name for path in tmp_path.iterdir()] == ["best.npz"]
    assert dn.load(tmp_path / "best.npz").evaluate(x, t)["loss"] == seen[3]


def test_files_of_others_stay(tmp_path):
    (tmp_path / "epoch-0000.npz").write_bytes(b"mine")
    assert saved(tmp_path, best=False, keep=1) == ["epoch-0000", "epoch-0005"]


def test_what_cannot_be_saved_is_told_before_the_first_step(tmp_path):
    x, t = bars(16)
    steps = []
    net = dn.Sequential([dn.Lambda(lambda x: x, lambda dy, x, y: dy), *small().layers])
    with pytest.raises(TypeError, match="Lambda.forward is"):
        net.fit(x, t, callbacks=[dn.callbacks.ModelCheckpoint(tmp_path), lambda run: steps.append(1)], verbose=0)
    assert steps == []


@pytest.mark.parametrize(
    "arguments, error, told",
    [
        ({"path": "model.h5"}, ValueError, r"expected a file that ends with .safetensors or .npz, or a folder"),
        ({"path": "a", "best": 3}, TypeError, "best must be True, False or the name of a figure"),
        ({"path": "a", "steps": 3}, ValueError, "with steps=3 pass best=False"),
        ({"path": "a", "mode": "most"}, ValueError, "mode must be 'auto', 'max' or 'min'"),
        ({"path": "a", "keep": 0}, ValueError, "keep must be at least 1"),
    ],
)
def test_arguments_that_make_no_sense(arguments, error, told):
    with pytest.raises(error, match=told):
        dn.callbacks.ModelCheckpoint(**arguments)


def test_an_unknown_figure_is_told(tmp_path):
    with pytest.raises(ValueError, match="ModelCheckpoint: there is no figure 'f1'; this training has loss, accuracy"):
        saved(tmp_path, best="f1")
