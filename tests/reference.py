"""The objective once more, in plain float64 NumPy and SciPy, each function citing its equation, gradients by hand.

It shares no code with stylekeras and is written to be read, not to be fast. Pictures and features are (h, w, c) here,
without the batch axis; every loss returns (value, gradient in its first argument).
"""

from __future__ import annotations

import itertools
import types
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.stats

# The `ops` that objective, losses and optimizers are written in, made of NumPy.
numpy_ops = types.SimpleNamespace(
    **vars(np),
    cast=lambda value, dtype: np.asarray(value, dtype),
    cond=lambda condition, yes, no: yes() if condition else no(),
    relu=lambda value: np.maximum(value, 0),
    solve_triangular=lambda matrix, right, lower=False: scipy.linalg.solve_triangular(matrix, right, lower=lower),
    stop_gradient=lambda value: value,
    fft2=lambda parts: (lambda z: (z.real, z.imag))(np.fft.fft2(parts[0] + 1j * parts[1])),
    ifft2=lambda parts: (lambda z: (z.real, z.imag))(np.fft.ifft2(parts[0] + 1j * parts[1])),
)

# --- the network: Simonyan and Zisserman (2015), section 2.1 -------------------------------------------------------


class Conv(NamedTuple):
    """3x3, stride 1, as many positions out as in, then ReLU; a tap of that name."""

    name: str
    kernel: np.ndarray
    bias: np.ndarray
    edge: str = "zeros"


class Pool(NamedTuple):
    """2x2, stride 2, a last odd row or column dropped."""

    kind: str


def vgg(layers: dict[str, tuple[np.ndarray, np.ndarray]], last: str, *, pooling: str, padding: str) -> list[Any]:
    """The convolutions of `blockB_convN` in order up to `last`, a pooling between blocks; `padding` is the first's."""
    network: list[Any] = []
    for name, (kernel, bias) in layers.items():
        if network and network[-1].name[:6] != name[:6]:
            network.append(Pool(pooling))
        edge = padding if name == "block1_conv1" else "zeros"
        network.append(Conv(name, kernel.astype(float), bias.astype(float), edge))
        if name == last:
            return network
    raise KeyError(last)


def preprocess(image: np.ndarray, *, order: str, scale: float, mean: Any, std: Any) -> np.ndarray:
    """RGB in [0, 1] to what the weights were trained on: channels in `order`, times `scale`, minus mean, over std."""
    ordered = image[:, :, ::-1] if order == "bgr" else image
    return (ordered * scale - np.asarray(mean)) / np.asarray(std)


def preprocess_gradient(gradient: np.ndarray, *, order: str, scale: float, mean: Any, std: Any) -> np.ndarray:
    ordered = gradient * scale / np.asarray(std)
    return ordered[:, :, ::-1] if order == "bgr" else ordered


def conv(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, edge: str) -> np.ndarray:
    """y[i, j] = b + sum_ab x[i + a - 1, j + b - 1] K[a, b]; beyond the border zeros, or the nearest pixel."""
    height, width = x.shape[:2]
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge" if edge == "replicate" else "constant")
    y = np.zeros((height, width, kernel.shape[3])) + bias
    for a in range(3):
        for b in range(3):
            y += _times(padded[a : a + height, b : b + width], kernel[a, b])
    return y


