"""Every file of stylekeras/style_losses keeps the same promises; the known ones have their formulas worked out."""

import math
import pkgutil

import numpy as np
import pytest
import reference
from reference import numerical_gradient, numpy_ops

from stylekeras import objective, settings, style_losses
from stylekeras.style_losses import covariance, gram, moments, sliced, wasserstein

NAMES = [module.name for module in pkgutil.iter_modules(style_losses.__path__)]
every = pytest.mark.parametrize("loss", [style_losses.load(name) for name in NAMES], ids=NAMES)


@pytest.fixture
def features(rng):
    """A picture's and a style's features: sizes and statistics differ, as after a ReLU some are 0."""
    picture = np.maximum(rng.normal(0.4, 1.0, (1, 5, 4, 3)), 0)
    style = np.maximum(rng.normal(0.9, 1.5, (1, 6, 7, 3)), 0)
    return picture, style


def _count(features):
    return float(features.shape[1] * features.shape[2])


def _frame(loss, style):
    """What measuring for a style takes besides features and mask: nothing, or its frame."""
    return [loss.frame(loss.measure(numpy_ops, style), _count(style))] if hasattr(loss, "frame") else []


def _target(loss, style):
    """What is compared with, and the frame."""
    frame = _frame(loss, style)
    return loss.target(loss.measure(numpy_ops, style, None, *frame), _count(style), *frame), frame


def _scale(loss, style):
    return loss.scale(_target(loss, style)[0])


def _compare(loss, features, wanted, mask=None):
    target, frame = wanted
    count = _count(features) if mask is None else np.sum(mask)
    return float(loss.compare(numpy_ops, loss.measure(numpy_ops, features, mask, *frame), count, target))


def _gradient(loss, features, style, dtype):
    """By TensorFlow: the value, d value / d features, and the target's scale."""
    import keras
    import tensorflow as tf

    ops = keras.ops
    features, wide = tf.constant(features, dtype), _target(loss, np.asarray(style, dtype).astype(np.float64))
    target, frame = tf.nest.map_structure(lambda value: tf.constant(value, dtype), wide)
    with tf.GradientTape() as tape:
        tape.watch(features)
        sums = loss.measure(ops, features, None, *frame)
        value = loss.compare(ops, sums, tf.constant(_count(features), dtype), target)
    return float(value), tape.gradient(value, features).numpy(), float(loss.scale(wide[0]))


def test_the_setting_knows_every_file():
    assert sorted(settings.CHOICES["style_loss"]) == sorted(NAMES)


@every
def test_it_says_what_it_is(loss):
    assert loss.CURVATURE is None or loss.CURVATURE.response(8, 6).shape == (2, 8, 6, 1)
    assert "compare = " in loss.__doc__
    for name in ("measure", "target", "compare", "scale"):
        assert callable(getattr(loss, name))
        assert getattr(loss, name).__doc__


@every
def test_where_the_pixels_are_does_not_matter(loss, features, rng):
    picture, style = features
    shuffled = rng.permutation(picture.reshape(-1, 3)).reshape(1, 2, 10, 3)
    target = _target(loss, style)
    assert _compare(loss, shuffled, target) == pytest.approx(_compare(loss, picture, target), rel=1e-12)
    turned = _target(loss, style.swapaxes(1, 2))
    assert _compare(loss, picture, turned) == pytest.approx(_compare(loss, picture, target), rel=1e-12)


@every
def test_sums_of_halves_add_up(loss, features):
    picture, style = features
    for frame in ([], _frame(loss, style)):
        whole, left, right = (
            loss.measure(numpy_ops, part, None, *frame) for part in (picture, picture[:, :, :1], picture[:, :, 1:])
        )
        assert set(whole) == set(left) == set(right)
        for name, value in whole.items():
            np.testing.assert_allclose(left[name] + right[name], value, rtol=1e-12)


