"""Seconds per step of every engine and of a plain PyTorch loop, in one run on one machine.

    python benchmarks/steps.py                      # every engine that is installed, 256 and 512 px, VGG19
    python benchmarks/steps.py --style-loss wasserstein --engines onnxruntime,tensorflow --sizes 256

A step is loss, gradient and L-BFGS. Every contestant is a process of its own that stays, and they take turns, a few
steps each, so that a slow minute of the machine hits all of them; the figure is the median of all steps, and its spread
the middle half. The pictures are noise and the weights random: neither changes what a step costs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

PLAIN = "plain PyTorch loop"
STYLE_LAYERS = {f"block{i}_conv1": 0.2 for i in range(1, 6)}


def main() -> None:
    """Measure, print the table, and keep it in benchmarks/results/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="256,512", help="sides of the square picture, with commas between")
    parser.add_argument("--engines", default="", help="with commas between; the default is all that are installed")
    parser.add_argument("--precisions", default="float32", help="with commas between")
    parser.add_argument("--style-loss", default="gram")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3, help="steps a round")
    parser.add_argument("--output", help="where to keep the table as JSON; the default is benchmarks/results/steps-...")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(json.loads(given.worker))
        return
    from stylekeras import engines

    names = given.engines.split(",") if given.engines else [name for name in engines.ORDER if not engines.missing(name)]
    contestants = [(name, precision) for precision in given.precisions.split(",") for name in names]
    if given.style_loss == "gram" and not engines.missing("torch"):
        contestants.append((PLAIN, "float32"))
    found: list[dict[str, Any]] = []
    for size in map(int, given.sizes.split(",")):
        found += measure(contestants, size, given)
    report = {"machine": machine(), "style_loss": given.style_loss, "command": " ".join(sys.argv), "results": found}
    print(f"VGG19, {given.style_loss} loss, on {table(report)}")
    path = Path(
        given.output or Path(__file__).parent / "results" / f"steps-{given.style_loss}-{report['machine']['key']}.json"
    )
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nkept in {path}", file=sys.stderr)


def measure(contestants: list[tuple[str, str]], size: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Let the contestants take turns at one size."""
    workers = []
    for name, precision in contestants:
        order = {"engine": name, "precision": precision, "size": size, "style_loss": given.style_loss}
        command = [sys.executable, __file__, "--worker", json.dumps(order)]
        errors = subprocess.DEVNULL
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        ready = worker.stdout.readline()  # one after the other: they would slow each other's compilation
        if not ready:
            print(f"{name} in {precision} does not run here", file=sys.stderr)
            continue
        print(f"{size} px: {name} in {precision} is ready", file=sys.stderr)
        workers.append((order, json.loads(ready), worker, []))
    for _ in range(given.rounds):
        for _, _, worker, seconds in workers:
            worker.stdin.write(f"{given.steps}\n")
            worker.stdin.flush()
            seconds += json.loads(worker.stdout.readline())
    for _, _, worker, _ in workers:
        worker.stdin.close()
        worker.wait()
    return [{**order, **ready, "seconds": seconds} for order, ready, _, seconds in workers]


def work(order: dict[str, Any]) -> None:
    """A contestant: says when it is ready, then makes as many steps as each line asks for."""
    import time

    step, version = plain(order) if order["engine"] == PLAIN else ours(order)
    first = time.perf_counter()
    step()
    first = time.perf_counter() - first
    step()
    print(json.dumps({"version": version, "first": first}), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)
        print(json.dumps(seconds), flush=True)


def ours(order: dict[str, Any]) -> tuple[Any, str]:
    """A step of `stylekeras.iterate`."""
    import numpy as np

    import stylekeras as sk

    photo, painting = np.random.default_rng(0).random((2, order["size"], order["size"], 3))
    settings = sk.Settings(
        engine=order["engine"],
        precision=order["precision"],
        size=order["size"],
        min_size=None,
        margin=0,
        steps=1_000_000,
        weights="random",
        style_loss=order["style_loss"],
        style_layers=STYLE_LAYERS,
    )
    run = sk.iterate(photo, painting, settings)
    version = next(run).provenance["engine_version"]
    return (lambda: next(run)), version


def plain(order: dict[str, Any]) -> tuple[Any, str]:
    """The loop of the PyTorch tutorials: nn.Sequential, Gram matrices, torch.optim.LBFGS; a step is an evaluation."""
    import torch
    from torch import nn
    from torch.nn import functional

    from stylekeras import weights

    torch.manual_seed(0)
    layers, names = [], []
    block = "block1"
    for name, (kernel, bias) in weights.load("random", "vgg19", last="block5_conv1").layers.items():
        if name[:6] != block:
            layers.append(nn.MaxPool2d(2))
            names.append("")
            block = name[:6]
        convolution = nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=1)
        convolution.weight.data = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        convolution.bias.data = torch.from_numpy(bias)
        layers += [convolution, nn.ReLU()]
        names += ["", name]
    network = nn.Sequential(*layers).eval().requires_grad_(False)

    def features(image: Any) -> dict[str, Any]:
        found, x = {}, (image - 0.45) * 255
        for name, layer in zip(names, network, strict=True):
            x = layer(x)
            if name:
                found[name] = x
        return found

    def gram(x: Any) -> Any:
        flat = x.flatten(2)[0]
        return flat @ flat.T / flat.shape[1]

    photo, painting = torch.rand((2, 1, 3, order["size"], order["size"]))
    content = features(photo)["block4_conv2"]
    targets = {name: gram(x) for name, x in features(painting).items() if name in STYLE_LAYERS}
    scales = {name: target.square().mean() for name, target in targets.items()}
    image = photo.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([image], max_iter=1, history_size=12)

    def closure() -> Any:
        optimizer.zero_grad()
        seen = features(image)
        loss = functional.mse_loss(seen["block4_conv2"], content) / content.square().mean()
        for name, weight in STYLE_LAYERS.items():
            loss = loss + weight * functional.mse_loss(gram(seen[name]), targets[name]) / scales[name]
        loss.backward()
        return loss

    return (lambda: optimizer.step(closure)), torch.__version__


def machine() -> dict[str, Any]:
    """What it ran on."""
    processor, flags = platform.processor(), set()
    if Path("/proc/cpuinfo").exists():
        lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
        lines = {key.strip(): value.strip() for key, value in lines.items()}
        processor, flags = lines.get("model name", processor), set(lines.get("flags", "").split())
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": processor,
        "cores": cores,
        "features": wide,
        "key": f"{cores}-core-{wide[-1] if wide else 'cpu'}",
    }


def table(report: dict[str, Any]) -> str:
    """The results as Markdown: seconds, and how many times as fast as the plain loop."""
    kind = report["machine"]
    lines = [
        f"{kind['processor']}, {kind['cores']} cores, {', '.join(kind['features'])}",
        "",
        "| px | engine | precision | seconds a step | middle half | times the plain loop's speed | first step |",
        "|---|---|---|---|---|---|---|",
    ]
    base = {row["size"]: statistics.median(row["seconds"]) for row in report["results"] if row["engine"] == PLAIN}
    for row in sorted(report["results"], key=lambda row: (row["size"], statistics.median(row["seconds"]))):
        median = statistics.median(row["seconds"])
        low, _, high = statistics.quantiles(row["seconds"], n=4)
        ratio = f"{base[row['size']] / median:.2f}" if row["size"] in base else ""
        lines.append(
            f"| {row['size']} | {row['engine']} {row['version']} | {row['precision']} | {median:.3f} | {low:.3f} to "
            f"{high:.3f} | {ratio} | {row['first']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
