"""The benchmark: seconds a step, time to a loss, memory; every engine beside PyTorch's L-BFGS, from the same photo.

    python benchmarks/convergence.py --minutes 30      # the demo's pictures, 256, 512 and 1024 px
    python benchmarks/convergence.py photo.jpg painting.jpg --sizes 512 --engines openvino

The objective is the paper's (`--preset paper`, from the content image), the weights the offline VGG. The plain loop is
PyTorch's `torch.optim.LBFGS` on a picture of 0 to 255, without tolerances, by default and with its strong-Wolfe line
search; the better of the two is the one to beat. A contestant's clock runs only in its own turns, of a few evaluations,
and begins when its network is built, before it is compiled. The next turn is that of the least clock; who is ahead of
the plain loops waits for them. Where all engines run, those that are clearly slower than another in their precision end
after a few steps: all take the same ones. Every loss is the objective's own; in low precision that is float32's up to
what `benchmarks/precision.py` tells.

With `--minutes` it ends about then, and the levels are the losses that the plain loop has come to. Everyone makes some
evaluations all the same, and who is behind the plain loops has as many seconds as they have had.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import resource
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from turns import PLAIN, Contestant, arguments, keep, machine, serve

WOLFE = f"{PLAIN}, strong Wolfe"
# The levels are the losses of the plain loop after these shares of its evaluations.
SHARES = (0.25, 0.5, 1.0)
# Evaluations a turn, fewer where they take longer than these seconds together.
TURN = 5
LONG = 10.0
# Evaluations that everyone makes, the first two of them untimed: before it waits for others, and before time is up.
ENOUGH, LEAST = 8, 4
# How much slower than a rival one must be to end, above what two medians of a few steps differ by.
CLEARLY = 1.05
# The memory of the plain loop, bytes: what is fixed and of each pixel.
LOOP = (0.8e9, 5.5e3)


def main() -> None:
    """Measure, print the tables, and keep them in benchmarks/results/."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", nargs="?", help="the default is the demo's")
    parser.add_argument("painting", nargs="?", help="the default is the demo's")
    parser.add_argument("--sizes", "--size", default="256,512,1024", help="longest sides, with commas between")
    parser.add_argument("--iterations", type=int, default=200, help="of the plain loop at most")
    parser.add_argument("--minutes", type=float, help="for all sizes together; the default is as long as it takes")
    parser.add_argument("--engines", default="all", help="with commas between; the default is all that are installed")
    parser.add_argument(
        "--precisions",
        default="native",
        help="of the engines, with commas between; the default is float32 and what is fastest here",
    )
    parser.add_argument("--loops", choices=["both", "wolfe"], default="both", help="the plain ones to run")
    parser.add_argument("--plot", help="draw the loss over time into a PNG, its size in pixels added to its name")
    given = arguments(parser, work)
    if given.photo and not given.painting:
        parser.error("name a photo and a painting")
    with demo() if given.photo is None else contextlib.nullcontext((given.photo, given.painting)) as (photo, painting):
        sizes = [int(size) for size in given.sizes.split(",")]
        for i, size in enumerate(sizes):
            # Larger pictures get more of the time.
            share = size / sum(sizes[i:])
            if given.minutes is None:
                measure(photo, painting, size, None, given)
            elif given.minutes > 0:
                given.minutes -= measure(photo, painting, size, share * given.minutes, given)
            else:
                print(f"{size} px: no time is left", file=sys.stderr)


@contextlib.contextmanager
def demo() -> Iterator[tuple[str, str]]:
    """The paths of a photo and a painting."""
    from importlib import resources

    from stylekeras.cli.demo import photograph

    with resources.as_file(resources.files("stylekeras.data") / "brushwork.jpg") as painting:
        yield str(photograph()), str(painting)