@every
def test_a_mask_weighs_pixels(loss, features, rng):
    """Ones are no mask, to the last bit; zeros leave a pixel out; a third counts as a third of a pixel."""
    picture, style = features
    wanted, half = _target(loss, style), np.zeros((1, 5, 4, 1))
    half[:, :, :2] = 1 / 3
    assert _compare(loss, picture, wanted, np.ones((1, 5, 4, 1))) == _compare(loss, picture, wanted)
    assert _compare(loss, picture, wanted, half) == pytest.approx(_compare(loss, picture[:, :, :2], wanted), rel=1e-12)


@every
def test_a_style_is_at_no_distance_from_itself(loss, features, float64):
    _, style = features
    assert abs(_compare(loss, style, _target(loss, style))) < 1e-13
    value, gradient, _ = _gradient(loss, style, style, "float64")
    assert abs(value) < 1e-13
    assert np.abs(gradient).max() < 1e-13


@every
def test_in_float32_that_is_so_to_rounding(loss):
    """64 channels over 48 positions: the covariance has no inverse."""
    style = np.maximum(np.random.default_rng(3).normal(0, 30, (1, 6, 8, 64)), 0)
    value, gradient, scale = _gradient(loss, style, style, "float32")
    assert abs(value) / scale < 1e-5
    assert np.linalg.norm(gradient) * np.linalg.norm(style) / scale < 1e-2


@every
def test_a_style_of_another_size_is_compared_per_pixel(loss, features):
    """The style laid out twice side by side has twice the sums and the same statistics."""
    picture, style = features
    twice = np.concatenate([style, style], axis=2)
    assert abs(_compare(loss, twice, _target(loss, style))) < 1e-13
    once, both = _target(loss, style), _target(loss, twice)
    assert _compare(loss, picture, both) == pytest.approx(_compare(loss, picture, once), rel=1e-10)
    assert _compare(loss, picture, once) > 0.01


@every
@pytest.mark.parametrize("amount", [0.0, 0.25, 0.5, 1.0])
def test_part_of_the_way_from_one_style_to_another(loss, features, amount):
    """It is that part of the distance from the one, and the rest from the other; for a loss whose unit depends on the
    style in the same proportion."""
    one, other = features
    images = [(1 - amount, one), (amount, other)]
    frame = _framed(loss, images)
    targets = [loss.target(loss.measure(numpy_ops, image, None, *frame), _count(image), *frame) for _, image in images]
    start, end = ({"tap": {"target": target, "scale": 1.0}} for target in targets)
    found = objective.between(loss, start, end, amount)["tap"]
    distances = [math.sqrt(max(_compare(loss, image, (found["target"], frame)), 0)) for _, image in images]
    assert distances[0] * (1 - amount) == pytest.approx(distances[1] * amount, abs=1e-3)
    assert found["scale"] == loss.scale(found["target"])
    if loss is not covariance:
        assert sum(distances) == pytest.approx(math.sqrt(_compare(loss, one, (targets[1], frame))), rel=1e-3)


def _framed(loss, images):
    """The frame of several images, each with its share."""
    if not hasattr(loss, "frame"):
        return []
    sums = [
        (share, {"tap": {"sums": loss.measure(numpy_ops, image), "count": _count(image)}}) for share, image in images
    ]
    return [objective.style_frames(loss, objective.mixed(sums))["tap"]]


def test_mixed_is_of_all_positions_together(features):
    """A third of the one and two thirds of the other, as if these were so many positions of one image."""
    one, other = features
    sums = [
        (share, {"tap": {"sums": gram.measure(numpy_ops, image), "count": _count(image)}})
        for share, image in ((1 / 3, one), (2 / 3, other))
    ]
    mixed = objective.mixed(sums)["tap"]
    flat = [image.reshape(-1, 3) for image in features]
    wanted = (np.cov(flat[0].T, bias=True) + np.outer(flat[0].mean(0), flat[0].mean(0))) / 3
    wanted += (np.cov(flat[1].T, bias=True) + np.outer(flat[1].mean(0), flat[1].mean(0))) * 2 / 3
    np.testing.assert_allclose(mixed["sums"]["gram"] / mixed["count"], wanted, rtol=1e-12)


