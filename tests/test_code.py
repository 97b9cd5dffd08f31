"""When machine code is compiled."""

import subprocess
import sys
import threading
import time

import pytest

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
import numpy as np
from stylekeras.native import writer

compiled, names = writer.compiled, []


def counted(module, *given):
    names.append(str(module))
    return compiled(module, *given)


writer.compiled = counted
import stylekeras as sk

photo, painting = np.random.default_rng(0).random((2, 48, 48, 3))
settings = sk.Settings(backbone="vgg16", weights="random", engine="openvino", precision="winograd", size=48, steps=2)
sk.stylize(photo, painting, settings)
print(len(names), len(set(names)))
"""


def test_no_code_is_compiled_twice():
    """In the background at first, where it is wanted after that."""
    done = subprocess.run([sys.executable, "-c", _RUN], capture_output=True, text=True, timeout=300, check=True)
    made, different = map(int, done.stdout.split())
    assert made == different > 5
    assert not done.stderr
