"""The whole algorithm on small pictures: what a run promises, whatever its pictures are worth."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import stylekeras as sk
from stylekeras import color, engines, images, machines, pyramid
from stylekeras import weights as weight_sets
from stylekeras.settings import CHOICES

BASE = {
    "size": 40,
    "min_size": None,
    "steps": 3,
    "strength": 0.9,
    "content_weight": 1.0,
    "style_weight": 1.0,
    "tv_weight": 0.0,
    "loss_scale": "relative",
    "content_layers": {"block2_conv1": 1.0},
    "style_layers": {"block1_conv1": 1.0, "block1_conv2": 0.5},
    "style_loss": "gram",
    "pooling": "max",
    "padding": "replicate",
    "margin": 0,
    "optimizer": "adam",
    "learning_rate": 0.02,
    "clip": True,
    "init": "content",
    "init_noise": 0.0,
    "colors": "style",
    "backbone": "vgg16",
    "weights": "random",
    "engine": "tensorflow",
}


@pytest.fixture(scope="module", autouse=True)
def _made_once():
    """Random weights and their network, which no run changes, are made once for all tests."""
    from stylekeras.engines.tensorflow import Engine

    made, build = {}, Engine.backbone

    def backbone(self, weights, taps, **options):
        key = (id(weights), tuple(taps), self.precision, *sorted(options.items()))
        if key not in made:
            made[key] = build(self, weights, taps, **options)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_sets, "load", functools.cache(weight_sets.load))
        patch.setattr(Engine, "backbone", backbone)
        yield


def _settings(**changes):
    chosen = {**BASE, **changes}
    if chosen["loss_scale"] == "absolute":
        del chosen["strength"]
    return sk.Settings(**chosen)


def _picture(seed, height, width):
    """Smooth colours with grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(6 * (rng.uniform(0, 3) * x + rng.uniform(0, 3) * y + rng.random())) for _ in range(3)]
    return np.clip(0.5 + 0.3 * np.stack(waves, axis=2) + 0.08 * rng.normal(size=(height, width, 3)), 0, 1).astype("f4")


CONTENT, STYLE, OTHER = _picture(1, 32, 40), _picture(2, 48, 36), _picture(3, 34, 60)


# --- what comes out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "wanted"), [(CONTENT, (45, 56, 3)), (_picture(4, 70, 50), (56, 40, 3))], ids=["wide", "tall"]
)
def test_stylize_returns_a_picture_of_the_asked_size(content, wanted):
    seen = []
    content = content if wanted[0] == 45 else Image.fromarray(images.to_uint8(content))
    picture = sk.stylize(content, STYLE, _settings(size=56, steps=2), callback=seen.append)
    assert picture.shape == wanted
    assert picture.dtype == np.float32
    assert 0 <= picture.min() < picture.max() <= 1
    assert [progress.step for progress in seen] == [1, 2]
    np.testing.assert_array_equal(picture, np.clip(seen[-1].image, 0, 1))


@pytest.mark.parametrize("optimizer", CHOICES["optimizer"])
def test_progress_has_what_the_contract_says(optimizer):
    chosen = _settings(size=64, min_size=32, steps=(2, 1), optimizer=optimizer, init="noise")
    before = []
    steps = []
    for progress in sk.iterate(CONTENT, [STYLE, sk.Style(OTHER, weight=0.5)], chosen):
        steps.append(progress)
        before.append(progress.image.copy())
    assert [(p.scale, p.step, p.steps, p.scales) for p in steps] == [(0, 1, 2, 2), (0, 2, 2, 2), (1, 1, 1, 2)]
    assert [p.size for p in steps] == [(32, 40), (32, 40), (51, 64)]
    assert all(after.seconds > earlier.seconds > 0 for earlier, after in itertools.pairwise(steps))
    for progress, image in zip(steps, before, strict=True):
        assert progress.image.shape == (*progress.size, 3)
        assert progress.image.dtype == np.float32
        np.testing.assert_array_equal(progress.image, image, err_msg="a later step changed an earlier picture")
        assert isinstance(progress.loss, float)
        taps = {"content/block2_conv1", "style/block1_conv1", "style/block1_conv2"}
        assert set(progress.terms) == {"content", "style", "tv"} | taps
        assert all(isinstance(value, float) for value in progress.terms.values())
        assert progress.loss == pytest.approx(progress.terms["content"] + progress.terms["style"], rel=1e-5)
        assert {"engine", "device", "precision", "backbone", "weights", "notes"} <= set(progress.provenance)
        assert progress.provenance["weights"] == "random"
        assert dataclasses.is_dataclass(progress)


