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


class HostOnDisk(Host):
    """NumPy, with the optimizer's history in temporary files: it is read twice and written once a step."""

    def __init__(self) -> None:
        self.ops = _OnDisk()


class _OnDisk:
    """`arrays` with another `remember`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(arrays, name)

    def remember(self, pictures: Sequence[Any], picture: Any) -> tuple[Any, ...]:
        """The history without its oldest picture and with a new one, in a file that goes when it is forgotten."""
        # Written, not mapped and then filled: a full disk is an error then, and not the end of the process.
        with tempfile.TemporaryFile(prefix="stylekeras-") as file:
            np.ascontiguousarray(picture).tofile(file)
            return (*pictures[1:], np.memmap(file, picture.dtype, "r", shape=picture.shape))
