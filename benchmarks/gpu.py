"""What a GPU does: seconds per step, time to a loss and memory of every engine that sees it, beside a plain loop.

    python benchmarks/gpu.py photo.jpg painting.jpg              # minutes: 512 and 1024 px, float32 and bfloat16
    python benchmarks/gpu.py photo.jpg painting.jpg --sizes 256,512,1024 --precisions float32,bfloat16,float16

The objective is `--preset paper` from the photo, as in convergence.py, whose contestants these are: each a process of
its own, and they take turns. The plain loop runs as PyTorch comes, its convolutions in TensorFloat-32 where the GPU
has that; ours in float32 do not. Losses are each contestant's own; the last column has what float32 says of the
picture at the end. Frameworks take memory as they need it, so that all fit on the GPU together.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import convergence
from convergence import SHARES, WOLFE, best_so_far, reached
from turns import PLAIN, Contestant, arguments, command, keep, machine, serve

# A step is computed before it is asked for, so that each turn has one for nothing: turns are long.
TURN = 50
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


def main() -> None:
    """Measure, print the table, and keep it in benchmarks/results/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", nargs="?")
    parser.add_argument("painting", nargs="?")
    parser.add_argument("--sizes", default="512,1024", help="with commas between")
    parser.add_argument(
        "--engines", default="tensorflow,jax,torch", help="with commas between; those that are missing are left out"
    )
    parser.add_argument("--precisions", default="float32,bfloat16", help="with commas between")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--weights", default="offline", help="as the command line's")
    parser.add_argument("--backbone", default="vgg16", help="as the command line's")
    parser.add_argument(
        "--anywhere", action="store_true", help="run on a processor where there is no GPU, to try it out"
    )
    given = arguments(parser, work)
    if not given.painting:
        parser.error("name a photo and a painting")
    results: list[dict[str, Any]] = []
    for size in map(int, given.sizes.split(",")):
        results += measure(size, given)
    if not results:
        sys.exit("no engine sees a GPU")
    devices = sorted({row["device"] for row in results if row["engine"] not in (PLAIN, WOLFE)})
    report = {"machine": {**machine(), "devices": devices}, "command": command(given), "results": results}
    print(table(report))
    name = "-".join(devices).lower().replace(" ", "-").replace("(", "").replace(")", "").removeprefix("gpu-")
    keep(report, f"gpu-{name}", given.output)


