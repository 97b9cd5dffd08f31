"""What a photo's file holds besides 8-bit sRGB, in and out: 16 bits, profiles, transparency, EXIF, XMP."""

import io
import logging
import struct
import tracemalloc

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms

from stylekeras import blocks, deep, extras, frames, images, profiles, recipe
from stylekeras.errors import ImageError, RequestError

PICTURES = (".png", ".jpg", ".tif")


def noise(height=40, width=48, channels=3, low=0.0, high=1.0, seed=0):
    return np.random.default_rng(seed).uniform(low, high, (height, width, channels)).astype(np.float32)


def smooth(height=40, width=48):
    """Within a JPEG's reach, and within sRGB in every profile here."""
    y, x = np.mgrid[0:height, 0:width] / 60
    return np.stack([0.3 + 0.4 * x, 0.7 - 0.4 * y, 0.4 + 0.1 * (x + y)], axis=-1).astype(np.float32)


def rgb_profile(primaries, gamma):
    xyz = [value for x, y in primaries for value in (x, y, 1.0)]
    made = imagecodecs.cms_profile("rgb", whitepoint=[0.3127, 0.3290, 1.0], primaries=xyz, gamma=gamma)
    return bytes(made)


WIDE = {
    "Display P3, nearly": rgb_profile([(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)], 2.2),
    "Adobe RGB, nearly": rgb_profile([(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], 563 / 256),
}
P3 = WIDE["Display P3, nearly"]
GREY = bytes(imagecodecs.cms_profile("gray", gamma=1.8))


@pytest.fixture
def shallow(monkeypatch):
    """The extra `deep` is not installed."""
    monkeypatch.setattr(deep, "here", lambda: False)


def opened(path):
    with Image.open(path) as found:
        found.load()
        return found


def stored(path):
    """The numbers in a file, by readers that are not ours."""
    return tifffile.imread(path) if path.suffix == ".tif" else imagecodecs.imread(path)


# 16 bits


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_a_16_bit_png_is_read_in_full(tmp_path, caplog, channels):
    values = (noise(channels=channels) * 65535).astype(np.uint16)
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(values))
    whole = values / 65535
    wanted = whole if channels == 3 else whole[..., :-1] * whole[..., -1:] + 1 - whole[..., -1:]
    found = images.load_image(tmp_path / "deep.png")
    np.testing.assert_allclose(found, np.broadcast_to(wanted, found.shape), atol=1e-6)
    assert caplog.text == ""


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("rows", [1 << 18, 1])
def test_16_bits_in_are_16_bits_out(tmp_path, monkeypatch, ending, rows):
    monkeypatch.setattr(blocks, "VALUES", rows)
    values = (noise(70, 33) * 65535).astype(np.uint16)
    (tmp_path / "photo.png").write_bytes(imagecodecs.png_encode(values))
    images.save_image(tmp_path / f"out{ending}", images.load_image(tmp_path / "photo.png"), depth=16)
    assert np.abs(stored(tmp_path / f"out{ending}").astype(int) - values).max() <= 1
    again = images.load_image(tmp_path / f"out{ending}")
    np.testing.assert_allclose(again, values / 65535, atol=1 / 65535)


def test_every_16_bit_number_survives(tmp_path):
    values = np.arange(65536 * 3, dtype=np.int64).reshape(256, 256, 3).astype(np.uint16)
    for ending in (".png", ".tif"):
        images.save_image(tmp_path / f"out{ending}", values, depth=16)
        assert np.array_equal(stored(tmp_path / f"out{ending}"), values)


def test_a_16_bit_png_is_what_its_reader_makes_of_it(tmp_path):
    """Sizes at which something begins or ends: a row, a chunk of the file."""
    for height, width in [(1, 1), (1, 900), (600, 1), (700, 600)]:
        values = (noise(height, width) * 65535).astype(np.uint16)
        images.save_image(
            tmp_path / "out.png", values, depth=16, overwrite=True, recipe={"stylekeras": "1", "settings": {}}
        )
        assert np.array_equal(imagecodecs.png_decode((tmp_path / "out.png").read_bytes()), values)
        assert np.array_equal(np.asarray(opened(tmp_path / "out.png")), values >> 8)
        assert recipe.read(tmp_path / "out.png")["settings"] == {}


