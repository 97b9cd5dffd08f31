"""Memory: what there is, and what a picture is made to fit into."""

import re
import weakref

import numpy as np
import pytest
from fakes import scene

import stylekeras as sk
from stylekeras import backbones, engines, lazy, machines, memory
from stylekeras import layout as layouts
from stylekeras.host import Host, HostOnDisk
from stylekeras.layout import Footprint, Layout, Need
from stylekeras.optimizers import lbfgs

_TAPS = ["block1_conv1", "block4_conv2", "block5_conv1"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("8GB", 8_000_000_000), ("1.5 GiB", 3 << 29), ("900m", 900_000_000), ("2000000", 2_000_000), (5e6, 5_000_000)],
)
def test_a_budget_as_text(given, wanted):
    assert memory.parse(given) == wanted
    assert sk.Settings(memory=given).memory == wanted


@pytest.mark.parametrize("given", ["8XB", "", "GB", "-4GB", 0, -1, "1kB", True, float("nan"), float("inf"), [8]])
def test_a_budget_that_is_none(given):
    with pytest.raises(sk.SettingsError, match="memory="):
        sk.Settings(memory=given)


def test_no_budget():
    assert sk.Settings().memory is None
    assert sk.Settings(memory="none").memory is None


def test_text_is_read_back():
    assert [memory.text(size) for size in (2.34e9, 5e6)] == ["2.3GB", "5MB"]
    assert memory.parse(memory.text(2.3e9)) == 2_300_000_000


def test_what_this_process_has_grows():
    before = memory.resident()
    held = np.ones(20_000_000)
    assert memory.resident() - before > 0.9 * held.nbytes
    assert memory.budget() > memory.resident()


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_s_limit(tmp_path, monkeypatch, version):
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:   8000000 kB\n")
    (proc / "self/statm").write_text("1000 500 0 0 0 0 0\n")
    if version == 1:
        (proc / "self/cgroup").write_text("5:cpu:/other\n9:memory:/outer/inner\n0::/\n")
        folder, names = groups / "memory/outer", ("memory.limit_in_bytes", "memory.usage_in_bytes")
    else:
        (proc / "self/cgroup").write_text("0::/outer/inner\n")
        folder, names = groups / "outer", ("memory.max", "memory.current")
    monkeypatch.setattr(memory, "_PROC", proc)
    monkeypatch.setattr(memory, "_CGROUPS", groups)
    assert memory._free_in_machine() == 8_000_000 * 1024
    assert memory._free_in_cgroup() is None
    (folder / "inner").mkdir(parents=True)
    # The inner group has no limit of its own, the outer one has.
    for place, most in ((folder / "inner", "max" if version == 2 else str(2**63 - 4096)), (folder, "3000")):
        (place / names[0]).write_text(most + "\n")
        (place / names[1]).write_text("1000\n")
        (place / "memory.stat").write_text("anon 5\ninactive_file 400\n")
    assert memory._free_in_cgroup() == 3000 - 1000 + 400
    resident = memory.resident()
    assert memory.budget() == int(resident + 0.9 * 2400)


# --- what fits ------------------------------------------------------------------------------------------------------


def _need(side, **changes):
    anatomy = backbones.vgg_anatomy("vgg19", _TAPS)
    return Need(Footprint(5e8, 3.0, 4.0), anatomy, (side, side), 8, 8.0, 37, 24)._replace(**changes)


def test_vgg_s_numbers_by_hand():
    anatomy = backbones.vgg_anatomy("vgg16", ["block2_conv1"])
    assert anatomy.activations == 64 + 64 + 64 / 4 + 128 / 4
    assert anatomy.densities == {"block2_conv1": 32}
    # 37 pictures of 12 bytes, 3 times 176 numbers of 4 bytes.
    need = Need(Footprint(1e6, 3.0, 4.0), anatomy, (100, 80), pictures=37)
    assert layouts.peak(need, Layout()) == 1e6 + 8000 * (3 * 4 * 176 + 12 * 37)
    assert layouts.peak(need._replace(inputs=5e5), Layout()) == layouts.peak(need, Layout()) + 5e5
    assert layouts.disk(need, Layout()) == 0
    assert layouts.disk(need._replace(kept=8.0), Layout(32, on_disk=True)) == 8000 * (12 * 40 + 4 * 8)


def test_the_whole_if_it_fits_then_tiles_then_the_disk():
    need = _need(2064)
    whole = layouts.peak(need, Layout())
    assert layouts.choose(need, "auto", None) == Layout()
    assert layouts.choose(need, "auto", int(whole) + 1) == Layout()
    found = [layouts.choose(need, "auto", int(share * whole)) for share in (0.99, 0.5, 0.25, 0.15, 0.1)]
    assert found[0].tile is not None
    costs = [layouts.work(need, layout) + 0.15 * layout.on_disk for layout in found]
    assert costs == sorted(costs)
    assert not found[0].on_disk
    assert found[-1].on_disk
    for share, layout in zip((0.99, 0.5, 0.25, 0.15, 0.1), found, strict=True):
        assert layouts.peak(need, layout) <= share * whole
    with pytest.raises(sk.SettingsError, match="2064x2064 pixels take") as caught:
        layouts.choose(need, "auto", int(6e8))
    least = memory.parse(re.search(r"take (\S+) of", str(caught.value))[1])
    assert layouts.choose(need, "auto", int(least * 1.05)).on_disk


