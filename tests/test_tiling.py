"""A picture in tiles has the loss and the gradient of the whole one."""

import itertools

import numpy as np
import pytest
import reference
from engines_here import ENGINES
from fakes import scene
from onnx import TensorProto, helper
from reference import Conv, Pool, numpy_ops
from test_graphs_file import residual

import stylekeras as sk
from stylekeras import backbones, machines, objective, style_losses, tiling
from stylekeras.errors import GraphError
from stylekeras.settings import CHOICES
from stylekeras.tiling import Field

_THREE = Field().through(3, 1, 1, 1)
# conv, conv, pool, conv, as the tiny network below.
_TINY = {
    "one": _THREE,
    "two": _THREE.through(3, 1, 1, 1),
    "three": _THREE.through(3, 1, 1, 1).through(2, 2).through(3, 1, 1, 1),
}
_ODD = {"a": Field().through(5, 2, 2, 2), "b": Field().through(5, 2, 2, 2).through(3, 2, 1, 1).through(3, 1, 0, 0)}
_VGG = backbones.vgg_anatomy("vgg19", ["block1_conv1", "block3_conv1", "block5_conv1"]).fields


# --- geometry -------------------------------------------------------------------------------------------------------


def test_the_field_of_a_position_by_hand():
    field = _TINY["three"]
    # Two convolutions see 2 pixels either side; a pool joins 2; a convolution of stride 2 one more pair either side.
    assert (field.stride, field.low, field.high) == (2, 4, 5)
    assert field.positions(11) == 5
    deepest = _VGG["block5_conv1"][0]
    assert (deepest.stride, deepest.low, deepest.high) == (16, 70, 85)
    assert deepest.positions(333) == 20


@pytest.mark.parametrize("fields", [_TINY, _ODD, {name: pair[0] for name, pair in _VGG.items()}])
@pytest.mark.parametrize("size", [1, 16, 40, 100])
def test_windows(fields, size):
    stride = max(field.stride for field in fields.values())
    for length in (33, 64, 97, 160, 333, 337):
        found = tiling.windows(length, size, list(fields.values()))
        assert len({window.stop - window.start for window in found}) == 1
        assert found[0].own_start == 0
        assert found[-1].own_stop == length
        for window in found:
            assert window.start % stride == 0
            assert 0 <= window.start <= window.own_start < window.own_stop <= window.stop <= length
            assert len(found) == 1 or window.own_stop - window.own_start < max(size, stride) + 2 * stride
        for field in fields.values():
            owners = np.zeros(field.positions(length))
            for window in found:
                own = np.flatnonzero(window.own(field, length)) + window.start // field.stride
                owners[own] += 1
                for i in (own[0], own[-1]) if own.size else ():
                    assert window.start == 0 or i * field.stride - field.low >= window.start
                    assert window.stop == length or i * field.stride + field.high < window.stop
            np.testing.assert_array_equal(owners, 1)


def test_tiles_paste_together():
    fields = (_TINY["three"], _TINY["three"])
    whole = np.arange(5 * 8, dtype=np.float32).reshape(1, 5, 8, 1)
    pasted = np.full_like(whole, -1)
    parts = tiling.tiles((11, 17), 4, {"three": fields})
    assert len(parts) > 1
    for tile in parts:
        tile.paste(pasted, tile.cut_tap(whole, fields), fields)
    np.testing.assert_array_equal(pasted, whole)


# --- in float64, on a tiny network ----------------------------------------------------------------------------------

LAYERS = {"one": 1.5, "three": 0.7}
WEIGHTS = {"content": 1.3, "style": 2.1, "tv": 0.4, "content_layers": {"two": 2.0}, "style_layers": LAYERS}


def _network(rng, kind, edge):
    def conv(name, before, after, edge="zeros"):
        return Conv(name, rng.normal(0, 0.4, (3, 3, before, after)), rng.normal(0, 0.1, after), edge)

    return [conv("one", 3, 4, edge), conv("two", 4, 5), Pool(kind), conv("three", 5, 6)]