def measure(size: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Let the contestants take turns at one size."""
    from stylekeras import engines

    names = ("photo", "painting", "iterations", "weights", "backbone", "anywhere")
    order = {**{name: getattr(given, name) for name in names}, "size": size}
    ours = [name for name in given.engines.split(",") if not engines.missing(name)]
    asked = [(name, precision) for name in ours for precision in given.precisions.split(",")]
    asked += [] if engines.missing("torch") else [(PLAIN, "float32"), (WOLFE, "float32")]
    running = []
    for one in [Contestant(__file__, {**order, "engine": name, "precision": precision}) for name, precision in asked]:
        name, precision = one.order["engine"], one.order["precision"]
        print(f"{size} px: {name} in {precision} {'is ready' if one.ready else 'fails'}", file=sys.stderr)
        if one.ready:
            running.append(one)
    while not all(one.done for one in running):
        for one in running:
            if not one.done:
                one.turn(TURN)
    for one in running:
        one.end()
    shown = {name: Path(order[name]).name for name in ("photo", "painting")}
    return [{**one.order, **shown, **one.ready, "evaluations": one.found} for one in running if one.found]


def work(order: dict[str, Any]) -> None:
    """A contestant: tells of each evaluation its clock, its loss, the GPU's memory so far (MB) and, of the last, the
    picture's loss in float32."""
    told = plain(order) if order["engine"].startswith(PLAIN) else ours(order)
    ready = next(told)
    clock = 0.0

    def step() -> tuple[float, float, float, float | None]:
        nonlocal clock
        began = time.perf_counter()
        loss, judged = next(told)
        clock += time.perf_counter() - began
        return round(clock, 5), loss, round(memory(order["engine"]) / 1e6), judged() if judged else None

    serve(ready, step)


def ours(order: dict[str, Any]) -> Iterator[Any]:
    """The version and device, then the loss of each step."""
    import stylekeras as sk
    from stylekeras import engines

    settings = convergence.settings(order)
    engine = engines.load(order["engine"], order["precision"])
    if not engine.device.startswith("GPU") and not order["anywhere"]:
        sys.exit(f"{order['engine']} sees no GPU")
    run = sk.iterate(order["photo"], order["painting"], settings)
    yield {"version": engine.version, "device": engine.device}
    for progress in run:

        def judged(picture: Any = progress) -> float:
            # By PyTorch where it is there, which has nothing to compile first.
            judge = order["engine"] if engines.missing("torch") else "torch"
            exact = convergence.settings({**order, "engine": judge, "precision": "float32"})
            return sk.loss_and_gradient(picture.image, order["photo"], order["painting"], exact).loss

        yield progress.loss, judged if progress.last else None


def plain(order: dict[str, Any]) -> Iterator[Any]:
    """The version and device, then the loss of each evaluation."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    if device == "CPU" and not order["anywhere"]:
        sys.exit("PyTorch sees no GPU")
    told = convergence.plain(order, convergence.settings(order), "cpu" if device == "CPU" else "cuda")
    yield {"version": next(told), "device": device}
    for loss in told:
        yield loss, None


def memory(engine: str) -> float:
    """The most bytes that a framework has had on the GPU."""
    if engine == "tensorflow":
        import tensorflow as tf

        return tf.config.experimental.get_memory_info("GPU:0")["peak"] if tf.config.list_physical_devices("GPU") else 0
    if engine == "jax":
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    import torch

    return torch.cuda.max_memory_allocated()


def table(report: dict[str, Any]) -> str:
    """The results as Markdown, by size."""
    first = report["results"][0]
    shares = " | ".join(f"to its loss after {share:.0%}" for share in SHARES)
    lines = [
        f"{', '.join(report['machine']['devices'])}; {first['photo']} x {first['painting']}, {first['backbone']}, "
        f"{first['iterations']} steps of the paper's objective; levels are the better plain loop's",
        "",
        f"| px | engine | precision | ms a step | of the plain loop's | MB | {shares} | float32 says |",
        "|---|---|---|---|---|---|" + "---|" * (len(SHARES) + 1),
    ]
    for size in sorted({row["size"] for row in report["results"]}):
        rows = [row for row in report["results"] if row["size"] == size]
        loops = [row for row in rows if row["engine"].startswith(PLAIN)]
        best = min(loops, key=lambda row: min(best_so_far(row))) if loops else None
        curve = best_so_far(best) if best else []
        levels = [curve[round(share * (len(curve) - 1))] for share in SHARES] if best else []
        base = statistics.median(gaps(best)) if best else None
        for row in sorted(rows, key=lambda row: statistics.median(gaps(row))):
            each = statistics.median(gaps(row))
            cells = [f"{1000 * each:.2f}", f"{each / base:.2f}" if base else "", str(row["evaluations"][-1][2])]
            for level in levels:
                when, plainly = reached(row, level), reached(best, level)
                cells.append("not reached" if when is None else f"{when:.2f} s ({when / plainly:.2f})")
            cells += [""] * (len(SHARES) - len(levels))
            own, judged = row["evaluations"][-1][1], row["evaluations"][-1][3]
            cells.append("" if judged is None else f"{judged:.4g} ({judged / own - 1:+.1%})")
            lines.append(f"| {size} | {row['engine']} {row['version']} | {row['precision']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gaps(row: dict[str, Any]) -> list[float]:
    """Seconds of each evaluation but the first two, which compile."""
    clock = [clock for clock, *_ in row["evaluations"]]
    return [after - before for before, after in pairwise(clock[1:])] or [0.0]


if __name__ == "__main__":
    main()
