"""Photos in folders: sizes, colours, turned cameras, the split, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn
from dualnet.cli import main
from dualnet.data import DataError, load_folder, read_image

Image = pytest.importorskip("PIL.Image")


def photo(path, colour, size=(6, 4), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.broadcast_to(np.uint8(colour), (*size, 3)).copy()).save(path, **options)


@pytest.fixture
def photos(tmp_path):
    for i in range(10):
        photo(tmp_path / "photos" / "night" / f"{i}.png", (i, 0, 20))
        photo(tmp_path / "photos" / "day" / f"{i}.JPG", (200, 180 + i, 255), quality=95)
    (tmp_path / "photos" / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "photos" / ".thumbnails").mkdir()
    (tmp_path / "photos" / "day" / "notes.txt").write_text("sunny")
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


def test_an_image_as_the_camera_was_held(tmp_path):
    upright = np.zeros((4, 8, 3), np.uint8)
    upright[:2] = 255  # light above
    lying = Image.fromarray(np.rot90(upright))
    exif = lying.getexif()
    exif[0x0112] = 6  # turn by 90° clockwise to see it
    lying.save(tmp_path / "lying.png", exif=exif)
    found = read_image(tmp_path / "lying.png", (4, 8), dtype="uint8")
    assert np.array_equal(found, upright)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_other_kinds_of_pixels(tmp_path, mode):
    if mode == "I;16":
        Image.fromarray(np.full((4, 4), 200 * 256, np.uint16)).save(tmp_path / "x.tif")
    else:
        Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode).save(tmp_path / "x.tif")
    found = read_image(tmp_path / "x.tif", 4, dtype="uint8")
    assert found.shape == (4, 4, 3) and (found == (200 if mode == "I;16" else 255)).all()


def test_what_is_refused(tmp_path, photos, monkeypatch):
    with pytest.raises(FileNotFoundError, match="does not exist. Put the images of each class into a folder"):
        load_folder(tmp_path / "nowhere", size=4)
    with pytest.raises(DataError, match="no folders in it; expected at least two classes"):
        load_folder(photos / "day", size=4)
    (photos / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: 0 images \(.bmp, .* expected at least 2"):
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
