"""Steps that are computed before they are asked for."""

import gc
import threading
import time
import weakref
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

import stylekeras as sk
from stylekeras import machines
from stylekeras.ahead import ahead


class Made:
    """Something that can be counted."""

    def __init__(self, number):
        self.number = number


def _numbers(count, begun, *, fail=None, ended=None):
    try:
        for i in range(count):
            begun.append(i)
            if i == fail:
                raise ValueError("no more")
            yield Made(i)
    finally:
        if ended is not None:
            ended.append(threading.current_thread().name)


def _until(true):
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("length", [0, 1, 7])
def test_the_items_are_the_same(count, length):
    assert [made.number for made in ahead(_numbers(length, []), count)] == list(range(length))


@pytest.mark.parametrize("count", [1, 2])
def test_so_many_are_made_before_they_are_asked_for_and_no_more(count):
    begun = []
    with closing(ahead(_numbers(9, begun), count)) as items:
        assert begun == []
        for taken in range(1, 5):
            next(items)
            _until(lambda taken=taken: len(begun) == taken + count)
            time.sleep(0.02)
            assert len(begun) == taken + count


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_error_is_raised_where_its_item_would_have_been(count):
    items = ahead(_numbers(9, [], fail=2), count)
    assert [next(items).number, next(items).number] == [0, 1]
    with pytest.raises(ValueError, match="no more"):
        next(items)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_closed_early_it_closes_what_makes_the_items_and_leaves_no_thread(count):
    ended, before = [], threading.active_count()
    with closing(ahead(_numbers(9, [], ended=ended), count)) as items:
        next(items)
    assert len(ended) == 1
    assert threading.active_count() == before


def test_what_was_taken_is_not_kept_alive():
    with closing(ahead(_numbers(9, []), 1)) as items:
        gone = weakref.ref(next(items))
        next(items)
        gc.collect()
        assert gone() is None


# --- in a run -------------------------------------------------------------------------------------------------------

RANDOM = np.random.default_rng(3)
CONTENT, STYLE = RANDOM.random((2, 40, 48, 3), np.float32)


def _settings(**changes):
    usual = {"size": 48, "min_size": 40, "steps": (6, 5), "weights": "random", "backbone": "vgg16", "margin": 0}
    usual |= {"engine": "tensorflow", "precision": "float32", "content_layers": {"block2_conv1": 1.0}}
    return sk.Settings(**{**usual, "style_layers": {"block1_conv1": 1.0, "block2_conv1": 1.0}, **changes})


def _run(settings, resume=None):
    """Every step as it is seen: pictures and numbers."""
    return [
        (step.scale, step.step, step.last, step.loss, dict(step.terms), step.image.copy(), dict(step.provenance))
        for step in sk.iterate(CONTENT, STYLE, settings, resume=resume)
    ]


def _same(one, other):
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first[5], second[5])
        assert first[:5] == second[:5]
        assert first[6] == second[6]


@pytest.fixture
def one_ahead(monkeypatch):
    """As on a GPU."""
    monkeypatch.setattr(machines, "steps_ahead", lambda view: 1)


@pytest.mark.parametrize("changes", [{}, {"tolerance": 1e9, "steps": (25, 25)}, {"optimizer": "adam"}])
def test_a_run_is_the_same_to_the_last_bit(monkeypatch, changes):
    settings = _settings(**changes)
    plain = _run(settings)
    monkeypatch.setattr(machines, "steps_ahead", lambda view: 1)
    found = _run(settings)
    _same(found, plain)
    assert [made[1] for made in found if made[2]] == ([20, 20] if changes.get("tolerance") else [6, 5])


@pytest.mark.usefixtures("one_ahead")
def test_each_steps_state_is_that_steps(monkeypatch):
    settings = _settings()
    whole = _run(settings)
    states = {(step.scale, step.step): dict(step.state) for step in sk.iterate(CONTENT, STYLE, settings)}
    for place in ((0, 2), (0, 6), (1, 5)):
        rest = [made for made in whole if made[:2] > place]
        _same(_run(settings, states[place]), rest)


@pytest.mark.usefixtures("one_ahead")
def test_a_run_that_is_left_goes_on_no_further():
    before = threading.active_count()
    run = sk.iterate(CONTENT, STYLE, _settings())
    next(run)
    run.close()
    assert threading.active_count() == before


@pytest.mark.usefixtures("one_ahead")
def test_an_error_of_a_step_is_the_runs():
    steps, before = [], threading.active_count()
    with pytest.raises(sk.DivergedError, match=r"the loss became (nan|inf) at step \d of 40x33; try"):
        steps.extend(sk.iterate(CONTENT, STYLE, _settings(optimizer="adam", clip=False, learning_rate=1e30, steps=20)))
    assert threading.active_count() == before


def test_only_on_a_gpu_and_where_the_picture_is_whole():
    def view(device, parts, queues=False):
        engine = SimpleNamespace(device=device, queues=queues)
        return SimpleNamespace(machine=SimpleNamespace(engine=engine), parts=parts)

    assert machines.steps_ahead(view("GPU (Tesla T4)", 1)) == 1
    assert machines.steps_ahead(view("GPU (Tesla T4)", 4)) == 0
    assert machines.steps_ahead(view("GPU (Tesla T4)", 1, queues=True)) == 0
    assert machines.steps_ahead(view("CPU (2 cores)", 1)) == 0
