"""The exported files stand alone: their outputs are the engine's, for any picture."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from fakes import scene
from PIL import Image
from reference import numpy_ops

import stylekeras as sk
from stylekeras import export, objective, style_losses, trees
from stylekeras.settings import CHOICES

ROOT = Path(__file__).resolve().parents[1]
LAYERS = {"content_layers": {"block2_conv1": 1.0}, "style_layers": {"block1_conv1": 2.0, "block2_conv1": 0.5}}


def _settings(**changes):
    return sk.Settings(backbone="vgg16", weights="random", engine="onnxruntime", **LAYERS, **changes)


@pytest.fixture
def files(tmp_path):
    """Both files by the command line's own functions, and where they are."""
    chosen = ["--backbone", "vgg16", "--weights", "random", "--content-layers", "block2_conv1", "--style-layers"]

    def export_both(run, *options):
        for what in ("taps", "step"):
            given = options if what == "step" else ()
            layers = "block1_conv1=2,block2_conv1=0.5"
            code, _, err = run("export", what, "-o", tmp_path / f"{what}.onnx", *chosen, layers, *given)
            assert code == 0, err
        return tmp_path / "taps.onnx", tmp_path / "step.onnx"

    return export_both


def _targets(features, style_loss, name):
    """A style image's targets as the step's inputs: by the example where it has them, or by the library."""
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        from onnx_style_transfer import style_target
    finally:
        sys.path.pop(0)
    if style_loss in ("gram", "wasserstein"):
        found = {tap: style_target(features[tap], style_loss) for tap in LAYERS["style_layers"]}
        targets = {tap: {"target": target, "scale": scale} for tap, (target, scale) in found.items()}
    else:
        module, taps = style_losses.load(style_loss), LAYERS["style_layers"]
        frames = objective.style_frames(module, objective.style_sums(numpy_ops, module, features, taps))
        sums = objective.style_sums(numpy_ops, module, features, taps, frames=frames)
        targets = objective.style_target(module, sums, frames, relative=True)
    return trees.leaves(targets, name)


@pytest.mark.parametrize("style_loss", CHOICES["style_loss"])
def test_the_files_compute_what_the_engine_does(run, files, rng, style_loss):
    """Two styles, two sizes: taps, then targets by hand, then the step, in ONNX Runtime without stylekeras."""
    taps_file, step_file = files(run, "--style-loss", style_loss, "--styles", "2", "--strength", "0.95")
    for path in (taps_file, step_file):
        onnx.checker.check_model(str(path), full_check=True)
    taps, step = (onnxruntime.InferenceSession(path) for path in (taps_file, step_file))
    about = step.get_modelmeta().custom_metadata_map
    weights = {name: np.float32(value) for name, value in json.loads(about["weights"]).items()}
    settings = _settings(style_loss=style_loss, strength=0.95)
    names = [output.name for output in taps.get_outputs()]
    for height, width in ((40, 36), (37, 51)):
        image, photo = scene(rng, height, width), scene(rng, height, width)
        paintings = [scene(rng, max(height, width) - 4, max(height, width)) for _ in range(2)]
        feeds = {"image": image[None], **weights}
        content = dict(zip(names, taps.run(None, {"image": photo[None]}), strict=True))["block2_conv1"]
        feeds["targets/content/block2_conv1/features"] = content
        feeds["targets/content/block2_conv1/scale"] = np.mean(content**2)
        for i, painting in enumerate(paintings):
            features = dict(zip(names, taps.run(None, {"image": painting[None]}), strict=True))
            feeds |= _targets(features, style_loss, f"targets/styles/{i}")
        outputs = [output.name for output in step.get_outputs()]
        given = {name: np.asarray(value, np.float32) for name, value in feeds.items()}
        found = dict(zip(outputs, step.run(None, given), strict=True))
        wanted = sk.loss_and_gradient(image, photo, [sk.Style(painting) for painting in paintings], settings)
        assert found["loss"] == pytest.approx(wanted.loss, rel=1e-5)
        assert {name: float(found[f"terms/{name}"]) for name in wanted.terms} == pytest.approx(wanted.terms, rel=1e-4)
        difference = found["gradient/image"][0] - wanted.gradient
        assert np.linalg.norm(difference) < 1e-4 * np.linalg.norm(wanted.gradient)