def test_the_loss_of_a_picture_that_was_not_clipped_is_the_run_s(tmp_path):
    chosen = _settings(optimizer="lbfgs", clip=False, init="noise", init_noise=0.3, steps=6, size=40)
    (*_, last) = sk.iterate(CONTENT, STYLE, chosen)
    assert last.image.min() < -0.01
    assert sk.loss_and_gradient(last.image, CONTENT, STYLE, chosen).loss == pytest.approx(last.loss, rel=1e-4)
    sk.save_image(tmp_path / "picture.npy", last.image)
    kept = sk.loss_and_gradient(tmp_path / "picture.npy", CONTENT, STYLE, chosen)
    assert kept.loss == pytest.approx(last.loss, rel=1e-4)


def test_the_inputs_are_left_alone():
    content, style = CONTENT.copy(), images.to_uint8(STYLE)
    kept = style.copy()
    sk.stylize(content, style, _settings(clip=False, colors="match", learning_rate=0.3))
    sk.loss_and_gradient(content, content, style, _settings())
    np.testing.assert_array_equal(content, CONTENT)
    np.testing.assert_array_equal(style, kept)


@pytest.mark.parametrize("optimizer", CHOICES["optimizer"])
def test_clip_keeps_every_pixel_in_range(optimizer):
    chosen = _settings(optimizer=optimizer, learning_rate=0.7, steps=6, init="noise", strength=1.0)
    steps = list(sk.iterate(CONTENT, STYLE, chosen))
    assert all(p.image.min() >= 0 and p.image.max() <= 1 for p in steps)
    if optimizer == "adam":
        free = list(sk.iterate(CONTENT, STYLE, dataclasses.replace(chosen, clip=False)))[-1].image
        assert free.min() < 0
        assert free.max() > 1


def test_without_clip_stylize_still_returns_a_picture():
    picture = sk.stylize(CONTENT, STYLE, _settings(clip=False, learning_rate=0.7))
    assert picture.min() == 0
    assert picture.max() == 1


def test_optimizing_lowers_the_loss():
    for optimizer, style_loss in (("lbfgs", "wasserstein"), ("adam", "gram")):
        chosen = _settings(optimizer=optimizer, style_loss=style_loss, steps=25, init="noise", pooling="average")
        losses = [progress.loss for progress in sk.iterate(CONTENT, STYLE, chosen)]
        assert losses[-1] < 0.5 * losses[0]
        if optimizer == "lbfgs":
            assert all(after <= before for before, after in itertools.pairwise(losses))


def test_a_margin_is_painted_and_cut_away():
    """It is part of the picture that is compared, mirrored at the start, but not of the one that comes out."""
    style = sk.Style(STYLE, scale=1 / 16)  # the smallest one whatever the picture's size
    progress = _beginning("content", styles=style, margin=5)
    _same(progress.image, CONTENT)
    assert progress.size == (32, 40)
    framed = np.pad(CONTENT, ((5, 5), (5, 5), (0, 0)), mode="reflect")
    evaluation = sk.loss_and_gradient(framed, framed, style, _settings(margin=9))
    assert progress.loss == pytest.approx(evaluation.loss, rel=1e-6)
    assert sk.stylize(CONTENT, STYLE, _settings(margin=31)).shape == CONTENT.shape


# --- seeds and starts -----------------------------------------------------------------------------------------------


def test_same_seed_same_picture():
    chosen = _settings(init="noise", init_noise=0.1, seed=5)
    first, again = sk.stylize(CONTENT, STYLE, chosen), sk.stylize(CONTENT, STYLE, chosen)
    np.testing.assert_array_equal(first, again)


def _beginning(init, content=CONTENT, styles=STYLE, **changes):
    """The first step, which evaluates the starting picture and moves it by next to nothing."""
    return next(sk.iterate(content, styles, _settings(init=init, learning_rate=1e-9, steps=1, **changes)))


def _same(image, wanted):
    np.testing.assert_allclose(image, wanted, atol=2e-6)


def test_init_content_and_the_same_loss_elsewhere():
    progress = _beginning("content", tv_weight=0.3)
    _same(progress.image, CONTENT)
    evaluation = sk.loss_and_gradient(CONTENT, CONTENT, STYLE, _settings(tv_weight=0.3))
    assert evaluation.loss == pytest.approx(progress.loss, rel=1e-6)
    assert evaluation.terms == pytest.approx(dict(progress.terms), rel=1e-6)
    assert evaluation.terms["content"] == 0
    grain = _beginning("content", init_noise=0.1).image - CONTENT
    assert 0.07 < grain.std() < 0.11


