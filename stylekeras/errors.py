"""The errors the library raises on purpose.

Each message says what was wrong and what to do. The two branches are the command line's exit codes: a `RequestError`
(2) is found before anything is computed or written, a `RunError` (1) while running.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StyleKerasError(Exception):
    """Base class of every error that stylekeras raises on purpose."""


class RequestError(StyleKerasError, ValueError):
    """The request cannot be carried out as it stands: a bad file, option or value."""


class SettingsError(RequestError):
    """A setting has an unknown name or an impossible value."""


class ImageError(RequestError):
    """An image cannot be read, or is not usable as it is."""


class OutputError(RequestError):
    """An output file cannot be written where it was asked for."""


class CheckpointError(RequestError):
    """A checkpoint is missing, damaged, or of another run or version."""


class WeightsError(RequestError):
    """A weight set is missing, damaged, or does not fit the backbone."""


class EngineError(RequestError):
    """An engine or a device is not available."""


class GraphError(RequestError):
    """An ONNX graph is damaged, not supported, or cannot be differentiated."""


class RunError(StyleKerasError, RuntimeError):
    """It failed while running."""


class DivergedError(RunError):
    """The loss became NaN or infinite; `Progress` objects yielded before it hold the last good image."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown `name`: the nearest known one, or all of them.

    Returns: `"; did you mean 'x'?"` or `"; known: a, b, c"`.
    """
    known = [str(item) for item in known]
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
