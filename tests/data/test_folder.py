"""Photos in folders: sizes, colours, turned cameras, the split, and errors."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest

import dualnet as dn
from dualnet.cli import main
from dualnet.data import DataError, load_folder

Image = pytest.importorskip("PIL.Image")


def photo(path, colour, size=(6, 4), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.broadcast_to(np.uint8(colour), (*size, 3)).copy()).save(path, **options)
    return path


def load(folder, size=2, **options):
    """Without a word of warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_folder(folder, size, **options)


def bytes_of(split):
    return sorted(image.tobytes() for image in split[0])


@pytest.fixture
def photos(tmp_path):
    for i in range(10):
        photo(tmp_path / "photos" / "night" / f"{i}.png", (i, 0, 20))
        photo(tmp_path / "photos" / "day" / f"{i}.JPG", (200, 20 * i, 255), quality=95)
    (tmp_path / "photos" / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "photos" / ".thumbnails").mkdir()
    return tmp_path / "photos"


def test_every_class_is_in_both_parts(photos):
    (x, t), (x_test, t_test), names = load_folder(photos, size=(5, 7), held_out=0.3)
    assert names == ("day", "night") and x.shape == (14, 5, 7, 3) and x_test.shape == (6, 5, 7, 3)
    assert np.bincount(t).tolist() == [7, 7] and np.bincount(t_test).tolist() == [3, 3] and t.dtype == np.int64
    assert x.dtype == np.float32 and x.min() >= 0 and x.max() <= 1
    for images, labels in ((x, t), (x_test, t_test)):
        assert ((images[..., 2].mean(axis=(1, 2)) > 0.5) == (labels == 0)).all()
    seen = {tuple(image[0, 0]) for image in (*x[t == 1], *x_test[t_test == 1])}
    assert len(seen) == 10, "each image once"


def test_the_seed_draws_who_is_kept_back(photos):
    parts = [load_folder(photos, size=4, seed=seed)[1][0].tobytes() for seed in (1, 1, 2)]
    assert parts[0] == parts[1] != parts[2]
    (x, _), (x_test, t_test), _ = load_folder(photos, size=4, held_out=0)
    assert len(x) == 20 and x_test.shape == (0, 4, 4, 3) and t_test.shape == (0,)
    assert len(load_folder(photos, size=4, held_out=0.01)[1][0]) == 2, "at least one of each class"


def test_bytes_and_grey(photos):
    (x, _), _, _ = load_folder(photos, size=4, dtype="uint8", grey=True)
    assert x.dtype == np.uint8 and x.shape[1:] == (4, 4, 1)
    net = dn.Sequential([dn.GlobalAveragePool2D(), dn.Dense(2)])
    (x, t), test, _ = load_folder(photos, size=4)
    net.fit(x, t, epochs=60, optimizer=dn.Adam(lr=0.05), verbose=0)
    assert net.evaluate(*test)["accuracy"] == 1.0


def test_what_is_refused(tmp_path, photos, monkeypatch):
    with pytest.raises(FileNotFoundError, match="does not exist. Put the images of each class into their own folder"):
        load_folder(tmp_path / "nowhere", size=4)
    with pytest.raises(DataError, match="no folders in it; expected at least two classes"):
        load_folder(photos / "day", size=4)
    (photos / "empty").mkdir()
    with pytest.raises(DataError, match="empty: 0 images; expected at least 2. Add some, or remove the folder"):
        load_folder(photos, size=4)
    photo(photos / "empty" / "0.png", (1, 2, 3))
    (photos / "empty" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1.png: Pillow cannot read it as an image .* Repair it or remove it"):
        load_folder(photos, size=4)
    whole = (photos / "day" / "0.JPG").read_bytes()
    (photos / "empty" / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"1.png: Pillow cannot read it"):
        load_folder(photos, size=4)
    for options in ({"size": 0}, {"size": 4, "held_out": 1.0}, {"size": 4, "dtype": "int8"}, {"size": 4, "seed": -1}):
        with pytest.raises((ValueError, TypeError), match="load_folder: "):
            load_folder(photos, **options)
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ImportError, match=r'pip install "dualnet\[images\]"'):
        load_folder(photos, size=4)


