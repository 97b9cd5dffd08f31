import os
import struct
import warnings
import zlib
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from stylekeras import deep, images, recipe
from stylekeras.color import linear_to_srgb, srgb_to_linear
from stylekeras.errors import ImageError, OutputError, RequestError, RunError


def gradient(height=40, width=48, dtype=np.uint8):
    """A picture that no flip, transposition or swap of channels leaves as it is."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y * 5, x * 5, (y + x) * 2], axis=-1).astype(dtype)


def load(path, **keywords):
    image = images.load_image(path, **keywords)
    assert image.dtype == np.float32
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.flags.c_contiguous
    assert image.flags.writeable
    assert image.min() >= 0
    assert image.max() <= 1
    return image


def as_pillow_sees_it(path):
    with Image.open(path) as opened:
        opened.load()
        return opened


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour_type, raw, extra=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b"")


# Files


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp", ".ppm", ".webp", ".jp2"])
def test_lossless_formats(tmp_path, ending):
    path = tmp_path / f"picture{ending}"
    options = {".webp": {"lossless": True}, ".jp2": {"irreversible": False}}.get(ending, {})
    Image.fromarray(gradient()).save(path, **options)
    assert np.array_equal(load(path), gradient().astype(np.float32) / np.float32(255))
    assert np.array_equal(load(str(path)), load(path))


def test_jpeg(tmp_path):
    path = tmp_path / "picture.jpg"
    Image.fromarray(gradient()).save(path, quality=95, subsampling=0)
    np.testing.assert_allclose(load(path), gradient() / 255, atol=0.03)


def test_the_ending_does_not_matter_when_reading(tmp_path):
    path = tmp_path / "picture.jpg"
    Image.fromarray(gradient()).save(path, "PNG")
    np.testing.assert_allclose(load(path), gradient() / 255, atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = gradient()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for ending, tolerance in ((".png", 1e-6), (".jpg", 0.03)):
        path = tmp_path / f"picture{ending}"
        Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=95, subsampling=0)
        np.testing.assert_allclose(load(path), upright / 255, atol=tolerance)
        with Image.open(path) as opened:
            np.testing.assert_allclose(load(opened), upright / 255, atol=tolerance)


def test_broken_exif_is_logged_and_ignored(tmp_path, caplog):
    path = tmp_path / "picture.png"
    Image.fromarray(gradient()).save(path, exif=b"Exif\0\0garbage garbage")
    np.testing.assert_allclose(load(path), gradient() / 255, atol=1e-6)
    assert "EXIF data cannot be read" in caplog.text


def test_grey_and_bilevel(tmp_path):
    grey = gradient()[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_allclose(load(tmp_path / "grey.png"), np.stack([grey] * 3, axis=-1) / 255, atol=1e-7)
    Image.fromarray(grey > 90).save(tmp_path / "bilevel.png")
    assert np.array_equal(load(tmp_path / "bilevel.png")[..., 1], grey > 90)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_sixteen_bit_grey_keeps_its_bits(tmp_path, ending):
    values = np.arange(40 * 40, dtype=np.uint16).reshape(40, 40) * 40 + 300
    path = tmp_path / f"grey{ending}"
    Image.fromarray(values).save(path)
    wanted = np.stack([values] * 3, axis=-1) / 65535
    np.testing.assert_allclose(load(path), wanted, atol=1e-7)
    with Image.open(path) as opened:
        np.testing.assert_allclose(load(opened), wanted, atol=1e-7)


def test_sixteen_bit_grey_as_mode_i_and_float_mode():
    values = np.arange(40 * 40, dtype=np.int32).reshape(40, 40) * 40
    np.testing.assert_allclose(load(Image.fromarray(values))[..., 2], values / 65535, atol=1e-7)
    np.testing.assert_allclose(load(Image.fromarray((values / 65535).astype(np.float32)))[..., 2], values / 65535)
    with pytest.raises(ImageError, match=r"grey values 0 to 127920; expected 16 bit"):
        load(Image.fromarray(values * 2))
    with pytest.raises(ImageError, match=r"divide by 255"):
        load(Image.fromarray((values / 300).astype(np.float32)))


def test_sixteen_bit_pgm(tmp_path):
    path = tmp_path / "grey.pgm"
    path.write_bytes(b"P5 40 40 65535\n" + b"\x12\x34" * 1600)
    np.testing.assert_allclose(load(path), 0x1234 / 65535, atol=1e-7)


def test_sixteen_bit_grey_png_with_a_transparent_value(tmp_path):
    path = tmp_path / "grey.png"
    row = b"\0" + b"\x12\x34" * 20 + b"\x56\x78" * 20
    path.write_bytes(png(40, 40, 16, 0, row * 40, chunk(b"tRNS", b"\x12\x34")))
    image = load(path)
    assert np.all(image[:, :20] == 1)
    np.testing.assert_allclose(image[:, 20:], 0x5678 / 65535, atol=1e-7)


def test_sixteen_bit_colour_is_read_as_eight_and_said_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(deep, "here", lambda: False)
    path = tmp_path / "colour.png"
    path.write_bytes(png(40, 40, 16, 2, (b"\0" + b"\x12\x34\x56\x78\x9a\xbc" * 40) * 40))
    np.testing.assert_allclose(load(path)[0, 0], np.array([0x12, 0x56, 0x9A]) / 255, atol=1e-6)
    assert "16 bit per channel, of which Pillow reads 8; for all of them: pip install 'stylekeras[deep]'" in caplog.text


def test_twelve_bit_grey_tiff_is_refused(tmp_path):
    path = tmp_path / "grey.tif"
    entries = [(256, 4, 1, 40), (257, 4, 1, 40), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, 40), (279, 4, 1, 2400)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    path.write_bytes((b"II*\0" + struct.pack("<I", 8) + directory).ljust(200, b"\0") + b"\x7f" * 2400)
    with pytest.raises(ImageError, match="12 bit or inverted"):
        load(path)


def test_palette(tmp_path):
    picture = Image.fromarray(gradient()).quantize(64)
    picture.save(tmp_path / "palette.png")
    assert as_pillow_sees_it(tmp_path / "palette.png").mode == "P"
    np.testing.assert_allclose(load(tmp_path / "palette.png"), np.asarray(picture.convert("RGB")) / 255, atol=1e-6)


def test_palette_with_transparency_over_white(tmp_path):
    picture = Image.new("P", (40, 40), 1)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.paste(0, (0, 0, 20, 40))
    for name, options in (("one.png", {"transparency": 0}), ("one.gif", {"transparency": 0})):
        picture.save(tmp_path / name, **options)
        image = load(tmp_path / name)
        assert np.array_equal(image[5, 5], [1, 1, 1])
        assert np.array_equal(image[5, 35], [0, 0, 1])
    picture.save(tmp_path / "half.png", transparency=b"\x80\xff")
    np.testing.assert_allclose(load(tmp_path / "half.png")[5, 5], [1, 127 / 255, 127 / 255], atol=1e-6)


def test_rgba_over_white(tmp_path):
    alpha = np.linspace(0, 255, 40 * 48).reshape(40, 48, 1).astype(np.uint8)
    rgba = np.concatenate([gradient(), alpha], axis=-1)
    share = alpha / 255
    wanted = gradient() / 255 * share + 1 - share
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    np.testing.assert_allclose(load(tmp_path / "rgba.png"), wanted, atol=1e-6)
    np.testing.assert_allclose(load(rgba), wanted, atol=1e-6)
    np.testing.assert_allclose(load(rgba / 255), wanted, atol=1e-6)


def test_grey_with_alpha_over_white(tmp_path):
    grey = gradient()[..., 0]
    picture = Image.merge("LA", [Image.fromarray(grey), Image.new("L", (48, 40), 51)])
    picture.save(tmp_path / "la.png")
    wanted = grey / 255 * 0.2 + 0.8
    np.testing.assert_allclose(load(tmp_path / "la.png")[..., 0], wanted, atol=1e-6)


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (40, 40), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    assert as_pillow_sees_it(tmp_path / "cmyk.jpg").mode == "CMYK"
    np.testing.assert_allclose(load(tmp_path / "cmyk.jpg")[20, 20], [1, 0, 0], atol=0.02)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]
)
def test_every_mode_of_pillow_is_read(mode):
    load(Image.new(mode, (40, 33)))


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png", ".tif"])
def test_animations_give_the_first_frame_and_a_warning(tmp_path, caplog, ending):
    path = tmp_path / f"animated{ending}"
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if ending == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(load(path)[20, 20], [1, 0, 0])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "has several frames" in caplog.text


def test_a_phone_s_second_jpeg_frame_is_not_an_animation(tmp_path, caplog):
    path = tmp_path / "phone.jpg"
    first, second = Image.fromarray(gradient()), Image.fromarray(gradient()[::-1].copy())
    first.save(path, "MPO", save_all=True, append_images=[second], quality=95, subsampling=0)
    assert as_pillow_sees_it(path).format == "MPO"
    np.testing.assert_allclose(load(path), gradient() / 255, atol=0.03)
    assert not caplog.records


# Colour profiles


def swapped_profile():
    """sRGB with red and blue exchanged and without its name: whoever applies it sees red turn blue."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
    return profile.replace(b"rXYZ", b"????", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"????", b"bXYZ", 1)


