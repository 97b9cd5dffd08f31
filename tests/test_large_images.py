"""Pictures a few rows at a time: the values of the whole one, in less memory; BigTIFF; bombs told from large files."""

import logging
import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from stylekeras import blocks, bombs, color, deep, frames, images
from stylekeras.errors import ImageError, OutputError


def noise(height=40, width=48, channels=3, seed=0):
    return np.random.default_rng(seed).random((height, width, channels), np.float32)


@pytest.fixture
def one_row_at_a_time(monkeypatch):
    monkeypatch.setattr(blocks, "VALUES", 1)


@pytest.fixture
def big_tiff(monkeypatch):
    """Every TIFF is taken for too large for 32 bits; strips of a few rows."""
    monkeypatch.setattr(frames, "MAX_CLASSIC_TIFF", 0)
    monkeypatch.setattr(frames, "STRIP", 1000)


@pytest.mark.parametrize("shape", [(7, 5, 3), (1, 1, 1), (600, 300, 3), (2, 1 << 20), (5, 0, 3)])
def test_blocks_cover_all_rows_once_in_order(shape):
    covered = [row for rows in blocks.rows(shape) for row in range(rows.start, rows.stop)]
    assert covered == list(range(shape[0]))
    for rows in blocks.rows(shape):
        assert (rows.stop - rows.start) * int(np.prod(shape[1:])) <= blocks.VALUES or rows.stop - rows.start == 1