def test_what_is_asked_for_is_done():
    need = _need(2064)
    assert layouts.choose(need, "none", 10**6) == Layout()
    assert layouts.choose(need, 512, None) == Layout(512)
    on_disk = int(layouts.peak(need, Layout(512, on_disk=True)))
    assert layouts.choose(need, 512, on_disk + 1) == Layout(512, on_disk=True)
    with pytest.raises(sk.SettingsError, match=r"2064x2064 pixels in tiles of 512 px take .* use a smaller tile"):
        layouts.choose(need, 512, on_disk - 1)


def test_what_memory_is_left_keeps_tiles():
    need = _need(2064, footprint=Footprint(5e8, 3.0, 4.0, resting=1.0, holding=3.0, held=2.0))
    least = layouts.peak(need, Layout(512))
    unit = layouts.peak(need, Layout(512, held=9)) - layouts.peak(need, Layout(512, held=8))
    assert unit == pytest.approx(2 * 4 * need.anatomy.activations * np.prod(layouts.window(need, Layout(512))))
    counts = [layouts.choose(need, 512, int(least + share * unit)).held for share in (0.01, 0.5, 1.5, 3.5, 99)]
    # The first has its own 2 + 3 units where tiles take 4 of them anyway.
    assert counts == [0, 1, 2, 4, layouts.count(need, Layout(512))]
    for share, held in zip((0.5, 1.5, 3.5), counts[1:], strict=False):
        assert layouts.peak(need, Layout(512, held=held)) <= least + share * unit
        assert layouts.peak(need, Layout(512, held=held + 1)) > least + share * unit
    works = [layouts.work(need, Layout(512, held=held)) for held in (0, 1, layouts.count(need, Layout(512)))]
    assert works[0] / works[2] == pytest.approx(1.5)
    assert works[0] > works[1] > works[2]
    assert layouts.choose(need, 512, None).held == 0
    assert layouts.smaller(Layout(512, held=3), (2000, 2000)) == Layout(512)


def test_devices_are_used_where_they_are_faster():
    one, two = _need(2064), _need(2064, devices=4, spread=True)
    assert layouts.choose(one._replace(devices=4), "auto", None) == Layout()
    found = layouts.choose(two, "auto", None)
    assert layouts.count(two, found) >= 4
    assert layouts.work(two, found) < 1
    assert layouts.choose(_need(144, devices=4, spread=True), "auto", None) == Layout()
    # Each device looks at a tile at the same time.
    assert layouts.peak(two, Layout(512)) > layouts.peak(one, Layout(512))


def test_too_little_disk(monkeypatch):
    usage = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr(machines.shutil, "disk_usage", lambda folder: usage)
    made = layouts.peak
    monkeypatch.setattr(layouts, "peak", lambda need, layout: made(need, layout) if layout.on_disk else 1e12)
    with pytest.raises(sk.SettingsError, match=r"56x45 pixels take .*MB of temporary files .* has 1MB; set TMPDIR"):
        _run(tile=32, memory="2GB", margin=0)
    monkeypatch.setattr(layouts, "peak", made)
    assert _run(tile=32)[-1].provenance["disk"] is False


def test_smaller_and_smaller():
    layout, sides = Layout(on_disk=True), []
    while (layout := layouts.smaller(layout, (700, 1300))) is not None:
        assert layout.on_disk
        sides.append(layout.tile)
    assert sides == [512, 256, 128, 64, 32, 16]


def test_every_engine_says_what_it_takes():
    for name in engines.ORDER:
        if not engines.missing(name) and engines._keras_is_free(name):
            found = engines.load(name, "float32").footprint
            assert 1e8 < found.fixed < 4e9
            assert 1 < found.activations < 10


# --- runs -----------------------------------------------------------------------------------------------------------

_LAYERS = {"content_layers": "block2_conv2=1", "style_layers": "block1_conv1=1,block2_conv1=2"}


def _run(resume=None, **changes):
    random = np.random.default_rng(4)
    options = {"size": 80, "min_size": 56, "steps": (3, 5), "backbone": "vgg16", "weights": "random", **_LAYERS}
    chosen = sk.Settings(**{**options, "engine": "onnxruntime", **changes})
    return list(sk.iterate(scene(random, 64, 80), scene(random, 64, 64), chosen, resume=resume))