def test_a_colour_profile_is_converted(tmp_path, caplog):
    path = tmp_path / "profile.png"
    Image.new("RGB", (40, 40), (255, 0, 0)).save(path, icc_profile=swapped_profile())
    np.testing.assert_allclose(load(path)[0, 0], [0, 0, 1], atol=0.01)
    half = Image.new("RGBA", (40, 40), (255, 0, 0, 51))
    half.save(path, icc_profile=swapped_profile())
    np.testing.assert_allclose(load(path)[0, 0], [0.8, 0.8, 1], atol=0.01)
    assert not caplog.records


def test_an_srgb_profile_changes_nothing(tmp_path):
    path = tmp_path / "profile.png"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(gradient()).save(path, icc_profile=profile)
    assert np.array_equal(load(path), load(gradient()))


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "CMYK"])
def test_a_wrong_profile_is_logged_and_ignored(tmp_path, caplog, mode):
    path = tmp_path / "profile.tif"
    profile = b"garbage" * 40 if mode == "RGB" else swapped_profile()
    picture = Image.new(mode, (40, 40))
    picture.save(path, icc_profile=profile)
    assert np.array_equal(load(path), load(picture))
    assert "colour profile cannot be used" in caplog.text


# Bad files


def bad_file(tmp_path, kind):
    path = tmp_path / "bad.png"
    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is not a picture\n" * 100)
    elif kind == "svg":
        path.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "eps":  # which Pillow would hand to Ghostscript
        Image.fromarray(gradient()).save(path, "EPS")
    elif kind == "one pixel":
        Image.new("RGB", (1, 1)).save(path)
    elif kind == "thin":
        Image.new("RGB", (500, 31)).save(path)
    elif kind == "header only":
        path.write_bytes(png(40, 40, 8, 2, b"")[:33])
    elif kind == "bomb":
        path.write_bytes(png(100_000, 100_000, 8, 2, b"\0"))
    elif kind == "small bomb":
        path.write_bytes(png(10_000, 10_000, 8, 2, b"\0"))
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("folder", "is a folder"),
        ("empty", "the file is empty"),
        ("text", "not a picture that can be read.*PNG, JPEG"),
        ("svg", "not a picture that can be read"),
        ("fifo", "not a regular file"),
        ("eps", "not a picture that can be read"),
        ("one pixel", "1 x 1 px is too small; at least 32 px"),
        ("thin", "500 x 31 px is too small"),
        ("header only", r"bad\.png: "),
        ("bomb", "more than 89478485 pixels"),
        ("small bomb", "more than 89478485 pixels"),
    ],
)
def test_bad_files(tmp_path, kind, message):
    path = bad_file(tmp_path, kind)
    with pytest.raises(ImageError, match=message) as caught:
        images.load_image(path, name="content image")
    assert str(caught.value).startswith(f"content image {path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("action", ["ignore", "always", "error"])
def test_a_bomb_is_refused_without_a_warning_before_it_is_decoded(tmp_path, monkeypatch, action):
    path = bad_file(tmp_path, "small bomb")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter(action, Image.DecompressionBombWarning)
        with pytest.raises(ImageError, match="more than 89478485 pixels"):
            images.load_image(path)
    assert told == []
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # a program that has turned Pillow's check off
    with pytest.raises(ImageError, match="10000 x 10000 is more than 89478485 pixels"):
        images.load_image(path)


def test_odd_paths():
    with pytest.raises(ImageError, match="null byte"):
        images.load_image("a\0b.png")
    with pytest.raises(ImageError, match="name too long"):
        images.load_image("x" * 5000 + ".png")


def test_no_permission(tmp_path, monkeypatch):
    Image.fromarray(gradient()).save(tmp_path / "secret.png")

    def refuse(self, *arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match=r"secret\.png: no permission to read it"):
        images.load_image(tmp_path / "secret.png")


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".gif", ".bmp", ".webp", ".ppm"])
def test_files_cut_short(tmp_path, ending):
    path = tmp_path / f"picture{ending}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    for share in (0.02, 0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ImageError, match="picture"):
            images.load_image(path)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".gif", ".webp"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_give_a_picture_or_an_image_error(tmp_path, ending):
    path = tmp_path / f"picture{ending}"
    Image.fromarray(gradient()).save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(whole)
        for position in rng.integers(0, min(len(whole), 400), 5):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            image = images.load_image(path, min_side=1)
        except ImageError:
            continue
        assert np.all(np.isfinite(image))