def test_a_16_bit_png_is_written_in_little_memory(tmp_path):
    image = noise(1500, 1600)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        images.save_image(tmp_path / "out.png", image, depth=16)
        assert tracemalloc.get_traced_memory()[1] - before < 20e6
    finally:
        tracemalloc.stop()


def test_tiffs_of_8_bits(tmp_path):
    image = noise()
    images.save_image(tmp_path / "out.tif", image, depth=8)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), images.to_uint8(image))
    assert np.array_equal(np.asarray(opened(tmp_path / "out.tif")), images.to_uint8(image))


@pytest.mark.parametrize(
    ("name", "depth", "message"),
    [
        ("out.jpg", 16, r"\.jpg has 8 bits a channel, not 16; \.png and \.tif have 8 or 16"),
        ("out.png", 12, r"\.png has 8 or 16 bits a channel, not 12"),
        ("out.npy", 16, r"\.npy has 32 bits"),
    ],
)
def test_depths_that_a_format_does_not_have(tmp_path, name, depth, message):
    with pytest.raises(RequestError, match=message):
        images.save_image(tmp_path / name, noise(), depth=depth)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("alpha", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_16_bit_tiffs_with_transparency(tmp_path, alpha, planes):
    values = (noise(channels=4, low=0.2) * 65535).astype(np.uint16)
    whole = values / 65535
    kept = values.copy()
    if alpha == "assocalpha":
        kept[..., :3] = np.rint(values[..., :3] * whole[..., 3:])
    kept = np.moveaxis(kept, -1, 0) if planes == "separate" else kept
    tifffile.imwrite(
        tmp_path / "deep.tif", kept, photometric="rgb", extrasamples=[alpha], planarconfig=planes, compression="zlib"
    )
    wanted = whole[..., :3] * whole[..., 3:] + 1 - whole[..., 3:]
    np.testing.assert_allclose(images.load_image(tmp_path / "deep.tif"), wanted, atol=2 / 65535)
    found = images.load_extras(tmp_path / "deep.tif").alpha
    np.testing.assert_allclose(found, whole[..., 3], atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_in_16_bits_is_that_in_8(tmp_path, orientation):
    values = noise(channels=4)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(images.to_uint8(values)).save(tmp_path / "8.png", exif=exif)
    chunks = [data for kind, data in frames.chunks((tmp_path / "8.png").read_bytes()) if kind == b"eXIf"]
    whole = images.to_uint8(values).astype(np.uint16) * 257
    parts = frames.png(40, 48, chunks, [whole])
    (tmp_path / "16.png").write_bytes(b"".join(parts))
    for function in (images.load_image, lambda path: images.load_extras(path).alpha):
        np.testing.assert_allclose(function(tmp_path / "16.png"), function(tmp_path / "8.png"), atol=1e-6)


def test_16_bit_cmyk_is_read_as_8_and_said_so(tmp_path, caplog):
    values = np.full((40, 48, 4), (0, 65535, 65535, 0), np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", values, photometric="separated")
    np.testing.assert_allclose(images.load_image(tmp_path / "deep.tif")[5, 5], [1, 0, 0], atol=0.02)
    assert "16 bit per channel, of which Pillow reads 8" in caplog.text
    assert "pip install" not in caplog.text


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_damaged_16_bit_files_give_a_picture_or_an_image_error(tmp_path, name):
    values = (noise() * 65535).astype(np.uint16)
    path = tmp_path / name
    if path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(values))
    else:
        tifffile.imwrite(path, values, photometric="rgb", compression="zlib", tile=(16, 16))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    logging.getLogger("tifffile").disabled = True
    tracemalloc.start()
    try:
        for number in range(60):
            damaged = bytearray(whole)
            for position in rng.integers(0, min(len(whole), 600), 4):
                damaged[position] = rng.integers(0, 256)
            path.write_bytes(damaged if number % 3 else damaged[: rng.integers(20, len(whole))])
            for function in (images.load_image, images.load_extras):
                try:
                    found = function(path)
                except ImageError:
                    continue
                if function is images.load_image:
                    assert np.all(np.isfinite(found))
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()
        logging.getLogger("tifffile").disabled = False


def test_a_tile_much_larger_than_the_picture_is_refused(tmp_path):
    values = (noise() * 65535).astype(np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", values, photometric="rgb", compression="zlib", tile=(16, 32))
    data = (tmp_path / "deep.tif").read_bytes()
    for tag, small in ((322, 32), (323, 16)):
        old = struct.pack("<HHII", tag, 4, 1, small) if struct.pack("<HHII", tag, 4, 1, small) in data else None
        old = old or struct.pack("<HHIHH", tag, 3, 1, small, 0)
        assert data.count(old) == 1
        data = data.replace(old, struct.pack("<HHII", tag, 4, 1, 40_000))
    (tmp_path / "deep.tif").write_bytes(data)
    with pytest.raises(ImageError, match="damaged: tiles of 40000 x 40000 for a picture of 48 x 40"):
        images.load_image(tmp_path / "deep.tif")


# Profiles


def test_a_picture_says_that_it_is_srgb(tmp_path):
    for ending in PICTURES:
        images.save_image(tmp_path / f"out{ending}", noise())
        data = (tmp_path / f"out{ending}").read_bytes()
        if ending == ".png":
            assert b"sRGB" in [kind for kind, _ in frames.chunks(data)]
            assert "icc_profile" not in opened(tmp_path / "out.png").info
        else:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(opened(tmp_path / f"out{ending}").info["icc_profile"]))
            assert "sRGB" in ImageCms.getProfileDescription(profile)
        images.save_image(tmp_path / f"again{ending}", noise())
        assert (tmp_path / f"again{ending}").read_bytes() == data


def test_a_pillow_without_littlecms_writes_pictures_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles.features, "check", lambda name: False)
    profiles.srgb.cache_clear()
    try:
        for ending in PICTURES:
            images.save_image(tmp_path / f"out{ending}", noise())
            assert "icc_profile" not in opened(tmp_path / f"out{ending}").info
    finally:
        profiles.srgb.cache_clear()


def gammas(values, profile):
    """From linear light of sRGB's primaries to the two profiles here, by their definitions, in float64."""
    srgb = np.array([(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)])
    wide, gamma = {
        P3: ([(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)], 2.2),
        WIDE["Adobe RGB, nearly"]: ([(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], 563 / 256),
    }[profile]

    def to_xyz(primaries):
        columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
        white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
        return columns * np.linalg.solve(columns, white)

    values = values.astype(np.float64)
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return np.clip(light @ (np.linalg.inv(to_xyz(wide)) @ to_xyz(srgb)).T, 0, 1) ** (1 / gamma)


@pytest.mark.parametrize("profile", WIDE.values(), ids=WIDE)
@pytest.mark.parametrize(("ending", "depth"), [(".png", 8), (".png", 16), (".tif", 16), (".tif", 8), (".jpg", 8)])
def test_a_picture_in_the_photos_profile(tmp_path, profile, ending, depth):
    image = smooth()
    images.save_image(tmp_path / f"out{ending}", image, depth=depth, extras=extras.Extras(profile=profile))
    assert opened(tmp_path / f"out{ending}").info["icc_profile"] == profile
    found = stored(tmp_path / f"out{ending}") / (2**depth - 1)
    lossy = 0.02 if ending == ".jpg" else 0.0
    # An ICC profile's own numbers have 16 bits.
    np.testing.assert_allclose(found, gammas(image, profile), atol=lossy + 0.51 / (2**depth - 1) + 2e-4)
    again = images.load_image(tmp_path / f"out{ending}")
    np.testing.assert_allclose(again, image, atol=lossy + (4e-5 if depth == 16 else 2 / 255))
    assert images.load_extras(tmp_path / f"out{ending}").profile == profile


@pytest.mark.parametrize(("ending", "depth"), [(".png", 8), (".png", 16), (".tif", 16)])
def test_there_and_back_a_photo_in_its_profile_has_its_numbers(tmp_path, ending, depth):
    """Read into sRGB, and written in the photo's profile."""
    largest = 2**depth - 1
    values = np.rint(gammas(noise(low=0.1, high=0.9), P3) * largest).astype(np.uint8 if depth == 8 else np.uint16)
    if ending == ".tif":
        tifffile.imwrite(tmp_path / "photo.tif", values, photometric="rgb", iccprofile=P3)
    else:
        (tmp_path / "photo.png").write_bytes(imagecodecs.png_encode(values))
        small = io.BytesIO()
        Image.new("RGB", (1, 1)).save(small, "PNG", icc_profile=P3)
        kinds = dict(frames.chunks(small.getvalue()))
        whole = (tmp_path / "photo.png").read_bytes()
        (tmp_path / "photo.png").write_bytes(whole[:33] + kinds[b"iCCP"] + whole[33:])
    photo = images.load_image(tmp_path / f"photo{ending}")
    found = images.load_extras(tmp_path / f"photo{ending}")
    images.save_image(tmp_path / f"out{ending}", photo, depth=depth, extras=found)
    off = np.abs(stored(tmp_path / f"out{ending}").astype(int) - values)
    # In 8 bits sRGB's own rounding comes on top, where its steps are the larger ones.
    assert off.max() <= (2 if depth == 8 else 3)
    assert np.mean(off <= 1) > 0.9


def test_without_the_extra_profiles_are_of_8_bits(tmp_path, shallow):
    found = extras.Extras(profile=P3)
    images.save_image(tmp_path / "out.png", smooth(), extras=found)
    np.testing.assert_allclose(stored(tmp_path / "out.png") / 255, gammas(smooth(), P3), atol=1.6 / 255)
    with pytest.raises(RequestError, match=r"16 bits in the photo's colour profile need tifffile .*stylekeras\[deep\]"):
        images.save_image(tmp_path / "out.tif", smooth(), extras=found)
    assert not (tmp_path / "out.tif").exists()


@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (GREY, "is for grey, a picture is RGB: leave it sRGB"),
        (b"\0" * 16 + b"CMYK" + b"\0" * 400, "is for CMYK"),
        (b"garbage" * 40, "is for another kind"),
        (P3[:300], "cannot be used"),
        (P3 + bytes(9 << 20), "has [0-9]+ bytes"),
    ],
)
def test_profiles_that_a_picture_cannot_be_in(tmp_path, monkeypatch, profile, message, missing):
    if missing:
        monkeypatch.setattr(deep, "here", lambda: False)
    with pytest.raises(RequestError, match=message):
        images.save_image(tmp_path / "out.png", noise(), extras=extras.Extras(profile=profile))
    assert list(tmp_path.iterdir()) == []


