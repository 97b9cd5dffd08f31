"""What an engine is to a loop, with the picture and the optimizer in the processor's own memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from stylekeras import arrays, trees


class Host:
    """NumPy."""

    ops = arrays

    def tensor(self, value: Any) -> Any:
        """A nested structure of arrays and numbers in float32."""
        return trees.transform(lambda item: np.asarray(item, np.float32), value)

    def array(self, value: Any) -> Any:
        """A nested structure as NumPy arrays."""
        return trees.transform(np.asarray, value)
