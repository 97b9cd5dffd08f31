import numpy as np
import pytest

from stylekeras import color
from stylekeras.errors import ImageError


def picture(shape=(9, 7, 3), seed=0, low=0.0, high=1.0, dtype=np.float64):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(dtype)


def plain_srgb_to_linear(value):
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def test_srgb_transfer_function_against_the_standard_value_by_value():
    values = np.linspace(0, 1, 257)
    np.testing.assert_allclose(
        color.srgb_to_linear(values), [plain_srgb_to_linear(float(v)) for v in values], rtol=1e-14
    )
    assert color.srgb_to_linear(np.array(0.5)) == pytest.approx(0.21404114048223255)  # worked by hand


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-7)])
def test_srgb_round_trip(dtype, tolerance):
    values = np.linspace(0, 1, 1001, dtype=dtype)
    back = color.linear_to_srgb(color.srgb_to_linear(values))
    assert back.dtype == dtype
    np.testing.assert_allclose(back, values, atol=tolerance)


def test_srgb_below_zero_stays_finite():
    assert np.all(np.isfinite(color.srgb_to_linear(np.array([-0.5, -1e-9]))))
    assert np.all(np.isfinite(color.linear_to_srgb(np.array([-0.5, -1e-9]))))


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 1, 1), (1, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (0.62796, 0.22486, 0.12585)),
        ((0, 1, 0), (0.86644, -0.23389, 0.17950)),
        ((0, 0, 1), (0.45201, -0.03246, -0.31153)),
    ],
)
def test_oklab_of_known_colours(rgb, lab):
    np.testing.assert_allclose(color.linear_to_oklab(np.array([[rgb]], float)), [[lab]], atol=1e-5)


def test_oklab_against_a_plain_loop():
    image = picture()
    for rgb, lab in zip(image.reshape(-1, 3), color.linear_to_oklab(image).reshape(-1, 3), strict=True):
        r, g, b = (float(v) for v in rgb)
        long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
        medium = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
        short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
        assert lab[0] == pytest.approx(0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short)
        assert lab[1] == pytest.approx(1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short)
        assert lab[2] == pytest.approx(0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short)


def test_oklab_round_trip():
    image = picture()
    np.testing.assert_allclose(color.oklab_to_linear(color.linear_to_oklab(image)), image, atol=1e-12)
    single = color.oklab_to_linear(color.linear_to_oklab(image.astype(np.float32)))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, image, atol=2e-6)


def statistics(image):
    colours = image.reshape(-1, 3)
    return colours.mean(axis=0), np.cov(colours.T, bias=True)


def test_match_gives_the_mean_and_covariance_of_the_reference():
    rng = np.random.default_rng(1)
    image = 0.5 + 0.03 * rng.standard_normal((40, 30, 3))
    mixing = np.array([[0.05, 0.02, 0.0], [0.0, 0.03, 0.01], [0.01, 0.0, 0.04]])
    reference = 0.45 + rng.uniform(-1, 1, (20, 50, 3)) @ mixing
    moved = color.match(image, reference)
    assert 0 < moved.min() < moved.max() < 1  # nothing was clipped, so both have to be met
    mean, covariance = statistics(moved)
    target_mean, target_covariance = statistics(reference)
    np.testing.assert_allclose(mean, target_mean, atol=1e-9)
    np.testing.assert_allclose(covariance, target_covariance, atol=5 * color.EPSILON)


def test_match_moves_colours_least_among_the_linear_maps_that_match():
    # The linear map of Gatys et al. (2016) ends at the same statistics, by a longer way.
    image, reference = picture(low=0.4, high=0.6), picture((11, 5, 3), seed=1, low=0.3, high=0.7)
    reference[..., 1] = reference[..., 0] * 0.5 + 0.25
    mean, covariance = statistics(image)
    target_mean, target_covariance = statistics(reference)
    eye = color.EPSILON * np.eye(3)
    longer = np.linalg.cholesky(target_covariance + eye) @ np.linalg.inv(np.linalg.cholesky(covariance + eye))
    other = (image.reshape(-1, 3) - mean) @ longer.T + target_mean
    moved = color.match(image, reference).reshape(-1, 3)
    colours = image.reshape(-1, 3)
    assert np.sum((moved - colours) ** 2) < np.sum((other - colours) ** 2)


def test_match_to_itself_changes_nothing():
    image = picture(dtype=np.float32)
    moved = color.match(image, image)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved, image, atol=1e-5)


def test_match_of_a_flat_picture_is_the_mean_of_the_reference():
    reference = picture((8, 8, 3), low=0.2, high=0.8)
    moved = color.match(np.full((6, 6, 3), 0.7, np.float32), reference)
    np.testing.assert_allclose(moved, np.broadcast_to(reference.mean(axis=(0, 1)), (6, 6, 3)), atol=1e-4)