def test_init_style_noise_and_a_file(tmp_path):
    # Cut to the photo's aspect, never squashed: 34x60 to the middle 34x42.
    middle = images.resize(OTHER[:, 9:51], 32, 40)
    _same(_beginning("style", styles=[OTHER, STYLE]).image, middle)
    noise = _beginning("noise", seed=5).image
    assert noise.shape == (32, 40, 3)
    assert np.abs(noise - _beginning("noise", seed=6).image).mean() > 0.05, "another seed is other noise"
    assert abs(noise.mean() - 0.5) < 0.02
    assert 0.1 < noise.std() < 0.2
    sk.save_image(tmp_path / "begin.png", OTHER)
    begin = images.resize(sk.load_image(tmp_path / "begin.png")[:, 9:51], 32, 40)
    _same(_beginning(str(tmp_path / "begin.png")).image, begin)


def test_a_finer_scale_goes_on_from_the_coarser():
    chosen = _settings(size=64, min_size=32, steps=(4, 1), optimizer="lbfgs")
    steps = list(sk.iterate(CONTENT, STYLE, chosen))
    np.testing.assert_allclose(steps[-1].image, images.resize(steps[3].image, 51, 64, linear=False), atol=1e-6)


def test_a_run_over_several_scales_traces_its_step_once(monkeypatch):
    used, load = [], engines.load

    def keep(*chosen):
        used.append(load(*chosen))
        return used[-1]

    monkeypatch.setattr(engines, "load", keep)
    machines._built.cache_clear()
    chosen = _settings(size=72, min_size=36, steps=2, optimizer="lbfgs", style_loss="wasserstein")
    steps = list(sk.iterate(CONTENT[:, :32], [STYLE, OTHER], chosen))
    assert [progress.size[0] for progress in steps] == [36, 36, 51, 51, 72, 72]
    assert [engine.traces for engine in used] == [1]


# --- resuming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "style_loss", "after"),
    [("lbfgs", "gram", [1, 2]), ("adam", "wasserstein", [2, 4])],
    ids=["lbfgs", "adam"],
)
def test_resumed_is_uninterrupted(optimizer, style_loss, after):
    """From mid-scale, from the last step of a scale, from the second scale: bit for bit."""
    chosen = _settings(size=64, min_size=32, steps=3, optimizer=optimizer, style_loss=style_loss, margin=3)
    steps = list(sk.iterate(CONTENT, [STYLE, OTHER], chosen))
    states = [progress.state for progress in steps]
    assert [(state["scale"], state["step"]) for state in states] == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]
    for index in after:
        rest = list(sk.iterate(CONTENT, [STYLE, OTHER], chosen, resume=states[index]))
        assert [(p.scale, p.step) for p in rest] == [(p.scale, p.step) for p in steps[index + 1 :]]
        assert [p.loss for p in rest] == [p.loss for p in steps[index + 1 :]]
        assert [p.terms for p in rest] == [p.terms for p in steps[index + 1 :]]
        np.testing.assert_array_equal(rest[-1].image, steps[-1].image)
    assert list(sk.iterate(CONTENT, [STYLE, OTHER], chosen, resume=states[-1])) == []


def test_a_state_is_arrays_and_plain_values():
    """What a checkpoint file can hold."""
    state = next(sk.iterate(CONTENT, STYLE, _settings(optimizer="lbfgs"))).state

    def leaves(value):
        if isinstance(value, Mapping):
            return [leaf for item in value.values() for leaf in leaves(item)]
        return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]

    assert {type(leaf) for leaf in leaves(dict(state))} <= {
        int,
        float,
        bool,
        str,
        type(None),
        np.ndarray,
        np.float32,
        np.bool_,
    }


def test_a_state_of_another_run_is_refused():
    state = next(sk.iterate(CONTENT, STYLE, _settings())).state
    with pytest.raises(sk.SettingsError, match="state is of another run: its size is 40, not 48"):
        sk.iterate(CONTENT, STYLE, _settings(size=48), resume=state)


# --- the parts of the objective -------------------------------------------------------------------------------------


def test_reconstructing_the_content_alone():
    steps = list(sk.iterate(CONTENT, [], _settings(init="noise", optimizer="lbfgs", steps=15)))
    assert steps[-1].image.shape == CONTENT.shape
    assert steps[-1].loss < 0.4 * steps[0].loss
    assert steps[-1].terms["style"] == 0
    assert set(steps[-1].terms) == {"content", "style", "tv", "content/block2_conv1"}


def test_reconstructing_the_style_alone():
    steps = list(sk.iterate(None, [OTHER, STYLE], _settings(size=60, init="noise", optimizer="lbfgs", steps=15)))
    assert steps[-1].image.shape == OTHER.shape
    assert steps[-1].loss < 0.4 * steps[0].loss
    assert steps[-1].terms["content"] == 0
    assert set(steps[-1].terms) == {"content", "style", "tv", "style/block1_conv1", "style/block1_conv2"}