def test_between_gaussians_deviations_are_straight():
    """Deviations 1 and 3 along the axes of the one, 5 and 1 of the other: halfway 3 and 2; a mixture has more."""
    one = np.array([[-1.0, -3], [1, 3], [-1, 3], [1, -3]]).reshape(1, 2, 2, 2)
    other = np.array([[5.0, 9], [15, 11], [5, 11], [15, 9]]).reshape(1, 2, 2, 2)
    half = wasserstein.between(_target(wasserstein, one)[0], _target(wasserstein, other)[0], 0.5)
    assert half["mean"] == pytest.approx([5, 5])
    covariance = (half["basis"] * half["values"]) @ half["basis"].T
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), [3, 2], rtol=0.01)
    assert covariance[0, 1] == pytest.approx(0, abs=1e-9)


@every
def test_scale_is_a_size(loss, features):
    _, style = features
    scale = _scale(loss, style)
    assert np.ndim(scale) == 0
    assert scale > 0
    assert _scale(loss, 3 * style) > scale


@every
@pytest.mark.parametrize("shape", [(1, 5, 4, 3), (1, 2, 2, 6)], ids=["more positions", "more channels"])
def test_gradient_is_the_values(loss, shape, rng, float64):
    picture, style = rng.random(shape), 1.5 * rng.random((1, 6, 7, shape[3])) ** 2
    target = _target(loss, style)
    value, gradient, _ = _gradient(loss, picture, style, "float64")
    wanted = numerical_gradient(lambda features: _compare(loss, features, target), picture, 1e-6)
    assert value == pytest.approx(_compare(loss, picture, target), rel=1e-12)
    assert np.linalg.norm(gradient - wanted) < 1e-6 * np.linalg.norm(wanted)


@every
def test_flat_and_dead_features_give_numbers(loss):
    flat, dead = np.full((1, 4, 4, 5), 2.0), np.zeros((1, 4, 4, 5))
    for picture, style in ((flat, dead), (dead, flat), (dead, dead), (flat, flat)):
        value, gradient, _ = _gradient(loss, picture, style, "float32")
        assert math.isfinite(value)
        assert np.isfinite(gradient).all()


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_features_that_are_not_finite_give_a_loss_that_is_not(loss, bad, features):
    """Not an exception: an optimizer steps back from a NaN."""
    picture, style = features
    picture[0, 2, 2, 1] = bad
    value, _, _ = _gradient(loss, picture, style, "float32")
    assert not math.isfinite(value)


@pytest.mark.parametrize("name", sorted(reference.STYLE_LOSSES))
def test_the_reference_has_the_same_formula(name, features):
    picture, style = features
    loss, (value, scale) = style_losses.load(name), reference.STYLE_LOSSES[name]
    target = _target(loss, style)
    assert _compare(loss, picture, target) == pytest.approx(value(picture[0], style[0])[0], rel=1e-12)
    assert loss.scale(target[0]) == pytest.approx(scale(style[0]), rel=1e-12)


def test_gram_by_hand():
    features = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    sums = gram.measure(numpy_ops, features)
    assert sums["gram"].tolist() == [[10, 14], [14, 20]]
    style = gram.target({"gram": np.array([[3.0, 4.0], [4.0, 5.0]])}, 1.0)
    # [[5, 7], [7, 10]] - [[3, 4], [4, 5]] = [[2, 3], [3, 5]]
    assert gram.compare(numpy_ops, sums, 2.0, style) == (4 + 9 + 9 + 25) / 4
    assert gram.scale(style) == (9 + 16 + 16 + 25) / 4


def test_moments_by_hand():
    """Two channels: means 0 and 5 against 3 and 5, deviations 1 and 0 against 2 and 0, all widened."""
    picture, style = np.array([[-1.0, 5], [1, 5]]), np.array([[1.0, 5], [5, 5]])
    target = _target(moments, style.reshape(1, 1, 2, 2))
    wide = 2e-4 * (1 + 25 + 25 + 25) / 4  # more than 0.001 of the mean variance, 2
    wanted = (3**2 + (math.sqrt(1 + wide) - math.sqrt(4 + wide)) ** 2) / 2
    assert _compare(moments, picture.reshape(1, 1, 2, 2), target) == pytest.approx(wanted, rel=1e-12)
    assert moments.scale(target[0]) == pytest.approx((9 + 4 + 25) / 2, rel=1e-12)


