"""The JAX engine: evaluation and optimizer step as one jitted function."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from stylekeras import loss_scaling, preprocessing, trees
from stylekeras.engines import Loop, Objective, cores, devices_of, keras_on, native_precisions, precision_of
from stylekeras.graphs import store
from stylekeras.layout import Footprint
from stylekeras.weights import Weights

keras = keras_on("jax")

# With it XLA writes several kernels for each product of matrices and tries them out before the first step: up to a
# minute, for half a millisecond a step.
_ON_GPUS = {"xla_gpu_enable_triton_gemm": False}


def sees_gpu() -> bool:
    """Whether JAX would run on a GPU."""
    return bool(jax.default_backend() == "gpu")


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = jax.jit(function, compiler_options=_ON_GPUS if sees_gpu() else None)
    return compiled


def _keep_compiled() -> None:
    """Compiling takes longer than hundreds of steps; for the same sizes it is done once, unless the program keeps what
    it compiles elsewhere."""
    # JAX needs filelock to keep no more than so many bytes.
    if jax.config.jax_compilation_cache_dir or importlib.util.find_spec("filelock") is None:
        return
    folder = store.folder() / "xla"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_max_size", 2**30)
    jax.config.update("jax_compilation_cache_dir", str(folder))


class Engine:
    """JAX through Keras 3, on its default device. Every size is compiled anew: XLA needs sizes known."""

    name = "jax"
    version = jax.__version__
    reads_onnx = False

    footprint = Footprint(fixed=1.20e09, activations=3.0, in_tiles=4.0, resting=1.0, holding=4.0, held=2.2)

    def __init__(self, precision: str, devices: int | None = None) -> None:
        # Gram matrices, losses and L-BFGS need what float32 promises, on GPUs too.
        jax.config.update("jax_default_matmul_precision", "highest")
        # On a processor it is not known to be faster in bfloat16.
        native = native_precisions(_capability(jax.devices()[0])) if sees_gpu() else ()
        self.precision = precision_of(self.name, precision, "float32", "bfloat16", "float16", auto=native)
        self.ops: Any = keras.ops if self.precision == "float32" else _Narrow()
        chosen = devices_of(self.name, devices, "GPU" if sees_gpu() else "CPU", jax.devices())
        self.devices = len(chosen)
        self.device = f"GPU ({chosen[0].device_kind})" if sees_gpu() else f"CPU ({cores()} cores)"
        if self.devices > 1:
            self.device = f"{self.devices} x {self.device}"
        self.queues = sees_gpu()
        if sees_gpu():
            _keep_compiled()
        self._mesh = jax.sharding.Mesh(np.array(chosen), ("tiles",))

    def out_of_memory(self, error: Exception) -> bool:
        """Whether memory ran out."""
        return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)

    def tensor(self, value: Any) -> Any:
        """A nested structure of arrays and numbers as float32 arrays on the device."""
        return jax.tree.map(lambda item: jax.numpy.asarray(item, "float32"), value)

    def array(self, value: Any) -> Any:
        """A nested structure as NumPy arrays, fetched together."""
        return jax.device_get(value)

    def backbone(self, weights: Weights, taps: list[str], *, pooling: str, padding: str) -> Taps:
        """The taps model, from (1, h, w, 3) to {tap: (1, h', w', c)}."""
        from stylekeras.backbones import vgg

        model = vgg.build(weights, taps, pooling=pooling, padding=padding, dtype=self.precision)
        return Taps(model, preprocessing.scale(weights, self.precision) if self.precision == "float16" else None)

    def evaluator(self, taps: Any, objective: Objective) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
        """(image, targets, weights) -> (loss, terms, gradient), compiled."""
        return Compiled(_evaluation(self.ops, taps, objective), taps.parameters)

    def measurer(self, taps: Any, objective: Objective) -> Callable[[Any, Any], Any]:
        """(image, targets) -> sums, compiled."""

        def measure(parameters: Any, image: Any, targets: Any) -> Any:
            return objective.measure(self.ops, image, taps.pure(parameters, image), targets)

        return Compiled(measure, taps.parameters)

    def vjp(self, taps: Any, objective: Objective) -> Callable[[Any, Any], tuple[Any, Callable[[Any], Any]]]:
        """(image, targets) -> (sums, cotangents -> gradient), compiled; see `stylekeras.engines`."""

        def forward(parameters: Any, image: Any, targets: Any) -> tuple[Any, Any]:
            def measure(image: Any) -> Any:
                return objective.measure(self.ops, image, taps.pure(parameters, image), targets)

            sums, pull = jax.vjp(measure, image)
            return sums, pull

        compiled, back = Compiled(forward, taps.parameters), _jit(lambda pull, cotangents: pull(cotangents)[0])

        def run(image: Any, targets: Any) -> tuple[Any, Callable[[Any], Any]]:
            sums, kept = compiled(image, targets)
            named = trees.names(sums, "sums")

            def pull(cotangents: Mapping[str, Any]) -> Any:
                zeros = trees.leaves(trees.transform(jax.numpy.zeros_like, sums), "sums")
                return back(kept, trees.transform(lambda name: cotangents.get(name, zeros[name]), named))

            return sums, pull

        return run

    def together(self, function: Compiled, group: Sequence[tuple[Any, ...]]) -> list[Any]:
        """`function` of each arguments of a group, on as many devices at the same time."""
        # All devices run; what is left over is not looked at.
        full = [group[min(i, len(group) - 1)] for i in range(self.devices)]
        stacked = jax.tree.map(lambda *items: jax.numpy.stack(items), *full)
        found = function.sharded(self._mesh)(function.parameters, stacked)
        return [jax.tree.map(lambda item, i=i: item[i], found) for i in range(len(group))]

    def differentiator(self, objective: Objective) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
        """(sums, targets, weights) -> (loss, terms, gradient), compiled."""
        compiled = _jit(jax.value_and_grad(functools.partial(objective.combine, self.ops), has_aux=True))

        def differentiate(sums: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
            (loss, terms), gradient = compiled(sums, targets, weights)
            return loss, terms, gradient

        return differentiate

    def loop(self, taps: Any, objective: Objective, optimizer: ModuleType) -> Loop:
        """The optimizer's state on the device and its compiled step."""
        evaluate = _evaluation(self.ops, taps, objective)

        def advance(parameters: Any, state: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
            loss, terms, gradient = evaluate(parameters, state.image, targets, weights)
            return loss, terms, optimizer.update(self.ops, state, loss, gradient)

        compiled = _jit(advance)
        return Loop(self, optimizer, lambda *given: compiled(taps.parameters, *given), queue=self.queues)


class _Narrow:
    """`keras.ops` where features come from a network in a low precision.

    On a GPU, sums of products of such features are the same, to the last bit of what is summed up, in TensorFloat-32,
    whose 11 significant bits hold those of float16 and bfloat16; their derivative is rounded no more by that than when
    it enters the network.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(keras.ops, name)

    def products(self, x: Any, y: Any) -> Any:
        """x^T y for (n, c) and (n, d)."""
        return jax.numpy.matmul(x.T, y, precision=jax.lax.Precision.DEFAULT)


class Compiled:
    """A function whose first argument are the kernels, compiled for one device or for several at once."""

    def __init__(self, function: Callable[..., Any], parameters: Any) -> None:
        self.parameters = parameters
        self._function = function
        self._compiled = _jit(function)

    def __call__(self, *arguments: Any) -> Any:
        """What it makes of the other arguments."""
        return self._compiled(self.parameters, *arguments)

    @functools.cache  # noqa: B019 - lives as long as the engine
    def sharded(self, mesh: Any) -> Any:
        """(kernels, arguments stacked along a first axis) -> results stacked likewise, one on each device."""

        def one(parameters: Any, stacked: Any) -> Any:
            found = self._function(parameters, *jax.tree.map(lambda item: item[0], stacked))
            return jax.tree.map(lambda item: item[None], found)

        each, every = PartitionSpec("tiles"), PartitionSpec()
        return _jit(jax.shard_map(one, mesh=mesh, in_specs=(every, each), out_specs=each))


class Taps:
    """The taps model; its kernels are arguments of what is compiled, since constants are copied into every program."""

    def __init__(self, model: Any, scale: float | None) -> None:
        """`scale` is that of a network whose gradient needs loss scaling."""
        self.parameters = [variable.value for variable in model.non_trainable_variables]

        def pure(parameters: Any, image: Any) -> dict[str, Any]:
            features: dict[str, Any] = model.stateless_call([], parameters, image, training=False)[0]
            return features

        # Features from kernels and picture.
        self.pure = pure if scale is None else _scaled(pure, scale)
        self._compiled = _jit(self.pure)

    def __call__(self, image: Any) -> dict[str, Any]:
        """(1, h, w, 3) to {tap: (1, h', w', c)}."""
        return dict(self._compiled(self.parameters, image))


def _evaluation(ops: Any, taps: Any, objective: Objective) -> Callable[..., tuple[Any, Any, Any]]:
    def loss_of(image: Any, parameters: Any, targets: Any, weights: Any) -> tuple[Any, Any]:
        return objective(ops, image, taps.pure(parameters, image), targets, weights)

    def evaluate(parameters: Any, image: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
        (loss, terms), gradient = jax.value_and_grad(loss_of, has_aux=True)(image, parameters, targets, weights)
        return loss, terms, gradient

    return evaluate


def _scaled(taps: Callable[[Any, Any], dict[str, Any]], scale: float) -> Callable[[Any, Any], dict[str, Any]]:
    """`taps`, of frozen kernels and a picture, of a network at that scale, with loss scaling of its own gradient."""
    features: Any = jax.custom_vjp(taps)

    def forward(parameters: Any, image: Any) -> tuple[dict[str, Any], Any]:
        found, pull = jax.vjp(functools.partial(taps, parameters), image)
        return found, pull

    def backward(pull: Any, cotangents: dict[str, Any]) -> tuple[None, Any]:
        factor = loss_scaling.factor(keras.ops, list(cotangents.values()), scale)
        (gradient,) = pull(jax.tree.map(lambda cotangent: factor * cotangent, cotangents))
        return None, gradient / factor

    def of(parameters: Any, image: Any) -> dict[str, Any]:
        found: dict[str, Any] = features(parameters, image)
        return found

    features.defvjp(forward, backward)
    return of


def _capability(device: Any) -> tuple[int, int]:
    """Of an NVIDIA GPU; that of the oldest where it is not said, or is another maker's."""
    parts = str(getattr(device, "compute_capability", "")).split(".")
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(map(str.isdecimal, parts)) else (0, 0)
