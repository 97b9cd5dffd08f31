"""Code of our own within OpenVINO's graphs: threads, and parts of an objective that NumPy does."""

import gc
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import openvino
import pytest
import threadpoolctl

import stylekeras as sk
from stylekeras import machines
from stylekeras.engines import openvino as engine
from stylekeras.graphs.builder import Builder
from stylekeras.graphs.trace import Ops
from stylekeras.native import roots
from stylekeras.native.blas import alone
from stylekeras.native.memory import aligned
from stylekeras.style_losses import wasserstein
from stylekeras.threads import Threads


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_task_is_done_once(count):
    done = []
    Threads(count).share(done.append, range(100))
    assert sorted(done) == list(range(100))


def test_tasks_are_shared_out():
    meeting = threading.Barrier(3, timeout=20)
    Threads(3).share(lambda _: meeting.wait(), range(3))


@pytest.mark.parametrize("failing", [0, 7])
def test_what_goes_wrong_in_a_task_is_raised(failing):
    def work(task):
        if task == failing:
            raise MemoryError(str(task))

    threads = Threads(2)
    with pytest.raises(MemoryError, match=str(failing)):
        threads.share(work, range(8))
    threads.share(work, range(8, 10))  # it is still good


def test_a_share_within_a_task_is_done_there():
    threads, found = Threads(2), []
    threads.share(lambda i: threads.share(lambda j: found.append((i, j)), range(3)), range(4))
    assert sorted(found) == [(i, j) for i in range(4) for j in range(3)]
    threads.share(found.append, range(2))
    assert len(found) == 14


def test_after_an_interrupt_no_task_is_begun(monkeypatch):
    threads, done = Threads(2), []

    class Pool:
        def submit(self, function):
            pool.submit(function)
            raise KeyboardInterrupt

    def slowly(task):
        time.sleep(0.01)
        done.append(task)

    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr("stylekeras.threads._pool", lambda *_: Pool())
        with pytest.raises(KeyboardInterrupt):
            threads.share(slowly, range(50))
        time.sleep(0.1)
        assert len(done) < 3