def test_min_side_can_be_relaxed(tmp_path):
    Image.new("RGB", (1, 1), (255, 0, 0)).save(tmp_path / "one.png")
    assert np.array_equal(load(tmp_path / "one.png", min_side=1), [[[1, 0, 0]]])


# Arrays and PIL images


@pytest.mark.parametrize("shape", [(33, 35), (33, 35, 1), (33, 35, 3)])
@pytest.mark.parametrize(
    ("dtype", "largest"),
    [("u1", 255), ("u2", 65535), (">u2", 65535), ("?", 1), ("f2", 1), ("f4", 1), (">f4", 1), ("f8", 1)],
)
def test_arrays(shape, dtype, largest):
    values = np.random.default_rng(0).uniform(0, 1, shape)
    array = np.round(values * largest).astype(dtype) if np.dtype(dtype).kind != "f" else values.astype(dtype)
    wanted = array.astype(np.float64) / largest
    wanted = wanted if wanted.ndim == 3 else wanted[..., None]
    np.testing.assert_allclose(load(array), np.broadcast_to(wanted, (33, 35, 3)), atol=1e-6)


def test_an_array_is_copied_and_left_alone():
    array = np.full((40, 40, 3), 0.5, np.float32)
    image = load(array)
    image[:] = 0
    assert np.all(array == 0.5)


