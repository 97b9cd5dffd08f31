"""What every engine promises. Those on Keras need a process each: KERAS_BACKEND says which one is tested in this."""

import ast
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import reference
from engines_here import ENGINES, load, style_target
from fakes import scene
from onnx import TensorProto, helper

import stylekeras as sk
from stylekeras import arrays, engines, machines, objective, optimizers, settings, style_losses
from stylekeras import weights as weight_sets
from stylekeras.errors import EngineError
from stylekeras.host import Host

FRAMEWORKS = {"tensorflow", "jax", "torch", "onnxruntime", "openvino"}
LAYERS = {"block1_conv2": 1.5, "block2_conv1": 0.7}
every = pytest.mark.parametrize("engine", ENGINES, indirect=True)


class Distance:
    """mean((image - target)^2) for each target, with its weight."""

    name = "distance"

    def __call__(self, ops, image, features, targets, weights):
        terms = {name: ops.mean(ops.square(image - target)) for name, target in targets["pictures"].items()}
        return sum(weights[name] * value for name, value in terms.items()), terms


@pytest.fixture
def engine(request):
    return load(request.param)


@pytest.fixture(scope="module")
def random_vgg():
    return weight_sets.load("random", "vgg16", seed=5, last="block2_conv1")


@pytest.fixture
def loop(engine, random_vgg):
    """A loop on the distance from a picture, with L-BFGS."""
    taps = engine.backbone(random_vgg, ["block1_conv1"], pooling="max", padding="zeros")
    return lambda optimizer: engine.loop(taps, Distance(), optimizer)


def _problem(engine, rng, shape):
    picture, image = rng.random((2, 1, *shape, 3))
    return engine.tensor(image), engine.tensor({"pictures": {"a": picture}}), engine.tensor({"a": 0.5})


