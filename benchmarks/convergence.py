"""Time to a loss: every engine and PyTorch's L-BFGS from the same photo, with the paper's objective.

    python benchmarks/convergence.py photo.jpg painting.jpg --size 512

The objective is `--preset paper` from the content image, the weights the offline VGG. The plain loop is PyTorch's
`torch.optim.LBFGS` on a picture of 0 to 255, without tolerances, by default and with its strong-Wolfe line search; the
better of the two is the one to beat. Contestants take turns, a few evaluations each; a contestant's clock runs only in
its own turns and begins when its network is built, before it is compiled. Every loss is float32's, the objective's own.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from turns import PLAIN, Contestant, arguments, keep, machine, serve

WOLFE = f"{PLAIN}, strong Wolfe"
# The levels are the losses of the plain loop after these shares of its evaluations.
SHARES = (0.25, 0.5, 1.0)
TURN = 5


def main() -> None:
    """Measure, print the table, and keep it in benchmarks/results/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", nargs="?")
    parser.add_argument("painting", nargs="?")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--engines", default="auto", help="with commas between")
    parser.add_argument("--precisions", default="float32", help="of the engines, with commas between")
    parser.add_argument("--loops", choices=["both", "wolfe"], default="both", help="the plain ones to run")
    given = arguments(parser, work)
    if not given.painting:
        parser.error("name a photo and a painting")
    order = {name: getattr(given, name) for name in ("photo", "painting", "size", "iterations")}
    # Ours get fewer steps: what is not there by then is not worth waiting for.
    shorter = {**order, "iterations": max(1, 3 * given.iterations // 4)}
    asked = [(name, precision) for name in given.engines.split(",") for precision in given.precisions.split(",")]
    orders = [{**shorter, "engine": name, "precision": precision} for name, precision in asked]
    loops = (PLAIN, WOLFE) if given.loops == "both" else (WOLFE,)
    orders += [{**order, "engine": name, "precision": "float32"} for name in loops]
    # One after the other: they would slow each other's compilation.
    running = [one for one in (Contestant(__file__, each) for each in orders) if one.ready]
    # Interrupted, it tells of what there is.
    with contextlib.suppress(KeyboardInterrupt):
        while not all(one.done for one in running):
            for one in running:
                if not one.done:
                    one.turn(TURN)
            print(", ".join(f"{one.order['engine']} {len(one.found)}" for one in running), end="\r", file=sys.stderr)
    for one in running:
        one.end()
    # Names of files, not where they are here.
    names = {name: Path(order[name]).name for name in ("photo", "painting")}
    running = [one for one in running if one.found]
    results = [{**one.order, **names, **one.ready, "evaluations": one.found} for one in running]
    report = {"machine": machine(), "results": results}
    print(table(report))
    keep(report, f"convergence-{given.size}", given.output)


def work(order: dict[str, Any]) -> None:
    """A contestant: tells of each evaluation its clock, its loss and the memory used so far (MB)."""
    told = plain(order, settings(order)) if order["engine"].startswith(PLAIN) else ours(order)
    version = next(told)
    clock = 0.0

    def step() -> tuple[float, float, float]:
        nonlocal clock
        began = time.perf_counter()
        loss = next(told)
        clock += time.perf_counter() - began
        return round(clock, 3), loss, round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    serve({"version": version}, step)


def settings(order: dict[str, Any]) -> Any:
    """The paper's objective, from the photo, all steps."""
    import stylekeras as sk

    engine = "auto" if order["engine"].startswith(PLAIN) else order["engine"]
    network = {name: order.get(name, standard) for name, standard in (("weights", "offline"), ("backbone", "vgg16"))}
    chosen = {"engine": engine, "precision": order["precision"], "size": order["size"], **network}
    return sk.Settings(preset="paper", init="content", steps=order["iterations"], **chosen)


def ours(order: dict[str, Any]) -> Iterator[Any]:
    """The version, then the loss of each step."""
    import stylekeras as sk
    from stylekeras import engines

    run = sk.iterate(order["photo"], order["painting"], settings(order))
    engine = engines.load(order["engine"], order["precision"])
    yield f"{engine.name} {engine.version}, {engine.precision}"
    for progress in run:
        yield progress.loss


def plain(order: dict[str, Any], given: Any, device: str = "cpu") -> Iterator[Any]:
    """The version, then the loss of each evaluation: L-BFGS runs in a thread that waits to be asked."""
    import queue
    import threading

    import torch
    from plain import Plain

    from stylekeras import images, pyramid

    photo, painting = (images.load_image(order[name]) for name in ("photo", "painting"))
    shape = pyramid.shape_at(photo.shape[:2], given.size)
    objective = Plain(given, images.resize(photo, *shape), images.fit(painting, given.size), device)
    options = {"line_search_fn": "strong_wolfe"} if order["engine"] == WOLFE else {}
    count = order["iterations"]
    _, step = objective.optimizer(max_iter=count, max_eval=2 * count, tolerance_grad=0, tolerance_change=0, **options)
    asked: queue.Queue[None] = queue.Queue()
    losses: queue.Queue[float | None] = queue.Queue()

    def tell(loss: float) -> None:
        losses.put(loss)
        asked.get()

    def run() -> None:
        step(tell)
        losses.put(None)

    yield torch.__version__
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while (loss := losses.get()) is not None:
        yield loss
        asked.put(None)


def table(report: dict[str, Any]) -> str:
    """The results as Markdown."""
    kind, results = report["machine"], report["results"]
    loops = [row for row in results if row["engine"].startswith(PLAIN)]
    best = min(loops, key=lambda row: reached(row, max(min(best_so_far(one)) for one in loops)) or float("inf"))
    curve = best_so_far(best)
    levels = [curve[round(share * (len(curve) - 1))] for share in SHARES]
    base = [reached(best, level) for level in levels]
    lines = [
        f"{kind['processor']}, {kind['cores']} cores, {', '.join(kind['features'])}; {results[0]['photo']} x "
        f"{results[0]['painting']}, {results[0]['size']} px, {best['iterations']} iterations",
        "",
        "| | memory, MB | " + " | ".join(f"to {level:.4g}" for level in levels) + " |",
        "|---|---|" + "---|" * len(levels),
    ]
    for row in results:
        times = [reached(row, level) for level in levels]
        cells = [
            f"not in {len(row['evaluations'])} steps" if t is None else f"{t:.1f} s ({t / b:.2f})"
            for t, b in zip(times, base, strict=True)
        ]
        lines.append(f"| {row['engine']} ({row['version']}) | {row['evaluations'][-1][2]:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def best_so_far(row: dict[str, Any]) -> list[float]:
    """After each evaluation the least loss until then."""
    found: list[float] = []
    for _, loss, *_ in row["evaluations"]:
        found.append(min(loss, found[-1]) if found else loss)
    return found


def reached(row: dict[str, Any], level: float) -> float | None:
    """When the loss was first that low."""
    return next((clock for clock, loss, *_ in row["evaluations"] if loss <= level), None)


if __name__ == "__main__":
    main()