def _blas():
    return [each["num_threads"] for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"]


def test_alone_numpy_takes_one_thread_and_its_own_number_again():
    before = _blas()
    assert before
    with alone():
        assert set(_blas()) == {1}
    assert _blas() == before


def test_it_does_so_when_the_first_leaves_before_the_second():
    before, first, second = _blas(), alone(), alone()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert set(_blas()) == {1}
    second.__exit__(None, None, None)
    assert _blas() == before


def _of_a_fork(work):
    """What a child that was forked says of it, in words; None if it does not say anything."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, str(work()).encode())
        os._exit(0)
    os.close(writing)
    found = None
    if select.select([reading], [], [], 60)[0]:
        found = os.read(reading, 100).decode()
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    os.waitpid(child, 0)
    return found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_fork_has_threads_of_its_own():
    threads, done = Threads(2), []
    threads.share(done.append, range(4))

    def work():
        done.clear()
        threads.share(done.append, range(4))
        return sorted(done)

    assert _of_a_fork(work) == "[0, 1, 2, 3]"


def test_memory_begins_at_a_line_of_the_cache():
    for size in (1, 17, 4096):
        assert aligned(size).size == size
        assert aligned(size).ctypes.data % 64 == 0
        assert not aligned(size).any()


# --- parts of graphs ------------------------------------------------------------------------------------------------


def _problem(rng, size):
    """A covariance of fewer pixels than channels, widened, the eigenvectors and values of another that is not far from
    it, as a picture's is from its style's, and by how much both are widened."""
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    values = np.sort(np.exp(2 * rng.standard_normal(size)))
    features = rng.standard_normal((max(size // 2, 1), size)) * np.sqrt(values) @ basis.T
    widen = 1e-2 * values.mean()
    covariance = features.T @ features / len(features) + widen * np.eye(size)
    return covariance, basis, values + widen, widen


def _narrow(*arrays):
    return [np.asarray(each, np.float32) for each in arrays]


@pytest.mark.parametrize("size", [2, 5, 64, 256])
def test_a_root_gives_the_distance(rng, size):
    covariance, basis, values, widen = _problem(rng, size)
    exact, derivative = wasserstein.ALONE["distance"](roots, covariance, basis, values, widen)
    carries = np.eye(size) - derivative
    target = (basis * values) @ basis.T
    np.testing.assert_allclose(carries @ covariance @ carries, target, atol=1e-9 * values.max())
    assert np.linalg.eigvalsh((carries + carries.T) / 2)[0] > 0
    root = (basis * np.sqrt(values)) @ basis.T
    both = np.sqrt(np.linalg.eigvalsh(root @ covariance @ root)).sum()
    assert exact == pytest.approx(np.trace(covariance) + values.sum() - 2 * both, rel=1e-9)
    problem = _narrow(covariance, basis, values, widen)
    for found, slope in (wasserstein.ALONE["distance"](roots, *problem), wasserstein.distance(np, *problem)):
        assert found == pytest.approx(exact, rel=1e-5)
        assert np.linalg.norm(slope - derivative) < 1e-3 * np.linalg.norm(derivative)


def test_what_is_not_finite_has_no_distance(rng):
    covariance, *rest = _narrow(*_problem(rng, 8))
    covariance[2, 3] = covariance[3, 2] = np.inf
    found, slope = wasserstein.ALONE["distance"](roots, covariance, *rest)
    assert np.isnan(found)
    assert np.isnan(slope).all()


@pytest.mark.parametrize("left", [0.3, -0.2, -3.0])
def test_what_rounding_took_from_a_covariance_is_given_back(rng, left):
    """In a direction without variance there is what all are widened by, whatever is left of it."""
    covariance, basis, values, widen = _problem(rng, 64)
    exact, derivative = wasserstein.ALONE["distance"](roots, covariance, basis, values, widen)
    least, directions = np.linalg.eigh(covariance)
    assert least[0] == pytest.approx(widen, rel=1e-9)
    covariance += (left - 1) * widen * np.outer(directions[:, 0], directions[:, 0])
    if left > 0:
        # With a second one of nothing, that there is too little is noticed.
        covariance -= 1.001 * widen * np.outer(directions[:, 1], directions[:, 1])
    found, slope = wasserstein.ALONE["distance"](roots, *_narrow(covariance, basis, values, widen))
    assert found == pytest.approx(exact, rel=1e-5)
    assert np.linalg.norm(slope - derivative) < 1e-3 * np.linalg.norm(derivative)


def test_of_equals_the_distance_is_not_less_than_nothing(rng):
    for _ in range(20):
        _, basis, values, widen = _problem(rng, 32)
        values *= np.geomspace(1e-4, 1e2, 32)
        equal = (basis * values) @ basis.T
        found, slope = wasserstein.ALONE["distance"](roots, *_narrow(equal, basis, values, widen * 1e-4))
        assert 0 <= found < 1e-5 * values.sum()
        assert np.isfinite(slope).all()


def _graph(form):
    """Distances: `form` has for each what its covariance is, an input's number, or "x" for what the last one made."""
    ops, given, found = Ops(Builder()), {}, []
    given["basis"], given["values"] = ops.input("basis", (96, 96)), ops.input("values", (96,))
    given["least"] = ops.input("least", ())
    for source in form:
        name = f"c{source}"
        if source == "x":
            _, derivative = found[-1]
            covariance = ops.matmul(derivative, derivative) + ops.eye(96)
        else:
            covariance = given.setdefault(name, ops.input(name, (96, 96)))
        found.append(ops.apart(wasserstein.distance, covariance, *map(given.get, ("basis", "values", "least"))))
    outputs = {f"y{i}": spread * derivative for i, (spread, derivative) in enumerate(found)}
    return ops.model("parts", given, outputs)


@pytest.mark.parametrize(
    ("form", "nodes"),
    [([0], 1), ([0, 1, 2], 1), ([0, "x"], 2), ([0, "x", 1, "x", "x"], 3)],
    ids=["one", "at once", "in turn", "both"],
)
def test_parts_that_do_not_need_each_other_are_done_at_once(rng, form, nodes):
    model = _graph(form)
    onnx.checker.check_model(model, full_check=True)
    given = {f"c{i}": _narrow(*_problem(rng, 96))[0] for i in {source for source in form if source != "x"}}
    given |= dict(zip(("basis", "values", "least"), _narrow(*_problem(rng, 96))[1:], strict=True))
    core, found = openvino.Core(), []
    for own in (False, True):
        graph = core.read_model(model.SerializeToString())
        if own:
            ours = engine.Nodes(engine.Native(2))
            ours.take_apart(graph)
            kinds = [node.get_type_name() for node in graph.get_ordered_ops()]
            assert (kinds.count("_Node"), kinds.count("MatMul")) == (nodes, form.count("x"))
        results = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(given)
        found.append({name: np.array(value) for output, value in results.items() for name in output.names})
    for i in range(len(form)):
        wanted, other = (each[f"y{i}"] for each in found)
        assert np.linalg.norm(other - wanted) < 1e-2 * np.linalg.norm(wanted)


@pytest.mark.parametrize("tile", ["none", 32])
def test_the_objective_is_the_same_with_many_cores(rng, monkeypatch, tile):
    """Where graphs do everything themselves. In tiles, the part is in a graph of its own."""
    image, photo, painting = (np.clip(rng.random((64, 56, 3)) * 0.3 + tone, 0, 1) for tone in (0.2, 0.4, 0.6))
    options = {"backbone": "vgg16", "weights": "random", "engine": "openvino", "precision": "float32"}
    settings = sk.Settings(
        content_layers="block2_conv2", style_layers="block1_conv1,block3_conv1", tile=tile, **options
    )
    taken = []
    take_apart = engine.Nodes.take_apart
    monkeypatch.setattr(engine.Nodes, "take_apart", lambda self, model: (taken.append(1), take_apart(self, model)))
    found = []
    for few in (8, 2):
        monkeypatch.setattr(engine, "cores", lambda few=few: few)
        machines._built.cache_clear()
        found.append(sk.loss_and_gradient(image, photo, painting, settings))
        assert bool(taken) == (few == 2)
    many, few = found
    assert few.loss == pytest.approx(many.loss, rel=2e-5)
    assert 0 < np.linalg.norm(few.gradient - many.gradient) < 1e-3 * np.linalg.norm(many.gradient)


def test_a_covariance_that_is_not_finite_leaves_the_graph_running():
    """A trial like that is rejected by its loss."""
    graph = openvino.Core().read_model(_graph([0]).SerializeToString())
    nodes = engine.Nodes(engine.Native(2))
    nodes.take_apart(graph)
    given = {"c0": np.full((96, 96), np.nan, np.float32), "basis": np.eye(96, dtype=np.float32)}
    given |= {"values": np.ones(96, np.float32), "least": np.float32(1)}
    assert np.isnan(openvino.Core().compile_model(graph, "CPU")(given)["y0"]).all()


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (MemoryError("no room"), MemoryError, None),
        (np.linalg.LinAlgError("does not converge"), sk.RunError, "OpenVINO: does not converge"),
        (AssertionError(), sk.RunError, "OpenVINO: AssertionError"),
    ],
)
def test_what_goes_wrong_in_our_own_operator_is_told(rng, monkeypatch, error, raised, said):
    def fail(*_):
        raise error

    monkeypatch.setitem(wasserstein.ALONE, "distance", fail)
    monkeypatch.setattr(engine, "cores", lambda: 2)
    run = engine.Engine("float32").prepare(_graph([0]).SerializeToString(), often=True)
    given = dict(zip(("c0", "basis", "values", "least"), _narrow(*_problem(rng, 96)), strict=True))
    with pytest.raises(raised, match=said):
        run(given)
    monkeypatch.undo()
    monkeypatch.setattr(engine, "cores", lambda: 2)
    run = engine.Engine("float32").prepare(_graph([0]).SerializeToString(), often=True)
    assert np.isfinite(run(given)["y0"]).all()