def _times(x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """x @ matrix for (h, w, c), as one product: NumPy would make one for each row."""
    return (x.reshape(-1, x.shape[2]) @ matrix).reshape(*x.shape[:2], -1)


def conv_gradient(gradient: np.ndarray, kernel: np.ndarray, edge: str) -> np.ndarray:
    """The transpose of `conv` in x."""
    height, width = gradient.shape[:2]
    padded = np.zeros((height + 2, width + 2, kernel.shape[2]))
    for a in range(3):
        for b in range(3):
            padded[a : a + height, b : b + width] += _times(gradient, kernel[a, b].T)
    if edge == "replicate":
        padded[1] += padded[0]
        padded[-2] += padded[-1]
        padded[:, 1] += padded[:, 0]
        padded[:, -2] += padded[:, -1]
    return padded[1:-1, 1:-1]


def _windows(x: np.ndarray) -> np.ndarray:
    """(h, w, c) to (h // 2, w // 2, 4, c), row by row within a window."""
    height, width, channels = x.shape[0] // 2, x.shape[1] // 2, x.shape[2]
    cut = x[: 2 * height, : 2 * width].reshape(height, 2, width, 2, channels)
    return cut.transpose(0, 2, 1, 3, 4).reshape(height, width, 4, channels)


def pool(x: np.ndarray, kind: str) -> np.ndarray:
    """The maximum or the mean of each window."""
    return _windows(x).max(axis=2) if kind == "max" else _windows(x).mean(axis=2)


def pool_gradient(gradient: np.ndarray, x: np.ndarray, kind: str) -> np.ndarray:
    """To the first maximum of each window (TensorFlow's choice among equals), or a quarter to each."""
    height, width, channels = gradient.shape
    if kind == "max":
        share = np.arange(4)[:, None] == _windows(x).argmax(axis=2)[:, :, None]
    else:
        share = np.full((height, width, 4, channels), 0.25)
    spread = (share * gradient[:, :, None]).reshape(height, width, 2, 2, channels).transpose(0, 2, 1, 3, 4)
    result = np.zeros(x.shape)
    result[: 2 * height, : 2 * width] = spread.reshape(2 * height, 2 * width, channels)
    return result


def forward(network: list[Any], x: np.ndarray) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Every tap, after its ReLU, and the input of every layer."""
    taps, inputs = {}, []
    for layer in network:
        inputs.append(x)
        if isinstance(layer, Pool):
            x = pool(x, layer.kind)
        else:
            x = np.maximum(conv(x, layer.kernel, layer.bias, layer.edge), 0.0)
            taps[layer.name] = x
    return taps, inputs


def backward(
    network: list[Any], taps: dict[str, np.ndarray], inputs: list[np.ndarray], gradients: dict[str, np.ndarray]
) -> np.ndarray:
    """d loss / d network input from d loss / d tap, by the chain rule."""
    flowing = None
    for layer, x in zip(reversed(network), reversed(inputs), strict=True):
        if isinstance(layer, Pool):
            flowing = None if flowing is None else pool_gradient(flowing, x, layer.kind)
            continue
        if layer.name in gradients:
            flowing = gradients[layer.name] if flowing is None else flowing + gradients[layer.name]
        if flowing is not None:
            flowing = conv_gradient(flowing * (taps[layer.name] > 0), layer.kernel, layer.edge)
    return np.zeros_like(inputs[0]) if flowing is None else flowing


# --- the losses ---------------------------------------------------------------------------------------------------


def content_loss(features: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """mean((F - P)^2): Gatys et al. (2016), eq. 1 and 2, a mean in place of half a sum (the contract's section 1)."""
    difference = features - target
    return float(np.mean(difference**2)), 2 * difference / difference.size


def content_scale(target: np.ndarray) -> float:
    """mean(P^2)."""
    return float(np.mean(target**2))


def _gram(features: np.ndarray) -> np.ndarray:
    """G / M, eq. 3 with the mean over positions."""
    flat = features.reshape(-1, features.shape[2])
    return flat.T @ flat / len(flat)


def gram_loss(features: np.ndarray, style: np.ndarray) -> tuple[float, np.ndarray]:
    """mean((G / M - A / M')^2) over the C x C entries: eq. 4, its gradient eq. 6, normalised as in the contract."""
    positions, channels = features.shape[0] * features.shape[1], features.shape[2]
    difference = _gram(features) - _gram(style)
    gradient = 4 * features @ difference / (positions * channels**2)
    return float(np.mean(difference**2)), gradient


def gram_scale(style: np.ndarray) -> float:
    """mean((A / M')^2)."""
    return float(np.mean(_gram(style) ** 2))


def _gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flat = features.reshape(-1, features.shape[2])
    mean = flat.mean(axis=0)
    return mean, (flat - mean).T @ (flat - mean) / len(flat)


def wasserstein_loss(features: np.ndarray, style: np.ndarray) -> tuple[float, np.ndarray]:
    """(|m - M|^2 + tr S' + tr T' - 2 tr (R S' R)^(1/2)) / C with R = T'^(1/2): Dowson and Landau (1982), eq. 4.

    S' = S + max(e, 2e-4 q) I, T' = T + e I, e = max(1e-3 tr(T) / C, 2e-4 Q), with q and Q the means of the features'
    squares, the picture's and the style's.
    Gradient: d tr (R S' R)^(1/2) / dS' = 1/2 R (R S' R)^(-1/2) R.
    """
    positions, channels = features.shape[0] * features.shape[1], features.shape[2]
    (mean, covariance), (style_mean, style_covariance) = _gaussian(features), _gaussian(style)
    unit = np.eye(channels)
    wide = max(1e-3 * max(np.trace(style_covariance) / channels, 1e-12), 2e-4 * np.mean(style**2))
    own = 2e-4 * np.mean(features**2)
    covariance, style_covariance = covariance + max(wide, own) * unit, style_covariance + wide * unit
    root = scipy.linalg.sqrtm(style_covariance).real
    between = scipy.linalg.sqrtm(root @ covariance @ root).real
    shift = mean - style_mean
    spread = np.trace(covariance) + np.trace(style_covariance) - 2 * np.trace(between)
    by_covariance = unit - root @ np.linalg.solve(between, root)
    gradient = 2 * ((features - mean) @ (by_covariance + by_covariance.T) / 2 + shift) / (positions * channels)
    if own > wide:
        gradient = gradient + np.trace(by_covariance) / channels * 2e-4 * 2 * features / features.size
    return float((shift @ shift + spread) / channels), gradient


def wasserstein_scale(style: np.ndarray) -> float:
    """(|M|^2 + tr T) / C."""
    mean, covariance = _gaussian(style)
    return float((mean @ mean + np.trace(covariance)) / len(mean))


def _widening(style: np.ndarray) -> float:
    """max(1e-3 tr(T) / C, 2e-4 Q), Q the mean of the style's squares."""
    variance = np.mean(np.var(style, axis=(0, 1)))
    return float(max(1e-3 * max(variance, 1e-12), 2e-4 * np.mean(style**2)))


def moments_loss(features: np.ndarray, style: np.ndarray) -> tuple[float, np.ndarray]:
    """mean((m - M)^2 + (s - S)^2) over channels, of means and (widened) standard deviations.

    Li et al. (2017), BN statistics; Huang and Belongie (2017), eq. 13.
    """
    positions, channels = features.shape[0] * features.shape[1], features.shape[2]
    wide = _widening(style)
    mean, style_mean = features.mean(axis=(0, 1)), style.mean(axis=(0, 1))
    deviation, style_deviation = (np.sqrt(x.var(axis=(0, 1)) + wide) for x in (features, style))
    value = np.mean((mean - style_mean) ** 2 + (deviation - style_deviation) ** 2)
    pull = mean - style_mean + (deviation - style_deviation) / deviation * (features - mean)
    return float(value), 2 * pull / (positions * channels)


def covariance_loss(features: np.ndarray, style: np.ndarray) -> tuple[float, np.ndarray]:
    """(|S - T|^2 + 4 max(|T|, |A| / 1000) |m - M|^2) / C^2, A the style's Gram matrix per position.

    Sun and Saenko (2016), eq. 1, and the means; Frobenius' norms.
    """
    positions, channels = features.shape[0] * features.shape[1], features.shape[2]
    (mean, covariance), (style_mean, style_covariance) = _gaussian(features), _gaussian(style)
    weight = 4 * max(np.linalg.norm(style_covariance), np.linalg.norm(_gram(style)) / 1000)
    difference, shift = covariance - style_covariance, mean - style_mean
    value = (np.sum(difference**2) + weight * np.sum(shift**2)) / channels**2
    gradient = 4 * (features - mean) @ difference + 2 * weight * shift
    return float(value), gradient / (positions * channels**2)


def covariance_scale(style: np.ndarray) -> float:
    """The loss of a blank picture."""
    return covariance_loss(np.zeros_like(style), style)[0]


def _directions(channels: int) -> np.ndarray:
    directions = np.random.default_rng(0).normal(size=(channels, channels))
    return directions / np.linalg.norm(directions, axis=0)


def sliced_loss(features: np.ndarray, style: np.ndarray) -> tuple[float, np.ndarray]:
    """mean over directions of K sum over K intervals of (mean clip(x) - mean clip(y))^2, x and y projections.

    Heitz et al. (2021), the 1-D distances to first order: Peyre (2018), integral (F - G)^2 / g.
    """
    directions, intervals, pixels = _directions(features.shape[2]), 4, (0, 1)
    x, y = features @ directions, style @ directions
    mean, deviation = y.mean(axis=pixels), np.sqrt(y.var(axis=pixels) + _widening(style))
    edges = [mean + deviation * scipy.stats.norm.ppf(i / intervals) for i in range(intervals + 1)]
    value, gradient = 0.0, np.zeros_like(features)
    for low, high in itertools.pairwise(edges):
        difference = np.clip(x, low, high).mean(axis=pixels) - np.clip(y, low, high).mean(axis=pixels)
        value += intervals * np.mean(difference**2)
        gradient += 2 * intervals * ((x > low) & (x < high)) * difference @ directions.T / x.size
    return float(value), gradient


def sliced_scale(style: np.ndarray) -> float:
    """|M|^2 / C and the mean over the directions of the (widened) variance."""
    variance = np.var(style @ _directions(style.shape[2]), axis=(0, 1))
    return float(np.mean(np.mean(style, axis=(0, 1)) ** 2) + np.mean(variance) + _widening(style))


STYLE_LOSSES = {
    "gram": (gram_loss, gram_scale),
    "wasserstein": (wasserstein_loss, wasserstein_scale),
    "moments": (moments_loss, wasserstein_scale),
    "covariance": (covariance_loss, covariance_scale),
    "sliced": (sliced_loss, sliced_scale),
}


def total_variation(image: np.ndarray) -> tuple[float, np.ndarray]:
    """Squared differences to the right and lower neighbours, summed over channels, per pixel.

    Mahendran and Vedaldi (2015), eq. 7 with beta = 2.
    """
    pixels = image.shape[0] * image.shape[1]
    value, gradient = 0.0, np.zeros_like(image)
    for axis in (0, 1):
        difference = np.diff(image, axis=axis)
        value += float(np.sum(difference**2))
        gradient += -np.diff(2 * difference, axis=axis, prepend=0, append=0)
    return value / pixels, gradient / pixels


# --- the objective: the contract's section 1 ----------------------------------------------------------------------


class Setup(NamedTuple):
    """Everything but the picture. `styles` are (image, weight); `preprocessing` are the options of `preprocess`."""

    network: list[Any]
    content: np.ndarray | None
    styles: list[tuple[np.ndarray, float]]
    content_layers: dict[str, float]
    style_layers: dict[str, float]
    style_loss: str
    relative: bool
    content_weight: float = 1.0
    style_weight: float = 1.0
    tv_weight: float = 0.0
    preprocessing: dict[str, Any] | None = None

    def input(self, image: np.ndarray) -> np.ndarray:
        return image if self.preprocessing is None else preprocess(image, **self.preprocessing)

    def taps(self, image: np.ndarray) -> dict[str, np.ndarray]:
        return forward(self.network, self.input(image))[0]


class Value(NamedTuple):
    loss: float
    terms: dict[str, float]
    gradient: np.ndarray


def objective(image: np.ndarray, setup: Setup) -> Value:
    """loss = content_weight content + style_weight style + tv_weight tv, its terms, and its gradient in the picture."""
    image = np.asarray(image, float)
    taps, inputs = forward(setup.network, setup.input(image))
    gradients = {name: np.zeros_like(features) for name, features in taps.items()}
    terms = {"content": 0.0, "style": 0.0}
    if setup.content is not None:
        wanted = setup.taps(setup.content)
        for tap, weight in setup.content_layers.items():
            scale = content_scale(wanted[tap]) if setup.relative else 1.0
            value, gradient = content_loss(taps[tap], wanted[tap])
            terms[f"content/{tap}"] = value / scale
            terms["content"] += weight * value / scale
            gradients[tap] += setup.content_weight * weight * gradient / scale
    loss_of, scale_of = STYLE_LOSSES[setup.style_loss]
    for picture, share in setup.styles:
        wanted = setup.taps(picture)
        for tap, weight in setup.style_layers.items():
            scale = scale_of(wanted[tap]) if setup.relative else 1.0
            value, gradient = loss_of(taps[tap], wanted[tap])
            terms[f"style/{tap}"] = terms.get(f"style/{tap}", 0.0) + share * value / scale
            terms["style"] += weight * share * value / scale
            gradients[tap] += setup.style_weight * weight * share * gradient / scale
    terms["tv"], tv_gradient = total_variation(image)
    by_input = backward(setup.network, taps, inputs, gradients)
    by_image = by_input if setup.preprocessing is None else preprocess_gradient(by_input, **setup.preprocessing)
    loss = setup.content_weight * terms["content"] + setup.style_weight * terms["style"] + setup.tv_weight * terms["tv"]
    return Value(loss, terms, by_image + setup.tv_weight * tv_gradient)


def numerical_gradient(function: Any, point: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences in float64, one coordinate at a time."""
    gradient = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        ahead, behind = point.copy(), point.copy()
        ahead[index] += step
        behind[index] -= step
        gradient[index] = (function(ahead) - function(behind)) / (2 * step)
    return gradient