def test_a_history_on_disk_is_the_same_history(rng):
    image, gradients = rng.random((1, 9, 7, 3)).astype("f4"), rng.normal(size=(30, 1, 9, 7, 3)).astype("f4")
    found = []
    for host in (Host(), HostOnDisk()):
        state = lbfgs.init(host.ops, host.tensor(image))
        for i, noise in enumerate(gradients):
            gradient = state.image - 0.3 + 0.1 * noise
            state = host.keep(lbfgs.update(host.ops, state, np.float32(30 - i), gradient))
        found.append(host.array(state))
        assert sum(isinstance(picture, lazy.Stored) for picture in state.steps) == (12 if len(found) == 2 else 0)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_budget_decides(monkeypatch):
    steps = _run(memory="900MB")
    assert "tile" not in steps[-1].provenance
    fixed = 6.6e8
    monkeypatch.setattr(engines.load("onnxruntime", "float32").__class__, "footprint", Footprint(fixed, 20.0, 20.0))
    machines._built.cache_clear()
    tight = _run(memory="695MB")
    machines._built.cache_clear()
    assert tight[-1].provenance["tile"] < 80
    assert np.abs(tight[-1].image - steps[-1].image).mean() < 2 / 255
    with pytest.raises(sk.SettingsError, match=r"take .* of memory at least, and there are 2MB; use a smaller size"):
        _run(memory="2MB")


@pytest.mark.parametrize("ahead", [0, 1])
def test_where_memory_runs_out_the_run_goes_on_in_tiles(monkeypatch, ahead):
    """And so does one that is resumed from there."""
    expected = _run()
    monkeypatch.setattr(machines, "steps_ahead", lambda view: ahead)
    machines._built.cache_clear()
    calls = []
    taps = ("block2_conv2", "block1_conv1", "block2_conv1")
    engine = machines.machine(sk.Settings(backbone="vgg16", weights="random", engine="onnxruntime", **_LAYERS), taps)
    loop = engine.engine.loop

    def failing(*arguments):
        made = loop(*arguments)
        step = made.step

        def fail(targets, weights):
            calls.append(1)
            if len(calls) == 6:
                raise MemoryError
            return step(targets, weights)

        made.step = fail
        return made

    monkeypatch.setattr(engine.engine, "loop", failing, raising=False)
    found = _run()
    machines._built.cache_clear()
    resumed = _run(resume=found[5].state)
    assert resumed[0].provenance["tile"] == resumed[-1].state["tile"] == 32
    for one, other in zip(resumed, found[6:], strict=True):
        np.testing.assert_array_equal(one.image, other.image)
    assert len(found) == len(expected)
    assert "tile" not in found[4].provenance
    assert found[5].provenance["tile"] == 32
    assert found[5].provenance["notes"][-1] == "memory ran out at 80x64: from there on in tiles of 32 px"
    np.testing.assert_array_equal(found[4].image, expected[4].image)
    assert np.abs(found[-1].image - expected[-1].image).mean() < 1 / 255


def test_what_a_style_loss_keeps_while_it_measures_counts():
    """Sliced: six times the tap."""
    found = {}
    for name in ("gram", "sliced"):
        layers = {"content_layers": "block1_conv2", "style_layers": "block1_conv1,block2_conv1"}
        chosen = sk.Settings(backbone="vgg16", weights="random", engine="onnxruntime", style_loss=name, **layers)
        machine = machines.machine(chosen, ("block1_conv2", "block1_conv1", "block2_conv1"))
        for styles in ([chosen.style_layers], [{"block1_conv1": 1.0}, chosen.style_layers]):
            need = machines.need(machine, chosen, (64, 64), 0, content=True, styles=styles, inputs=0)
            found[name, len(styles)] = need.anatomy.activations
    assert found["sliced", 1] - found["gram", 1] == 6 * (64 + 128 / 4)
    # Each style by its own layers.
    assert found["sliced", 2] - found["gram", 2] == 6 * (64 + 64 + 128 / 4)


def test_what_tiles_held_is_gone_before_a_smaller_layout_is_made(monkeypatch):
    """With the error that memory ran out goes what its traceback holds."""
    alive, made, views = weakref.WeakSet(), [], []
    layout, vjp, view = machines.layout, machines.Machine.vjp.func, machines.view

    class Kept:
        pass

    def holding(machine):
        run = vjp(machine)

        def forward(image, targets):
            made.append(1)
            if len(made) == 4:
                raise MemoryError
            sums, pull = run(image, targets)
            kept = Kept()
            alive.add(kept)
            return sums, lambda cotangents, kept=kept: pull(cotangents)

        return forward

    def looking(*given):
        views.append(len(alive))
        return view(*given)

    monkeypatch.setattr(machines, "layout", lambda *a, **b: layout(*a, **b)._replace(held=4))
    monkeypatch.setattr(machines.Machine, "vjp", property(holding))
    monkeypatch.setattr(machines, "view", looking)
    steps = _run(tile=32, min_size=None, steps=2)
    assert views == [0, 0]
    assert steps[0].provenance["held"] == 0
    assert steps[0].provenance["notes"][-1] == "memory ran out at 80x64: from there on tiles are looked at twice"