def test_the_command_line_predicts_a_photo(photos, tmp_path, capsys):
    (x, t), _, _ = load_folder(photos, size=4)
    net = dn.Sequential([dn.GlobalAveragePool2D(), dn.Dense(2)])
    net.fit(x, t, epochs=60, optimizer=dn.Adam(lr=0.05), verbose=0)
    net.save(tmp_path / "photos.npz")
    main(["predict", str(tmp_path / "photos.npz"), str(photos / "night" / "3.png")])
    assert "1" in capsys.readouterr().out.split()


# -- what is skipped -----------------------------------------------------------------------------------------------


def test_what_nobody_sees_is_skipped_without_a_word(photos):
    before = load(photos)
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        photo(photos / name / "0.png", (1, 2, 3))
        photo(photos / "day" / name / "0.png", (1, 2, 3))
    photo(photos / "day" / "._1.png", (1, 2, 3))
    for name in ("Thumbs.db", "desktop.ini", ".hidden"):
        (photos / "night" / name).write_bytes(b"x")
        (photos / name).write_bytes(b"x")
    after = load(photos)
    assert after[2] == ("day", "night") and all(
        np.array_equal(a, b) for i in (0, 1) for a, b in zip(before[i], after[i])
    )


def test_a_class_of_unread_photos_says_how_to_make_them_readable(tmp_path):
    for name in ("day", "night"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "IMG_1.ORF").touch()
    words = "day: 0 images, skipped 2 files .*.orf cannot be read; save as JPEG: day/IMG_1.ORF, night/IMG_1.ORF.*2"
    with pytest.raises(DataError, match=words):
        load_folder(tmp_path, 2)


def test_what_is_passed_over_is_told_with_its_number(photos):
    for name in ("notes.txt", "a.MP4", "b.mp4", "c.mp4", "d.mp4", "plain"):
        (photos / "day" / name).write_text("sunny")
    (photos / "night" / "gone.png").symlink_to(photos / "nowhere.png")
    photo(photos / "loose.png", (1, 2, 3))
    (photos / "labels.csv").touch()
    with pytest.warns(UserWarning) as told:
        load_folder(photos, 2)
    (words,) = {str(warning.message) for warning in told}
    assert words.startswith(f"load_folder: {photos}: skipped 9 files (") and len(told) == 1
    for part in (
        ".txt is not an image: day/notes.txt;",
        ".mp4 is not an image: day/a.MP4, day/b.mp4, day/c.mp4 and 1 more;",
        "no suffix: day/plain;",
        "broken link: night/gone.png",
        "not in a class folder: loose.png;",
        ".csv is not an image: labels.csv;",
    ):
        assert part.rstrip(";") in words
    assert told[0].filename == __file__


@pytest.mark.parametrize("ending", [".jfif", ".PnG", ".tiff", ".jp2", ".pgm", ".webp", ".ico", ".tga", ".pcx"])
def test_every_ending_is_read(photos, ending):
    rgb = Image.new("RGB", (16, 16), (0, 0, 77))
    (rgb.convert("L") if ending == ".pgm" else rgb).save(photos / "night" / f"more{ending}")
    (x, t), _, _ = load(photos, held_out=0)
    assert len(x) == 21 and t.tolist() == [0] * 10 + [1] * 11


def test_deeper_folders_and_links(photos):
    photo(photos / "night" / "2020" / "june" / "x.png", (1, 1, 90))
    photo(photos.parent / "elsewhere" / "y.png", (1, 1, 91))
    (photos / "night" / "linked").symlink_to(photos.parent / "elsewhere")
    (photos / "night" / "circle").symlink_to(photos / "night")
    (photos / "day" / "z.png").symlink_to(photos.parent / "elsewhere" / "y.png")
    with pytest.warns(UserWarning, match=r"1 image is a copy of one in another class \(night/linked/y.png\)"):
        load_folder(photos, 2)
    (x, t), _, _ = load(photos, held_out=0)
    assert np.bincount(t).tolist() == [11, 12]


# -- copies ------------------------------------------------------------------------------------------------------------


