"""Style losses, one file each. A style loss is a module with four functions, all pure, and what belongs to them:

- `measure(ops, features, mask=None) -> sums`: features (1, h, w, c) to a dict of arrays that add up over pixels, each
  pixel counted as much as the mask (1, h, w, 1) says;
- `target(sums, count) -> target`: a style image's sums over `count` pixels to what is compared with;
- `scale(target) -> scalar`: the size of the target, which relative losses are divided by;
- `compare(ops, sums, count, target) -> scalar`: the distance, the contract's unweighted term of one tap;
- `CURVATURE`: a `stylekeras.spectrum.Curvature` for L-BFGS to start from, or None;
- and its docstring, which gives the formula and its source.

A loss that can only measure a picture when it knows the style, as a histogram needs its bounds, has as well

- `frame(sums, count) -> frame`: a style image's sums to what it has to know, a dict of arrays of c rows each. With the
  frame as its last argument, `measure` takes the sums that are compared, of the style image itself too, and `target`
  makes the target of these.

One where the numbers of a target between two styles' are not between theirs in proportion has

- `between(one, other, amount) -> target`: two targets to what is that share of the way from the one to the other.

One that keeps much in memory while it measures says how much: `ACTIVATIONS`, numbers for each number of the features.

A function of matrices alone that takes much of a step, `function(ops, *arrays) -> arrays`, is called by way of
`ops.apart` where there is that: a graph then has marks where it begins and ends. `ALONE` has for its name what does the
same on NumPy arrays, `function(algebra, *arrays)`, in one thread: processors of few cores are faster so. `algebra` has
the functions of `stylekeras.native.roots`.

`ops` is a namespace with NumPy's names (`keras.ops` in most engines). `frame`, `target`, `between` and `scale` are
called once for a picture, not at every step, and get and return NumPy arrays in float64, so every engine has the same.
Adding a style loss is adding a file here.
"""

from __future__ import annotations

import importlib
from types import ModuleType


def load(name: str) -> ModuleType:
    """The style loss module of that name."""
    return importlib.import_module(f"stylekeras.style_losses.{name}")
