"""What the benchmarks make of what was measured."""

import sys
import types
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import convergence
from turns import PLAIN, Contestant


def _row(engine, clocks, losses):
    evaluations = [[clock, loss, 100 + i] for i, (clock, loss) in enumerate(zip(clocks, losses, strict=True))]
    order = {"engine": engine, "precision": "float32", "size": 64, "iterations": 8, "photo": "a.png"}
    return {**order, "painting": "b.png", "version": f"{engine} 1.0", "evaluations": evaluations}


@pytest.fixture
def report():
    loop = _row(PLAIN, [5, 7, 9, 11, 13, 15, 17, 19, 21], [90, 80, 85, 60, 50, 55, 30, 20, 10])
    other = _row(convergence.WOLFE, [5, 8, 11, 14, 17, 20, 23, 26, 29], [90, 80, 70, 60, 50, 40, 30, 20, 12])
    ours = _row("openvino", [1, 2, 3.5, 4, 4.5, 5.5], [90, 70, 40, 35, 20, 15])
    machine = {"processor": "one", "cores": 2, "features": ["avx2"], "key": "key"}
    return {"machine": machine, "results": [ours, loop, other]}


def test_levels_are_the_better_loops(report):
    lines = convergence.table(report).splitlines()
    # Both loops came to 12, the first of them sooner; a quarter and half of its 9 evaluations are the third and fifth.
    assert "9 evaluations of the plain PyTorch loop" in lines[0]
    assert lines[2].endswith("| memory, MB | to 80 | to 50 | to 10 |")
    rows = {line.split(" | ")[0]: line for line in lines[4:]}
    # 1.5, 0.5, 0.5, 1 seconds without the first two, the loop 2 each.
    assert rows["| openvino 1.0"].split(" | ")[1] == "0.750"
    assert rows["| openvino 1.0"].split(" | ")[3:5] == ["0.38", "105"]
    assert rows["| openvino 1.0"].endswith("| 2.0 s (0.29) | 3.5 s (0.27) | not in 6 steps |")
    assert rows[f"| {PLAIN} {PLAIN} 1.0"].endswith("| 7.0 s (1.00) | 13.0 s (1.00) | 21.0 s (1.00) |")
    assert rows[f"| {convergence.WOLFE} {convergence.WOLFE} 1.0"].endswith("| not in 9 steps |")


def _contestant(losses, precision="float32", seconds=0.5):
    found = [(seconds * i, loss, 0) for i, loss in enumerate(losses)]
    return types.SimpleNamespace(found=found, done=False, order={"precision": precision})


def test_who_is_ahead_waits_and_who_is_behind_does_not():
    loop, other = _contestant([9.0] * 7 + [5.0]), _contestant([9.0] * 8)
    behind, ahead, young = _contestant([6.0] * 8), _contestant([4.0] * 8), _contestant([1.0] * 3)
    going = [convergence.going_on(one, [loop, other], []) for one in (loop, other, behind, ahead, young)]
    assert going == [True, True, True, False, True]
    for one in (loop, other, behind):
        one.done = True
    assert not any(convergence.going_on(one, [loop, other], []) for one in (loop, other, behind, ahead))


def test_a_contestant_that_dies_is_done(tmp_path):
    program = tmp_path / "dies.py"
    program.write_text("print('1', flush=True)\ninput()\nprint('[1.5, 2.5]', flush=True)\n")
    one = Contestant(str(program), {})
    assert one.ready == 1
    one.turn(2)
    assert (one.found, one.done) == ([1.5, 2.5], False)
    one._process.wait()
    one.turn(2)
    assert (one.found, one.done) == ([1.5, 2.5], True)
    one.end()


def test_of_all_engines_the_fastest_in_a_precision_goes_on():
    loop, fast, low = _contestant([1.0] * 8), _contestant([9.0] * 8), _contestant([9.0] * 8, "bfloat16", 2.0)
    slow, young = _contestant([9.0] * 8, seconds=0.7), _contestant([9.0] * 7, seconds=0.7)
    alike = _contestant([9.0] * 8, seconds=0.51)
    running = [loop, fast, slow, low, young, alike]
    going = [convergence.going_on(one, [loop], running) for one in running]
    assert going == [True, True, False, True, True, True]
    assert all(convergence.going_on(one, [loop], []) for one in running)
    fast.done = alike.done = True  # they failed
    assert convergence.going_on(slow, [loop], running)


def test_when_time_is_up_who_is_behind_has_had_the_loops_seconds():
    loop, other = _contestant([9.0] * 10), _contestant([9.0] * 4)
    assert [convergence.enough(one, [loop, other]) for one in (loop, other)] == [True, True]
    assert not convergence.enough(_contestant([9.5] * 9), [loop, other])
    assert convergence.enough(_contestant([9.5] * 10), [loop, other])
    assert not convergence.enough(_contestant([9.0] * 3), [_contestant([9.0] * 3)])


@pytest.mark.parametrize(("seconds", "count"), [(0.01, 5), (3.0, 3), (30.0, 1)])
def test_turns_are_short(seconds, count):
    one = types.SimpleNamespace(found=[(0.0, 1.0, 0), (seconds, 1.0, 0)])
    assert convergence.turn_of(one) == count
    assert convergence.turn_of(_contestant([1.0])) == 1