def test_strided_and_rounded_arrays():
    array = np.linspace(0, 1.000001, 80 * 80 * 3).reshape(80, 80, 3)
    np.testing.assert_allclose(load(array[::2, ::-2]), array[::2, ::-2], atol=1e-5)


def test_a_pil_image_is_left_alone(tmp_path):
    picture = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    load(picture)
    assert picture.mode == "RGBA"
    assert picture.getpixel((0, 0)) == (255, 0, 0, 0)


def test_a_pil_image_of_a_file_cut_short(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-40])
    with Image.open(tmp_path / "cut.png") as opened, pytest.raises(ImageError, match="style image: damaged"):
        images.load_image(opened, name="style image")


def test_an_empty_name():
    with pytest.raises(ImageError, match="content: the file name is empty"):
        images.load_image("", name="content")


def array_with(value, dtype=np.float32):
    array = np.full((40, 40, 3), 0.5, dtype)
    array[3, 4, 1] = value
    return array


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (array_with(np.nan), "1 of 4800 values are NaN or infinite"),
        (array_with(np.inf), "1 of 4800 values are NaN or infinite"),
        (array_with(-0.1), r"must be in \[0, 1\], these are in \[-0.1, 0.5\]$"),
        (array_with(1.2), r"these are in \[0.5, 1.2\]$"),
        (array_with(255), "divide by 255"),
        (array_with(3, np.int64), "dtype int64 is not supported"),
        (array_with(0.5, np.complex64), "dtype complex64 is not supported"),
        (array_with("x", object), "dtype object is not supported"),
        (np.zeros(40, np.uint8), r"not \(40,\)"),
        (np.zeros((40, 40, 2), np.uint8), r"not \(40, 40, 2\)"),
        (np.zeros((40, 40, 5), np.uint8), r"not \(40, 40, 5\)"),
        (np.zeros((3, 40, 40), np.uint8), "channels go last"),
        (np.zeros((1, 40, 40, 3), np.uint8), "without the batch axis"),
        (np.zeros((0, 40, 3), np.uint8), r"not \(0, 40, 3\)"),
        (np.zeros((1, 1, 3), np.uint8), "1 x 1 px is too small"),
        (np.zeros((40, 31), np.uint8), "31 x 40 px is too small"),
    ],
)
def test_bad_arrays(array, message):
    with pytest.raises(ImageError, match=message) as caught:
        images.load_image(array, name="style image")
    assert str(caught.value).startswith("style image: ")


@pytest.mark.parametrize("source", [None, 3, b"picture.png", [[0.5, 0.5]], BytesIO()])
def test_other_sources(source):
    with pytest.raises(ImageError, match=f"expected a path, a PIL image or a NumPy array, not {type(source).__name__}"):
        images.load_image(source)


# Sizes