@pytest.mark.parametrize(
    ("content", "styles", "changes", "message"),
    [
        (None, [], {}, "neither a content nor a style image"),
        (None, STYLE, {"init": "content"}, "without a content image, init must be noise, style or a picture"),
        (None, STYLE, {"init": "noise", "colors": "luminance"}, "colors style"),
        (None, STYLE, {"init": "noise", "colors": "match"}, "colors style"),
        (_picture(1, 20, 60), STYLE, {}, "content: 60 x 20 px is too small; at least 32 px"),
        (CONTENT, [STYLE, _picture(1, 31, 60)], {}, "style 2: 60 x 31 px is too small"),
        (_picture(1, 40, 160), STYLE, {"size": 100}, "makes this picture 100x25; .* use at least size=126"),
        (CONTENT, [sk.Style(STYLE, weight=0), sk.Style(STYLE, weight=0)], {}, "weights of all styles are 0"),
        (CONTENT, STYLE, {"init": "gone.png"}, r"init.*gone\.png"),
        (CONTENT, STYLE, {"init": "contnet"}, "did you mean 'content'"),
        (CONTENT, STYLE, {"style_layers": {"block9_conv1": 1.0}}, "layer 'block9_conv1' is not in vgg16"),
        (CONTENT, STYLE, {"content_layers": {"block2_conv3": 1.0}}, "layer 'block2_conv3' is not .*; did you mean"),
    ],
)
def test_what_cannot_work_is_said_before_the_first_step(content, styles, changes, message):
    """By the call itself, not by the first `next`."""
    with pytest.raises(sk.RequestError, match=message):
        sk.iterate(content, styles, _settings(**changes))


def test_settings_that_are_none():
    for call in (sk.stylize, sk.iterate, lambda *given: sk.loss_and_gradient(CONTENT, *given)):
        with pytest.raises(sk.SettingsError, match=r"expected a stylekeras\.Settings, not dict"):
            call(CONTENT, STYLE, {"size": 96})


def test_layers_that_are_not_used_are_not_looked_for():
    """Without styles their taps need not exist, nor be computed."""
    chosen = _settings(style_layers={"block9_conv1": 1.0})
    assert sk.loss_and_gradient(OTHER, CONTENT, [], chosen).loss > 0


def test_the_order_of_the_styles_does_not_matter_and_one_may_be_split():
    def loss(*styles):
        return sk.loss_and_gradient(CONTENT, CONTENT, list(styles), chosen)

    chosen = _settings()
    first = loss(sk.Style(STYLE, weight=0.7), sk.Style(OTHER, weight=0.2))
    swapped = loss(sk.Style(OTHER, weight=0.2), sk.Style(STYLE, weight=0.7))
    assert swapped.loss == pytest.approx(first.loss, rel=1e-5)
    np.testing.assert_allclose(swapped.gradient, first.gradient, atol=1e-5 * np.abs(first.gradient).max())
    halves = loss(sk.Style(STYLE, weight=0.35), sk.Style(STYLE, weight=0.35), sk.Style(OTHER, weight=0.2))
    assert halves.loss == pytest.approx(first.loss, rel=1e-5)
    assert halves.terms == pytest.approx(dict(first.terms), rel=1e-5)


def test_styles_come_in_many_forms(tmp_path):
    sk.save_image(tmp_path / "style.png", STYLE)
    loaded = sk.load_image(tmp_path / "style.png")
    pictures = [loaded, (loaded,), [sk.Style(loaded)], sk.Style(loaded), tmp_path / "style.png"]
    pictures += [str(tmp_path / "style.png"), Image.open(tmp_path / "style.png")]
    losses = [sk.loss_and_gradient(CONTENT, CONTENT, styles, _settings()).loss for styles in pictures]
    assert losses == [losses[0]] * len(pictures)


def test_the_content_is_resized_to_the_image_and_styles_to_the_schedules_size():
    image, large = _picture(8, 36, 50), _picture(9, 72, 100)
    chosen = _settings(size=500)
    found = sk.loss_and_gradient(image, large, sk.Style(OTHER, scale=1.5), chosen)
    assert found.gradient.shape == (36, 50, 3)
    ready = sk.loss_and_gradient(
        image, images.resize(large, 36, 50), sk.Style(images.fit(OTHER, 75), scale=1.5), chosen
    )
    assert ready.loss == pytest.approx(found.loss, rel=1e-6)
    # Never under 32 px a side, however small the scale.
    tiny = sk.loss_and_gradient(image, large, sk.Style(OTHER, scale=1 / 16), chosen)
    least = sk.loss_and_gradient(image, large, sk.Style(images.fit(OTHER, 56), scale=1 / 16), chosen)
    assert tiny.loss == pytest.approx(least.loss, rel=1e-6)