FILES = {
    "grey.png": lambda path: Image.fromarray((noise()[..., 0] * 255).astype(np.uint8)).save(path),
    "deep.png": lambda path: Image.fromarray((noise()[..., 0] * 65535).astype(np.uint16)).save(path),
    "rgb.jpg": lambda path: Image.fromarray((noise() * 255).astype(np.uint8)).save(path),
    "rgba.png": lambda path: Image.fromarray((noise(channels=4) * 255).astype(np.uint8)).save(path),
    "palette.png": lambda path: (
        Image.fromarray((noise() * 255).astype(np.uint8)).quantize(16).save(path, transparency=3)
    ),
    "cmyk.tif": lambda path: Image.fromarray((noise(channels=4) * 255).astype(np.uint8), "CMYK").save(path),
    "profile.png": lambda path: Image.fromarray((noise() * 255).astype(np.uint8)).save(
        path, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    ),
    "ours.tif": lambda path: images.save_image(path, noise()),
    "ours.npy": lambda path: images.save_image(path, noise()),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_the_same_picture_in_blocks(tmp_path, monkeypatch, name):
    FILES[name](tmp_path / name)
    whole = images.load_image(tmp_path / name)
    monkeypatch.setattr(blocks, "VALUES", 1)
    assert np.array_equal(images.load_image(tmp_path / name), whole)
    assert whole.std() > 0.05


@pytest.mark.parametrize("ending", images.ENDINGS)
def test_a_written_file_is_the_same_in_blocks(tmp_path, monkeypatch, ending):
    images.save_image(tmp_path / f"whole{ending}", noise(50, 41) * 1.2 - 0.1)
    monkeypatch.setattr(blocks, "VALUES", 1)
    images.save_image(tmp_path / f"rows{ending}", noise(50, 41) * 1.2 - 0.1)
    assert (tmp_path / f"rows{ending}").read_bytes() == (tmp_path / f"whole{ending}").read_bytes()


@pytest.mark.parametrize("size", [(40, 20), (17, 100), (97, 13), (80, 96), (1, 1)])
@pytest.mark.parametrize("linear", [True, False])
def test_resizing_is_the_same_in_blocks_and_as_pillow_resizes_the_whole(monkeypatch, size, linear):
    image = noise()
    light = color.srgb_to_linear(image) if linear else image
    planes = [
        np.asarray(Image.fromarray(light[..., channel]).resize(size[::-1], Image.Resampling.LANCZOS))
        for channel in range(3)
    ]
    wanted = np.stack(planes, axis=-1)
    wanted = np.clip(color.linear_to_srgb(wanted) if linear else wanted, 0, 1)
    whole = images.resize(image, *size, linear=linear)
    np.testing.assert_allclose(whole, wanted, atol=1e-6)  # Pillow may resize the columns first
    monkeypatch.setattr(blocks, "VALUES", 1)
    assert np.array_equal(images.resize(image, *size, linear=linear), whole)


def test_colours_are_the_same_in_blocks(monkeypatch):
    image, other = noise(), noise(seed=1) ** 2
    matched, kept = color.match(image, other), color.luminance(image, other)
    monkeypatch.setattr(blocks, "VALUES", 1)
    np.testing.assert_allclose(color.match(image, other), matched, atol=2e-7)  # sums in another order
    assert np.array_equal(color.luminance(image, other), kept)


def peak(action):
    """Bytes of NumPy's arrays that were alive at once, besides those from before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = action()
        return tracemalloc.get_traced_memory()[1] - before, result
    finally:
        tracemalloc.stop()


def test_what_is_computed_on_the_way_is_never_as_large_as_the_picture(tmp_path):
    image = noise(1500, 1600)
    channel, few = image.nbytes / 3, 12e6  # a block is 1 MB
    assert peak(lambda: images.save_image(tmp_path / "out.tif", image))[0] < few
    assert peak(lambda: images.save_image(tmp_path / "out.npy", image))[0] < few
    used, half = peak(lambda: images.resize(image, 750, 800))
    assert used < half.nbytes + channel + few
    for name in ("out.tif", "out.npy"):
        assert peak(lambda name=name: images.load_image(tmp_path / name))[0] < image.nbytes + few
    other = noise(1500, 1600, seed=1)
    assert peak(lambda: color.match(image, other))[0] < image.nbytes + few
    assert peak(lambda: color.luminance(image, other))[0] < image.nbytes + few


# TIFF


@pytest.mark.parametrize("size", [(40, 48), (1, 1), (333, 35)])
@pytest.mark.parametrize("recipe", [None, {"stylekeras": "1", "settings": {"size": 512}}])
def test_a_big_tiff_is_read_by_others_and_by_us(tmp_path, big_tiff, size, recipe):
    path, image = tmp_path / "out.tif", noise(*size)
    images.save_image(path, image, recipe=recipe)
    assert path.read_bytes()[:4] == b"II+\0"
    wanted = np.rint(image.astype(np.float64) * 65535)
    with tifffile.TiffFile(path) as opened:
        assert opened.is_bigtiff
        page = opened.pages[0]
        np.testing.assert_allclose(page.asarray(), wanted, atol=1)
        assert page.photometric == tifffile.PHOTOMETRIC.RGB
        assert len(page.dataoffsets) == -(-size[0] // page.rowsperstrip)
        assert sum(page.databytecounts) == image.size * 2
        assert bool(page.description) == (recipe is not None)
    with Image.open(path) as opened:
        assert np.array_equal(np.asarray(opened), tifffile.imread(path) >> 8)
    np.testing.assert_allclose(images.load_image(path, min_side=1), image, atol=1.01 / 65535)


def test_the_recipe_of_a_big_tiff_is_found(tmp_path, big_tiff):
    from stylekeras import recipe

    images.save_image(tmp_path / "out.tif", noise(), recipe={"stylekeras": "1", "settings": {"size": 512}})
    assert recipe.read(tmp_path / "out.tif")["settings"] == {"size": 512}


def test_a_classic_tiff_has_the_offsets_it_can_hold(monkeypatch):
    """What stands before and behind 4 GB of pixels, without the pixels."""
    height = 2**32 // (6 * 1000) + 1
    for rows, large in ((height - 100, False), (height, True)):
        before, after = frames.tiff(rows, 1000, 3, 16, {270: frames.ascii_field(b"a recipe")}, {})
        assert before[:4] == (b"II+\0" if large else b"II*\0")
        assert len(before) + rows * 6000 + len(after) > (2**32 if large else 0)
        if not large:
            assert len(before) + rows * 6000 + len(after) <= frames.MAX_CLASSIC_TIFF


@pytest.mark.slow
def test_a_tiff_above_4_gb_is_written_and_read(tmp_path):
    row = noise(1, 27_000)
    image = np.broadcast_to(row, (27_000, 27_000, 3))
    path = tmp_path / "out.tif"
    used, _ = peak(lambda: images.save_image(path, image, recipe={"stylekeras": "1", "settings": {}}))
    assert used < 30e6
    assert path.stat().st_size > 2**32
    with tifffile.TiffFile(path) as opened:
        page = opened.pages[0]
        last = np.memmap(path, "<u2", "r", offset=page.dataoffsets[-1], shape=(page.databytecounts[-1] // 2,))
        np.testing.assert_allclose(last[-27_000 * 3 :], row.ravel() * 65535, atol=1)
    with path.open("rb") as stream, bombs.open_image(stream, ["TIFF"]) as opened:
        assert opened.size == (27_000, 27_000)
    path.unlink()


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bits_of_rgb_are_kept_where_they_lie_plainly(tmp_path, caplog, order):
    caplog.set_level(logging.INFO, "stylekeras")
    values = (noise() * 65535).astype(np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", values, photometric="rgb", byteorder=order, rowsperstrip=7)
    read = images.load_image(tmp_path / "deep.tif")
    assert np.array_equal(read, values.astype(np.float32) / np.float32(65535))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("options", "turned"),
    [
        ({"compression": "zlib"}, False),
        ({"extratags": [(274, 3, 1, 3, True)]}, True),  # orientation: upside down
        ({"predictor": True, "compression": "lzw", "tile": (16, 32)}, False),
    ],
)
def test_other_16_bit_tiffs_are_read_in_full_or_in_8_and_said_so(tmp_path, monkeypatch, caplog, options, turned):
    values = (noise() * 65535).astype(np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", values, photometric="rgb", **options)
    wanted = values[::-1, ::-1] if turned else values
    np.testing.assert_allclose(images.load_image(tmp_path / "deep.tif"), wanted / 65535, atol=1e-6)
    assert caplog.text == ""
    monkeypatch.setattr(deep, "here", lambda: False)
    np.testing.assert_allclose(images.load_image(tmp_path / "deep.tif"), wanted / 65535, atol=1.01 / 255)
    assert "16 bit per channel, of which Pillow reads 8" in caplog.text


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_16_bits_in_planes_need_the_extra(tmp_path, monkeypatch, compression):
    planes = (np.moveaxis(noise(), -1, 0) * 65535).astype(np.uint16)
    tifffile.imwrite(
        tmp_path / "planes.tif", planes, photometric="rgb", planarconfig="separate", compression=compression
    )
    read = images.load_image(tmp_path / "planes.tif")
    np.testing.assert_allclose(read, np.moveaxis(planes, 0, -1) / 65535, atol=1e-6)
    monkeypatch.setattr(deep, "here", lambda: False)
    with pytest.raises(ImageError, match="channels in planes; save it with them interleaved, or: pip install"):
        images.load_image(tmp_path / "planes.tif")


def test_a_16_bit_tiff_cut_short_is_refused(tmp_path):
    images.save_image(tmp_path / "whole.tif", noise())
    tifffile.imwrite(tmp_path / "short.tif", (noise() * 65535).astype(np.uint16), photometric="rgb")
    data = (tmp_path / "short.tif").read_bytes()
    (tmp_path / "short.tif").write_bytes(data[:-100])
    with pytest.raises(ImageError, match=r"short\.tif: "):
        images.load_image(tmp_path / "short.tif")


# Large files and bombs


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(bombs, "MAX_PIXELS", 1000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)


def test_a_file_that_is_itself_large_is_no_bomb(tmp_path, small_limit):
    Image.fromarray((noise() * 255).astype(np.uint8)).save(tmp_path / "large.png")
    assert images.load_image(tmp_path / "large.png").shape == (40, 48, 3)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_one_that_is_not_is_refused(tmp_path, small_limit):
    Image.new("RGB", (480, 400)).save(tmp_path / "bomb.png")
    size = (tmp_path / "bomb.png").stat().st_size
    most = max(1000, bombs.PIXELS_PER_BYTE * size)
    assert most < 480 * 400
    with pytest.raises(ImageError, match=f"more than {most} pixels, too many for a file of its size"):
        images.load_image(tmp_path / "bomb.png")


def test_a_program_that_set_pillows_limit_keeps_it(tmp_path, monkeypatch):
    Image.fromarray((noise() * 255).astype(np.uint8)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    with pytest.raises(ImageError, match="more than 1500 pixels"):
        images.load_image(tmp_path / "large.png")
    assert Image.MAX_IMAGE_PIXELS == 1500


def test_a_jpeg_too_long_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(OutputError, match=r"a side of a JPEG has at most 65500 px; use \.png or \.tif"):
        images.save_image(tmp_path / "out.jpg", np.zeros((1, 65501, 3), np.float32))
    assert list(tmp_path.iterdir()) == []