def test_only_an_engine_imports_its_framework():
    importers = set()
    for path in Path(sk.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else names
            module = path.parent.name if path.parent.parent.name == "engines" else path.stem
            importers |= {(module, top) for name in names if (top := name.partition(".")[0]) in FRAMEWORKS}
    assert importers == {(name, name) for name in FRAMEWORKS}


def test_the_setting_knows_every_engine():
    files = {path.stem for path in Path(engines.__file__).parent.iterdir()} - {"__init__", "__pycache__"}
    assert files == FRAMEWORKS == set(engines.ORDER)
    assert set(settings.CHOICES["engine"]) == {"auto", "onnx", *engines.ORDER}
    assert set(engines.GPU_ORDER) | set(engines.ONNX_RUNTIMES) <= set(engines.ORDER)


@every
def test_tensors_and_arrays(engine):
    nested = {"a": [np.arange(3), 2], "b": {"c": np.zeros((1, 2), np.float64), "d": []}}
    back = engine.array(engine.tensor(nested))
    assert back["a"][0].tolist() == [0, 1, 2]
    assert back["a"][1] == 2
    assert back["b"]["d"] == []
    assert {value.dtype for value in (*back["a"], back["b"]["c"])} == {np.dtype("float32")}


@every
def test_it_says_what_it_is(engine):
    assert engine.name in engines.ORDER
    assert engine.version[0].isdigit()
    assert engine.device.startswith(("CPU (", "GPU ("))
    assert engine.precision == "float32"
    assert not engine.out_of_memory(ValueError("something else"))


@every
@pytest.mark.parametrize("style_loss", settings.CHOICES["style_loss"])
@pytest.mark.parametrize(("pooling", "padding"), [("max", "replicate"), ("average", "zeros")])
def test_loss_terms_and_gradient_are_the_references(engine, random_vgg, rng, style_loss, pooling, padding):
    """Two styles, sizes that no stride divides, and another picture and size through what is compiled already."""
    for found, wanted in _found_and_wanted(engine, random_vgg, rng, style_loss, pooling, padding):
        assert found[0] == pytest.approx(wanted.loss, rel=2e-5)
        assert found[1] == pytest.approx(wanted.terms, rel=5e-5)
        assert _error(found[2][0], wanted.gradient) < 1e-4


# What a loss may be off by, and within what a gradient is: rounding turns some units and maxima over, which counts by
# the root of its size.
ROUNDED = {"bfloat16": (3e-3, 1e-4, 0.06), "float16": (4e-4, 1e-5, 0.02)}


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("style_loss", settings.CHOICES["style_loss"])
def test_in_low_precision_only_the_network_is_rounded(name, precision, random_vgg, rng, style_loss):
    low = ("bfloat16",) if engines.multiplies_bfloat16() else ()
    if name in engines.ONNX_RUNTIMES and precision not in (low if name == "openvino" else ()):
        with pytest.raises(EngineError, match=f"engine {name} computes in float32.*, not in {precision}"):
            load(name, precision)
        return
    engine = load(name, precision)
    assert engine.precision == precision
    off, least, most = ROUNDED[precision]
    for found, wanted in _found_and_wanted(engine, random_vgg, rng, style_loss, "max", "replicate"):
        assert found[0] == pytest.approx(wanted.loss, rel=off)
        assert found[1]["tv"] == pytest.approx(wanted.terms["tv"], rel=1e-5)
        assert least < _error(found[2][0], wanted.gradient) < most


@pytest.mark.parametrize("name", [name for name in ENGINES if name not in engines.ONNX_RUNTIMES])
@pytest.mark.parametrize("amount", [1e-12, 1e12])
def test_in_float16_derivatives_of_any_size_go_through_the_network(name, random_vgg, rng, amount):
    """Those of losses this small would be 0 in float16, of losses this large infinite."""
    engine = load(name, "float16")
    taps = engine.backbone(random_vgg, ["block2_conv1"], pooling="max", padding="zeros")
    features = taps(engine.tensor(rng.random((1, 33, 35, 3))))
    layers = {"block2_conv1": 1.0}
    targets = {"content": objective.content_target(engine.ops, features, layers, relative=True), "styles": []}
    evaluate = engine.evaluator(taps, objective.Objective(style_losses.load("gram")))
    image = engine.tensor(rng.random((1, 33, 35, 3)))

    def gradient(content):
        weights = {"content": content, "style": 0.0, "tv": 0.0, "content_layers": layers}
        weights |= {"style_layers": {}, "styles": []}
        return engine.array(evaluate(image, targets, engine.tensor(weights)))[2]

    plain = gradient(1.0)
    assert np.linalg.norm(plain) > 0
    assert _error(gradient(amount) / amount, plain) < 0.002
    assert not gradient(0.0).any()


@pytest.mark.parametrize("name", [name for name in ENGINES if name not in engines.ONNX_RUNTIMES])
def test_in_float16_features_beyond_its_range_are_no_problem(name, rng):
    """Trained weights with Caffe's input range reach tens of thousands; these go beyond what float16 holds."""
    loaded = weight_sets.load("random", "vgg16", seed=5, last="block1_conv2")
    large = {layer: (kernel * 20, bias * 20 + 100) for layer, (kernel, bias) in loaded.layers.items()}
    loaded = dataclasses.replace(loaded, layers=large)
    image = rng.random((1, 33, 35, 3))

    def features(precision):
        engine = load(name, precision)
        taps = engine.backbone(loaded, ["block1_conv2"], pooling="max", padding="zeros")
        return engine.array(taps(engine.tensor(image)))["block1_conv2"]

    wanted = features("float32")
    assert wanted.max() > 65504
    assert _error(features("float16"), wanted) < 0.002


def _error(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def _found_and_wanted(engine, random_vgg, rng, style_loss, pooling, padding):
    taps = engine.backbone(random_vgg, list(LAYERS), pooling=pooling, padding=padding)
    module = style_losses.load(style_loss)
    evaluate = engine.evaluator(taps, objective.Objective(module))
    network = reference.vgg(random_vgg.layers, "block2_conv1", pooling=pooling, padding=padding)
    for shape in ((33, 37), (35, 32)):
        image, content = scene(rng, *shape), scene(rng, *shape)
        styles = [(scene(rng, 40, 34), 0.6), (scene(rng, 32, 45), 1.7)]
        card = random_vgg.card
        preprocessing = {"order": card.channel_order, "scale": card.range, "mean": card.mean, "std": card.std}
        setup = reference.Setup(
            network, content, styles, LAYERS, LAYERS, style_loss, True, 1.3, 2.1, 0.4, preprocessing
        )
        seen = taps(engine.tensor(content[None]))
        targets = {
            "content": objective.content_target(engine.ops, seen, LAYERS, relative=True),
            "styles": [
                style_target(engine, module, taps(engine.tensor(picture[None])), LAYERS) for picture, _ in styles
            ],
        }
        weights = {
            "content": 1.3,
            "style": 2.1,
            "tv": 0.4,
            "content_layers": LAYERS,
            "style_layers": LAYERS,
            "styles": [0.6, 1.7],
        }
        found = engine.array(evaluate(engine.tensor(image[None]), targets, engine.tensor(weights)))
        yield found, reference.objective(image.astype(float), setup)


@every
@pytest.mark.parametrize("name", settings.CHOICES["optimizer"])
def test_a_loop_goes_on_from_its_saved_state(engine, loop, rng, name):
    optimizer = optimizers.load(name)
    image, targets, weights = _problem(engine, rng, (4, 5))
    first = loop(optimizer)
    first.start(optimizer.init(engine.ops, image, clip=True))

    def taken_out():
        return {field: np.asarray(value) for field, value in engine.array(first.state)._asdict().items()}

    types = {field: value.dtype for field, value in taken_out().items()}
    steps = [first.step(targets, weights) for _ in range(4)]
    state, terms = taken_out(), steps[-1][2]
    assert {field: value.dtype for field, value in state.items()} == types
    kept = {field: value.copy() for field, value in state.items()}
    rest = [first.step(targets, weights) for _ in range(4)]
    for field, value in state.items():
        np.testing.assert_array_equal(value, kept[field], err_msg="a later step changed a state that was taken out")

    other = loop(optimizer)
    other.restore(state, terms)
    assert [other.step(targets, weights) for _ in range(4)] == rest
    np.testing.assert_array_equal(engine.array(other.image), engine.array(first.image))


@every
def test_a_loop_changes_size_and_rests(engine, loop, rng):
    one = loop(optimizers.load("lbfgs"))
    for shape in ((4, 5), (8, 10), (3, 3)):
        image, targets, weights = _problem(engine, rng, shape)
        one.start(optimizers.load("lbfgs").init(engine.ops, image))
        losses = [one.step(targets, weights)[1] for _ in range(40)]
        assert one.image.shape == (1, *shape, 3)
        assert losses[-1] < 1e-4 * losses[0]
        one.rest()


@every
def test_a_steps_terms_are_the_kept_pictures(engine, loop, rng):
    """A rejected trial changes neither the loss nor the terms that are reported."""
    image, targets, weights = _problem(engine, rng, (4, 5))
    one = loop(optimizers.load("lbfgs"))
    one.start(optimizers.load("lbfgs").init(engine.ops, image))
    evaluated, loss, terms, moved = one.step(targets, weights)
    assert moved == 0
    assert evaluated == loss == pytest.approx(0.5 * terms["a"])
    before = engine.array(one.image)
    _, better, better_terms, moved = one.step(targets, weights)
    assert better < loss
    assert moved == pytest.approx(np.sqrt(np.mean((engine.array(one.image) - before) ** 2)), rel=1e-4)
    evaluated, loss, terms, moved = one.step(targets, engine.tensor({"a": float("nan")}))
    assert moved == 0
    assert math.isnan(evaluated)
    assert loss == better
    assert terms == better_terms


@pytest.mark.parametrize(
    ("flags", "vendor", "chosen"),
    [
        ({"avx2", "avx512_bf16", "amx_bf16"}, "GenuineIntel", ("bfloat16",)),
        ({"avx2", "avx512_bf16"}, "GenuineIntel", ("winograd", "float32")),
        ({"avx2", "avx512_bf16"}, "AuthenticAMD", ("winograd", "bfloat16")),
        ({"avx2"}, "AuthenticAMD", ("winograd", "float32")),
        ((), "", ("float32",)),
    ],
)
def test_auto_precision_is_bfloat16_where_the_processor_multiplies_it_faster(monkeypatch, flags, vendor, chosen):
    """By a matrix unit, or by vector instructions if they are no slower."""
    monkeypatch.setattr(engines, "processor_flags", lambda: frozenset(flags))
    monkeypatch.setattr(engines, "processor_vendor", lambda: vendor)
    assert engines.native_precisions() == chosen


@pytest.mark.parametrize(
    ("capability", "chosen"),
    # Hopper, Ampere, the T4, Volta, and Pascal, which has no matrix units.
    [((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float16"), ((7, 0), "float16"), ((6, 1), "float32")],
)
def test_auto_precision_on_a_gpu_is_the_lowest_that_its_matrix_units_have(capability, chosen):
    assert engines.native_precisions(capability) == (chosen,)


def test_a_precision_is_what_was_asked_for_or_the_fastest_that_the_engine_has():
    assert engines.precision_of("x", "auto", "float32", "bfloat16", auto=("winograd", "bfloat16")) == "bfloat16"
    assert engines.precision_of("x", "auto", "float32", "bfloat16", auto=("float16",)) == "float32"
    assert engines.precision_of("x", "auto", "float32", auto=("bfloat16",)) == "float32"
    assert engines.precision_of("x", "auto", "float32", "bfloat16") == "float32"
    assert engines.precision_of("x", "bfloat16", "float32", "bfloat16") == "bfloat16"
    with pytest.raises(EngineError, match="engine x computes in float32 or bfloat16, not in float16"):
        engines.precision_of("x", "float16", "float32", "bfloat16")


@pytest.mark.parametrize(
    ("flags", "precision", "chosen"),
    [
        ({"avx512_bf16"}, "bfloat16", "openvino"),
        ({"avx512f"}, "bfloat16", "torch"),
        ({"avx512_bf16"}, "float16", "torch"),
    ],
)
def test_auto_has_the_precision_that_is_asked_for(monkeypatch, flags, precision, chosen):
    monkeypatch.setattr(engines, "missing", lambda name: [] if name in ("openvino", "onnxruntime", "torch") else [name])
    monkeypatch.setattr(engines, "gpu_driver", lambda: False)
    monkeypatch.setattr(engines, "_keras_is_free", lambda name: True)
    monkeypatch.setattr(engines, "processor_flags", lambda: frozenset(flags))
    made = []
    fake = SimpleNamespace(Engine=lambda precision, devices: made.append(precision))
    monkeypatch.setattr(engines.importlib, "import_module", lambda name: made.append(name) or fake)
    engines.load("auto", precision)
    assert made == [f"stylekeras.engines.{chosen}", precision]


@pytest.mark.parametrize("fails", [False, True])
def test_a_queue_is_a_step_ahead_of_what_is_told(rng, fails):
    optimizer, begun = optimizers.load("lbfgs"), []
    target = rng.random((1, 6, 5, 3), np.float32)

    def advance(state, targets, weights):
        begun.append(state.image)
        if fails and len(begun) == 4:
            raise MemoryError
        loss = np.mean(np.square(state.image - target))
        gradient = 2 * (state.image - target) / target.size
        return loss, {"a": loss}, optimizer.update(arrays, state, loss, gradient)

    loops = [engines.Loop(Host(), optimizer, advance, queue=queue) for queue in (False, True)]
    told = []
    for loop in loops:
        begun.clear()
        loop.start(optimizer.init(arrays, np.full_like(target, 0.5)))
        told.append([(loop.step({}, {}), loop.state.base) for _ in range(2)])
    assert len(begun) == 3
    for (one, picture), (other, same) in zip(*told, strict=True):
        assert one == other
        np.testing.assert_array_equal(picture, same)
    if fails:
        with pytest.raises(MemoryError):
            loops[1].step({}, {})
        # Of the step that was under way.
        loops[1].restore(loops[1].state._asdict(), {})
        begun.clear()
        np.testing.assert_array_equal(loops[1].image, loops[1].state.base)


def test_an_engine_that_is_not_there(monkeypatch):
    with pytest.raises(EngineError, match=r"unknown engine 'tensorflw'; did you mean 'tensorflow'?"):
        engines.load("tensorflw", "auto")
    monkeypatch.setattr(engines.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    with pytest.raises(EngineError, match=r"engine openvino needs openvino.*: pip install 'stylekeras\[openvino\]'"):
        engines.load("openvino", "auto")


def test_auto_is_the_first_that_can_be_used(monkeypatch):
    here = {"tensorflow", "torch", "onnxruntime"}
    monkeypatch.setattr(engines, "missing", lambda name: [] if name in here else [name])
    monkeypatch.setattr(engines, "gpu_driver", lambda: False)
    monkeypatch.setitem(sys.modules, "keras", None)
    usable = [name for name in engines.ORDER if name in here]
    assert engines.pick(engines.ORDER) == usable[0]
    assert engines.pick(engines.ONNX_RUNTIMES) == "onnxruntime"
    here.discard("onnxruntime")
    assert engines.pick(engines.ONNX_RUNTIMES) is None


def test_on_a_gpu_auto_is_who_sees_it(monkeypatch):
    monkeypatch.setattr(engines, "missing", lambda name: [])
    monkeypatch.setattr(engines, "gpu_driver", lambda: True)
    monkeypatch.setattr(engines, "_keras_is_free", lambda name: True)
    monkeypatch.setattr(engines, "_sees_gpu", lambda name: name == "torch")
    assert engines.pick(engines.ORDER) == "torch"
    monkeypatch.setattr(engines, "_sees_gpu", lambda name: name != "openvino")
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    assert engines.pick(engines.ORDER) == "torch"
    # A program's own TensorFlow may hold all of the GPU's memory.
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert engines.pick(engines.ORDER) == "tensorflow"
    monkeypatch.setattr(engines, "_sees_gpu", lambda name: False)
    assert engines.pick(engines.ORDER) == engines.ORDER[0]


def test_whether_an_engine_sees_a_gpu_is_asked_elsewhere():
    """In a process of its own: the answer is the module's, and an engine that is not there sees none."""
    asked = engines._sees_gpu.__wrapped__
    assert not asked("openvino")
    assert not asked("nonesuch")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_graph_that_a_runtime_does_not_take(name):
    node = helper.make_node("Selu", ["x"], ["y"], domain="another.program")
    info = [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, [1]) for tensor in "xy"]
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("another.program", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    with pytest.raises(EngineError, match=f"engine {name} cannot run this network: ") as caught:
        load(name).prepare(model.SerializeToString(), often=False)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("often", [True, False])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_what_a_graph_gave_stays_as_it_was(rng, name, often):
    """Whatever else it runs, of whatever size, and when it has given its memory back."""
    nodes = [helper.make_node("Mul", ["x", "x"], ["square"]), helper.make_node("Add", ["square", "x"], ["y"])]
    info = [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, [1, "h", "w", 3]) for tensor in ("x", "y")]
    squares = helper.make_tensor_value_info("square", TensorProto.FLOAT, [1, "h", "w", 3])
    graph = helper.make_graph(nodes, "g", info[:1], [info[1], squares])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    run = load(name).prepare(model.SerializeToString(), often=often)
    given, found = [], []
    for shape in [(64, 80), (64, 80), (512, 640), (30, 20), (64, 80)]:
        given.append(rng.random((1, *shape, 3), np.float32))
        found.append(run({"x": given[-1]}))
        run.rest()
    del run
    for x, outputs in zip(given, found, strict=True):
        np.testing.assert_allclose(outputs["square"], x * x, rtol=1e-6)
        np.testing.assert_allclose(outputs["y"], x * x + x, rtol=1e-6)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_loop_at_rest_gives_its_memory_back(rng, monkeypatch, name):
    """And goes on as if it had not."""
    rested = []
    photo, painting = scene(rng, 40, 48), scene(rng, 36, 36)
    chosen = sk.Settings(engine=name, weights="random", backbone="vgg16", size=48, min_size=34, steps=2)
    before = sk.stylize(photo, painting, chosen)
    from stylekeras.graphs.engine import _Graphs

    rest = _Graphs.rest
    monkeypatch.setattr(_Graphs, "rest", lambda self: rested.append(rest(self)))
    np.testing.assert_array_equal(sk.stylize(photo, painting, chosen), before)
    assert len(rested) == 2


def test_the_onnx_engines_import_neither_tensorflow_nor_keras():
    program = """
import json, sys
import numpy as np
import stylekeras as sk
image, photo, painting = np.random.default_rng(0).random((3, 40, 36, 3))
chosen = sk.Settings(engine=sys.argv[1], weights="random", backbone="vgg16", content_layers="block1_conv2",
                     style_layers="block1_conv1,block2_conv1", size=40, min_size=None, steps=2)
evaluation = sk.loss_and_gradient(image, photo, painting, chosen)
picture = sk.stylize(photo, painting, chosen)
print(json.dumps([evaluation.loss, picture.shape, evaluation.provenance["engine"], sorted(sys.modules)]))
"""
    for name in ("onnxruntime", "openvino"):
        done = subprocess.run([sys.executable, "-c", program, name], capture_output=True, text=True, check=True)
        loss, shape, ran, modules = json.loads(done.stdout.splitlines()[-1])
        assert loss > 0
        assert shape == [40, 36, 3]
        assert ran == name
        assert not {"tensorflow", "keras", "jax", "torch"} & set(modules)


@pytest.mark.parametrize("engine", ENGINES)
def test_sums_over_many_positions_keep_their_digits(engine):
    """Of numbers that are all alike rounding goes in one direction: one after the other they lose four digits."""
    settings = sk.Settings(
        backbone="vgg16",
        weights="random",
        engine=engine,
        precision="float32",
        content_layers="block1_conv1",
        style_layers="block1_conv1",
        style_loss="moments",
        size=512,
        margin=0,
        tile="none",
    )
    stripes, photo = np.zeros((512, 512, 3), np.float32), np.full((512, 512, 3), 0.3, np.float32)
    stripes[:, ::2] = 0.7
    found = sk.loss_and_gradient(stripes, photo, photo, settings).terms
    # Each of a row's 511 differences, per pixel.
    assert found["tv"] == pytest.approx(3 * 0.49 * 511 / 512, rel=3e-6)
    extract = machines.machine(settings, ("block1_conv1",)).extract
    seen, wanted = (np.asarray(extract(each[None])["block1_conv1"], np.float64) for each in (stripes, photo))
    distance = np.mean((seen - wanted) ** 2) / np.mean(wanted**2)
    assert found["content/block1_conv1"] == pytest.approx(distance, rel=1e-5)
