"""Engines, one file per framework: what runs the objective, and on which device. Only `engines/X` imports framework X.

An engine module has `Engine(precision)`, an object with

- `ops`: the namespace (NumPy's names) that objective and optimizers are written in;
- `name`, `version`, `device`, `precision`: what it runs on, in words;
- `memory_errors`: what its framework raises when memory runs out;
- `backbone(weights, taps, pooling, padding) -> image -> {tap: features}`;
- `evaluator(objective)` and `loop(objective, optimizer)`: see `tensorflow.py`;
- `tensor(array)` and `array(tensor)`.
"""

from __future__ import annotations

import importlib
from typing import Any

from stylekeras.errors import EngineError

# By measured speed; the first one that is installed is "auto".
ORDER = ("tensorflow",)


def load(name: str, precision: str) -> Any:
    """The engine of that name, ready to run.

    Raises: EngineError if its framework is missing or Keras is already loaded on another backend.
    """
    name = ORDER[0] if name == "auto" else name
    try:
        module = importlib.import_module(f"stylekeras.engines.{name}")
    except ImportError as error:
        raise EngineError(f"engine {name} is not available: {error}; pip install {name}") from error
    return module.Engine(precision)
