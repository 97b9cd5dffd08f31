"""Backbones from ONNX files: networks as other programs export them, made here from random weights."""

import json

import numpy as np
import onnx
import pytest
from fakes import scene
from onnx import TensorProto, helper, numpy_helper

import stylekeras as sk
from stylekeras import weights as weight_sets
from stylekeras.errors import EngineError, GraphError
from stylekeras.graphs import file

VGG = {"block1_conv1": "/features/features.1/Relu_output_0", "block2_conv1": "/features/features.6/Relu_output_0"}


def _model(nodes, inputs, outputs, constants, opset=17):
    infos = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in group.items()]
        for group in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "main_graph", *infos, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def torchvision_vgg(weights):
    """As torch.onnx.export writes torchvision's VGG16: its names, a fixed batch and size, and the classifier's end."""
    nodes, constants, x, number, block = [], {}, "input.1", 0, "block1"
    for layer, (kernel, bias) in weights.layers.items():
        if layer[:6] != block:
            block, name = layer[:6], f"/features/features.{number}/MaxPool"
            nodes.append(
                helper.make_node("MaxPool", [x], [f"{name}_output_0"], name=name, kernel_shape=[2, 2], strides=[2, 2])
            )
            x, number = f"{name}_output_0", number + 1
        name = f"features.{number}"
        constants |= {f"{name}.weight": kernel.transpose(3, 2, 0, 1), f"{name}.bias": bias}
        conv, relu = f"/features/{name}/Conv", f"/features/features.{number + 1}/Relu"
        nodes += [
            helper.make_node(
                "Conv",
                [x, f"{name}.weight", f"{name}.bias"],
                [f"{conv}_output_0"],
                name=conv,
                kernel_shape=[3, 3],
                pads=[1, 1, 1, 1],
            ),
            helper.make_node("Relu", [f"{conv}_output_0"], [f"{relu}_output_0"], name=relu),
        ]
        x, number = f"{relu}_output_0", number + 2
    nodes += [
        helper.make_node("GlobalAveragePool", [x], ["pooled"], name="/avgpool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="/Flatten"),
        helper.make_node("Gemm", ["flat", "classifier.weight"], ["output"], name="/classifier", transB=1),
    ]
    constants["classifier.weight"] = np.ones((10, bias.size), np.float32)
    return _model(nodes, {"input.1": [1, 3, 224, 224]}, {"output": [1, 10]}, constants)


def residual(random, *, last=False):
    """Two blocks with batch normalization, skip connections and strides, as in ResNet; `last`: channels last inside."""
    constants, nodes = {}, []

    def node(kind, inputs, name, **options):
        nodes.append(helper.make_node(kind, inputs, [name], name=f"node_{name}", **options))
        return name

    def conv(x, name, before, after, size=3, stride=1):
        constants[f"{name}.w"] = random.normal(
            0, (2 / (size * size * before)) ** 0.5, (after, before, size, size)
        ).astype("f4")
        pad = size // 2
        y = node("Conv", [x, f"{name}.w"], f"{name}.conv", strides=[stride, stride], pads=[pad] * 4)
        for part, value in (("scale", 1.2), ("bias", 0.1), ("mean", 0.05), ("var", 0.9)):
            constants[f"{name}.{part}"] = np.full(after, value, np.float32)
        return node(
            "BatchNormalization", [y, *(f"{name}.{part}" for part in ("scale", "bias", "mean", "var"))], f"{name}.bn"
        )

    x = node("Transpose", ["pixels"], "entry", perm=[0, 3, 1, 2]) if last else "pixels"
    x = node("Relu", [conv(x, "stem", 3, 8, 5, 2)], "stem.relu")
    x = node("MaxPool", [x], "stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inner = node("Relu", [conv(x, "one.a", 8, 8)], "one.a.relu")
    x = node("Relu", [node("Add", [conv(inner, "one.b", 8, 8), x], "one.add")], "one.relu")
    inner = node("LeakyRelu", [conv(x, "two.a", 8, 12, 3, 2)], "two.a.relu", alpha=0.1)
    skip = conv(x, "two.skip", 8, 12, 1, 2)
    x = node("Relu", [node("Add", [conv(inner, "two.b", 12, 12), skip], "two.add")], "two.relu")
    if last:
        x = node("Transpose", [x], "exit", perm=[0, 2, 3, 1])
    shape = ["batch", 64, 64, 3] if last else ["batch", 3, 64, 64]
    return _model(nodes, {"pixels": shape}, {x: ["n", "a", "b", "c"]}, constants, opset=13)


@pytest.fixture(scope="module")
def vgg():
    return weight_sets.load("random", "vgg16", last="block2_conv1")


@pytest.fixture
def saved(tmp_path):
    def save(model, name="network.onnx"):
        path = tmp_path / name
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return str(path)

    return save


@pytest.fixture
def pictures(rng):
    return scene(rng, 40, 40), scene(rng, 40, 40), scene(rng, 40, 40)


def _settings(backbone, content, style, **changes):
    chosen = {"backbone": backbone, "content_layers": content, "style_layers": style, **changes}
    return sk.Settings(**{"engine": "onnxruntime", **chosen})


@pytest.mark.parametrize("style_loss", ["gram", "wasserstein"])
def test_vgg_in_torchvision_s_layout_is_vgg(vgg, saved, rng, style_loss):
    """The same kernels as a weight set and as another program's file give the same loss and gradient, but for what
    float32 makes of sums in another order: a weight set's kernels are turned to the picture's colours, not the picture
    to the kernels'."""
    path = saved(torchvision_vgg(vgg))
    pictures = scene(rng, 40, 45), scene(rng, 40, 45), scene(rng, 33, 45)
    ours = _settings("vgg16", "block2_conv1", "block1_conv1=2,block2_conv1", weights="random", padding="zeros")
    ours = sk.Settings(**{**ours.to_dict(), "style_loss": style_loss})
    content, style = VGG["block2_conv1"], {VGG["block1_conv1"]: 2.0, VGG["block2_conv1"]: 1.0}
    theirs = _settings(path, content, style, preprocessing="caffe", style_loss=style_loss)
    wanted, found = (sk.loss_and_gradient(*pictures, settings) for settings in (ours, theirs))
    assert found.loss == pytest.approx(wanted.loss, rel=5e-6)
    assert found.terms[f"style/{VGG['block1_conv1']}"] == pytest.approx(wanted.terms["style/block1_conv1"], rel=5e-6)
    assert np.linalg.norm(found.gradient - wanted.gradient) < 1e-5 * np.linalg.norm(wanted.gradient)
    assert found.provenance["backbone"] == "network.onnx"
    assert len(found.provenance["weights_sha256"]) == 64


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_network_with_skip_connections(saved, rng, engine, last):
    """Its gradient against differences, and a run on it; sizes that its strides do not divide."""
    path = saved(residual(np.random.default_rng(2), last=last))
    taps = ["one.relu", "exit" if last else "two.relu"]
    chosen = _settings(
        path, taps[1], f"stem.relu,{taps[0]}", engine=engine, style_loss="gram", preprocessing="torchvision"
    )
    image, photo, painting = 0.1 + 0.8 * scene(rng, 41, 38), scene(rng, 41, 38), scene(rng, 41, 50)
    evaluation = sk.loss_and_gradient(image, photo, painting, chosen)
    # Along the gradient, where the loss changes most and rounding matters least.
    step = 2e-4 * evaluation.gradient / np.abs(evaluation.gradient).max()
    above, below = (sk.loss_and_gradient(image + sign * step, photo, painting, chosen).loss for sign in (1, -1))
    assert 2 * np.sum(evaluation.gradient * step) == pytest.approx(above - below, rel=1e-3)
    steps = list(
        sk.iterate(photo, painting, sk.Settings(**{**chosen.to_dict(), "size": 64, "min_size": 48, "steps": 8}))
    )
    assert steps[-1].loss < 0.5 * steps[8].loss
    assert steps[-1].image.shape == (64, 59, 3)


def test_the_candidates_of_a_file(run, saved, rng):
    path = saved(residual(rng))
    taps = {tap.name: tap for tap in file.candidates(path)}
    assert next(iter(taps)) == "stem.conv"
    assert (taps["one.relu"].channels, taps["one.relu"].operator) == (8, "Relu")
    code, out, _ = run("weights", "list", path)
    assert code == 0
    assert "one.relu" in out
    code, out, _ = run("weights", "list", path, "--json")
    assert [json.loads(line)["name"] for line in out.splitlines()] == list(taps)
    vgg = torchvision_vgg(weight_sets.load("random", "vgg16", last="block1_conv1"))
    assert "flat" not in {tap.name for tap in file.candidates(saved(vgg, "vgg.onnx"))}


def test_a_node_s_name_will_do(saved, pictures):
    path = saved(residual(np.random.default_rng(2)))
    by_tensor = sk.loss_and_gradient(*pictures, _settings(path, "one.relu", "stem.relu"))
    by_node = sk.loss_and_gradient(*pictures, _settings(path, "node_one.relu", "node_stem.relu"))
    assert by_node.loss == by_tensor.loss


def test_preprocessing_is_said_and_can_be_chosen(saved, pictures):
    path = saved(residual(np.random.default_rng(2)))
    found = {
        name: sk.loss_and_gradient(*pictures, _settings(path, "one.relu", "stem.relu", preprocessing=name))
        for name in ("auto", "torchvision", "caffe", "unit")
    }
    assert found["auto"].loss == found["torchvision"].loss
    assert len({result.loss for result in found.values()}) == 3
    (note,) = found["auto"].provenance["notes"]
    assert "as torchvision's networks take them" in note
    assert found["unit"].provenance["notes"] == []


def test_export_of_a_file(saved, run, tmp_path):
    path = saved(residual(np.random.default_rng(2)))
    layers = ["--content-layers", "two.relu", "--style-layers", "one.relu"]
    code, _, err = run("export", "step", "-o", tmp_path / "step.onnx", "--backbone", path, *layers)
    assert code == 0, err
    onnx.checker.check_model(str(tmp_path / "step.onnx"), full_check=True)


def _outside(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    return model


def _cyclic(model):
    model.graph.node[0].input[0] = "two.relu"
    return model


def _operator(model):
    for node in model.graph.node:
        if node.op_type == "LeakyRelu":
            node.op_type = "Selu"
            del node.attribute[:]
    return model


def _opset(model):
    model.opset_import[0].version = 99
    return model


def _two_inputs(model):
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))
    return model


def test_a_newer_operator_set_and_a_tap_named_as_our_nodes_are(saved, pictures):
    """What is taken over keeps its meaning, and the whole is valid."""
    constants = {"w": np.random.default_rng(3).normal(0, 0.2, (8, 3, 3, 3)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        helper.make_node("AveragePool", ["a"], ["b"], kernel_shape=[2, 2], dilations=[2, 2], strides=[1, 1]),
        helper.make_node("Relu", ["b"], ["Sub"]),
    ]
    model = _model(nodes, {"x": [1, 3, "h", "w_"]}, {"Sub": [1, 8, "c", "d"]}, constants, opset=20)
    path = saved(model)
    made = file.taps(path, ["Sub"], weight_sets.cards()["torchvision_vgg19"])
    onnx.checker.check_model(made, full_check=True)
    assert made.opset_import[0].version == 20
    assert sk.loss_and_gradient(*pictures, _settings(path, "Sub", "Sub")).loss > 0


def _outside_in_a_function(model):
    tensor = _outside(residual(np.random.default_rng(2))).graph.initializer[0]
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    inner = helper.make_function("own", "Outside", ["x"], ["x"], [node], [helper.make_opsetid("", 17)])
    model.functions.append(inner)
    return model


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_outside_in_a_function, "lies in another file"),
        (_outside, "lies in another file"),
        (_cyclic, "cyclic"),
        (_operator, r"cannot differentiate Selu \(taps/network/node_two.a.relu\): there is no rule"),
        (_opset, "operator set 99"),
        (_two_inputs, r"expected one input .* it has pixels .* mask \[1\]"),
        (lambda model: model.SerializeToString()[:-2000], "not an ONNX file, or cut short|not a valid ONNX graph"),
        (lambda model: b"\x80\x04pickle", "not an ONNX file"),
        (lambda model: b"", "not an ONNX file|is empty"),
    ],
)
def test_a_file_that_cannot_be_used(saved, pictures, change, told):
    path = saved(change(residual(np.random.default_rng(2))))
    with pytest.raises(sk.RequestError, match=told) as caught:
        sk.loss_and_gradient(*pictures, _settings(path, "two.relu", "one.relu"))
    assert len(str(caught.value).splitlines()) == 1


def test_wrong_requests(run, saved, rng, pictures, tmp_path, monkeypatch):
    path = saved(residual(rng))
    for changes, kind, told in (
        ({"content_layers": "one.rely"}, GraphError, "has no tap 'one.rely'; did you mean 'one.relu'"),
        ({"backbone": str(tmp_path / "no.onnx")}, GraphError, "no such file"),
        ({"pooling": "average"}, sk.SettingsError, "has its own; leave it out"),
        ({"weights": "random"}, sk.SettingsError, "has its own; leave weights out"),
        ({"engine": "tensorflow"}, EngineError, "use engine=onnx"),
    ):
        chosen = {**_settings(path, "one.relu", "stem.relu").to_dict(), **changes}
        with pytest.raises(kind, match=told):
            sk.loss_and_gradient(*pictures, sk.Settings(**chosen))
    monkeypatch.setattr(file, "_LARGEST", 10)
    with pytest.raises(GraphError, match="larger than 2 GB"):
        file.candidates(path)
    code, _, err = run("weights", "list", tmp_path / "no.onnx")
    assert (code, err.count("\n")) == (2, 1)