def test_16_bit_grey_in_its_profile(tmp_path, monkeypatch, caplog):
    values = np.linspace(0, 65535, 40 * 48).reshape(40, 48).astype(np.uint16)
    tifffile.imwrite(tmp_path / "grey.tif", values, photometric="minisblack", iccprofile=GREY)
    light = (values / 65535) ** 1.8
    wanted = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    found = images.load_image(tmp_path / "grey.tif")
    np.testing.assert_allclose(found, np.repeat(wanted[..., None], 3, axis=2), atol=1e-3)
    assert caplog.text == ""
    monkeypatch.setattr(deep, "here", lambda: False)
    np.testing.assert_allclose(images.load_image(tmp_path / "grey.tif")[..., 1], values / 65535, atol=1e-6)
    assert "colour profile is not applied to 16-bit grey" in caplog.text


def test_an_srgb_profile_is_none(tmp_path):
    images.save_image(tmp_path / "out.tif", noise())
    assert images.load_extras(tmp_path / "out.tif") == extras.Extras()
    assert not profiles.is_srgb(P3)


def test_a_broken_profile_of_a_16_bit_photo_is_logged_and_ignored(tmp_path, caplog):
    values = (noise() * 65535).astype(np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", values, photometric="rgb", iccprofile=b"garbage" * 40)
    np.testing.assert_allclose(images.load_image(tmp_path / "deep.tif"), values / 65535, atol=1e-6)
    assert "colour profile cannot be used" in caplog.text


# Transparency


def transparent(path, height=40, width=48):
    rgba = (noise(height, width, 4) * 255).astype(np.uint8)
    rgba[: height // 3, :, 3] = 0
    rgba[-height // 3 :, :, 3] = 255
    Image.fromarray(rgba).save(path)
    return rgba


@pytest.mark.parametrize(("ending", "depth"), [(".png", 8), (".png", 16), (".tif", 16), (".tif", 8)])
def test_transparency_is_kept_and_over_white_it_is_the_picture(tmp_path, ending, depth):
    rgba = transparent(tmp_path / "photo.png")
    photo, found = images.load_image(tmp_path / "photo.png"), images.load_extras(tmp_path / "photo.png")
    assert np.array_equal(found.alpha, rgba[..., 3].astype(np.float32) / np.float32(255))
    images.save_image(tmp_path / f"out{ending}", photo, depth=depth, extras=found)
    kept = stored(tmp_path / f"out{ending}") / (2**depth - 1)
    np.testing.assert_allclose(kept[..., 3], rgba[..., 3] / 255, atol=1e-5)
    visible = rgba[..., 3] > 0
    # The colours as they were: what the white had added is taken off again.
    error = np.abs(kept[..., :3] - rgba[..., :3] / 255).max(axis=-1)[visible]
    assert np.all(error <= 0.51 / (2**depth - 1) / (rgba[..., 3][visible] / 255) + 1e-4)
    again = images.load_image(tmp_path / f"out{ending}")
    np.testing.assert_allclose(again[visible], photo[visible], atol=0.51 / (2**depth - 1) + 1e-6)
    assert np.all(again[~visible] == 1)


def test_alpha_is_resized_to_the_picture_and_turned_with_it(tmp_path):
    half = np.zeros((40, 48, 4), np.uint8)
    half[:, 24:, 3] = 255
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(half).save(tmp_path / "photo.png", exif=exif)
    found = images.load_extras(tmp_path / "photo.png")
    assert found.alpha.shape == (48, 40)
    images.save_image(tmp_path / "out.png", noise(96, 80), extras=found)
    alpha = stored(tmp_path / "out.png")[..., 3]
    assert alpha.shape == (96, 80)
    assert np.all(alpha[:40] == 0)
    assert np.all(alpha[56:] == 255)


def test_transparency_of_every_kind_is_found(tmp_path):
    picture = Image.new("P", (40, 40), 1)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.paste(0, (0, 0, 20, 40))
    picture.save(tmp_path / "palette.png", transparency=0)
    Image.merge("LA", [Image.new("L", (40, 40)), Image.new("L", (40, 40), 51)]).save(tmp_path / "grey.png")
    deep_grey = np.full((40, 40), 7, np.uint16)
    deep_grey[:, 20:] = 9
    Image.fromarray(deep_grey).save(tmp_path / "deep.png", transparency=7)
    np.save(tmp_path / "array.npy", np.full((40, 40, 4), 0.2, np.float32))
    for name, left in (("palette.png", 0), ("grey.png", 0.2), ("deep.png", 0), ("array.npy", 0.2)):
        alpha = images.load_extras(tmp_path / name).alpha
        assert alpha.shape == (40, 40)
        assert alpha[5, 5] == pytest.approx(left)
    opaque = np.full((40, 40, 4), 255, np.uint8)
    Image.fromarray(opaque).save(tmp_path / "opaque.png")
    assert images.load_extras(tmp_path / "opaque.png").alpha is None
    assert images.load_extras(tmp_path / "palette.png", only=("profile",)).alpha is None


def test_where_there_is_no_transparency_the_picture_is_laid_over_white(tmp_path):
    transparent(tmp_path / "photo.png")
    found = images.load_extras(tmp_path / "photo.png")
    for name in ("out.jpg", "out.npy"):
        images.save_image(tmp_path / name, smooth(), extras=found)
        images.save_image(tmp_path / f"plain-{name}", smooth())
        assert (tmp_path / name).read_bytes() == (tmp_path / f"plain-{name}").read_bytes()


@pytest.mark.parametrize(("ending", "depth"), [(".png", 8), (".png", 16), (".tif", 16)])
def test_alpha_and_profile_are_the_same_in_blocks(tmp_path, monkeypatch, ending, depth):
    found = extras.Extras(profile=P3, alpha=noise()[..., 0])
    images.save_image(tmp_path / f"whole{ending}", noise(), depth=depth, extras=found)
    monkeypatch.setattr(blocks, "VALUES", 1)
    images.save_image(tmp_path / f"rows{ending}", noise(), depth=depth, extras=found)
    assert np.array_equal(stored(tmp_path / f"rows{ending}"), stored(tmp_path / f"whole{ending}"))


# EXIF and XMP

GPS = {1: "N", 2: (47.0, 30.0, 1.25), 3: "E", 4: (8.0, 1.0, 2.0)}
XMP = b"""<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description
tiff:Orientation="6" exif:PixelXDimension="4000">
<tiff:ImageLength>3000</tiff:ImageLength><xmp:Thumbnails><rdf:Alt>AAAA</rdf:Alt></xmp:Thumbnails>
<dc:title>Gr\xc3\xbc\xc3\x9fe</dc:title></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""


def exif_of_a_camera():
    exif = Image.Exif()
    exif[271], exif[272], exif[274], exif[315], exif[305] = "Maker", "Model 5", 6, "Ann", "Darkroom 9"
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {33434: 1 / 250, 33437: 2.8, 34855: 400, 36867: "2024:05:06 07:08:09", 37380: -0.5, 37500: b"secret" * 20}
        | {40961: 1, 40962: 4000, 40963: 3000, 42016: "unique", 42036: "50mm"}
    )
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(GPS)
    return exif


def camera_file(path, **options):
    Image.fromarray(images.to_uint8(smooth())).save(path, exif=exif_of_a_camera(), **options)


SOURCES = {"photo.jpg": {"xmp": XMP}, "photo.png": {}, "photo.webp": {"xmp": XMP, "lossless": True}}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("ending", "depth"), [(".jpg", 8), (".png", 8), (".png", 16), (".tif", 16)])
def test_metadata_is_kept_as_that_of_the_picture(tmp_path, source, ending, depth):
    camera_file(tmp_path / source, **SOURCES[source])
    found = images.load_extras(tmp_path / source)
    picture = images.load_image(tmp_path / source)
    assert picture.shape == (48, 40, 3)
    made = {"stylekeras": "1", "settings": {"size": 48}}
    images.save_image(tmp_path / f"out{ending}", picture, depth=depth, extras=found, recipe=made)
    again = opened(tmp_path / f"out{ending}").getexif()
    taken, place = again.get_ifd(ExifTags.IFD.Exif), again.get_ifd(ExifTags.IFD.GPSInfo)
    assert (again[271], again[272], again[315]) == ("Maker", "Model 5", "Ann")
    assert again.get(274, 1) == 1
    assert 305 not in again
    assert taken[33434] == pytest.approx(1 / 250)
    assert taken[37380] == -0.5
    assert (taken[34855], taken[36867], taken[42036]) == (400, "2024:05:06 07:08:09", "50mm")
    assert (taken[40961], taken[40962], taken[40963]) == (1, 40, 48)
    assert not {37500, 42016} & set(taken)
    assert place[2] == GPS[2]
    assert place[1] == "N"
    assert not again.get_ifd(ExifTags.IFD.IFD1)
    data = (tmp_path / f"out{ending}").read_bytes()
    assert b"secret" not in data
    assert recipe.read(tmp_path / f"out{ending}")["settings"] == {"size": 48}
    assert np.array_equal(images.load_image(tmp_path / f"out{ending}").shape, picture.shape)
    if "xmp" in SOURCES[source]:
        xmp = opened(tmp_path / f"out{ending}").info["xmp"]
        assert b'tiff:Orientation="1" exif:PixelXDimension="40"' in xmp
        assert b"<tiff:ImageLength>48<" in xmp
        assert b"AAAA" not in xmp
        assert "Grüße".encode() in xmp
    if ending == ".tif":
        with tifffile.TiffFile(tmp_path / "out.tif") as read:
            tags = read.pages[0].tags
            assert tags["Make"].value == "Maker"
            assert tags["ExifTag"].value["ISOSpeedRatings"] == 400
            assert tags["GPSTag"].value["GPSLatitudeRef"] == "N"
    # And once more, from what we wrote.
    assert images.load_extras(tmp_path / f"out{ending}").exif["gps"] == found.exif["gps"]


def test_without_being_asked_nothing_is_kept(tmp_path):
    camera_file(tmp_path / "photo.jpg", xmp=XMP)
    for ending in PICTURES:
        images.save_image(tmp_path / f"out{ending}", images.load_image(tmp_path / "photo.jpg"))
        assert b"Maker" not in (tmp_path / f"out{ending}").read_bytes()
    found = images.load_extras(tmp_path / "photo.jpg", only=("profile", "alpha"))
    assert (found.exif, found.xmp) == (None, None)


def test_a_big_tiff_holds_metadata_too(tmp_path, monkeypatch):
    camera_file(tmp_path / "photo.jpg", xmp=XMP)
    found = images.load_extras(tmp_path / "photo.jpg")
    monkeypatch.setattr(frames, "MAX_CLASSIC_TIFF", 0)
    images.save_image(tmp_path / "out.tif", smooth(), extras=found)
    assert (tmp_path / "out.tif").read_bytes()[:4] == b"II+\0"
    with tifffile.TiffFile(tmp_path / "out.tif") as read:
        assert read.pages[0].tags["ExifTag"].value["ISOSpeedRatings"] == 400
        assert read.pages[0].tags["GPSTag"].value["GPSLatitudeRef"] == "N"
    assert images.load_extras(tmp_path / "out.tif").exif["gps"] == found.exif["gps"]


def test_both_byte_orders_are_the_same_metadata(tmp_path):
    blocks_of = {}
    for order in "<>":
        exif = exif_of_a_camera()
        exif.endian = order
        Image.fromarray(images.to_uint8(smooth())).save(tmp_path / "photo.jpg", exif=exif)
        assert (b"MM\0*" in (tmp_path / "photo.jpg").read_bytes()) == (order == ">")
        blocks_of[order] = images.load_extras(tmp_path / "photo.jpg").exif
    assert blocks_of["<"] == blocks_of[">"]


def hostile(kind):
    entry = struct.pack("<HHII", 271, 2, 0xFFFFFFFF, 8)  # a text of 4 GB
    return {
        "empty": b"",
        "no header": b"garbage" * 10,
        "nowhere": b"II*\0" + struct.pack("<I", 0xFFFFFFF0),
        "65535 entries": b"II*\0\x08\0\0\0\xff\xff" + entry * 4000,
        "a text of 4 GB": b"II*\0\x08\0\0\0\x01\0" + entry + bytes(4),
        "points to itself": b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 34665, 4, 1, 8) + bytes(4),
        "many large texts": b"II*\0\x08\0\0\0\x03\0"
        + b"".join(struct.pack("<HHII", tag, 2, 30000, 8) for tag in (270, 271, 272))
        + bytes(60000),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["empty", "no header", "nowhere", "65535 entries", "a text of 4 GB", "points to itself", "many large texts"],
)
def test_hostile_exif_is_bounded_and_no_error(tmp_path, caplog, kind):
    Image.fromarray(images.to_uint8(smooth())).save(tmp_path / "photo.png", exif=b"Exif\0\0" + hostile(kind))
    found = images.load_extras(tmp_path / "photo.png")
    size = sum(len(field.data) for fields in (found.exif or {}).values() for field in fields.values())
    assert size <= extras.MAX_METADATA
    if kind in ("no header", "nowhere", "65535 entries"):
        assert "EXIF data cannot be read and is not kept" in caplog.text
    if kind == "many large texts":
        assert "EXIF data is not kept: " in caplog.text
    for ending in PICTURES:
        images.save_image(tmp_path / f"out{ending}", smooth(), extras=found)


def test_exif_with_noise_in_it_is_bounded_and_no_error(tmp_path):
    camera_file(tmp_path / "photo.jpg")
    whole = opened(tmp_path / "photo.jpg").info["exif"]
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        for position in rng.integers(6, len(whole), 5):
            damaged[position] = rng.integers(0, 256)
        picture = Image.new("RGB", (40, 40))
        picture.format, picture.info["exif"] = "PNG", bytes(damaged)
        found = extras.exif_of(picture, io.BytesIO(), "photo")
        if found is not None:
            block = extras.exif_block(found, 40, 40, srgb=True)
            assert len(block) < 65_000
            picture.info["exif"] = block
            assert extras.exif_of(picture, io.BytesIO(), "photo") is not None


def test_xmp_too_large_is_left_out_and_said_so(tmp_path, caplog):
    Image.fromarray(images.to_uint8(smooth())).save(tmp_path / "photo.webp", xmp=XMP + b" " * 70_000)
    assert images.load_extras(tmp_path / "photo.webp").xmp is None
    assert "XMP data is not kept" in caplog.text


def test_an_array_has_no_room_for_them(tmp_path):
    for found in (extras.Extras(profile=P3), extras.Extras(xmp=XMP), extras.Extras(exif={"about": {}})):
        with pytest.raises(RequestError, match=r"\.npy has no room"):
            images.save_image(tmp_path / "out.npy", noise(), extras=found)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["missing.png", "text.png"])
def test_extras_of_what_is_no_picture(tmp_path, name):
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ImageError, match=r"content .*: (no such file|not a picture)"):
        images.load_extras(tmp_path / name, name="content")