def test_gradient_is_the_losss_by_finite_differences():
    """Along the gradient itself, in float32."""
    chosen = _settings(tv_weight=0.2, pooling="average")
    image = 0.1 + 0.8 * OTHER[:32, :40]
    found = sk.loss_and_gradient(image, CONTENT, STYLE, chosen)
    unit = found.gradient / np.linalg.norm(found.gradient)
    ahead, behind = (sk.loss_and_gradient(image + by * unit, CONTENT, STYLE, chosen).loss for by in (0.05, -0.05))
    assert (ahead - behind) / 0.1 == pytest.approx(np.linalg.norm(found.gradient), rel=5e-3)


@pytest.mark.parametrize("optimizer", CHOICES["optimizer"])
def test_strength_zero_is_the_photo(optimizer):
    chosen = {"strength": 0.0, "init_noise": 0.2, "tv_weight": 1.0, "optimizer": optimizer}
    picture = sk.stylize(CONTENT, STYLE, _settings(**chosen))
    np.testing.assert_array_equal(picture, CONTENT)
    photo = _picture(9, 64, 91)
    for changes in ({}, {"margin": 8, "padding": "zeros"}, {"colors": "match"}, {"colors": "luminance"}):
        picture = sk.stylize(photo, STYLE, _settings(**chosen, **changes, size=91, min_size=45))
        np.testing.assert_array_equal(picture, photo)


def test_at_strength_zero_there_is_nothing_to_do():
    steps = list(sk.iterate(CONTENT, STYLE, _settings(strength=0.0, steps=7, tolerance=0.0)))
    assert [(step.step, step.last) for step in steps] == [(1, True)]
    with pytest.raises(sk.SettingsError, match="at strength=0 the style has none"):
        sk.stylize(CONTENT, STYLE, _settings(strength=0.0, content_weight=0.0))


@pytest.mark.parametrize("margin", [0, 8])
def test_of_a_little_strength_comes_a_little(margin):
    """The photo is near a target that is near it, its mirrored margin included, and its detail stays at each scale."""
    chosen = {"margin": margin, "optimizer": "lbfgs", "steps": 8, "style_loss": "wasserstein", "clip": True}
    photo = _picture(9, 64, 91)
    for size in (None, 45):
        weak, strong = (
            sk.stylize(photo, STYLE, _settings(**chosen, strength=strength, size=91, min_size=size))
            for strength in (0.01, 0.9)
        )
        assert np.abs(weak - photo).mean() < 0.1 * np.abs(strong - photo).mean()


def test_without_a_photo_strength_below_the_paintings_own_changes_nothing():
    chosen = _settings(init="noise", size=48)
    pictures = [sk.stylize(None, STYLE, dataclasses.replace(chosen, strength=strength)) for strength in (0.3, 0.9)]
    np.testing.assert_array_equal(*pictures)


def test_resumed_at_a_strength():
    chosen = _settings(strength=0.5, size=91, min_size=45, init_noise=0.1, optimizer="lbfgs")
    photo = _picture(9, 64, 91)
    steps = list(sk.iterate(photo, STYLE, chosen))
    for after in (1, 3):
        last = list(sk.iterate(photo, STYLE, chosen, resume=steps[after].state))[-1]
        np.testing.assert_array_equal(last.image, steps[-1].image)


def test_strength_in_between_is_nearer_to_the_photo():
    chosen = _settings(optimizer="lbfgs", steps=20, init_noise=0.1)
    pictures = [
        sk.stylize(CONTENT, STYLE, dataclasses.replace(chosen, strength=value)) for value in (0, 0.2, 0.4, 0.6, 0.9)
    ]
    away = [np.abs(picture - CONTENT).mean() for picture in pictures]
    assert away == sorted(away)
    assert away[1] > 0.1 * away[-1]
    assert away[-2] > away[1] + 0.1 * away[-1]


@pytest.mark.parametrize("style_loss", CHOICES["style_loss"])
def test_at_a_strength_the_picture_is_compared_with_what_is_between(style_loss):
    """The photo is away from it by the share of the strength of what it is from the painting, squared, and the painting
    by the rest."""
    chosen = _settings(style_loss=style_loss, style_layers={"block1_conv2": 1.0}, content_weight=1e-9, backbone="vgg16")
    photo = np.pad(CONTENT, ((0, STYLE.shape[0]), (0, STYLE.shape[1]), (0, 0)), mode="reflect")
    photo = photo[: STYLE.shape[0], : STYLE.shape[1]]
    roots = []
    for image in (photo, STYLE):
        found = sk.loss_and_gradient(image, photo, STYLE, dataclasses.replace(chosen, strength=0.675))
        roots.append(np.sqrt(found.terms["style"]))
    assert roots[0] == pytest.approx(3 * roots[1], rel=0.02)


