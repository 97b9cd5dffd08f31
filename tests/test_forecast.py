"""What a run will need, before it runs."""

import dataclasses
import json

import numpy as np
import pytest
from fakes import scene

import stylekeras as sk
from stylekeras import forecast, machines
from stylekeras.forecast import Kind, Speed
from stylekeras.graphs import store

_LAYERS = {"content_layers": {"block2_conv2": 1}, "style_layers": {"block1_conv1": 1, "block2_conv1": 2}}
CHOSEN = sk.Settings(
    backbone="vgg16", weights="random", engine="onnxruntime", size=80, min_size=40, steps=(7, 5), **_LAYERS
)


@pytest.fixture
def pictures(rng):
    return scene(rng, 64, 80), scene(rng, 50, 50)


@pytest.fixture
def speed(monkeypatch):
    found = Speed(step=0.5, pixel=1e-4, scale=2.0)
    monkeypatch.setattr(forecast, "_speed", lambda *_, **__: found)
    return found


def test_a_plan_is_what_the_run_does(pictures, speed):
    found = sk.plan(*pictures, CHOSEN)
    run = list(sk.iterate(*pictures, dataclasses.replace(CHOSEN, steps=(1,))))
    assert [scale.size for scale in found.scales] == [step.size for step in run]
    assert [scale.steps for scale in found.scales] == [7, 5, 5]
    assert found.provenance["engine"] == "onnxruntime"
    # The picture has a margin of 8 pixels on every side.
    last = found.scales[-1]
    assert last.seconds_per_step == pytest.approx(0.5 + 1e-4 * 80 * 96)
    assert found.seconds == pytest.approx(sum(s.steps * s.seconds_per_step for s in found.scales) + 3 * 2.0)
    assert found.memory == last.memory > found.scales[0].memory
    assert found.budget > found.memory


def test_tiles_take_less_memory_and_more_time(pictures, speed):
    whole = sk.plan(*pictures, CHOSEN).scales[-1]
    tiled = sk.plan(*pictures, dataclasses.replace(CHOSEN, tile=32)).scales[-1]
    assert (whole.tile, whole.tiles) == (None, 1)
    assert (tiled.tile, tiled.tiles) == (32, 6)
    assert tiled.seconds_per_step > whole.seconds_per_step
    run = list(sk.iterate(*pictures, dataclasses.replace(CHOSEN, tile=32, steps=(1,))))
    assert run[-1].provenance["tiles"] == 6


def test_a_plan_in_words_and_as_json(pictures, speed):
    found = sk.plan(*pictures, dataclasses.replace(CHOSEN, tile=32))
    assert str(found).startswith("80x64 in 3 scales, at most 17 steps, 6 tiles of 32 px, about ")
    assert json.loads(json.dumps(found.to_dict()))["scales"][-1]["size"] == [64, 80]
    assert [forecast.duration(seconds) for seconds in (0.2, 61, 200, 9000)] == ["1 s", "61 s", "3 min", "2.5 h"]


def test_what_does_not_fit_is_refused(pictures, speed):
    with pytest.raises(sk.SettingsError, match="of memory at least, and there are 3MB"):
        sk.plan(*pictures, dataclasses.replace(CHOSEN, memory=3_000_000))


def test_a_calibration_is_made_once_and_kept(pictures, monkeypatch, tmp_path):
    monkeypatch.setenv("STYLEKERAS_CACHE", str(tmp_path))
    assert sk.plan(*pictures, CHOSEN, calibrate=False).seconds is None
    calls = []

    def calibrate(settings, kinds):
        calls.append(kinds)
        return Speed(0.25, 1e-5, 1.0)

    monkeypatch.setattr(forecast, "_calibrate", calibrate)
    first = sk.plan(*pictures, CHOSEN)
    assert sk.plan(*pictures, CHOSEN, calibrate=False).seconds == first.seconds
    assert len(calls) == 1
    (kept,) = tmp_path.glob("*.speed")
    for damaged in ("", "[1, 2]", '{"step": 1}', '{"step": "x", "pixel": 1.0, "scale": 1.0}', "x" * 20_000):
        kept.write_text(damaged)
        assert sk.plan(*pictures, CHOSEN).seconds == first.seconds
    assert len(calls) == 6
    sk.plan(*pictures, dataclasses.replace(CHOSEN, style_loss="gram"))
    assert len(calls) == 7
    photo, painting = pictures
    masks = np.linspace([0, 1], [1, 0], 64 * 80, axis=1, dtype=np.float32).reshape(2, 64, 80)
    styles = [
        sk.Style(painting, mask=masks[0]),
        sk.Style(painting[::-1], mask=masks[1], layers={"block2_conv1": 1}),
    ]
    for _ in range(2):
        sk.plan(photo, styles, CHOSEN)
    assert [tuple(kind) for kind in calls.pop()] == [(True, None), (True, {"block2_conv1": 1})]
    assert len(calls) == 7


@pytest.mark.parametrize("kinds", [[Kind()], [Kind(True, {"block1_conv2": 1.0}), Kind()]], ids=["one", "two"])
def test_a_calibration_times_real_steps(monkeypatch, kinds):
    monkeypatch.setattr(forecast, "_SIDES", (40, 72))
    found = forecast._calibrate(CHOSEN, kinds)
    assert found.pixel > 0 or found.step > 0
    assert all(np.isfinite(value) and value >= 0 for value in found)


def test_a_cache_that_cannot_be_written(pictures, monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("STYLEKERAS_CACHE", str(blocked))
    assert store.folder() == blocked
    monkeypatch.setattr(forecast, "_calibrate", lambda *_: Speed(1.0, 0.0, 0.0))
    assert sk.plan(*pictures, CHOSEN).seconds == 17


def test_the_command(run, monkeypatch, tmp_path, pictures, speed):
    paths = []
    for name, picture in zip(("photo.png", "painting.png"), pictures, strict=True):
        sk.save_image(tmp_path / name, picture)
        paths.append(tmp_path / name)
    options = ["--backbone", "vgg16", "--weights", "random", "--engine", "onnxruntime", "--size", 80, "--min-size", 40]
    options += ["--content-layers", "block2_conv2", "--style-layers", "block1_conv1,block2_conv1", "--steps", "7,5"]
    code, out, err = run("plan", *paths, *options, "--tile", 32)
    assert code == 0
    assert "6 of 32 px" in out
    assert "80x64 in 3 scales, at most 17 steps" in out
    assert "onnxruntime" in err
    code, out, _ = run("plan", *paths, *options, "--json")
    (event,) = map(json.loads, out.splitlines())
    assert (code, event["event"], len(event["scales"])) == (0, "plan", 3)
    assert event["seconds"] > 0
    code, out, err = run("plan", *paths, *options, "--memory", "2MB")
    assert (code, out) == (2, "")
    assert "of memory at least" in err
    assert run("plan", *paths, "--memory", "lots")[0] == 2
    assert machines._built.cache_info().currsize > 0