_INTERRUPTED = """
import os, signal, threading
import numpy as np
import stylekeras as sk

# Those that run in the background of a shell without job control are told to ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
photo, painting = np.random.default_rng(0).random((2, 96, 96, 3))
settings = sk.Settings(
    backbone="vgg16", weights="random", engine="openvino", precision="winograd", size=96, min_size=None, steps=8
)
wanted = sk.stylize(photo, painting, settings)
for number in range(12):
    threading.Timer(0.02 + 0.037 * number, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        for _ in range(100):
            sk.stylize(photo, painting, settings)
    except KeyboardInterrupt:
        print("interrupted")
np.testing.assert_array_equal(sk.stylize(photo, painting, settings), wanted)
"""


def test_an_interrupt_in_the_middle_of_a_step_is_an_interrupt():
    """Wherever it comes: Python raises it in the main thread, which our operators would be in."""
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["interrupted"] * 12


def test_an_engine_that_is_done_with_is_let_go(rng):
    """OpenVINO keeps operators of Python's for good, so what they need must not hang on them."""
    model = _graph([0, "x"])
    given = dict(zip(("c0", "basis", "values", "least"), _narrow(*_problem(rng, 96)), strict=True))
    native = engine.Native(2)
    graph = openvino.Core().read_model(model.SerializeToString())
    nodes = engine.Nodes(native)
    nodes.take_apart(graph)
    compiled = openvino.Core().compile_model(graph, "CPU")
    assert np.isfinite(compiled(given)["y1"]).all()
    made, gone = list(nodes.made), [weakref.ref(native), weakref.ref(nodes)]
    assert len(made) >= 4  # and those of the copy that is compiled
    del compiled, graph, nodes, native
    gc.collect()
    assert [each() for each in gone] == [None, None]
    assert all(not node.input_values() for node in made)