def test_colors_luminance_and_match():
    plain = sk.stylize(CONTENT, STYLE, _settings(init="style"))
    lightness = sk.stylize(CONTENT, STYLE, _settings(init="style", colors="luminance"))
    np.testing.assert_allclose(lightness, color.luminance(plain, CONTENT), atol=1e-6)
    matched = sk.stylize(CONTENT, STYLE, _settings(init="style", colors="match"))
    by_hand = sk.stylize(CONTENT, color.match(STYLE, CONTENT), _settings(init="style"))
    np.testing.assert_allclose(matched, by_hand, atol=1e-6)
    assert np.abs(matched - plain).mean() > 0.01


def test_a_share_of_the_photos_colours():
    plain = sk.stylize(CONTENT, STYLE, _settings(init="style"))
    half = sk.stylize(CONTENT, STYLE, _settings(init="style", colors="luminance", color_amount=0.5))
    np.testing.assert_allclose(half, color.luminance(plain, CONTENT, 0.5), atol=1e-6)
    matched = sk.stylize(CONTENT, STYLE, _settings(init="style", colors="match", color_amount=0.5))
    by_hand = sk.stylize(CONTENT, color.match(STYLE, CONTENT, 0.5), _settings(init="style"))
    np.testing.assert_allclose(matched, by_hand, atol=1e-6)
    for colors in ("luminance", "match"):
        none = sk.stylize(CONTENT, STYLE, _settings(init="style", colors=colors, color_amount=0))
        assert np.array_equal(none, plain)


def test_luminance_keeps_the_photos_chroma_in_the_file_too(tmp_path):
    photo = 0.35 + 0.3 * CONTENT
    picture = sk.stylize(photo, STYLE, _settings(colors="luminance", init="style"))
    sk.save_image(tmp_path / "out.png", picture)
    kept, wanted = (
        color.linear_to_oklab(color.srgb_to_linear(x))[..., 1:] for x in (sk.load_image(tmp_path / "out.png"), photo)
    )
    assert np.quantile(np.abs(kept - wanted), 0.9) < 0.004  # but where it does not fit with the lightness


@pytest.mark.parametrize("colors", CHOICES["colors"])
@pytest.mark.parametrize("made_of", ["grey photo", "grey style", "flat photo", "flat style", "both flat"])
def test_grey_and_flat_pictures_in_every_colour_mode(colors, made_of):
    grey = np.repeat(CONTENT[..., :1], 3, axis=-1)
    flat = np.full_like(CONTENT, (0.8, 0.4, 0.2))
    photo = {"grey photo": grey, "flat photo": flat, "both flat": flat}.get(made_of, CONTENT)
    style = {"grey style": grey, "flat style": flat, "both flat": 1 - flat}.get(made_of, STYLE)
    for style_loss in ("gram", "wasserstein"):
        picture = sk.stylize(photo, style, _settings(colors=colors, style_loss=style_loss, init_noise=0.1, steps=2))
        assert np.isfinite(picture).all()
        if made_of == "grey photo" and colors == "luminance":
            np.testing.assert_allclose(picture, np.repeat(picture[..., :1], 3, axis=-1), atol=1e-5)


@pytest.mark.parametrize("shape", [(32, 640), (640, 32)])
def test_one_to_twenty_goes_all_the_way(shape):
    """Pyramid, margin and tiles, as photo and as painting."""
    photo = images.resize(CONTENT, *shape)
    chosen = {"size": 912, "min_size": 128, "margin": 8, "steps": 1, "optimizer": "lbfgs", "colors": "luminance"}
    sizes = []
    whole = sk.stylize(photo, photo[::-1], _settings(**chosen), callback=lambda progress: sizes.append(progress.size))
    wanted = [(32, 630), (46, 912)]  # 31.5 is 32
    assert sizes == (wanted if shape[0] < shape[1] else [size[::-1] for size in wanted])
    assert whole.shape == (*sizes[1], 3)
    if shape[0] < shape[1]:
        tiled = sk.stylize(photo, photo[::-1], _settings(**chosen, tile=256))
        np.testing.assert_allclose(tiled, whole, atol=1e-3)


def test_what_is_narrower_needs_a_larger_size_and_says_which():
    photo = images.resize(CONTENT, 40, 1000)
    with pytest.raises(sk.SettingsError, match=r"size=512 makes this picture 512x20; .* use at least size=788"):
        sk.stylize(photo, STYLE, _settings(size=512))
    assert sk.stylize(photo, STYLE, _settings(size=788, steps=1)).shape == (32, 788, 3)
    with pytest.raises(sk.ImageError, match=r"content: 1000 x 31 px is too small; at least 32 px"):
        sk.stylize(photo[:31], STYLE, _settings(size=1000))