def test_match_does_not_blow_up_rounding_noise():
    noise = np.random.default_rng(0).standard_normal((16, 16, 3)) * 1e-5
    moved = color.match(0.5 + noise, picture((16, 16, 3), low=0.2, high=0.8))
    assert np.all(moved.std(axis=(0, 1)) < 0.005)


def test_match_of_grey_pictures_is_finite_and_keeps_grey_grey():
    grey = np.repeat(picture((12, 12, 1), dtype=np.float32), 3, axis=2)
    lighter = 0.5 + grey / 2
    moved = color.match(grey, lighter)
    np.testing.assert_allclose(moved, lighter, atol=1e-4)
    assert np.all(np.isfinite(color.match(grey, picture(seed=3))))


def test_match_of_black_to_black():
    black = np.zeros((4, 4, 3), np.float32)
    assert np.array_equal(color.match(black, black), black)


def test_luminance_takes_lightness_from_one_and_colour_from_the_other():
    stylised, photo = picture(low=0.4, high=0.6), picture(seed=1, low=0.4, high=0.6)
    result = color.luminance(stylised, photo)
    lab = color.linear_to_oklab(color.srgb_to_linear(result))
    np.testing.assert_allclose(lab[..., 0], color.linear_to_oklab(color.srgb_to_linear(stylised))[..., 0], atol=1e-6)
    np.testing.assert_allclose(lab[..., 1:], color.linear_to_oklab(color.srgb_to_linear(photo))[..., 1:], atol=1e-6)


def test_luminance_reduces_chroma_and_keeps_lightness_and_hue_where_both_do_not_fit():
    stylised = np.full((1, 3, 3), 0.95)
    photo = np.eye(3)[None]  # red, green, blue: far too colourful for so light a picture
    result = color.luminance(stylised, photo)
    assert result.min() >= 0
    assert result.max() <= 1
    lab = color.linear_to_oklab(color.srgb_to_linear(result))
    wanted = color.linear_to_oklab(color.srgb_to_linear(photo))
    np.testing.assert_allclose(lab[..., 0], color.linear_to_oklab(color.srgb_to_linear(stylised))[..., 0], atol=2e-3)
    hue, wanted_hue = (np.arctan2(x[..., 2], x[..., 1]) for x in (lab, wanted))
    np.testing.assert_allclose(hue, wanted_hue, atol=0.02)
    assert np.all(np.hypot(lab[..., 1], lab[..., 2]) < np.hypot(wanted[..., 1], wanted[..., 2]))
    # The largest chroma that fits: some channel is at an end of its range.
    assert np.all(np.min(np.minimum(result, 1 - result), axis=-1) < 0.01)


def test_luminance_of_a_picture_with_itself_changes_nothing():
    image = picture(dtype=np.float32)
    image[0, 0], image[0, 1], image[0, 2] = 0, 1, (1, 0, 0)  # the corners of the gamut too
    result = color.luminance(image, image)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, image, atol=1e-3)


def test_match_by_a_share_is_that_share_of_the_way():
    image, reference = picture(low=0.4, high=0.6), picture((11, 5, 3), seed=1, low=0.3, high=0.7)
    whole = color.match(image, reference)
    for amount in (0.0, 0.25, 0.5, 1.0):
        np.testing.assert_allclose(
            color.match(image, reference, amount), (1 - amount) * image + amount * whole, atol=1e-12
        )
    assert np.array_equal(color.match(image, reference, 0), image)
    assert np.array_equal(color.match(image, reference, 1), whole)


def deviation(image):
    """The square root of the covariance, the regularisation left in."""
    return color._matrix_power(statistics(image)[1] + color.EPSILON * np.eye(3), 0.5)


def distance(a, b):
    """2-Wasserstein, of Gaussians of the same means and covariances."""
    (mean, one), (other_mean, other) = statistics(a), statistics(b)
    one, other = one + color.EPSILON * np.eye(3), other + color.EPSILON * np.eye(3)
    root = deviation(a)
    mixed = color._matrix_power(root @ other @ root, 0.5)
    return np.sqrt(np.sum((mean - other_mean) ** 2) + max(0.0, np.trace(one + other - 2 * mixed)))


def test_match_by_a_share_comes_evenly_nearer():
    image, reference = picture((20, 20, 3), low=0.3, high=0.6), picture((20, 20, 3), seed=1, low=0.4, high=0.5)
    whole = distance(image, reference)
    for amount in (0.25, 0.5, 0.75):
        assert distance(color.match(image, reference, amount), reference) == pytest.approx(
            (1 - amount) * whole, rel=0.01
        )


