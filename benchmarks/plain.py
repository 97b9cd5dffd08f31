"""The loop that ours is measured against: Gatys' objective in PyTorch, as users write it.

`nn.Sequential`, Gram matrices, `torch.optim.LBFGS` on a picture of 0 to 255, the weights and settings that ours has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from stylekeras import Settings, weights


class Plain:
    """The objective of Gram settings without margin, total variation and strength."""

    def __init__(self, settings: Settings, photo: np.ndarray, painting: np.ndarray, device: str = "cpu") -> None:
        taps = {**settings.content_layers, **settings.style_layers}
        loaded = weights.load(settings.weights, settings.backbone, last=max(taps))
        layers: list[nn.Module] = []
        self.names: list[str] = []
        block = "block1"
        for name, (kernel, bias) in loaded.layers.items():
            if name[:6] != block:
                layers.append(nn.AvgPool2d(2) if settings.pooling == "average" else nn.MaxPool2d(2))
                self.names.append("")
                block = name[:6]
            convolution = nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=1)
            convolution.weight.data = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
            convolution.bias.data = torch.from_numpy(bias.copy())
            layers += [convolution, nn.ReLU()]
            self.names += ["", name]
            if name == max(taps):
                break
        self.network = nn.Sequential(*layers).eval().requires_grad_(False).to(device)
        card = loaded.card
        self.order = [2, 1, 0] if card.channel_order == "bgr" else [0, 1, 2]
        self.range, self.mean, self.std = card.range, _column(card.mean, device), _column(card.std, device)
        self.settings = settings
        relative = settings.loss_scale == "relative"
        self.photo = _picture(photo, device)
        self.content = {name: self.features(self.photo)[name] for name in settings.content_layers}
        self.style = {name: gram(self.features(_picture(painting, device))[name]) for name in settings.style_layers}
        targets = {**{("c", k): v for k, v in self.content.items()}, **{("s", k): v for k, v in self.style.items()}}
        self.scales = {
            key: value.square().mean() if relative else torch.ones((), device=device) for key, value in targets.items()
        }

    def features(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of a picture (1, 3, h, w) of 0 to 255, by layer."""
        x = (image[:, self.order] / 255 * self.range - self.mean) / self.std
        found = {}
        for name, layer in zip(self.names, self.network, strict=True):
            x = layer(x)
            if name:
                found[name] = x
        return found

    def loss(self, image: torch.Tensor) -> torch.Tensor:
        """Content and style, weighted."""
        seen, given = self.features(image), self.settings
        content = sum(
            weight * functional.mse_loss(seen[name], self.content[name]) / self.scales["c", name]
            for name, weight in given.content_layers.items()
        )
        style = sum(
            weight * functional.mse_loss(gram(seen[name]), self.style[name]) / self.scales["s", name]
            for name, weight in given.style_layers.items()
        )
        return given.content_weight * content + given.style_weight * style

    def optimizer(
        self, of: Callable[[torch.Tensor], torch.Tensor] | None = None, **options: Any
    ) -> tuple[torch.Tensor, Callable[[Callable[[float], None]], None]]:
        """A picture that starts as the photo, and a call of `torch.optim.LBFGS.step` that tells every loss, or every
        value of another function."""
        evaluate = of or self.loss
        image = self.photo.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([image], **options)

        def step(tell: Callable[[float], None]) -> None:
            def closure() -> torch.Tensor:
                optimizer.zero_grad()
                loss = evaluate(image)
                loss.backward()
                tell(float(loss))
                return loss

            optimizer.step(closure)

        return image, step


def gram(x: torch.Tensor) -> torch.Tensor:
    """Channel products of (1, c, h, w), per pixel."""
    flat = x.flatten(2)[0]
    return flat @ flat.T / flat.shape[1]


def _picture(array: np.ndarray, device: str) -> torch.Tensor:
    whole = torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(device)
    return 255 * whole.permute(2, 0, 1)[None].contiguous()


def _column(values: Any, device: str) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).reshape(1, -1, 1, 1)