def test_bfloat16_is_close():
    exact = sk.loss_and_gradient(OTHER, CONTENT, STYLE, _settings(precision="float32"))
    rounded = sk.loss_and_gradient(OTHER, CONTENT, STYLE, _settings(precision="bfloat16"))
    assert rounded.loss == pytest.approx(exact.loss, rel=0.02)
    assert rounded.loss != exact.loss
    assert rounded.gradient.dtype == np.float32
    assert np.linalg.norm(rounded.gradient - exact.gradient) < 0.1 * np.linalg.norm(exact.gradient)
    assert rounded.provenance["precision"] == "bfloat16"


# --- when it goes wrong ---------------------------------------------------------------------------------------------


def test_divergence_is_an_error_and_keeps_the_last_picture():
    steps = []
    chosen = _settings(steps=20, clip=False, learning_rate=1e30)
    with pytest.raises(sk.DivergedError, match=r"the loss became (nan|inf) at step \d of 40x32; try"):
        steps.extend(steps.append(progress) or progress for progress in sk.iterate(CONTENT, STYLE, chosen))
    assert 1 <= len(steps) < 20
    for progress in steps:
        assert np.isfinite(progress.image).all()
        assert np.isfinite(progress.loss)


@pytest.mark.parametrize("optimizer", CHOICES["optimizer"])
def test_an_infinite_loss_at_the_start_is_an_error(optimizer):
    chosen = _settings(optimizer=optimizer, style_weight=3e38, loss_scale="absolute")
    with pytest.raises(sk.DivergedError, match="the loss became inf at step 1"):
        sk.stylize(CONTENT, STYLE, chosen)


# --- does it work? --------------------------------------------------------------------------------------------------

GATYS = {
    "loss_scale": "absolute",
    "content_weight": 5.0,
    "style_weight": 100.0,
    "content_layers": {"block4_conv2": 1.0},
    "style_layers": {
        name: 1.0 / channels**2
        for name, channels in zip(
            [f"block{block}_conv1" for block in range(1, 6)], [64, 128, 256, 512, 512], strict=True
        )
    },
    "optimizer": "lbfgs",
    "clip": False,
    "weights": "offline",
}


def _fall(content, style, **changes):
    """The start's loss over the last one's."""
    losses = [progress.loss for progress in sk.iterate(content, style, _settings(**GATYS, **changes))]
    return losses[0] / losses[-1]


def test_the_loss_falls_to_a_hundredth_on_photographs():
    data = pytest.importorskip("skimage.data")
    assert _fall(data.astronaut(), data.coffee(), size=64, steps=60) > 100


SAMPLES = Path(__file__).parents[2] / "shared" / "samples"
PAIRS = list(itertools.product(sorted(SAMPLES.glob("content/*")), sorted(SAMPLES.glob("style/*"))))


@pytest.mark.slow
@pytest.mark.skipif(not PAIRS, reason=f"no samples in {SAMPLES}")
@pytest.mark.parametrize(("content", "style"), PAIRS, ids=[f"{a.stem}-{b.stem}" for a, b in PAIRS])
def test_the_loss_falls_to_a_hundredth_in_100_steps(content, style):
    assert _fall(content, style, size=256, steps=100) > 100


# --- built once -----------------------------------------------------------------------------------------------------


def test_other_pictures_of_one_size_trace_nothing_again(monkeypatch):
    used, load = [], engines.load

    def keep(*chosen):
        used.append(load(*chosen))
        return used[-1]

    monkeypatch.setattr(engines, "load", keep)
    chosen = _settings(style_layers="block1_conv1=0.77", optimizer="lbfgs", pooling="average", padding="zeros")
    machines._built.cache_clear()
    sk.stylize(CONTENT, STYLE, chosen)
    sk.loss_and_gradient(CONTENT, CONTENT, STYLE, chosen)
    traces = used[0].traces
    sk.stylize(OTHER[:32, :40], STYLE, chosen)
    sk.loss_and_gradient(OTHER[:32, :40], CONTENT, STYLE, chosen)
    assert len(used) == 1
    assert used[0].traces == traces


def test_two_runs_at_a_time_do_not_mix():
    chosen = _settings(optimizer="lbfgs", steps=4)
    alone = [sk.stylize(picture, STYLE, chosen) for picture in (CONTENT, OTHER[:32, :40])]
    both = zip(sk.iterate(CONTENT, STYLE, chosen), sk.iterate(OTHER[:32, :40], STYLE, chosen), strict=True)
    *_, (first, second) = both
    np.testing.assert_array_equal(np.clip(first.image, 0, 1), alone[0])
    np.testing.assert_array_equal(np.clip(second.image, 0, 1), alone[1])