def test_luminance_by_a_share_mixes_chroma_and_keeps_lightness():
    stylised, photo = picture(low=0.4, high=0.6), picture(seed=1, low=0.4, high=0.6)
    own, wanted = (color.linear_to_oklab(color.srgb_to_linear(x)) for x in (stylised, photo))
    for amount in (0.25, 0.5, 1.0):
        lab = color.linear_to_oklab(color.srgb_to_linear(color.luminance(stylised, photo, amount)))
        np.testing.assert_allclose(lab[..., 0], own[..., 0], atol=1e-6)
        np.testing.assert_allclose(lab[..., 1:], (1 - amount) * own[..., 1:] + amount * wanted[..., 1:], atol=1e-6)
    assert np.array_equal(color.luminance(stylised, photo, 0), stylised)


def test_luminance_keeps_the_photos_chroma_in_8_bits_too():
    stylised, photo = picture((60, 60, 3), low=0.2, high=0.8), picture((60, 60, 3), seed=1, low=0.3, high=0.7)
    result = color.luminance(stylised, photo)
    rounded = np.rint(result * 255) / 255
    lab, before, wanted = (color.linear_to_oklab(color.srgb_to_linear(x)) for x in (rounded, result, photo))
    fits = np.abs(before[..., 1:] - wanted[..., 1:]).max(axis=-1) < 1e-6
    assert fits.mean() > 0.9  # elsewhere lightness and chroma do not fit into sRGB together
    # Half a step of 255 in each channel, by what a and b change with it at most.
    assert np.abs(lab[..., 1:] - wanted[..., 1:])[fits].max() < 0.004
    assert np.abs(lab[..., 1:] - wanted[..., 1:])[fits].mean() < 0.0008


GREY = np.repeat(picture((9, 7, 1), seed=5), 3, axis=2)
FLAT = np.full((9, 7, 3), (0.8, 0.3, 0.1))


@pytest.mark.parametrize("amount", [0.5, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("painted", "photo"),
    [
        (picture(), GREY),
        (GREY, picture()),
        (picture(), FLAT),
        (FLAT, picture()),
        (GREY, FLAT),
        (FLAT, GREY),
        (np.zeros((9, 7, 3)), picture()),
        (picture(), np.zeros((9, 7, 3))),
        (np.ones((9, 7, 3)), np.ones((9, 7, 3))),
    ],
    ids=["grey photo", "grey style", "flat photo", "flat style", "3", "4", "black style", "black photo", "white"],
)
def test_grey_and_flat_pictures_break_neither(painted, photo, dtype, amount):
    for function in (color.match, color.luminance):
        result = function(painted.astype(dtype), photo.astype(dtype), amount)
        assert result.dtype == dtype
        assert np.all(np.isfinite(result))
        assert result.min() >= 0
        assert result.max() <= 1


def test_the_colours_of_a_grey_photo_are_grey():
    result = color.luminance(picture(), GREY)
    np.testing.assert_allclose(result, np.repeat(result[..., :1], 3, axis=2), atol=1e-6)
    moved = color.match(picture((40, 40, 3), low=0.4, high=0.6), GREY)
    # What varies beside grey is narrowed to the regularisation's deviation.
    assert np.std(moved - moved.mean(axis=-1, keepdims=True)) < 2 * np.sqrt(color.EPSILON)


def test_a_grey_style_has_lightness_to_give_and_gets_the_photos_mean():
    photo = picture(seed=1, low=0.4, high=0.6)
    chroma = color.linear_to_oklab(color.srgb_to_linear(color.luminance(0.4 + 0.2 * GREY, photo)))[..., 1:]
    np.testing.assert_allclose(chroma, color.linear_to_oklab(color.srgb_to_linear(photo))[..., 1:], atol=1e-6)
    moved = color.match(0.4 + 0.2 * GREY, photo)
    np.testing.assert_allclose(moved.mean(axis=(0, 1)), photo.mean(axis=(0, 1)), atol=1e-6)
    assert np.linalg.matrix_rank(np.cov(moved.reshape(-1, 3).T), tol=1e-7) == 1  # still one line of colours


def test_luminance_of_other_sizes_is_refused():
    with pytest.raises(ImageError, match=r"7 x 9 photo for a 5 x 4 picture.*resize"):
        color.luminance(picture((4, 5, 3)), picture((9, 7, 3)))


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 4), (1, 9, 7, 3), (0, 7, 3)])
@pytest.mark.parametrize("function", [color.match, color.luminance])
def test_other_shapes_are_refused(function, shape):
    with pytest.raises(ImageError, match=r"expected a picture of shape \(h, w, 3\)"):
        function(np.zeros(shape), np.zeros((9, 7, 3)))