@pytest.mark.parametrize(("height", "width"), [(480, 640), (640, 480), (33, 1001), (1, 999), (7, 7), (3, 2)])
@pytest.mark.parametrize("longest", [1, 2, 32, 333, 512, 4000])
def test_fit_shape_against_exact_fractions(height, width, longest):
    def rounded(side):
        exact = Fraction(side * longest, max(height, width))
        return max(1, (exact + Fraction(1, 2)).__floor__())

    assert images.fit_shape(height, width, longest) == (rounded(height), rounded(width))
    assert max(images.fit_shape(height, width, longest)) == longest


def test_fit_shape_by_hand():
    assert images.fit_shape(3, 2, 1) == (1, 1)
    assert images.fit_shape(4, 6, 3) == (2, 3)
    assert images.fit_shape(5, 6, 3) == (3, 3)  # 2.5 rounds up


@pytest.mark.parametrize("size", [(0, 4, 4), (4, 0, 4), (4, 4, 0), (4, 4, -1)])
def test_fit_shape_of_nothing(size):
    with pytest.raises(RequestError, match="sizes start at 1"):
        images.fit_shape(*size)


def test_fit():
    image = np.random.default_rng(0).uniform(0, 1, (30, 41, 3)).astype(np.float32)
    assert images.fit(image, 20).shape == (15, 20, 3)
    assert np.array_equal(images.fit(image, 20), images.resize(image, 15, 20))
    assert np.array_equal(images.fit(image, 41), image)


def plain_lanczos(row, length):
    """One row resized by Lanczos' filter (a = 3), stretched to the larger pixels when shrinking: a plain loop."""
    scale = len(row) / length
    stretch = max(scale, 1)
    result = []
    for out in range(length):
        centre = (out + 0.5) * scale
        total, weights = 0.0, 0.0
        for index, value in enumerate(row):
            distance = (index + 0.5 - centre) / stretch
            weight = np.sinc(distance) * np.sinc(distance / 3) if abs(distance) < 3 else 0.0
            total, weights = total + weight * value, weights + weight
        result.append(total / weights)
    return np.array(result)


@pytest.mark.parametrize(("height", "width"), [(7, 9), (25, 31), (1, 1), (13, 40), (37, 5)])
@pytest.mark.parametrize("linear", [True, False])
def test_resize_against_a_plain_loop(height, width, linear):
    image = np.random.default_rng(0).uniform(0.3, 0.7, (13, 17, 3)).astype(np.float32)
    light = srgb_to_linear(image.astype(np.float64)) if linear else image.astype(np.float64)
    wide = np.apply_along_axis(plain_lanczos, 1, light, width)
    wanted = np.clip(np.apply_along_axis(plain_lanczos, 0, wide, height), 0, 1)
    wanted = linear_to_srgb(wanted) if linear else wanted
    resized = images.resize(image, height, width, linear=linear)
    assert resized.dtype == np.float32
    assert resized.shape == (height, width, 3)
    np.testing.assert_allclose(resized, wanted, atol=1e-5)


def test_resize_to_the_same_size_is_an_exact_copy():
    image = np.random.default_rng(0).uniform(0, 1, (13, 17, 3)).astype(np.float32)
    same = images.resize(image, 13, 17)
    assert np.array_equal(same, image)
    same[:] = 0
    assert image.max() > 0


def test_resize_averages_light():
    lines = np.zeros((64, 64, 3), np.float32)
    lines[::2] = 1
    assert images.resize(lines, 8, 8)[4, 4, 0] == pytest.approx(float(linear_to_srgb(np.array(0.5))), abs=0.01)
    assert images.resize(lines, 8, 8, linear=False)[4, 4, 0] == pytest.approx(0.5, abs=0.01)


def test_resize_stays_in_range_and_takes_any_number_of_channels():
    edges = (np.random.default_rng(0).uniform(0, 1, (20, 20, 5)) > 0.5).astype(np.float32)
    for linear in (True, False):
        resized = images.resize(edges, 51, 33, linear=linear)
        assert resized.shape == (51, 33, 5)
        assert resized.dtype == np.float32
        assert resized.min() == 0
        assert resized.max() == 1
    flat = images.resize(np.ones((20, 20, 3), np.float32), 33, 7)
    np.testing.assert_allclose(flat, 1, atol=1e-6)
    with pytest.raises(RequestError, match="sizes start at 1"):
        images.resize(edges, 0, 4)


# Writing


ENDINGS = [".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy", ".PNG"]


def picture(height=9, width=7):
    return np.random.default_rng(0).uniform(-0.2, 1.2, (height, width, 3)).astype(np.float32)


