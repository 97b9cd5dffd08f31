"""What an engine is to a loop, with the picture and the optimizer in the processor's own memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from stylekeras import arrays, trees


class Host:
    """NumPy."""

    ops: Any = arrays

    def tensor(self, value: Any) -> Any:
        """A nested structure of arrays and numbers in float32."""
        return trees.transform(lambda item: np.asarray(item, np.float32), value)

    def array(self, value: Any) -> Any:
        """A nested structure as NumPy arrays."""
        return trees.transform(np.asarray, value)

    def keep(self, state: Any) -> Any:
        """An optimizer's state as it is kept between its steps."""
        return state


class HostOnDisk(Host):
    """NumPy, with the pictures of an optimizer's state in temporary files between its steps."""

    def __init__(self) -> None:
        self.ops = _OnDisk()

    def keep(self, state: Any) -> Any:
        """The state with its pictures on disk."""
        moved: dict[int, Any] = {}  # several fields may be one picture
        for value in state:
            if isinstance(value, np.ndarray) and value.ndim == 4 and value.size > 3 and id(value) not in moved:
                moved[id(value)] = on_disk(value)
        return type(state)(*(moved.get(id(value), value) for value in state))


class _OnDisk:
    """`arrays` with another `remember`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(arrays, name)

    def remember(self, pictures: Sequence[Any], picture: Any) -> tuple[Any, ...]:
        """The history without its oldest picture and with a new one."""
        return (*pictures[1:], on_disk(picture))


def on_disk(array: np.ndarray) -> np.ndarray:
    """A copy of an array in a temporary file, which goes when the copy is forgotten. Raises: OSError."""
    if isinstance(array, np.memmap):
        return array
    # Written, not mapped and then filled: a full disk is an error then, and not the end of the process.
    with tempfile.TemporaryFile(prefix="stylekeras-") as file:
        np.ascontiguousarray(array).tofile(file)
        file.flush()
        return np.memmap(file, array.dtype, "r", shape=array.shape)
