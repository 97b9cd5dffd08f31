"""Code for processors that multiply matrices of bfloat16: imitated here, and itself where there is one."""

from types import SimpleNamespace

import numpy as np
import openvino
import pytest
from machine_code import needed
from openvino import opset13, opset16, passes

import stylekeras as sk
from stylekeras import machines
from stylekeras.engines import openvino as engine
from stylekeras.engines.openvino import layouts, low_precision
from stylekeras.graphs import low_channels_last
from stylekeras.native import direct_code, gram_code, tiles
from stylekeras.native.direct import DirectConvolver
from stylekeras.native.gram import Grams
from stylekeras.threads import Threads

IMITATED = [True, pytest.param(False, marks=pytest.mark.skipif(not tiles.available(), reason="there is no such unit"))]


def bits(values):
    """Rounded to bfloat16, as OpenVINO and processors do."""
    found = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((found + 0x7FFF + (found >> 16 & 1)) >> 16).astype(np.uint16)


def numbers(found):
    """Of bfloat16, in float64."""
    return (found.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def convolved(picture, weights, size, pads):
    """In float64, as many zeros after the picture as are needed."""
    (height, width), (above, left) = size, pads
    wide = np.zeros((height + 2, width + 2, picture.shape[2]))
    part = picture[: height + 2 - above, : width + 2 - left]
    wide[above : above + part.shape[0], left : left + part.shape[1]] = part
    shifts = ((i, j) for i in range(3) for j in range(3))
    return sum(wide[i : i + height, j : j + width] @ weights[:, :, i, j].T for i, j in shifts)


@pytest.mark.parametrize("imitated", IMITATED)
@pytest.mark.parametrize(
    ("shape", "channels", "out", "threads", "pads", "grown"),
    [
        ((5, 7), 32, 32, 1, (1, 1), 0),
        ((1, 1), 32, 64, 2, (1, 1), 0),  # one position
        ((9, 20), 64, 96, 3, (1, 1), 0),
        ((3, 40), 32, 32, 2, (1, 1), 0),
        ((6, 5), 32, 64, 2, (0, 0), -2),
        ((6, 5), 32, 64, 2, (2, 2), 2),
        ((6, 5), 32, 32, 1, (0, 2), 0),
        ((4, 5), 96, 128, 4, (1, 1), 0),  # channels are shared out
        ((9, 8), 6, 64, 2, (0, 0), -2),  # those of a picture
        ((9, 8), 64, 6, 2, (2, 2), 2),
        ((5, 4), 34, 38, 1, (1, 1), 0),
    ],
)
def test_a_convolution(rng, imitated, shape, channels, out, threads, pads, grown):
    picture = bits(rng.standard_normal((*shape, channels)))
    weights = numbers(bits(rng.standard_normal((out, channels, 3, 3)) / np.sqrt(9 * channels)))
    bias = rng.standard_normal(out).astype(np.float32)
    size = tuple(each + grown for each in shape)
    convolve = DirectConvolver(Threads(threads), direct_code.compiled(imitated=imitated))
    found = np.full((*size, out), 0x7FC0, np.uint16)
    convolve(picture, convolve.kernels(weights.astype(np.float32)), found, bias=bias, floor=0.0, pads=pads)
    wanted = np.maximum(convolved(numbers(picture), weights, size, pads) + bias, 0)
    np.testing.assert_allclose(numbers(found), wanted, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("imitated", IMITATED)
def test_a_picture_larger_than_what_is_laid_out_at_a_time(rng, imitated, monkeypatch):
    monkeypatch.setattr("stylekeras.native.direct._ROOM", 2**14)
    picture, weights = bits(rng.standard_normal((13, 11, 64))), numbers(bits(rng.standard_normal((32, 64, 3, 3)) / 24))
    convolve = DirectConvolver(Threads(2), direct_code.compiled(imitated=imitated))
    found = np.zeros((13, 11, 32), np.uint16)
    convolve(picture, convolve.kernels(weights.astype(np.float32)), found, bias=np.zeros(32, np.float32), pads=(1, 1))
    wanted = convolved(numbers(picture), weights, (13, 11), (1, 1))
    np.testing.assert_allclose(numbers(found), wanted, rtol=2**-8, atol=1e-5)
    convolve.rest()


@pytest.mark.parametrize("imitated", IMITATED)
@pytest.mark.parametrize(("is_added", "is_masked"), [(True, False), (False, True), (True, True)])
def test_what_comes_to_a_convolution(rng, imitated, is_added, is_masked):
    picture, weights = bits(rng.standard_normal((7, 9, 32))), numbers(bits(rng.standard_normal((64, 32, 3, 3)) / 17))
    added, mask = (bits(rng.standard_normal((7, 9, 64))) for _ in range(2))
    mask[0, 0, :2] = 0, 0x8000  # neither zero is positive
    given = {name: each for name, each, there in (("added", added, is_added), ("mask", mask, is_masked)) if there}
    convolve = DirectConvolver(Threads(2), direct_code.compiled(imitated=imitated))
    found = np.zeros((7, 9, 64), np.uint16)
    kernels, bias = convolve.kernels(weights.astype(np.float32)), np.zeros(64, np.float32)
    convolve(picture, kernels, found, bias=bias, pads=(1, 1), **given)
    wanted = convolved(numbers(picture), weights, (7, 9), (1, 1)) + is_added * numbers(added)
    wanted = np.where(numbers(mask) > 0, wanted, 0) if is_masked else wanted
    np.testing.assert_allclose(numbers(found), wanted, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("imitated", IMITATED)
def test_what_is_not_a_number_stays_that_where_it_is(rng, imitated):
    picture = bits(rng.standard_normal((6, 6, 32)))
    picture[2, 3, 5] = 0x7FC0
    weights = numbers(bits(rng.standard_normal((32, 32, 3, 3))))
    convolve = DirectConvolver(Threads(1), direct_code.compiled(imitated=imitated))
    found = np.zeros((6, 6, 32), np.uint16)
    kernels, bias = convolve.kernels(weights.astype(np.float32)), np.zeros(32, np.float32)
    convolve(picture, kernels, found, bias=bias, floor=0.0, pads=(1, 1))
    wrong = np.isnan(numbers(found)).all(axis=2)
    assert wrong[1:4, 2:5].all()
    assert wrong.sum() == 9


@pytest.mark.parametrize("imitated", IMITATED)
@pytest.mark.parametrize(
    ("count", "channels", "threads"), [(32, 32, 1), (1000, 64, 2), (40, 512, 2), (333, 128, 3), (7, 96, 2), (0, 32, 1)]
)
def test_a_gram_matrix_is_as_exact_as_float32(rng, imitated, count, channels, threads):
    features = bits(np.maximum(rng.standard_normal((count, channels)), 0))
    found = np.full((channels, channels), np.nan, np.float32)
    Grams(Threads(threads), gram_code.compiled(imitated=imitated))(features, found)
    wanted = numbers(features).T @ numbers(features)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * max(wanted.max(initial=0), 1))


def test_what_does_not_fit_is_an_error():
    """Machine code would read on."""
    convolve, grams = DirectConvolver(Threads(1), direct_code.compiled(imitated=True)), Grams
    kernels, bias = convolve.kernels(np.zeros((32, 32, 3, 3), np.float32)), np.zeros(32, np.float32)
    picture, result = (np.zeros((4, 4, 32), np.uint16) for _ in range(2))
    for given in (
        {"added": result[:1]},
        {"mask": np.zeros((4, 4, 32))},
        {"bias": bias[:8]},
        {"kernels": kernels[:64]},
        {"result": np.zeros((4, 4, 33), np.uint16)},
        {"picture": picture[:, ::2]},
    ):
        whole = {"picture": picture, "kernels": kernels, "result": result, "bias": bias, **given}
        with pytest.raises(ValueError, match=r"wanted|channels"):
            convolve(**whole)
    with pytest.raises(ValueError, match="channels"):
        grams(Threads(1), gram_code.compiled(imitated=True))(np.zeros((8, 48), np.uint16), np.zeros((48, 48), "f4"))


# --- in graphs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [[2], [0, 1], [1, 2], [-1], [0, 1, 2, 3]])
@pytest.mark.parametrize("keep", [True, False])
def test_sums_come_before_a_change_of_order(rng, axes, keep):
    given = opset13.parameter([1, 3, 4, 5], np.float32)
    turned = opset13.transpose(given, np.array([0, 2, 3, 1]))
    total = opset13.reduce_sum(turned, np.array(axes), keep)
    total.output(0).set_names({"total"})
    model = openvino.Model([total], [given])
    picture = rng.random((1, 3, 4, 5), np.float32)
    wanted = openvino.Core().compile_model(model.clone(), "CPU")(picture)["total"]
    layouts.sum_first(model)
    model.validate_nodes_and_infer_types()
    kinds = [node.get_type_name() for node in model.get_ordered_ops()]
    assert "Transpose" not in kinds[: kinds.index("ReduceSum")]
    np.testing.assert_allclose(openvino.Core().compile_model(model, "CPU")(picture)["total"], wanted, rtol=1e-6)


def test_what_hides_a_node_goes_but_not_two_results_of_one():
    given = opset13.parameter([2], np.float32)
    hidden = opset16.identity(opset13.abs(given))
    found = {"x": given, "y": hidden, "z": hidden, "w": opset13.negative(hidden)}
    results = {name: opset16.identity(node) for name, node in found.items()}
    for name, node in results.items():
        node.output(0).set_names({name})
    model = openvino.Model(list(results.values()), [given])
    layouts.drop_identities(model)
    assert [node.get_type_name() for node in model.get_ordered_ops()].count("Identity") == 4
    picture = np.array([-1.0, 2], np.float32)
    made = openvino.Core().compile_model(model, "CPU")(picture)
    for name, wanted in (("x", [-1, 2]), ("y", [1, 2]), ("z", [1, 2]), ("w", [-1, -2])):
        np.testing.assert_array_equal(made[name], wanted)
    assert not np.shares_memory(made["x"], picture)


def _model(made, *given):
    model = openvino.Model([opset13.convert(made, "f32")], list(given))
    folding = passes.Manager()
    folding.register_pass(passes.ConstantFolding())
    folding.run_passes(model)
    return model


def test_a_product_that_is_no_gram_matrix_is_none():
    """With one axis order on the left and another on the right, or of numbers that were not bfloat16."""
    given = opset13.parameter([1, 32, 4, 4], np.float32)

    def flat(kind, order):
        wide = opset13.convert(opset13.convert(given, kind), "f32")
        return opset13.reshape(opset13.transpose(wide, np.array(order)), np.array([16, 32]), False)

    def gram(features):
        raise AssertionError("taken for one")

    pairs = [(("bf16", (0, 2, 3, 1)), ("bf16", (0, 3, 2, 1))), (("f16", (0, 2, 3, 1)), ("f16", (0, 2, 3, 1)))]
    for left, right in pairs:
        model = _model(opset13.matmul(flat(*left), flat(*right), True, False), given)
        assert low_precision.narrow(model, gram) == 0


@pytest.fixture
def imitating(monkeypatch):
    """An engine that computes in bfloat16 by the code for matrix units, imitated; what it rewrote. OpenVINO's own
    nodes compute in float32."""
    done = {}
    keep = {"gram": gram_code.compiled, "direct": direct_code.compiled}
    monkeypatch.setattr(engine, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(tiles, "available", lambda: True)
    monkeypatch.setattr(gram_code, "compiled", lambda: keep["gram"](imitated=True))
    monkeypatch.setattr(direct_code, "compiled", lambda: keep["direct"](imitated=True))
    for name, module, function in (
        ("narrowed", low_precision, low_precision.narrow),
        ("rewritten", low_channels_last, low_channels_last.rewrite),
    ):

        def counted(model, *given, name=name, function=function):
            done.setdefault(name, []).append(function(model, *given))
            done["left"] = {node.get_type_name() for node in needed(model)}

        monkeypatch.setattr(module, function.__name__, counted)
    machines._built.cache_clear()
    yield done
    machines._built.cache_clear()


OPTIONS = {"backbone": "vgg16", "weights": "random", "engine": "openvino"}
TAPS = {"content_layers": "block2_conv2", "style_layers": "block1_conv1,block2_conv1,block2_conv2,block3_conv1"}


@pytest.mark.parametrize("style_loss", ["gram", "wasserstein", "sliced"])
@pytest.mark.parametrize(("shape", "pooling"), [((32, 40), "max"), ((35, 38), "max"), ((35, 38), "average")])
def test_the_objective_is_float32s_but_for_rounding(rng, imitating, style_loss, shape, pooling):
    """Sizes that pools do not divide among them, taps before a pool and not."""
    image, photo, painting = (np.clip(rng.random((*shape, 3)) * 0.5 + tone, 0, 1) for tone in (0.1, 0.2, 0.4))
    given = {**OPTIONS, **TAPS, "style_loss": style_loss, "pooling": pooling}
    wanted = sk.loss_and_gradient(image, photo, painting, sk.Settings(precision="float32", **given))
    found = sk.loss_and_gradient(image, photo, painting, sk.Settings(precision="bfloat16", **given))
    assert found.provenance["precision"] == "bfloat16"
    assert max(imitating["rewritten"]) == 10
    assert not imitating["left"] & {"Convolution", "MaxPool", "AvgPool", "Interpolate"}
    # A Gram matrix and its gradient of each tap; where another term comes to the gradient first, in float32, not that.
    assert max(imitating["narrowed"]) == {"gram": 8, "wasserstein": 7, "sliced": 0}[style_loss]
    assert found.loss == pytest.approx(wanted.loss, rel=0.01)
    assert 0 < np.linalg.norm(found.gradient - wanted.gradient) < 0.1 * np.linalg.norm(wanted.gradient)


def test_a_run_goes_where_that_of_openvino_does(rng, imitating, monkeypatch):
    photo, painting = rng.random((2, 36, 32, 3))
    given = {**OPTIONS, **TAPS, "size": 36, "min_size": None, "steps": 6, "precision": "bfloat16"}
    found = [progress.loss for progress in sk.iterate(photo, painting, sk.Settings(**given))]
    assert max(imitating["rewritten"]) > 0
    monkeypatch.setattr(tiles, "available", lambda: False)
    machines._built.cache_clear()
    wanted = [progress.loss for progress in sk.iterate(photo, painting, sk.Settings(**given))]
    np.testing.assert_allclose(found, wanted, rtol=0.02)


@pytest.mark.parametrize("style_loss", ["gram", "wasserstein", "sliced"])
def test_in_tiles_too_with_two_styles(rng, imitating, style_loss):
    """Of which every statistic is the same tensor."""
    image, photo, *paintings = np.clip(rng.random((4, 72, 64, 3)) * 0.5 + rng.random((4, 1, 1, 3)) * 0.5, 0, 1)
    given = {**OPTIONS, "content_layers": "block2_conv1", "style_layers": "block1_conv1,block2_conv1"}
    given |= {"style_loss": style_loss, "precision": "bfloat16"}
    whole, tiled = (
        sk.loss_and_gradient(image, photo, paintings, sk.Settings(tile=tile, **given)) for tile in ("none", 40)
    )
    # The whole step, and the two halves of a tile's.
    assert {count for count in imitating["rewritten"] if count} == {6, 3}
    assert tiled.loss == pytest.approx(whole.loss, rel=0.005)
    assert np.linalg.norm(tiled.gradient - whole.gradient) < 0.05 * np.linalg.norm(whole.gradient)


def test_a_model_with_a_node_that_is_not_ours_stays_as_it_is(rng):
    picture = opset13.parameter([1, 32, 8, 8], np.float32)
    low = opset13.convert(picture, "bf16")
    pools = [opset13.max_pool(low, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)]
    weights = opset13.convert(opset13.constant(rng.random((32, 32, 5, 5), np.float32)), "bf16")
    wide = opset13.convolution(pools[0], weights, [1, 1], [2, 2], [2, 2], [1, 1])
    model = openvino.Model([opset13.convert(wide, "f32")], [picture])
    folding = passes.Manager()
    folding.register_pass(passes.ConstantFolding())
    folding.run_passes(model)
    before = [node.get_friendly_name() for node in model.get_ordered_ops()]
    assert low_channels_last.rewrite(model, opset13, SimpleNamespace(multiple=16)) == 0
    assert [node.get_friendly_name() for node in model.get_ordered_ops()] == before