def test_to_uint8():
    values = np.array([-1, 0, 0.4 / 255, 0.6 / 255, 0.5, 254.6 / 255, 1, 7], np.float32)
    assert images.to_uint8(values).tolist() == [0, 0, 0, 1, 128, 255, 255, 255]
    assert images.to_uint8(values).dtype == np.uint8
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(images.to_uint8(every.astype(np.float32) / 255), every)


def test_png_is_clipped_and_rounded_to_8_bit(tmp_path):
    images.save_image(tmp_path / "out.png", picture())
    with Image.open(tmp_path / "out.png") as opened:
        assert opened.mode == "RGB"
        assert np.array_equal(np.asarray(opened), np.round(np.clip(picture(), 0, 1) * 255).astype(np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".JPG"])
def test_jpeg_is_close_and_its_quality_counts(tmp_path, ending):
    smooth = gradient(64, 48).astype(np.float32) / 255
    images.save_image(tmp_path / f"high{ending}", smooth)
    images.save_image(tmp_path / f"low{ending}", smooth, quality=20)
    with Image.open(tmp_path / f"high{ending}") as opened:
        assert opened.format == "JPEG"
        np.testing.assert_allclose(np.asarray(opened) / 255, np.clip(smooth, 0, 1), atol=0.03)
    assert (tmp_path / f"low{ending}").stat().st_size < (tmp_path / f"high{ending}").stat().st_size
    for quality in (0, 101):
        with pytest.raises(RequestError, match="must be 1 to 100"):
            images.save_image(tmp_path / f"other{ending}", smooth, quality=quality)


def test_npy_is_neither_clipped_nor_rounded(tmp_path):
    images.save_image(tmp_path / "out.npy", picture().astype(np.float64))
    stored = np.load(tmp_path / "out.npy")
    assert stored.dtype == np.float32
    assert np.array_equal(stored, picture())


def test_npy_is_read_as_an_array(tmp_path):
    inside = np.clip(picture(), 0, 1)
    images.save_image(tmp_path / "out.npy", inside)
    read = images.load_image(tmp_path / "out.npy", min_side=1)
    assert np.array_equal(read, inside)
    assert read.flags.writeable
    np.save(tmp_path / "grey.npy", np.full((40, 33), 65535, ">u2"))
    assert np.array_equal(load(tmp_path / "grey.npy"), np.ones((40, 33, 3), np.float32))


def test_npy_a_little_outside_is_clipped_and_says_so(tmp_path, caplog):
    array = np.full((40, 40, 3), 0.5, np.float32)
    array[0, 0] = (-0.01, 1.02, 0.25)
    images.save_image(tmp_path / "out.npy", array)
    assert np.array_equal(load(tmp_path / "out.npy"), np.clip(array, 0, 1))
    assert [record.message.split(": ")[1] for record in caplog.records] == ["values outside [0, 1] are clipped"]
    np.save(tmp_path / "far.npy", np.full((40, 40, 3), 127, np.float32))
    with pytest.raises(ImageError, match="divide by 255"):
        load(tmp_path / "far.npy")


def test_floats_outside_are_kept_where_that_is_asked_for(tmp_path, caplog):
    array = np.full((40, 40, 3), 0.5, np.float32)
    array[0, 0] = (-3.5, 4.5, 0.25)
    images.save_image(tmp_path / "out.npy", array)
    assert np.array_equal(images.load_image(tmp_path / "out.npy", clip=False), array)
    assert np.array_equal(images.load_image(array, clip=False), array)
    assert not caplog.records
    translucent = np.concatenate([array, np.full((40, 40, 1), 0.5, np.float32)], axis=-1)
    np.testing.assert_allclose(images.load_image(translucent, clip=False)[0, 0], (-1.25, 2.75, 0.625))
    for far in (-5.0, 127.0):
        with pytest.raises(ImageError, match=r"in \[-4, 5\], these are"):
            images.load_image(np.full((40, 40, 3), far, np.float32), clip=False)


def test_an_output_that_is_an_input_is_refused(tmp_path):
    path = tmp_path / "photo.png"
    images.save_image(path, picture())
    (tmp_path / "link.png").symlink_to(path)
    for name in ("photo.png", "link.png"):
        with pytest.raises(OutputError, match="one of the inputs"):
            images.check_output(tmp_path / name, overwrite=True, inputs=["missing.png", "noise", path])
    images.check_output(tmp_path / "other.png", inputs=[path])


