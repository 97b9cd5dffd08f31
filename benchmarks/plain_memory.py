"""The memory that a run takes, and a plain PyTorch loop whose history is full.

    python benchmarks/plain_memory.py photo.jpg painting.jpg --size 1024 --precision winograd

`torch.optim.LBFGS` keeps a hundred pairs. To fill them with the network takes most of an hour at 1024 px on two cores,
so a quadratic function of the picture does that; then the network is evaluated once. Each in a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from typing import Any

import convergence


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo")
    parser.add_argument("painting")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--only", choices=["ours", "plain"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        (ours if given.only == "ours" else plain)(vars(given) | {"iterations": 15})
        print(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
        return
    found = {}
    for which in ("ours", "plain"):
        command = [sys.executable, *sys.argv, "--only", which]
        told = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        found[which] = int(told.stdout.split()[-1])
    print(f"ours {found['ours']} MB, the plain loop {found['plain']} MB: {found['ours'] / found['plain']:.2f}")


def ours(order: dict[str, Any]) -> None:
    """Enough steps for the history to be full."""
    import stylekeras as sk

    for _ in sk.iterate(order["photo"], order["painting"], convergence.settings(order)):
        pass


def plain(order: dict[str, Any]) -> None:
    """A quadratic function until the history is full, then the network."""
    import torch
    from plain import Plain

    from stylekeras import images, pyramid

    photo, painting = (images.load_image(order[name]) for name in ("photo", "painting"))
    size = order["size"]
    shape = pyramid.shape_at(photo.shape[:2], size)
    given = convergence.settings({**order, "engine": "openvino", "precision": "float32"})
    objective = Plain(given, images.resize(photo, *shape), images.fit(painting, size))
    options = {"max_iter": 112, "tolerance_grad": 0, "tolerance_change": 0, "line_search_fn": "strong_wolfe"}
    slopes = torch.logspace(-3, 1, objective.photo.numel()).reshape(objective.photo.shape)
    image, step = objective.optimizer(lambda x: (slopes * (x - 90) ** 2).sum() * 1e-4, **options)
    step(lambda loss: None)
    image.grad = None
    objective.loss(image).backward()


if __name__ == "__main__":
    main()
