"""When machine code is compiled."""

import os
import subprocess
import sys
import threading
import time

import pytest

from stylekeras.engines import openvino
from stylekeras.native import writer


def test_what_several_ask_for_is_made_once():
    made = []

    @writer.once
    def make(one, other=2):
        """Takes a while."""
        time.sleep(0.05)
        made.append((one, other))
        return one + other

    found = []
    threads = [threading.Thread(target=lambda: found.append(make(1))) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [make(1, other=2), make(one=1), *found] == [3] * 6
    assert make(1, 3) == 4
    assert made == [(1, 2), (1, 3)]
    assert make.__doc__ == "Takes a while."


def test_what_failed_is_tried_again():
    @writer.once
    def make():
        raise MemoryError

    for _ in range(2):
        with pytest.raises(MemoryError):
            make()


_RUN = """
import sys, threading
import numpy as np
from stylekeras.native import writer

compiled, names = writer.compiled, []


def counted(module, *given):
    names.append((hash(str(module)), threading.current_thread().name))
    return compiled(module, *given)


writer.compiled = counted
import stylekeras as sk
from stylekeras.engines import openvino

openvino.cores = lambda: 2
if sys.argv[2] == "waits":
    openvino.Native.begin = lambda *_: None
photo, painting = np.random.default_rng(0).random((2, 48, 48, 3))
options = {"backbone": "vgg16", "weights": "random", "engine": "openvino", "size": 48, "steps": 3}
settings = sk.Settings(precision=sys.argv[1], style_loss=sys.argv[3], **options)
sk.stylize(photo, painting, settings)
print(len(names), len(set(each for each, _ in names)), sum(name == "stylekeras-compiler" for _, name in names))
"""


@pytest.mark.parametrize("loss", ["wasserstein", "gram"])
@pytest.mark.parametrize("precision", ["winograd", "float32"])
def test_code_is_compiled_in_the_background_once(precision, loss):
    """As much of it as where there is no background, and all there."""

    def compiled(when):
        given = [sys.executable, "-c", _RUN, precision, when, loss]
        done = subprocess.run(
            given, env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True, timeout=300, check=True
        )
        return tuple(map(int, done.stdout.split()))

    made, different, there = compiled("ahead")
    assert made == different == there
    assert compiled("waits") == (made, made, 0)


_FORK = """
import os, sys, threading, time
import stylekeras.engines.openvino as engine

ours = engine.Native(2)
ours.begin(*engine._CODE["winograd"], engine._ROOTS)
time.sleep(float(sys.argv[1]))
child = os.fork()
if not child:
    from stylekeras.native import roots
    import numpy as np

    ours.convolve
    roots.around_inverse_root(np.eye(16, dtype=np.float32), np.eye(16))
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
@pytest.mark.parametrize("pause", ["0", "0.1", "0.3"])
def test_a_fork_meanwhile_has_its_code(pause):
    done = subprocess.run([sys.executable, "-c", _FORK, pause], capture_output=True, timeout=60, check=True)
    assert done.stdout.split() == [b"7"]


def test_what_fails_in_the_background_is_not_told_there(capfd):
    native = openvino.Native(2)
    native.begin(("nowhere", "compiled"), ("picture_code", "compiled"))
    for thread in threading.enumerate():
        if thread.name == "stylekeras-compiler":
            thread.join()
    assert capfd.readouterr() == ("", "")