def test_npy_that_is_not_usable(tmp_path):
    path = tmp_path / "bad.npy"

    def refused(message):
        with pytest.raises(ImageError, match=message) as caught:
            load(path)
        assert "\n" not in str(caught.value)

    for data in (b"\x89PNG and so on", b"\x93NUMPY", b"PK\x03\x04"):
        path.write_bytes(data)
        refused("bad.npy: not an array of numbers")
    path.write_bytes(b"")
    refused("empty")
    np.save(path, np.array([{}] * 4, object))  # a pickle inside
    refused("not an array of numbers")
    np.save(path, np.zeros((40, 40, 3), np.int64))
    refused("dtype int64")
    np.save(path, np.full((40, 40, 3), np.nan, np.float32))
    refused("NaN")
    np.save(path, np.zeros((40, 40, 3), np.float32))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    refused("cut short")
    path.write_bytes(whole.replace(b"(40, 40, 3)", b"(400000, 400000, 3)"))  # a header that claims 2 TB
    refused("not an array of numbers")


def parse_tiff(data):
    """The tags of a little-endian TIFF's first directory and its pixels, by hand."""
    assert data[:4] == b"II*\0"
    offset = struct.unpack("<I", data[4:8])[0]
    assert offset % 2 == 0
    count = struct.unpack_from("<H", data, offset)[0]
    tags = {}
    for index in range(count):
        tag, kind, number, _ = struct.unpack_from("<HHII", data, offset + 2 + 12 * index)
        code, size = {2: ("s", 1), 3: ("H", 2), 4: ("I", 4), 5: ("II", 8), 7: ("B", 1)}[kind]
        place = offset + 2 + 12 * index + 8
        if number * size > 4:
            place = struct.unpack_from("<I", data, place)[0]
            assert place % 2 == 0
        tags[tag] = struct.unpack_from(f"<{number}s" if kind == 2 else "<" + code * number, data, place)
    assert list(tags) == sorted(tags)
    assert struct.unpack_from("<I", data, offset + 2 + 12 * count)[0] == 0
    height, width, start, size = tags[257][0], tags[256][0], tags[273][0], tags[279][0]
    assert size == height * width * 6
    return tags, np.frombuffer(data[start : start + size], "<u2").reshape(height, width, 3)


@pytest.mark.parametrize("size", [(9, 7), (1, 1), (33, 64)])
@pytest.mark.parametrize("text", [None, {}, {"note": "ä"}, {"stylekeras": "1", "settings": {"size": 512}}])
def test_tiff_holds_16_bit_rgb(tmp_path, size, text):
    path = tmp_path / "out.tif"
    images.save_image(path, picture(*size), recipe=text)
    tags, pixels = parse_tiff(path.read_bytes())
    wanted = np.round(np.clip(picture(*size), 0, 1).astype(np.float64) * 65535)
    np.testing.assert_allclose(pixels, wanted, atol=1)  # the product is rounded in float32
    assert tags[258] == (16, 16, 16)
    assert tags[277] == (3,)
    assert tags[339] == (1, 1, 1)
    assert tags[262] == (2,)
    assert tags[259] == (1,)
    if text is None:
        assert 270 not in tags
    else:
        assert tags[270][0] == recipe.dumps(text).encode() + b"\0"
    with Image.open(path) as opened:
        assert opened.size == (size[1], size[0])
        assert np.array_equal(np.asarray(opened), pixels >> 8)  # Pillow keeps the upper 8 bits


def test_tiff_is_read_by_scikit_image_with_all_its_bits(tmp_path):
    from skimage import io as reader

    images.save_image(tmp_path / "out.tif", picture(), recipe={"stylekeras": "1", "settings": {}})
    read = reader.imread(tmp_path / "out.tif")
    assert read.dtype == np.uint16
    np.testing.assert_allclose(read, np.clip(picture(), 0, 1) * 65535, atol=1)


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_can_be_read(tmp_path, ending):
    smooth = gradient().astype(np.float32) / 255
    images.save_image(tmp_path / f"out{ending}", smooth, recipe={"stylekeras": "1", "settings": {}})
    if ending != ".npy":
        tolerance = 0.03 if ending.startswith(".j") else 1 / 255
        np.testing.assert_allclose(load(tmp_path / f"out{ending}"), np.clip(smooth, 0, 1), atol=tolerance)


def test_integer_arrays_are_scaled(tmp_path):
    images.save_image(tmp_path / "out.png", gradient())
    assert np.array_equal(np.asarray(as_pillow_sees_it(tmp_path / "out.png")), gradient())


