"""Seconds per step of every engine and of a plain PyTorch loop, in one run on one machine.

    python benchmarks/steps.py                      # every engine that is installed, 256 and 512 px, VGG19
    python benchmarks/steps.py --style-loss wasserstein --engines onnxruntime,tensorflow --sizes 256

A step is loss, gradient and L-BFGS. Every contestant is a process of its own that stays, and they take turns, a few
steps each, so that a slow minute of the machine hits all of them; the figure is the median of all steps, and its spread
the middle half. The pictures are noise and the weights random: neither changes what a step costs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

from turns import PLAIN, Contestant, arguments, command, keep, machine, serve

STYLE_LAYERS = {f"block{i}_conv1": 0.2 for i in range(1, 6)}


def main() -> None:
    """Measure, print the table, and keep it in benchmarks/results/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="256,512", help="sides of the square picture, with commas between")
    parser.add_argument("--engines", default="", help="with commas between; the default is all that are installed")
    parser.add_argument("--precisions", default="float32", help="with commas between")
    parser.add_argument("--style-loss", default="gram")
    parser.add_argument("--no-plain", action="store_true", help="without the plain PyTorch loop")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3, help="steps a round")
    given = arguments(parser, work)
    from stylekeras import engines

    names = given.engines.split(",") if given.engines else [name for name in engines.ORDER if not engines.missing(name)]
    contestants = [(name, precision) for precision in given.precisions.split(",") for name in names]
    if given.style_loss == "gram" and not given.no_plain and not engines.missing("torch"):
        contestants.append((PLAIN, "float32"))
    found: list[dict[str, Any]] = []
    for size in map(int, given.sizes.split(",")):
        found += measure(contestants, size, given)
    report = {"machine": machine(), "style_loss": given.style_loss, "command": command(given), "results": found}
    print(f"VGG19, {given.style_loss} loss, on {table(report)}")
    keep(report, f"steps-{given.style_loss}", given.output)


def measure(contestants: list[tuple[str, str]], size: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Let the contestants take turns at one size."""
    running = []
    for name, precision in contestants:
        order = {"engine": name, "precision": precision, "size": size, "style_loss": given.style_loss}
        contestant = Contestant(__file__, order)
        print(f"{size} px: {name} in {precision} {'is ready' if contestant.ready else 'fails'}", file=sys.stderr)
        if contestant.ready:
            running.append(contestant)
    for _ in range(given.rounds):
        for contestant in running:
            contestant.turn(given.steps)
    for contestant in running:
        contestant.end()
    return [{**one.order, **one.ready, "seconds": one.found} for one in running]


def work(order: dict[str, Any]) -> None:
    """A contestant: two steps before it is ready, then as many as it is asked for, each timed."""
    step, version = plain(order) if order["engine"] == PLAIN else ours(order)

    def timed() -> float:
        began = time.perf_counter()
        step()
        return time.perf_counter() - began

    first = timed()
    timed()
    serve({"version": version, "first": first}, timed)


def ours(order: dict[str, Any]) -> tuple[Any, str]:
    """A step of `stylekeras.iterate`."""
    import stylekeras as sk

    run = sk.iterate(*scene(order), settings(order))
    version = next(run).provenance["engine_version"]
    return (lambda: next(run)), version


def settings(order: dict[str, Any]) -> Any:
    """One scale without a margin."""
    import stylekeras as sk

    return sk.Settings(
        engine="auto" if order["engine"] == PLAIN else order["engine"],
        precision=order["precision"],
        size=order["size"],
        min_size=None,
        margin=0,
        steps=1_000_000,
        tolerance=0,
        weights="random",
        style_loss=order["style_loss"],
        style_layers=STYLE_LAYERS,
    )


def scene(order: dict[str, Any]) -> Any:
    """A photo and a painting."""
    import numpy as np

    return np.random.default_rng(0).random((2, order["size"], order["size"], 3))


def plain(order: dict[str, Any]) -> tuple[Any, str]:
    """A step of `torch.optim.LBFGS` in the loop of PyTorch's tutorials, one evaluation."""
    import torch
    from plain import Plain

    photo, painting = scene(order)
    _, step = Plain(settings(order), photo, painting).optimizer(max_iter=1, history_size=12)
    return (lambda: step(lambda loss: None)), torch.__version__


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