def test_copies_are_on_one_side(photos):
    """Whatever is drawn: a third of all images are copies, some of them in both classes."""
    for i in range(5):
        for name in ("x", "y"):
            (photos / "night" / f"{name}{i}.png").write_bytes((photos / "night" / f"{i}.png").read_bytes())
    (photos / "day" / "same.png").write_bytes((photos / "night" / "7.png").read_bytes())
    for seed in range(12):
        with pytest.warns(
            UserWarning, match=r"10 images are copies of others \(night/x0.png, .* and 7 more\). 1 image is"
        ):
            kept, back, _ = load_folder(photos, 2, seed=seed, held_out=0.3)
        assert not {*bytes_of(kept)} & {*bytes_of(back)}, seed
        assert len(kept[0]) + len(back[0]) == 31
        assert np.bincount(back[1], minlength=2).min() >= 1 and len(back[0]) <= 9


def test_without_copies_the_same_images_are_drawn_as_ever(photos):
    """The permutation of each class's files, in the order of the classes' names; its first are held out."""
    draw = np.random.default_rng(3)
    _, (x, t), _ = load(photos, seed=3, dtype="uint8")
    (whole, labels), _, _ = load(photos, held_out=0, dtype="uint8")
    expected = [10 * label + place for label in (0, 1) for place in sorted(draw.permutation(10)[:2])]
    assert np.array_equal(x, whole[expected]) and np.array_equal(t, labels[expected])


def test_many_copies_of_few_images(photos):
    """Of two images, one four times and one six times, the first is held out: a fifth is too little for either."""
    contents = [(photos / "night" / f"{i}.png").read_bytes() for i in range(2)]
    for i in range(10):
        (photos / "night" / f"{i}.png").write_bytes(contents[i >= 4])
    with pytest.warns(UserWarning, match="8 images are copies"):
        _, (_, t), _ = load_folder(photos, 2)
    assert np.bincount(t).tolist() == [2, 4]


def test_a_class_of_copies_cannot_be_split(photos):
    one = (photos / "night" / "0.png").read_bytes()
    for i in range(10):
        (photos / "night" / f"{i}.png").write_bytes(one)
    with pytest.raises(
        DataError, match="night: its 10 images are copies of one another or of images in another class; expected"
    ):
        load_folder(photos, 2)
    assert len(load(photos, held_out=0)[0][0]) == 20


# -- a split of the user's own -----------------------------------------------------------------------------------------


@pytest.fixture
def split(tmp_path):
    root = tmp_path / "root"
    for part, number in (("Train", 3), ("val", 2)):
        for label, name in enumerate(("ant", "bee", "cat")):
            for i in range(number):
                photo(root / part / name / f"{i}.png", (100 * label, i, len(part)))
    return root


@pytest.mark.parametrize("test", ["val", "valid", "Validation", "test", "testing"])
def test_train_and_val_are_no_classes(split, test):
    (split / "val").rename(split / test)
    (x, t), (x_test, t_test), names = load(split, dtype="uint8")
    assert names == ("ant", "bee", "cat") and t.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert t_test.tolist() == [0, 0, 1, 1, 2, 2] and (x[:, 0, 0, 0] == 100 * t).all()
    assert {*x[..., 2].ravel()} == {5} and {*x_test[..., 2].ravel()} == {3}


def test_a_split_without_one_class_keeps_the_numbers(split):
    for file in (split / "val" / "ant").iterdir():
        file.unlink()
    (split / "val" / "ant").rmdir()
    (x, t), (x_test, t_test), names = load(split)
    assert t_test.tolist() == [1, 1, 2, 2] and names == ("ant", "bee", "cat")
    photo(split / "val" / "dog" / "0.png", (1, 2, 3))
    with pytest.raises(DataError, match="dog: 'dog' is not one of the classes, which are ant, bee, cat"):
        load_folder(split, 2)


def test_what_else_a_split_tells(split):
    with pytest.raises(ValueError, match="has its own split, Train and val. Leave out held_out, or load .*Train"):
        load_folder(split, 2, held_out=0.2)
    photo(split / "test" / "ant" / "0.png", (9, 9, 9))
    (split / "val" / "bee" / "again.png").write_bytes((split / "Train" / "bee" / "0.png").read_bytes())
    with pytest.warns(UserWarning) as told:
        load_folder(split, 2)
    (words,) = {str(warning.message) for warning in told}
    assert "skipped 1 file (a folder next to Train and val: test)" in words
    assert "1 image in val also trained on, so the accuracy will look too good (val/bee/again.png)" in words