def _tensorflow(engine, network):
    import tensorflow as tf

    def extract(x):
        taps = {}
        for layer in network:
            if isinstance(layer, Pool):
                x = (tf.nn.max_pool2d if layer.kind == "max" else tf.nn.avg_pool2d)(x, 2, 2, "VALID")
                continue
            mode = "SYMMETRIC" if layer.edge == "replicate" else "CONSTANT"
            x = tf.nn.conv2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode), layer.kernel, 1, "VALID")
            x = taps[layer.name] = tf.nn.relu(x + layer.bias)
        return taps

    def tensor(value):
        return tf.nest.map_structure(lambda item: tf.convert_to_tensor(item, tf.float64), value)

    return extract, tensor


def _problem(rng, network, style_loss, shape, *, masks):
    """Targets of a picture, and its weights; all NumPy in float64. With masks, the second style has its own layers."""
    module = style_losses.load(style_loss)

    def extract(picture):
        return {name: features[None] for name, features in reference.forward(network, picture)[0].items()}

    content = objective.content_target(numpy_ops, extract(rng.random((*shape, 3))), {"two": 2.0}, relative=True)
    styles = []
    layers = [LAYERS, {"two": 0.6, "three": 0.2} if masks else LAYERS]
    for size, own in zip(((9, 12), (14, 7)), layers, strict=True):
        features = extract(rng.random((*size, 3)))
        frames = objective.style_frames(module, objective.style_sums(numpy_ops, module, features, own))
        sums = objective.style_sums(numpy_ops, module, features, own, frames=frames)
        styles.append(objective.style_target(module, sums, frames, relative=True))
        if masks:
            for tap, target in styles[-1].items():
                target["mask"] = rng.random((1, *(_TINY[tap].positions(length) for length in shape), 1))
    weights = {**WEIGHTS, "styles": [0.6, 1.7], "style_layers": layers if masks else LAYERS}
    return {"content": content, "styles": styles}, weights


def _in_tiles(engine, extract, tensor, module, image, targets, weights, parts, fields):
    """Loss and gradient tile by tile."""
    loss = objective.Objective(module)
    measure, pull = engine.measurer(extract, loss), engine.evaluator(extract, objective.Pull(module))

    def given(tile):
        def cut(target, kind):
            whole = {tap: {"frame": one["frame"]} if "frame" in one else {} for tap, one in target.items()}
            return {
                tap: {**whole[tap], kind: tile.cut_tap(one[kind], fields[tap])} if kind in one else whole[tap]
                for tap, one in target.items()
            }

        content, styles = cut(targets["content"], "features"), [cut(style, "mask") for style in targets["styles"]]
        return tensor({"content": content, "styles": styles, "owned": tile.owned(fields)})

    sums = tiling.add_up(engine.array(measure(tensor(tile.cut(image)), given(tile))) for tile in parts)
    scales = {tap: {"scale": target["scale"]} for tap, target in targets["content"].items()}
    styles = [
        {tap: {"target": one["target"], "scale": one["scale"]} for tap, one in style.items()}
        for style in targets["styles"]
    ]
    compared = {"content": scales, "styles": styles}
    value, _, found = engine.differentiator(loss)(tensor(sums), tensor(compared), tensor(weights))
    cotangents = objective.parts(found)
    pulled = ((tile, engine.array(pull(tensor(tile.cut(image)), given(tile), cotangents)[2])) for tile in parts)
    return engine.array(value), tiling.gradient(image, pulled)


def _error(found, right):
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


_NETWORKS = [("max", "replicate"), ("average", "zeros")]


@pytest.mark.parametrize(
    ("style_loss", "network", "masks"),
    [
        *itertools.product(["gram", "wasserstein"], _NETWORKS, [False, True]),
        *((name, _NETWORKS[0], True) for name in CHOICES["style_loss"] if name not in ("gram", "wasserstein")),
    ],
)
def test_tiled_is_whole_in_float64(float64, engine, rng, style_loss, network, masks):
    kind, edge = network
    network, module, shape = _network(rng, kind, edge), style_losses.load(style_loss), (25, 30)
    extract, tensor = _tensorflow(engine, network)
    targets, weights = _problem(rng, network, style_loss, shape, masks=masks)
    image = rng.random((1, *shape, 3))
    evaluate = engine.evaluator(extract, objective.Objective(module))
    loss, _, gradient = engine.array(evaluate(tensor(image), tensor(targets), tensor(weights)))
    fields = {name: (field, field) for name, field in _TINY.items()}
    arguments = (engine, extract, tensor, module, image, targets, weights)
    for size in (1, 8, 13):
        parts = tiling.tiles(shape, size, fields)
        assert len(parts) > 1
        value, found = _in_tiles(*arguments, parts, fields)
        assert value == pytest.approx(loss, rel=1e-12)
        assert _error(found, gradient) < 1e-12
    # A halo one stride too small is seen.
    less = {
        name: tuple(field._replace(low=field.low - 2, high=field.high - 2) for field in pair)
        for name, pair in fields.items()
    }
    parts = tiling.tiles(shape, 8, less)
    value, found = _in_tiles(*arguments, parts, fields)
    assert _error(found, gradient) > 1e-6