def test_a_step_with_masks(run, files, rng):
    """Masks of ones leave everything as it is; the gradient stays where a mask is not 0."""
    _, plain = files(run, "--style-loss", "gram", "--content-weight", "0", "--tv-weight", "0")
    plain = plain.rename(plain.with_name("plain.onnx"))
    (plain.parent / "taps.onnx").unlink()
    _, masked = files(run, "--style-loss", "gram", "--content-weight", "0", "--tv-weight", "0", "--masks")
    sessions = [onnxruntime.InferenceSession(path) for path in (plain, masked)]
    image = scene(rng, 40, 36)[None]
    feeds = {"image": image}
    for name, value in json.loads(sessions[0].get_modelmeta().custom_metadata_map["weights"]).items():
        feeds[name] = np.float32(value)
    shapes = {"block1_conv1": (64, 40, 36), "block2_conv1": (128, 20, 18)}
    for tap, (channels, *_) in shapes.items():
        gram = np.cov(rng.normal(size=(channels, 300))).astype(np.float32)
        feeds |= {f"targets/styles/0/{tap}/target/gram": gram, f"targets/styles/0/{tap}/scale": np.float32(1)}
    feeds["targets/content/block2_conv1/features"] = np.zeros((1, 20, 18, 128), np.float32)
    feeds["targets/content/block2_conv1/scale"] = np.float32(1)
    feeds = {name: np.asarray(value) for name, value in feeds.items()}
    ones = {f"targets/styles/0/{tap}/mask": np.ones((1, *shape[1:], 1), np.float32) for tap, shape in shapes.items()}
    wanted, found = sessions[0].run(None, feeds), sessions[1].run(None, {**feeds, **ones})
    for before, after in zip(wanted, found, strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-6)
    left = {name: mask * (np.arange(mask.shape[2]) < mask.shape[2] // 2)[:, None] for name, mask in ones.items()}
    left = {name: mask.astype(np.float32) for name, mask in left.items()}
    (gradient,) = sessions[1].run(["gradient/image"], {**feeds, **left})
    assert np.abs(gradient[:, :, :18]).max() > 0
    assert np.abs(gradient[:, :, 18 + 5 :]).max() == 0, "five pixels are as far as block2_conv1 sees"


def test_a_step_with_own_layers(run, files):
    """Each style has inputs for its own layers only, and weights of its own."""
    _, path = files(run, "--styles", "2", "--layers-of", "2:block1_conv2=3")
    session = onnxruntime.InferenceSession(path)
    weights = json.loads(session.get_modelmeta().custom_metadata_map["weights"])
    found = {name: value for name, value in weights.items() if "style_layers" in name}
    first = {"weights/style_layers/0/block1_conv1": 2.0, "weights/style_layers/0/block2_conv1": 0.5}
    assert found == {**first, "weights/style_layers/1/block1_conv2": 3.0}
    taken = {
        tuple(item.name.split("/")[2:4]) for item in session.get_inputs() if item.name.startswith("targets/styles")
    }
    assert taken == {("0", "block1_conv1"), ("0", "block2_conv1"), ("1", "block1_conv2")}
    assert set(weights) <= {item.name for item in session.get_inputs()}
    with pytest.raises(sk.SettingsError, match="layers of 1 styles, and there are 2"):
        export.step(_settings(), styles=2, layers=[None])


def test_the_metadata_says_what_it_is():
    settings = _settings(content_weight=7.0)
    for model in (export.taps(settings), export.step(settings)):
        found = {item.key: item.value for item in model.metadata_props}
        assert found["stylekeras"] == sk.__version__
        assert found["backbone"] == "vgg16"
        assert len(found["weights_sha256"]) == 64
        assert json.loads(found["settings"])["style_layers"] == LAYERS["style_layers"]
    assert json.loads(found["weights"])["weights/content"] == 7.0
    inputs = {
        item.name: [dim.dim_value or dim.dim_param for dim in item.type.tensor_type.shape.dim]
        for item in model.graph.input
    }
    assert inputs["image"] == [1, "height", "width", 3]
    assert set(json.loads(found["weights"])) <= set(inputs)


def test_the_example_makes_a_picture(run, files, rng, tmp_path):
    example = ROOT / "examples" / "onnx_style_transfer.py"
    assert len(example.read_text("utf-8").splitlines()) < 80
    taps, step = files(run)
    for name in ("photo", "painting"):
        Image.fromarray(np.uint8(255 * scene(rng, 60, 70))).save(tmp_path / f"{name}.png")
    command = [sys.executable, str(example), taps, step, tmp_path / "photo.png", tmp_path / "painting.png"]
    done = subprocess.run(
        [*command, tmp_path / "out.png", "--size", "72", "--steps", "15"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1].startswith("72x62: loss ")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (72, 62)
        assert np.asarray(picture).std() > 10


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["step", "-o", "step.onx"], "unknown ending '.onx'; use one of .onnx"),
        (["step", "-o", "old.onnx"], "it exists"),
        (["step", "-o", "new.onnx", "--style-layers", "blok1_conv1"], "did you mean 'block1_conv1'"),
        (["taps", "-o", "new.onnx", "--weights", "no.npz"], "no such weights file"),
        (["step", "-o", "new.onnx", "--styles", "0"], "greater than or equal to 1"),
        (["taps", "-o", "new.onnx", "--style-loss", "gram"], "No such option"),
    ],
)
def test_a_wrong_request_writes_nothing(run, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.onnx").write_bytes(b"old")
    code, out, err = run("export", *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert [path.name for path in tmp_path.iterdir()] == ["old.onnx"]
    assert (tmp_path / "old.onnx").read_bytes() == b"old"


def test_a_network_is_not_overwritten_by_its_export(run, tmp_path):
    path = tmp_path / "network.onnx"
    path.write_bytes(b"a network")
    code, _, err = run("export", "taps", "--backbone", path, "-o", path, "--overwrite")
    assert code == 2
    assert "one of the inputs" in err
    assert path.read_bytes() == b"a network"


def test_a_full_disk_is_an_error(run, tmp_path, monkeypatch):
    from stylekeras import files

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write", full)
    options = ["--weights", "random", "--content-layers", "block1_conv1", "--style-layers", "block1_conv1"]
    code, _, err = run("export", "taps", "-o", tmp_path / "taps.onnx", *options)
    assert code == 1
    assert "No space left" in err