def measure(photo: str, painting: str, size: int, minutes: float | None, given: argparse.Namespace) -> float:
    """One size, for about so many minutes. Returns: how many it took."""
    from stylekeras import memory

    began = time.monotonic()

    def late() -> bool:
        return minutes is not None and time.monotonic() - began > 60 * minutes

    order = {"photo": photo, "painting": painting, "size": size, "iterations": given.iterations}
    # Ours get fewer steps: what is not there by then is not worth waiting for.
    shorter = {**order, "iterations": max(1, 3 * given.iterations // 4)}
    orders = [{**shorter, "engine": name, "precision": precision} for name, precision in asked(given)]
    loops = (PLAIN, WOLFE) if given.loops == "both" else (WOLFE,)
    orders += [{**order, "engine": name, "precision": "float32"} for name in loops]
    running = []
    left = memory.budget() or float("inf")
    # Memory is for the loops first, then for what is fastest.
    for each in sorted(orders, key=lambda order: (order["engine"] not in loops, order["precision"] == "float32")):
        # One after the other: they would slow each other's compilation.
        one = Contestant(__file__, each)
        fits = one.ready and one.ready["needs"] <= left
        told = "is ready" if fits else "is left out for lack of memory" if one.ready else "fails"
        print(f"{size} px: {name_of(each)} {told}", file=sys.stderr)
        if fits:
            left -= one.ready["needs"]
            running.append(one)
        elif one.ready:
            one.end()
    running.sort(key=lambda one: orders.index(one.order))
    beside = [one for one in running if one.order["engine"] in loops]
    if not beside:
        for one in running:
            one.end()
        print(f"{size} px: without a plain loop there is nothing to compare with", file=sys.stderr)
        return (time.monotonic() - began) / 60
    # Interrupted, it tells of what there is.
    interrupted = True
    with contextlib.suppress(KeyboardInterrupt):
        rivals = running if given.engines == "all" else []
        while able := [
            one for one in running if going_on(one, beside, rivals) and not (late() and enough(one, beside))
        ]:
            one = min(able, key=clock)
            one.turn(turn_of(one))
            told = ", ".join(f"{name_of(one.order)} {len(one.found)}" for one in running)
            print(f"{size} px, evaluations: {told}", end="\r", file=sys.stderr)
        interrupted = False
    for one in running:
        one.end()
    if not any(one.found for one in beside):
        sys.exit("it ended before a plain loop had made an evaluation")
    # Names of files, not where they are here.
    names = {name: Path(order[name]).name for name in ("photo", "painting")}
    results = [{**one.order, **names, **one.ready, "evaluations": one.found} for one in running if one.found]
    report = {"machine": machine(), "results": results}
    print(f"\n{table(report)}\n")
    output = given.output and str(Path(given.output).with_stem(f"{Path(given.output).stem}-{size}"))
    keep(report, f"convergence-{size}", output)
    if given.plot:
        from plot import draw

        draw(report, str(Path(given.plot).with_stem(f"{Path(given.plot).stem}-{size}")))
    if interrupted:
        sys.exit(130)
    return (time.monotonic() - began) / 60


def going_on(one: Contestant, loops: list[Contestant], rivals: list[Contestant]) -> bool:
    """Whether it takes another turn. Who is ahead of all plain loops does not, as long as they go on or are at their
    end; nor does one who has had `ENOUGH` while a rival in the same precision is faster."""
    if one.done or one in loops or len(one.found) < ENOUGH:
        return not one.done
    if any(faster(other, one) for other in rivals if other not in loops):
        return False
    level = min((loss for each in loops for _, loss, _ in each.found), default=float("-inf"))
    return min(loss for _, loss, _ in one.found) > level


def faster(one: Contestant, other: Contestant) -> bool:
    """Whether it is clearly, in the same precision, and is still running."""
    if one.done or one.order["precision"] != other.order["precision"] or len(one.found) < ENOUGH:
        return False
    return CLEARLY * pace({"evaluations": one.found}) < pace({"evaluations": other.found})


def pace(row: dict[str, Any]) -> float:
    """Seconds an evaluation."""
    return statistics.median(each_took(row))


def clock(one: Contestant) -> float:
    """Its seconds so far."""
    return one.found[-1][0] if one.found else 0.0


def enough(one: Contestant, loops: list[Contestant]) -> bool:
    """Whether it may end when time is up: not before it has had the plain loops' seconds, if it is behind them."""
    return len(one.found) >= LEAST and (one in loops or clock(one) >= max(map(clock, loops)))


def turn_of(one: Contestant) -> int:
    """How many evaluations."""
    if len(one.found) < 2:
        return 1
    (before, *_), (after, *_) = one.found[-2:]
    return max(1, min(TURN, int(LONG / max(after - before, 1e-3))))


def asked(given: argparse.Namespace) -> list[tuple[str, str]]:
    """Engines and precisions."""
    from stylekeras import engines

    every = [name for name in engines.ORDER if not engines.missing(name)]
    names = every if given.engines == "all" else given.engines.split(",")

    def able(name: str, precisions: Iterable[str]) -> list[str]:
        return [each for each in precisions if name == "auto" or engines.may_have(name, each)]

    def native(name: str) -> list[str]:
        return list(dict.fromkeys(["float32", *able(name, engines.native_precisions())[:1]]))

    asked_for = None if given.precisions == "native" else given.precisions.split(",")
    return [(name, each) for name in names for each in (able(name, asked_for) if asked_for else native(name))]


def name_of(order: dict[str, Any]) -> str:
    """For people."""
    return order["engine"] if order["engine"].startswith(PLAIN) else f"{order['engine']} in {order['precision']}"


def work(order: dict[str, Any]) -> None:
    """A contestant: tells of each evaluation its clock, its loss and the memory used so far (MB)."""
    given = settings(order)
    told = plain(order, given) if order["engine"].startswith(PLAIN) else ours(order)
    needs = needed(order, given)
    version = next(told)
    clock = 0.0

    def step() -> tuple[float, float, float]:
        nonlocal clock
        began = time.perf_counter()
        loss = next(told)
        clock += time.perf_counter() - began
        return round(clock, 3), loss, round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    serve({"version": version, "needs": needs}, step)


def needed(order: dict[str, Any], given: Any) -> float:
    """Bytes of memory."""
    import stylekeras as sk
    from stylekeras import images, pyramid

    if not order["engine"].startswith(PLAIN):
        return sk.plan(order["photo"], order["painting"], given, calibrate=False).memory or 0.0
    height, width = pyramid.shape_at(images.load_image(order["photo"]).shape[:2], given.size)
    return LOOP[0] + LOOP[1] * height * width


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
        try:
            step(tell)
        finally:
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
    base_pace = pace(best)
    lines = [
        f"{kind['processor']}, {kind['cores']} cores, {', '.join(kind['features'])}; {results[0]['photo']} x "
        f"{results[0]['painting']}, {results[0]['size']} px, {len(curve)} evaluations of the {best['engine']}",
        "",
        "| | seconds a step | middle half | of the loop's | memory, MB | "
        + " | ".join(f"to {level:.4g}" for level in levels)
        + " |",
        "|---|---|---|---|---|" + "---|" * len(levels),
    ]
    for row in results:
        times = [reached(row, level) for level in levels]
        cells = [
            f"not in {len(row['evaluations'])} steps" if t is None else f"{t:.1f} s ({t / b:.2f})"
            for t, b in zip(times, base, strict=True)
        ]
        taken, median = each_took(row), pace(row)
        low, _, high = statistics.quantiles(taken, n=4, method="inclusive") if len(taken) > 1 else [median] * 3
        ours = not row["engine"].startswith(PLAIN)
        name = row["version"] if ours else f"{row['engine']} {row['version']}"
        told = [
            f"{median:.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{median / base_pace:.2f}",
            f"{row['evaluations'][-1][2]:.0f}",
        ]
        lines.append(f"| {name} | {' | '.join(told + cells)} |")
    return "\n".join(lines)


def each_took(row: dict[str, Any]) -> list[float]:
    """Seconds of each evaluation, without the first two if there are others: those compile."""
    clocks = [0.0, *(clock for clock, *_ in row["evaluations"])]
    taken = [after - before for before, after in itertools.pairwise(clocks)]
    return taken[2:] or taken


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