def test_a_user_s_keras_settings_change_nothing():
    import keras

    machines._built.cache_clear()
    expected = sk.loss_and_gradient(OTHER, CONTENT, STYLE, _settings())
    before = keras.config.image_data_format(), keras.config.floatx()
    try:
        keras.config.set_image_data_format("channels_first")
        keras.config.set_floatx("float64")
        machines._built.cache_clear()
        found = sk.loss_and_gradient(OTHER, CONTENT, STYLE, _settings())
        assert keras.config.image_data_format() == "channels_first"
    finally:
        keras.config.set_image_data_format(before[0])
        keras.config.set_floatx(before[1])
        machines._built.cache_clear()
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)


def test_out_of_memory_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(machines, "view", lambda *_, **__: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(sk.RunError, match="smaller size"):
        sk.stylize(CONTENT, STYLE, _settings())


def test_weights_that_are_all_zero_are_refused():
    with pytest.raises(sk.SettingsError, match="nothing to optimize"):
        sk.stylize(CONTENT, STYLE, _settings(content_weight=0, style_layers={"block1_conv1": 0.0}))
    with pytest.raises(sk.SettingsError, match="needs a style image"):
        sk.iterate(CONTENT, [], _settings(init="style"))


def test_a_state_of_another_version_is_refused():
    state = next(sk.iterate(CONTENT, STYLE, _settings(optimizer="lbfgs"))).state
    fields = dict(state["optimizer"])
    fields["changes"] = fields.pop("flats")
    state = {**state, "optimizer": fields}
    with pytest.raises(sk.SettingsError, match="another version of this optimizer"):
        sk.iterate(CONTENT, STYLE, _settings(optimizer="lbfgs"), resume=state)


def test_a_state_that_is_none_is_refused():
    with pytest.raises(sk.SettingsError, match="it lacks last, moved, optimizer"):
        sk.iterate(CONTENT, STYLE, _settings(), resume={"scale": 0})


# --- steps are a maximum ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_scale_ends_when_the_picture_has_stopped_changing(optimizer):
    """Towards a photo from itself there is nothing to do; with tolerance 0 it is done all the same."""
    settings = _settings(optimizer=optimizer, steps=50, init_noise=0, style_weight=0, tv_weight=0, learning_rate=1e-6)
    seen = list(sk.iterate(CONTENT, STYLE, settings.__class__(**{**settings.to_dict(), "tolerance": 0.001})))
    scales = seen[-1].scales
    assert [(p.scale, p.step) for p in seen if p.last] == [(i, 20) for i in range(scales)]
    patient = list(sk.iterate(CONTENT, STYLE, settings.__class__(**{**settings.to_dict(), "tolerance": 0})))
    assert [(p.scale, p.step) for p in patient if p.last] == [(i, 50) for i in range(scales)]


def test_a_resumed_run_ends_where_the_whole_one_does():
    settings = _settings(steps=60, tolerance=0.05)
    whole = list(sk.iterate(CONTENT, STYLE, settings))
    assert whole[-1].step < 60
    for at in (3, whole[-1].step - 5):
        part = next(p for p in sk.iterate(CONTENT, STYLE, settings) if p.scale == p.scales - 1 and p.step == at)
        *_, end = sk.iterate(CONTENT, STYLE, settings, resume=part.state)
        assert end.step == whole[-1].step
        np.testing.assert_array_equal(end.image, whole[-1].image)
    assert not list(sk.iterate(CONTENT, STYLE, settings, resume=end.state)), "nothing is left to do"


def test_lbfgs_tries_the_paintings_colours_second():
    first, second, *_ = sk.iterate(CONTENT, STYLE, _settings(optimizer="lbfgs", steps=2))
    assert second.loss < 0.5 * first.loss
    painting = images.load_image(STYLE)
    painting = images.fit(painting, max(40, pyramid.smallest_longest(painting.shape[:2])))
    np.testing.assert_allclose(second.image, color.match(first.image, painting), atol=1e-5)


def test_the_default_loss_holds_on_flat_and_two_toned_pictures():
    """In float32, with real features: rounding may not turn what varies little, or in one direction only, into NaN."""
    halves, flat = np.zeros((64, 64, 3)), np.full((64, 64, 3), 0.5)
    halves[:32] = 1
    stripes = np.tile((np.arange(64) % 8 < 4)[None, :, None], (64, 1, 3)).astype(float)
    settings = sk.Settings(weights="offline", size=64, min_size=None, engine="tensorflow")
    for picture in (halves, flat, stripes):
        for style in (halves, flat, stripes):
            found = sk.loss_and_gradient(picture, picture, style, settings)
            assert np.isfinite(found.gradient).all()
            assert -1e-3 < found.terms["style"] < (0.01 if style is picture else 1e8)
            assert style is picture or found.terms["style"] > 1