def test_images_that_only_the_parts_of_a_split_tell_apart_are_refused(tmp_path):
    for part in ("train", "test"):
        photo(tmp_path / part / "0.png", (1, 2, 3))
        photo(tmp_path / part / "1.png", (1, 2, 4))
    with pytest.raises(DataError, match="train: it has no folders in it, so there are no classes. Put the"):
        load_folder(tmp_path, 2)
    for i in range(2):
        photo(tmp_path / "bus" / f"{i}.png", (5, i, 3))
    assert load(tmp_path, held_out=0)[2] == ("bus", "test", "train"), "three classes, none of them a split"


def test_a_folder_too_high(split):
    with pytest.raises(
        DataError, match="one folder, 'root', in it; expected at least two classes. Did you mean .*root"
    ):
        load_folder(split.parent, 2)


# -- names -------------------------------------------------------------------------------------------------------------


def test_names_fix_the_numbers(photos):
    (x, t), _, names = load(photos, held_out=0, names=["night", "dawn", "day"])
    assert names == ("night", "dawn", "day") and np.bincount(t).tolist() == [10, 0, 10]
    assert ((x[..., 2].mean(axis=(1, 2)) > 0.5) == (t == 2)).all()
    (photos / "night").rename(photos.parent / "away")
    (x, t), (x_test, t_test), names = load(photos, names=("night", "day"))
    assert {*t, *t_test} == {1} and len(x_test) == 2
    (photos / "day").rename(photos / "Day")
    with pytest.raises(DataError, match="Day: 'Day' is not one of the classes, which are night, day"):
        load_folder(photos, 2, names=("night", "day"))
    (photos / "Day").rename(photos.parent / "gone")
    with pytest.raises(DataError, match="no images of night, day. Put the images"):
        load_folder(photos, 2, names=("night", "day"))


@pytest.mark.parametrize("names", ["day", ("day", 3), ("day", "day"), ("day",)])
def test_names_that_are_none(photos, names):
    with pytest.raises((TypeError, ValueError), match="load_folder: names must "):
        load_folder(photos, 2, names=names)


# -- transparency, as for one image ------------------------------------------------------------------------------------


def test_the_background(photos):
    for i in range(3):
        Image.new("LA", (4, 4), (0, i)).save(photos / "night" / f"clear{i}.png")
    (x, _), _, _ = load(photos, held_out=0, dtype="uint8", background="lime")
    assert x[-3].reshape(-1, 3).tolist() == [[0, 255, 0]] * 4
    (x, _), _, _ = load(photos, held_out=0, dtype="uint8")
    assert (x[-3] == 255).all() and (x[-1] == 253).all()
    with pytest.raises(ValueError, match="load_folder: unknown background"):
        load_folder(photos, 2, background="paper")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(photos):
    (photos / "day" / "0.JPG").chmod(0)
    with pytest.raises(PermissionError):
        load_folder(photos, 2)


def test_damaged_images_are_passed_over_if_you_say_so(photos):
    whole = (photos / "night" / "3.png").read_bytes()
    (photos / "night" / "3.png").write_bytes(whole[: len(whole) // 2])
    (photos / "day" / "7.JPG").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"7\.JPG|3\.png"):
        load_folder(photos, 4)
    with pytest.warns(UserWarning, match=r"skipped 2 files \(damaged: .*(day/7\.JPG|night/3\.png)") as caught:
        (x, t), (x_test, t_test), names = load_folder(photos, 4, skip_damaged=True)
    assert len(caught) == 1 and names == ("day", "night") and len(x) + len(x_test) == 18
    assert np.bincount(np.concatenate([t, t_test])).tolist() == [9, 9]
    for images, labels in ((x, t), (x_test, t_test)):
        assert ((images[..., 2].mean(axis=(1, 2)) > 0.5) == (labels == 0)).all(), "every image keeps its label"


def test_without_damage_skipping_changes_nothing(photos):
    one, other = (load(photos, 4, skip_damaged=skip) for skip in (True, False))
    assert all(np.array_equal(a, b) for part, like in zip(one[:2], other[:2]) for a, b in zip(part, like))


def test_a_class_of_damaged_images_alone_is_refused(photos):
    for file in (photos / "night").iterdir():
        file.write_bytes(b"no image " + file.name.encode())
    with pytest.warns(UserWarning, match="skipped 10 files"), pytest.raises(DataError, match="night: none of its"):
        load_folder(photos, 4, skip_damaged=True)