def test_moments_is_wasserstein_of_one_channel(rng):
    """Where the picture's own rounding is not widened for."""
    picture, style = rng.normal(1, 1, (1, 5, 4, 1)), rng.normal(2, 3, (1, 6, 7, 1))
    found, wanted = (_compare(loss, picture, _target(loss, style)) for loss in (moments, wasserstein))
    assert found == pytest.approx(wanted, rel=1e-12)


def test_covariance_by_hand():
    """S = [[1, 1], [1, 1]] and T = [[4, 0], [0, 0]], means 0 and (3, 0)."""
    picture, style = np.array([[-1.0, -1], [1, 1]]), np.array([[1.0, 0], [5, 0]])
    target = _target(covariance, style.reshape(1, 1, 2, 2))
    assert _compare(covariance, picture.reshape(1, 1, 2, 2), target) == pytest.approx((9 + 1 + 1 + 1 + 4 * 4 * 9) / 4)
    assert covariance.scale(target[0]) == pytest.approx((16 + 4 * 4 * 9) / 4)


def test_covariance_of_a_flat_style_has_a_mean():
    style = np.full((1, 4, 4, 3), 2.0)
    target, _ = _target(covariance, style)
    assert target["weight"] == pytest.approx(4e-3 * 12)
    assert covariance.scale(target) > 1e-3


def test_sliced_by_hand():
    """Of one channel with values -1 and 1 the intervals end at -0.674, 0 and 0.674."""
    style, far = np.array([-1.0, 1.0]).reshape(1, 1, 2, 1), np.array([0.5, 2.0]).reshape(1, 1, 2, 1)
    edge = 0.6744897501960817 * math.sqrt(1 + 1e-3)
    # What of the values lies in each interval, below, between and above the edges, for -1 and 1 and for 0.5 and 2.
    ours = np.array([-2 * edge, 2 * edge, 0.5 + edge, 2 - edge]) / 2
    theirs = np.array([-1 - edge, edge, edge, 1 - edge]) / 2
    wanted = 4 * np.sum((ours - theirs) ** 2)
    found = _compare(sliced, far, _target(sliced, style)), _compare(sliced, -far, _target(sliced, -style))
    assert found == pytest.approx((wanted, wanted), rel=1e-9)


def test_sliced_is_the_sorted_distance_of_pictures_that_are_alike(rng):
    """To about a tenth, for a shift, a stretch and a skew of every channel; Heitz et al.'s loss on the right."""
    style = np.abs(rng.normal(0, 1, (1, 100, 100, 24)) @ rng.normal(0, 1, (24, 24)))
    frame = _frame(sliced, style)[0]["directions"]
    directions = frame / np.linalg.norm(frame, axis=0)
    for change in (style + 0.3, 1.1 * style, style + 0.02 * style**2):
        x, y = (np.sort(features.reshape(-1, 24) @ directions, axis=0) for features in (change, style))
        assert _compare(sliced, change, _target(sliced, style)) == pytest.approx(np.mean((x - y) ** 2), rel=0.15)


def test_sliced_sees_what_mean_and_covariance_do_not(rng):
    """A third of the pixels at 2 and the others at -1, and the other way around: alike in mean and variance."""
    style = np.repeat([2.0, -1.0], [40, 80]).reshape(1, 1, 120, 1)
    assert _compare(wasserstein, -style, _target(wasserstein, style)) == pytest.approx(0, abs=1e-12)
    assert _compare(sliced, -style, _target(sliced, style)) > 0.1 * _scale(sliced, style)