# --- on the engines -------------------------------------------------------------------------------------------------


def _both(rng, shape, tile, **changes):
    """The objective at a picture, whole and in tiles."""
    image, content = scene(rng, *shape), scene(rng, *shape)
    styles = [sk.Style(scene(rng, shape[1], shape[0])), sk.Style(scene(rng, *shape), weight=0.5, scale=0.7)]
    found = []
    for size in ("none", tile):
        chosen = sk.Settings(**{"backbone": "vgg16", "precision": "float32", "tile": size, **changes})
        found.append(sk.loss_and_gradient(image, content, styles, chosen))
    return found


def _agree(whole, tiled):
    assert tiled.loss == pytest.approx(whole.loss, rel=1e-5)
    assert tiled.terms == pytest.approx(whole.terms, rel=1e-4)
    assert _error(tiled.gradient, whole.gradient) < 1e-4
    assert not np.array_equal(tiled.gradient, whole.gradient)


@pytest.mark.parametrize(
    ("engine", "shape", "tile", "style_loss"),
    [("openvino", (384, 512), 160, "wasserstein"), ("tensorflow", (333, 500), 192, "gram")],
)
def test_tiled_is_whole_on_real_weights(rng, engine, shape, tile, style_loss):
    if engine not in ENGINES:
        pytest.skip("another process has Keras on TensorFlow")
    _agree(*_both(rng, shape, tile, weights="offline", engine=engine, style_loss=style_loss))


_SHALLOW = {"content_layers": "block2_conv2=1", "style_layers": "block1_conv1=1,block2_conv1=2,block3_conv1=0.5"}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("style_loss", "pooling", "padding"),
    [
        ("wasserstein", "max", "zeros"),
        ("gram", "average", "replicate"),
        ("moments", "average", "zeros"),
        ("covariance", "max", "replicate"),
        ("sliced", "max", "zeros"),
    ],
)
def test_tiled_is_whole_on_every_engine(rng, engine, style_loss, pooling, padding):
    options = {"style_loss": style_loss, "pooling": pooling, "padding": padding, "loss_scale": "absolute"}
    _agree(*_both(rng, (75, 90), 16, weights="random", engine=engine, **_SHALLOW, **options))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("style_loss", ["gram", "wasserstein", "sliced"])
def test_two_styles_that_look_at_the_same(rng, engine, style_loss):
    """Without masks both have the same sums."""
    pictures = [scene(rng, 75, 90) for _ in range(4)]
    given = {"weights": "random", "engine": engine, "style_loss": style_loss, "precision": "float32", **_SHALLOW}
    whole, tiled = (
        sk.loss_and_gradient(*pictures[:2], pictures[2:], sk.Settings(tile=tile, **given)) for tile in ("none", 16)
    )
    _agree(whole, tiled)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("style_loss", ["wasserstein", "sliced"])
