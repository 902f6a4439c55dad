"""An image from a file looks as people see it, in whatever way it is written; or the error gives the reason."""

from __future__ import annotations

import io
import struct
import threading
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest

import dualnet as dn
from dualnet.data import DataError, images, read_image

Image = pytest.importorskip("PIL.Image")
Image.init()


def read(path, size=(2, 4), **options):
    return read_image(path, size, dtype="uint8", **options)


def write(folder, data, name="x.bin"):
    (folder / name).write_bytes(data)
    return folder / name


# -- every mode in every format that Pillow writes ---------------------------------------------------------------------

INK = 60  # the left half is ink, the right half is paper, or nothing if the mode has transparency
PAPER = 220
HALF = round(INK * 128 / 255 + 255 * 127 / 255)  # ink of alpha 128 on white

MODES = {  # mode: what is written left and right, and what is read as grey
    "1": (0, 255, 0, 255),
    "L": (INK, PAPER, INK, PAPER),
    "P": (1, 2, INK, PAPER),
    "RGB": ((INK,) * 3, (PAPER,) * 3, INK, PAPER),
    "RGBA": ((INK, INK, INK, 128), (0, 0, 0, 0), HALF, 255),
    "LA": ((INK, 128), (0, 0), HALF, 255),
    "PA": ((1, 128), (2, 0), HALF, 255),
    "La": ((INK * 128 // 255, 128), (0, 0), HALF, 255),
    "RGBa": ((INK * 128 // 255,) * 3 + (128,), (0, 0, 0, 0), HALF, 255),
    "RGBX": ((INK, INK, INK, 0), (PAPER, PAPER, PAPER, 9), INK, PAPER),
    "CMYK": ((0, 0, 0, 255 - INK), (0, 0, 0, 255 - PAPER), INK, PAPER),
    "YCbCr": ((INK, 128, 128), (PAPER, 128, 128), INK, PAPER),
    "LAB": ((0, 128, 128), (255, 128, 128), 0, 255),
    "HSV": ((0, 0, INK), (0, 0, PAPER), INK, PAPER),
    "I;16": (INK * 257, PAPER * 257, INK, PAPER),
    "I;16B": (INK * 257, PAPER * 257, INK, PAPER),
    "I": (INK * 257, PAPER * 257, INK, PAPER),
    "F": (INK / 255, PAPER / 255, INK, PAPER),
}
FORMATS = [name for name in sorted(Image.SAVE) if name in Image.OPEN]
ROUGH = {"JPEG": 2, "MPO": 2, "JPEG2000": 2, "WEBP": 3, "AVIF": 6}  # lossy
OPTIONS = {
    "WEBP": {"lossless": True}, "JPEG": {"quality": 100}, "AVIF": {"quality": 100}, "ICO": {"sizes": [(32, 16)]},
}  # fmt: skip
REFUSED = {  # no white is agreed upon
    ("IM", "I"): "32-bit integers",
    ("IM", "P"): "its greys come from a table",
    ("IM", "PA"): "its greys come from a table",
    ("TIFF", "I"): "signed integers",
    **{("SPIDER", mode): "expected floating numbers in" for mode in MODES if mode != "F"},
    **{("XBM", mode): "XBM images are not supported: it does not say which" for mode in MODES},
    **{("EPS", mode): "EPS images are not supported: reading it runs another program" for mode in MODES},
}
WRITTEN = {"BMP", "DDS", "DIB", "GIF", "ICNS", "ICO", "IM", "JPEG", "MPO", "MSP", "PCX", "PNG", "PPM", "SGI"}
WRITTEN |= {"SPIDER", "TGA", "TIFF", "XBM", "EPS"} & {*FORMATS}


def drawn(mode, size):
    left, right, *_ = MODES[mode]
    picture = Image.new(mode, size, right)
    if mode in ("P", "PA"):
        picture.putpalette([0, 0, 0, *[INK] * 3, *[PAPER] * 3, *[7] * (253 * 3)])
    for x in range(size[0] // 2):
        for y in range(size[1]):
            picture.putpixel((x, y), left)
    return picture


def changes(format, mode):
    """Where Pillow itself writes less than the mode holds, so that the reader cannot see it any more."""
    deep = mode in ("I;16", "I;16B", "I", "F")
    if deep and format in ("GIF", "AVIF", "WEBP"):
        return "16 bits are cut off at 255"
    if format in ("BMP", "PPM", "DIB") and mode == "RGBA" or format == "GIF" and mode == "LA":
        return "alpha is dropped"
    if format == "PPM" and mode == "F":
        return "PFM has its own scale"
    return ""


@pytest.mark.parametrize("format", FORMATS)
def test_every_mode(tmp_path, format):
    size = (128, 128) if format == "ICNS" else (32, 16)
    seen = set()
    for mode, (_, _, left, right) in MODES.items():
        path = tmp_path / f"{mode.replace(';', '')}.{format.lower()}"
        if changes(format, mode):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some formats will leave Pillow one day
                drawn(mode, size).save(path, format, **OPTIONS.get(format, {}))
        except Exception:  # Pillow has no such file, or not in this build
            continue
        seen.add(mode)
        if (format, mode) in REFUSED:
            with pytest.raises(DataError, match=REFUSED[format, mode]):
                read(path)
            continue
        if format == "GIF" and left == HALF:
            left = INK  # GIF has no half alpha
        expected = np.repeat([left, left, right, right], 3).reshape(1, 4, 3)
        slack = ROUGH.get(format, 0) + (mode in ("LAB", "La", "RGBa"))
        found = read(path)
        edge = found[:, [0, 3]].astype(int)
        assert np.abs(edge - expected[:, [0, 3]]).max() <= slack, (format, mode, found[0].tolist())
        grey = read(path, grey=True)[:, [0, 3], 0].astype(int)
        assert np.abs(grey - expected[:, [0, 3], 0]).max() <= slack, (format, mode)
    assert seen or format not in WRITTEN


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_the_background(tmp_path, mode):
    """Ink of alpha 128, and nothing, over the colour: c · 128/255 + background · 127/255, and the background."""
    picture = drawn("PA" if mode == "P" else mode, (32, 16))
    if mode == "P":
        picture = drawn("P", (32, 16))
        picture.save(tmp_path / "x.png", transparency=bytes([255, 128, 0]))
    else:
        picture.save(tmp_path / "x.tif")
    path = next(tmp_path.glob("x.*"))
    for background, number in (
        ("red", (255, 0, 0)),
        ((0, 40, 255), (0, 40, 255)),
        ("#000", (0, 0, 0)),
        ("white", (255,) * 3),
    ):
        found = read(path, background=background)
        assert found[0, 0].tolist() == [round((INK * 128 + b * 127) / 255) for b in number]
        assert found[0, 3].tolist() == list(number)
    assert read(path, grey=True, background="red")[0, 3, 0] == 76  # 0.299 · 255
    with pytest.raises(ValueError, match="unknown background 'paper'; 'white' and '#ff8000' are colours"):
        read(path, background="paper")
    for wrong in (3, (1, 2), (1.0, 2, 3), None):
        with pytest.raises(TypeError, match="background"):
            read(path, background=wrong)
    with pytest.raises(ValueError, match="0 to 255"):
        read(path, background=(0, 0, 256))


def png(bits, kind, rows, *, trns=b"", width=2, height=1):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    body = [chunk(b"IHDR", head), chunk(b"tRNS", trns) if trns else b"", chunk(b"IDAT", zlib.compress(rows, 9))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits, row", [(1, b"\x80"), (2, b"\x40"), (4, b"\x10"), (8, b"\1\0"), (16, b"\0\1\0\0")])
def test_one_grey_that_means_transparent(tmp_path, bits, row):
    """Two pixels, 1 and 0, in every depth. If 1 is transparent, it is white; 0 stays black. And the other way round."""
    for key, expected in ((1, [255, 0]), (0, [round(255 / (2**bits - 1)), 255])):
        path = write(tmp_path, png(bits, 0, b"\0" + row, trns=struct.pack(">H", key)))
        assert read(path, (1, 2), grey=True).ravel().tolist() == expected
        expected = [255 * (e == 255) for e in expected] if bits > 1 else expected
        assert read(path, (1, 2), background="red")[0, key ^ 1].tolist() == [255, 0, 0]


def test_one_colour_that_means_transparent(tmp_path):
    row = b"\0" + bytes([9, 8, 7, 9, 8, 6])
    path = write(tmp_path, png(8, 2, row, trns=struct.pack(">HHH", 9, 8, 7)))
    assert read(path, (1, 2)).tolist() == [[[255] * 3, [9, 8, 6]]]
    path = write(tmp_path, png(16, 2, b"\0" + bytes(12), trns=bytes(6)))
    with pytest.raises(DataError, match="16-bit colours and one of them is transparent"):
        read(path)


def test_a_black_digit_on_nothing_is_not_an_even_plane(tmp_path):
    digit = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    digit.paste((0, 0, 0, 255), (3, 1, 5, 7))
    digit.save(tmp_path / "x.png")
    expected = np.full((8, 8, 1), 255)
    expected[1:7, 3:5] = 0
    assert np.array_equal(read(tmp_path / "x.png", 8, grey=True), expected)


def test_alpha_that_is_multiplied_into_the_grey(tmp_path):
    """TIFF's "associated alpha": 30 of alpha 128 was 60, and 60 · 128 / 255 + 255 · 127 / 255 is 157."""
    entries = [(256, 1), (257, 1), (258, 8 | 8 << 16), (259, 1), (262, 1), (273, 200), (277, 2), (279, 2), (338, 1)]
    body = b"".join(struct.pack("<HHII", tag, 4 if tag == 273 else 3, 1 + (tag == 258), v) for tag, v in entries)
    data = b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)
    assert read(write(tmp_path, data.ljust(200, b"\0") + bytes([30, 128])), 1, grey=True).ravel().tolist() == [157]


# -- range -------------------------------------------------------------------------------------------------------------


def tiff(values, *, bits, photometric=1, sample=1, height=1):
    """One strip of one row."""
    entries = [
        (256, 3, values.size), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric),
        (273, 4, 200), (277, 3, 1), (278, 3, 1), (279, 4, values.nbytes), (339, 3, sample),
    ]  # fmt: skip
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    body = b"".join(struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", value) for tag, kind, value in entries)
    return (head + body + bytes(4)).ljust(200, b"\0") + values.tobytes()


def test_sixteen_bits_keep_their_precision_and_white_is_one(tmp_path):
    row = np.array([0, 1, 32768, 65535], "<u2")
    path = write(tmp_path, tiff(row, bits=16))
    assert read_image(path, (1, 4), grey=True).ravel().tolist() == (row / np.float32(65535)).tolist()
    assert read(path, (1, 4), grey=True).ravel().tolist() == [0, 0, 128, 255]
    assert read_image(path, (1, 4)).shape == (1, 4, 3)
    path = write(tmp_path, tiff(row, bits=16, photometric=0))  # white is zero
    assert read(path, (1, 4), grey=True).ravel().tolist() == [255, 255, 127, 0]
    twelve = np.frombuffer(bytes([0xFF, 0xF0, 0x00]), np.uint8)  # 4095, 0
    data = tiff(twelve, bits=12).replace(struct.pack("<HHII", 256, 3, 1, 3), struct.pack("<HHII", 256, 3, 1, 2))
    assert read(write(tmp_path, data), (1, 2), grey=True).ravel().tolist() == [255, 0]
    path = write(tmp_path, png(16, 0, b"\0" + np.array([65535, 257], ">u2").tobytes()))
    assert read(path, (1, 2), grey=True).ravel().tolist() == [255, 1]
    path = write(tmp_path, b"P5 2 1 1023 " + np.array([1023, 0], ">u2").tobytes())
    assert read(path, (1, 2), grey=True).ravel().tolist() == [255, 0]


@pytest.mark.parametrize(
    "values, options, words",
    [
        (
            np.array([-1, 1], "<i2"),
            {"bits": 16, "sample": 2},
            "signed integers, which have no standard value for white",
        ),
        (np.array([-1, 1], "i1"), {"bits": 8, "sample": 2}, "signed integers"),
        (np.array([1, 2], "<u4"), {"bits": 32}, "32-bit integers, which have no standard value for white in TIFF"),
        (np.array([0, 255], "<f4"), {"bits": 32, "sample": 3}, r"go from 0 to 255; expected floating numbers in \[0"),
        (np.array([0, -0.1], "<f4"), {"bits": 32, "sample": 3}, "go from -0.1 to 0; expected"),
        (np.array([0, np.nan], "<f4"), {"bits": 32, "sample": 3}, "go from nan to nan"),
    ],
)
def test_pixels_without_an_agreed_white_are_refused(tmp_path, values, options, words):
    with pytest.raises(DataError, match=words + ".*save it as PNG"):
        read(write(tmp_path, tiff(values, **options)), (1, 2))


def test_the_stars_have_no_agreed_white(tmp_path):
    """FITS holds 16-bit integers with a scale of their own, which Pillow passes over."""
    cards = ["SIMPLE  =                    T", "BITPIX  =                   16", "NAXIS   =                    2",
             "NAXIS1  =                    2", "NAXIS2  =                    1", "END"]  # fmt: skip
    head = "".join(card.ljust(80) for card in cards).ljust(2880).encode()
    with pytest.raises(DataError, match="16-bit integers, which have no standard value for white in FITS"):
        read(write(tmp_path, head + bytes(2880)), (1, 2))


def test_floating_pixels_between_0_and_1(tmp_path):
    row = np.array([0, 0.25, 1], "<f4")
    path = write(tmp_path, tiff(row, bits=32, sample=3))
    assert read_image(path, (1, 3), grey=True).ravel().tolist() == row.tolist()
    path = write(tmp_path, tiff(row, bits=32, sample=3, photometric=0))
    assert read_image(path, (1, 3), grey=True).ravel().tolist() == [1, 0.75, 0]


# -- orientation -------------------------------------------------------------------------------------------------------

UPRIGHT = np.uint8([[0, 80, 160], [255, 200, 40]])
STORED = {  # what lies in the file, so that this orientation makes it upright
    1: UPRIGHT, 2: UPRIGHT[:, ::-1], 3: UPRIGHT[::-1, ::-1], 4: UPRIGHT[::-1], 5: UPRIGHT.T, 6: np.rot90(UPRIGHT),
    7: UPRIGHT[::-1, ::-1].T, 8: np.rot90(UPRIGHT, -1),
}  # fmt: skip


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "lzw.tif", "x.webp", "deep.png", "deep.tif", "x.jp2"])
@pytest.mark.parametrize("orientation", STORED)
def test_all_eight_orientations(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    big = np.kron(STORED[orientation], np.ones((16, 16), np.uint8))
    picture = Image.fromarray(big * np.uint16(257) if "deep" in name else big)
    options = {"quality": 100} if name == "x.jpg" else {"lossless": True} if name == "x.webp" else {}
    options |= {"compression": "tiff_lzw"} if "lzw" in name else {}
    if name == "x.jp2":  # has no such note
        picture = Image.fromarray(np.kron(UPRIGHT, np.ones((16, 16), np.uint8)))
    picture.save(tmp_path / name, exif=exif, **options)
    found = read(tmp_path / name, (32, 48), grey=True)[8::16, 8::16, 0]
    assert np.abs(found.astype(int) - UPRIGHT).max() <= 2


@pytest.mark.parametrize("exif", [b"Exif\0\0no notes", b"Exif\0\0MM\0*\0\0\0\x08\0\xff\x01\x12\0\x03\0\0"])
def test_a_damaged_note_of_the_camera_is_no_note_and_no_noise(tmp_path, exif):
    Image.fromarray(UPRIGHT).save(tmp_path / "x.png", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read(tmp_path / "x.png", (2, 3), grey=True)[..., 0], UPRIGHT)


# -- several pictures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.gif", "x.tif", "x.webp", "x.png", "x.mpo"])
def test_the_first_of_several(tmp_path, name):
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    options = {"lossless": True} if name == "x.webp" else {}
    first.save(tmp_path / name, save_all=True, append_images=[second] * 3, **options)
    assert np.abs(read(tmp_path / name, 1).ravel().astype(int) - [255, 0, 0]).max() <= 1


# -- damage, bombs, and what is no image -------------------------------------------------------------------------------


def whole(format, **options):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.fromarray(noise).save(buffer, format, **options)
    return buffer.getvalue()


SAMPLES = {
    "BMP": {}, "GIF": {}, "ICO": {"sizes": [(24, 24)]}, "JPEG": {}, "PCX": {}, "PNG": {}, "PPM": {}, "SGI": {},
    "TGA": {}, "TIFF": {}, "WEBP": {}, "JPEG2000": {}, "QOI": {},
}  # fmt: skip


@pytest.mark.parametrize("format", SAMPLES)
def test_an_image_that_is_cut_off_is_whole_or_refused(tmp_path, format):
    if format not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {format}")
    data = whole(format, **SAMPLES[format])
    expected = read(write(tmp_path, data), 24)
    refused = 0
    for length in sorted({*range(0, len(data), max(1, len(data) // 60)), len(data) - 1, len(data) - 2}):
        try:
            found = read(write(tmp_path, data[:length]), 24)
        except DataError as error:
            assert str(tmp_path) in str(error) and "\n" not in str(error)
            refused += 1
        else:
            assert np.array_equal(found, expected), f"{length} of {len(data)} bytes"
    assert refused > 40


@pytest.mark.parametrize("format", ["BMP", "GIF", "JPEG", "PNG", "TGA", "TIFF", "WEBP", "ICO", "PCX", "PPM", "SGI"])
def test_a_damaged_image_is_an_image_or_a_data_error(tmp_path, format, rng):
    data = whole(format)
    for _ in range(60):
        damaged = bytearray(data)
        for place in (rng.random(3) ** 3 * len(data)).astype(int):
            damaged[place] = rng.integers(256)
        try:
            assert read(write(tmp_path, damaged), 4).shape == (4, 4, 3)
        except DataError as error:
            assert "\n" not in str(error)


def gif(width, height):
    """A GIF of 48 bytes that claims to be large: one code of a colour, then the end."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return b"GIF89a" + screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00;"


def icon(inner):
    return b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22) + inner


BITMAP = struct.pack("<IiiHHIIiiII", 40, 9000, 18000, 1, 1, 0, 0, 0, 0, 2, 0) + bytes(100)
BOMBS = {
    "gif": gif(13000, 13000),
    "larger.gif": gif(65535, 65535),
    "png": png(1, 0, bytes(1126 * 9000), width=9000, height=9000),
    "ico": icon(png(1, 0, bytes(1126 * 9000), width=9000, height=9000)),
    "bitmap.ico": icon(BITMAP),
    "icns": b"icns" + struct.pack(">I", 16 + 9000) + b"ic07" + struct.pack(">I", 8 + 9000)
    + png(1, 0, bytes(1126 * 9000), width=9000, height=9000).ljust(9000, b"\0"),
    "tif": tiff(np.zeros(2, "u1"), bits=8, height=10**7),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_claims_many_pixels_is_refused_before_it_is_decoded(tmp_path, name, monkeypatch):
    path = write(tmp_path, BOMBS[name], f"x.{name.split('.')[-1]}")
    decoded = []
    new = Image.core.new
    monkeypatch.setattr(Image.core, "new", lambda mode, size: decoded.append(size) or new(mode, size))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"it claims \d+ x \d+ pixels in [\d,]+ bytes|exceeds limit"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    assert not [size for size in decoded if size[0] * size[1] > 1e6]


def test_honest_large_images_are_read_and_the_limit_is_as_it_was(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    Image.new("L", (6000, 4000), 200).save(tmp_path / "plain.png", compress_level=9)  # as plain as can be
    Image.new("RGB", (2048, 2048), (200, 0, 0)).save(tmp_path / "plain.webp", lossless=True)
    assert (read(tmp_path / "plain.png", 2, grey=True) == 200).all()
    assert read(tmp_path / "plain.webp", 1).ravel().tolist() == [200, 0, 0]
    assert Image.MAX_IMAGE_PIXELS == before


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match="it is a folder; expected an image"):
        read(tmp_path)
    with pytest.raises(DataError, match="the file is empty"):
        read(write(tmp_path, b""))
    for data in (b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"):
        with pytest.raises(
            DataError, match=r"x.bin: (EPS images are not supported: reading it runs|Pillow cannot read)"
        ):
            read(write(tmp_path, data))
    path = write(tmp_path, whole("PNG"))
    for options in ({"size": 0}, {"size": (1, 2, 3)}, {"size": 2, "grey": 1}, {"size": 2, "dtype": "float64"}):
        with pytest.raises((TypeError, ValueError), match="read_image: "):
            read_image(path, **options)


def test_whatever_pillow_raises(tmp_path, monkeypatch):
    path = write(tmp_path, whole("PNG"))

    def failing(kind):
        def fails(*args, **options):
            raise kind("oh\nno")

        return fails

    for kind in (TypeError, KeyError, IndexError, MemoryError, OverflowError, RecursionError, SyntaxError, struct.error,
                 zlib.error, EOFError, AttributeError, AssertionError, NotImplementedError, OSError):  # fmt: skip
        monkeypatch.setattr(Image, "open", failing(kind))
        with pytest.raises(DataError, match="x.bin: Pillow cannot read it as an image .*oh.*no.*Repair it or remove"):
            read(path)
    monkeypatch.setattr(Image, "open", failing(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        read(path)


def test_threads_leave_the_filters_of_warnings_as_they_were(tmp_path):
    path = write(tmp_path, whole("JPEG"))
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [read(path) for _ in range(20)]) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before and images._readers == 0


def test_every_ending_that_pillow_opens():
    endings = images.suffixes()
    assert {".jpg", ".jpeg", ".jfif", ".png", ".gif", ".tif", ".webp", ".bmp", ".jp2", ".pgm", ".ico"} <= set(endings)
    assert not {".eps", ".ps", ".xbm", ".h5", ".mpg", ".wmf", ".pdf"} & set(endings)


# -- files that are open -----------------------------------------------------------------------------------------------


def test_an_open_file_is_read_like_one_on_disk(tmp_path):
    path = tmp_path / "x.png"
    Image.new("RGB", (5, 3), (10, 200, 30)).save(path)
    expected = read_image(path, size=4)
    memory = io.BytesIO(path.read_bytes())
    memory.seek(7)  # somebody has looked at it
    assert np.array_equal(read_image(memory, size=4), expected) and not memory.closed
    net = dn.Sequential([dn.Flatten(), dn.Dense(2)]).init((4, 4, 3))
    memory.seek(0)
    assert np.array_equal(dn.data.prepare(net, memory), expected[None])
    for data, words in ((b"", "the image: the file is empty"), (b"no picture", "the image: Pillow cannot read it")):
        with pytest.raises(DataError, match=words):
            read_image(io.BytesIO(data), size=4)
