"""The loss over time of what `convergence.py` has kept, as a picture.

    python benchmarks/plot.py benchmarks/results/convergence-512-2-core-avx512_bf16.json docs/convergence-512.png

Needs matplotlib (the extra `bench`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from convergence import best_so_far
from turns import PLAIN


def main() -> None:
    """Draw the report named first into the file named second."""
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {sys.argv[0]} REPORT.json PICTURE.png")
    draw(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2])


def draw(report: dict[str, Any], path: str) -> None:
    """One line for each contestant: the least loss until then."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), dpi=100, layout="constrained")
    for row in report["results"]:
        ours = not row["engine"].startswith(PLAIN)
        label = f"{row['engine']}, {row['precision']}" if ours else row["engine"]
        axes.plot([clock for clock, _, _ in row["evaluations"]], best_so_far(row), label=label)
    first, kind = report["results"][0], report["machine"]
    axes.set(xscale="log", yscale="log", xlabel="seconds", ylabel="loss")
    axes.set_title(f"{first['photo']} x {first['painting']}, {first['size']} px, {kind['cores']} cores", fontsize=10)
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