def test_what_tiles_keep_is_what_a_second_look_finds(monkeypatch, engine, style_loss):
    looks, found = [], []
    given = machines.TiledView._given
    monkeypatch.setattr(machines.TiledView, "_given", lambda view, tile: looks.append(tile) or given(view, tile))
    layout, options = machines.layout, {"weights": "random", "engine": engine, "style_loss": style_loss, **_SHALLOW}
    for held in (0, 1, 5):
        monkeypatch.setattr(machines, "layout", lambda *a, held=held, **b: layout(*a, **b)._replace(held=held))
        whole, tiled = _both(np.random.default_rng(3), (75, 90), 16, **options)
        _agree(whole, tiled)
        found.append((tiled.gradient, len(looks)))
        looks.clear()
    assert [count for _, count in found] == [found[0][1], found[0][1] - 1, found[0][1] - 5]
    for gradient, _ in found[1:]:
        assert _error(gradient, found[0][0]) < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_content_alone_and_style_alone(rng, engine):
    image, other = scene(rng, 70, 64), scene(rng, 70, 64)
    for content, styles in ((other, []), (None, [other])):
        found = []
        for tile in ("none", 16):
            options = {} if content is not None else {"init": "noise"}
            options |= {"backbone": "vgg16", "weights": "random", "precision": "float32"}
            chosen = sk.Settings(engine=engine, tile=tile, **_SHALLOW, **options)
            found.append(sk.loss_and_gradient(image, content, styles, chosen))
        _agree(*found)


@pytest.mark.parametrize("last", [False, True])
def test_a_network_from_a_file(tmp_path, rng, last):
    path = tmp_path / "network.onnx"
    path.write_bytes(residual(np.random.default_rng(2), last=last).SerializeToString())
    layers = {"content_layers": "one.relu=1", "style_layers": "stem.relu=1,two.relu=1"}
    _agree(*_both(rng, (90, 107), 32, backbone=str(path), engine="onnxruntime", **layers))


def test_a_network_that_sees_all_of_a_picture_is_refused(tmp_path, rng):
    kernel = helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 3, 3], rng.normal(size=108).astype("f4"))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["mean"], name="squeeze"),
        helper.make_node("Mul", ["c", "mean"], ["y"]),
    ]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, "h", "w"])
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(helper.make_graph(nodes, "g", [entry], [out], [kernel]), opset_imports=opset)
    path = tmp_path / "squeeze.onnx"
    path.write_bytes(model.SerializeToString())
    layers = {"content_layers": "y=1", "style_layers": "y=1"}
    with pytest.raises(GraphError, match=r"GlobalAveragePool \(squeeze\).*tile=none"):
        _both(rng, (64, 64), 32, backbone=str(path), engine="onnxruntime", **layers)


# --- a whole run ----------------------------------------------------------------------------------------------------


def _run(tile, engine="openvino", resume=None, **changes):
    random = np.random.default_rng(4)
    content, style = scene(random, 80, 96), scene(random, 64, 64)
    options = {"size": 96, "min_size": 48, "steps": (4, 6), "backbone": "vgg16", "weights": "random", **_SHALLOW}
    chosen = sk.Settings(**{**options, "engine": engine, "tile": tile, "precision": "float32", **changes})
    return list(sk.iterate(content, style, chosen, resume=resume))


@pytest.mark.parametrize("optimizer", CHOICES["optimizer"])
def test_a_run_in_tiles_paints_the_same_picture(optimizer):
    whole, tiled = _run("none", optimizer=optimizer)[-1], _run(32, optimizer=optimizer)[-1]
    assert tiled.loss == pytest.approx(whole.loss, rel=1e-3)
    assert np.abs(tiled.image - whole.image).mean() < 1 / 255


@pytest.mark.parametrize("engine", [ENGINES[0], "openvino"])
def test_a_run_in_tiles_goes_on_after_a_resume(engine):
    steps = _run(32, engine)
    resumed = _run(32, engine, resume=steps[6].state)
    assert [step.loss for step in resumed] == [step.loss for step in steps[7:]]
    np.testing.assert_array_equal(resumed[-1].image, steps[-1].image)


@pytest.mark.parametrize("tile", [15, 0, -4, "small", 1.5, True])
def test_a_tile_that_cannot_be(tile):
    with pytest.raises(sk.SettingsError, match="tile="):
        sk.Settings(tile=tile)


def test_tiles_are_as_small_as_there_can_be():
    assert [sk.Settings(tile=tile).tile for tile in ("auto", "None", None, 16, "256")] == [
        "auto",
        "none",
        "none",
        16,
        256,
    ]
    sizes = [len(tiling.tiles((64, 96), size, _VGG)) for size in (16, 32, 96)]
    assert sizes == sorted(sizes, reverse=True)
    assert list(itertools.accumulate(sizes))[-1] >= 3