def test_a_recipe_too_long_for_a_jpeg_is_left_out_and_said_so(tmp_path, caplog):
    images.save_image(tmp_path / "out.jpg", picture(), recipe={"stylekeras": "1", "settings": {"x": "y" * 70_000}})
    assert "too long for a JPEG comment" in caplog.text
    with Image.open(tmp_path / "out.jpg") as opened:
        assert "comment" not in opened.info


@pytest.mark.parametrize(
    "save", [images.check_output, lambda path, **keywords: images.save_image(path, picture(), **keywords)]
)
def test_bad_outputs_are_refused_before_and_when_writing(tmp_path, monkeypatch, save):
    (tmp_path / "old.png").write_text("precious")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "pipe.png").symlink_to("/dev/null")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for path, message in [
        ("old.png", "it exists; choose another name"),
        ("folder.png", "it is a folder"),
        ("pipe.png", "not a regular file"),
        ("loop.png", "cannot write"),
        ("gone/out.png", "no such folder.*create it first"),
        ("old.png/out.png", "no such folder|Not a directory"),
        ("out.gif", r"unknown ending '\.gif'; use one of \.png, .*\.npy$"),
        ("out", r"no ending; use one of \.png, "),
        ("", "no ending"),
        ("a\0b.png", "null"),
        ("x" * 300 + ".png", "name too long"),
    ]:
        with pytest.raises(OutputError, match=message) as caught:
            save(f"{tmp_path}/{path}")
        assert str(caught.value).startswith(f"cannot write {tmp_path}/{path}: ")
    with pytest.raises(OutputError, match="it is a folder"):
        save(tmp_path / "folder.png", overwrite=True)
    monkeypatch.setattr(os, "access", lambda *arguments: False)  # tests may run as root, whom chmod does not stop
    with pytest.raises(OutputError, match="no permission to write in the folder"):
        save(tmp_path / "new.png")
    assert (tmp_path / "old.png").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", "loop.png", "old.png", "pipe.png"]


def test_check_output_writes_nothing(tmp_path):
    for ending in ENDINGS:
        assert images.check_output(tmp_path / f"out{ending}") is None
    (tmp_path / "old.png").write_text("precious")
    images.check_output(tmp_path / "old.png", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]


def test_overwrite(tmp_path):
    (tmp_path / "out.png").write_text("old")
    images.save_image(tmp_path / "out.png", picture(), overwrite=True)
    assert load(tmp_path / "out.png", min_side=1).shape == (9, 7, 3)


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "out.png").symlink_to(tmp_path / "there" / "real.png")
    images.save_image(tmp_path / "out.png", picture())
    assert (tmp_path / "out.png").is_symlink()
    assert (tmp_path / "there" / "real.png").is_file()


def test_the_umask_decides_the_permissions(tmp_path):
    images.save_image(tmp_path / "out.png", picture())
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "out.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (array_with(np.nan), "1 of 4800 values are NaN"),
        (array_with(np.inf), "NaN or infinite"),
        (np.zeros((9, 7), np.float32), r"expected shape \(h, w, 3\), not \(9, 7\)"),
        (np.zeros((9, 7, 4), np.float32), r"not \(9, 7, 4\)"),
        (np.zeros((0, 7, 3), np.float32), r"not \(0, 7, 3\)"),
        (np.zeros((9, 7, 3), np.int64), "dtype int64"),
    ],
)
def test_bad_pictures_are_not_written(tmp_path, ending, image, message):
    with pytest.raises(ImageError, match=message):
        images.save_image(tmp_path / f"out{ending}", image)
    assert not list(tmp_path.iterdir())


def full_disk(*arguments, **keywords):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("fails", ["replace", "fsync"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, ending, fails):
    path = tmp_path / f"out{ending}"
    path.write_text("old")
    monkeypatch.setattr(os, fails, full_disk)
    with pytest.raises(RunError, match=r"could not write .*: No space left on device"):
        images.save_image(path, picture(), overwrite=True)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "old"


def test_a_disk_that_fills_half_way(tmp_path, monkeypatch):
    # The kernel's own "full disk": a real short write, not a mocked one.
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode: real(Path("/dev/full"), "wb"))
    with pytest.raises(RunError, match="No space left on device"):
        images.save_image(tmp_path / "out.tif", picture(200, 200))
    assert not list(tmp_path.iterdir())


def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "out.png").write_text("old")

    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        images.save_image(tmp_path / "out.png", picture(), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    assert (tmp_path / "out.png").read_text() == "old"