@pytest.mark.parametrize("positions", [600, 40], ids=["many positions", "fewer positions than channels"])
@pytest.mark.parametrize("nearness", [0.0, 0.97], ids=["far", "near"])
def test_wasserstein_in_float32_of_covariances_that_span_many_decades(positions, nearness):
    """As real features do; a matrix root in float32 would lose most of a nearly finished picture's gradient."""
    random = np.random.default_rng(6)
    spectrum = np.geomspace(30, 0.003, 96)
    turn, other = (np.linalg.qr(random.normal(size=(96, 96)))[0] for _ in range(2))
    style = np.maximum((random.normal(size=(1, 25, 24, 96)) * spectrum) @ turn, -3)
    picture = np.maximum((random.normal(size=(1, 4, positions // 4, 96)) * spectrum[::-1]) @ other, -3)
    start = style.reshape(1, -1, 96)[:, :positions].reshape(picture.shape)
    picture = nearness * start + (1 - nearness) * picture
    value, gradient, _ = _gradient(wasserstein, picture, style, "float32")
    wanted, wanted_gradient = reference.wasserstein_loss(
        picture[0].astype(np.float32).astype(float), style[0].astype(np.float32).astype(float)
    )
    assert value == pytest.approx(wanted, rel=1e-4)
    assert np.linalg.norm(gradient[0] - wanted_gradient) < 1e-3 * np.linalg.norm(wanted_gradient)


@pytest.mark.parametrize("contrast", [0.3, 0.1, 0.03, 0.001, 0.0])
def test_wasserstein_of_a_pale_style_where_a_tap_has_few_positions(contrast):
    """Rounding leaves negative eigenvalues in the picture's covariance that are larger than the style's variance."""
    random = np.random.default_rng(8)
    picture = np.maximum(random.normal(0, 1, (1, 8, 8, 160)) @ random.normal(0, 0.1, (160, 160)), 0)
    style = 0.5 + contrast * np.maximum(random.normal(0, 1, (1, 30, 30, 160)), 0)
    value, gradient, _ = _gradient(wasserstein, picture, style, "float32")
    wanted, wanted_gradient = reference.wasserstein_loss(picture[0], style[0])
    assert value == pytest.approx(wanted, rel=1e-3)
    assert np.linalg.norm(gradient[0] - wanted_gradient) < 2e-3 * np.linalg.norm(wanted_gradient)


def test_wasserstein_of_one_channel_by_hand():
    """In one dimension it is the difference of the means and of the (widened) standard deviations, squared."""
    picture, style = np.array([-1.0, 1.0]), np.array([1.0, 5.0])
    target = _target(wasserstein, style.reshape(1, 1, 2, 1))
    widened = 0.001 * 4
    wanted = 3**2 + (math.sqrt(1 + widened) - math.sqrt(4 + widened)) ** 2
    assert _compare(wasserstein, picture.reshape(1, 1, 2, 1), target) == pytest.approx(wanted, rel=1e-13)
    assert wasserstein.scale(target[0]) == pytest.approx(3**2 + 4, rel=1e-13)


def test_wasserstein_iteration_holds_what_rounding_brings_beyond_its_interval():
    x = np.concatenate([np.geomspace(1e-5, 1, 20000), 1 + np.geomspace(1e-8, 3e-3, 200)])
    for one, two, four in wasserstein._STEPS:
        x = x * (one + two * x**2 + four * x**4)
        assert x.max() < 2.1
    np.testing.assert_allclose(x, 1, atol=2e-7)


@pytest.mark.parametrize("positions", [40, 4000])
@pytest.mark.parametrize("dominance", [1, 30, 1e2, 1e3, 1e5])
def test_wasserstein_in_float32_where_one_direction_dominates(dominance, positions):
    """Grey pictures and pale paintings: nearly all of both covariances in one direction, the pictures alike."""
    for seed in range(4):
        random = np.random.default_rng(seed)
        spectrum = np.sqrt(np.concatenate([[dominance], np.geomspace(1, 1e-3, 63)]))
        painting = np.maximum(random.normal(size=(1, 1, positions, 64)) * spectrum + 2 * spectrum, 0)
        picture = painting + 0.01 * random.normal(size=painting.shape)
        value, gradient, _ = _gradient(wasserstein, picture, painting, "float32")
        wanted, exact, _ = _gradient(wasserstein, picture, painting, "float64")
        blank, _, _ = _gradient(wasserstein, 0 * painting, painting, "float64")
        assert abs(value - wanted) < 1e-5 * blank
        assert np.linalg.norm(gradient - exact) < 2e-3 * np.linalg.norm(painting) / 64 / positions
