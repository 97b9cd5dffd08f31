"""Optimizers, one file each. An optimizer is a module with three pure functions, its state a NamedTuple of arrays:

- `init(ops, image, **options) -> state`, image (1, h, w, 3);
- `update(ops, state, loss, gradient) -> state`, given loss and gradient at `state.image`;
- `result(ops, state) -> image`, the picture so far;

and every state has the fields `image` (where to evaluate next), `loss` (of the picture so far), `accepted` (whether
the last evaluation became that picture) and `moved` (by how much the last update changed it, root mean square). One
update uses exactly one evaluation, so a step costs the same always. A field of five axes is a history of pictures,
oldest first. `ops` is a namespace with NumPy's names, the engine's own. `PICTURES` says how many pictures of that size
it holds at most, `ON_DISK` how many of them may lie on disk. Adding an optimizer is adding a file here.
"""

from __future__ import annotations

import importlib
from types import ModuleType


def load(name: str) -> ModuleType:
    """The optimizer module of that name."""
    return importlib.import_module(f"stylekeras.optimizers.{name}")
