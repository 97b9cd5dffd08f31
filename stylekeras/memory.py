"""How much memory there is: a budget as text, what this process has and what it may still take."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from stylekeras.errors import SettingsError

_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_TEXT = re.compile(r"([0-9]*\.?[0-9]+)\s*([KMGT]?)(I?)B?", re.IGNORECASE)
# Of what is free, what is left to others, and to what is not foreseen.
_MARGIN = 0.1
_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
# A group's limit and what it has used, in both versions.
_FILES_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
_FILES_2 = ("memory.max", "memory.current")
# Larger ones stand for no limit.
_NO_LIMIT = 1 << 60


def parse(value: Any) -> int:
    """Bytes from a number or from text such as "8GB", "1.5 GiB" or "900M" (powers of 1000, with an i of 1024).

    Raises: SettingsError if it is neither, or under 1 MB.
    """
    found = 0.0
    if isinstance(value, str):
        match = _TEXT.fullmatch(value.strip())
        if match:
            base = 1024 if match[3] else 1000
            found = float(match[1]) * base ** _UNITS[match[2].upper()]
    elif isinstance(value, int | float) and not isinstance(value, bool) and value < _NO_LIMIT:
        found = float(value)
    if not 1e6 <= found < _NO_LIMIT:
        raise SettingsError(f"memory={value!r}: expected bytes, or text such as 8GB; at least 1MB")
    return int(found)


def text(size: float) -> str:
    """Bytes in words, as `parse` reads them."""
    return f"{size / 1e9:.1f}GB" if size >= 1e9 else f"{size / 1e6:.0f}MB"


def resident() -> int:
    """What this process has in memory, in bytes; 0 where that cannot be known."""
    try:
        return int((_PROC / "self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def budget() -> int | None:
    """What this process may have in all: what it has and what is free, less a margin; None if that cannot be known."""
    free = [
        amount for amount in (_free_in_machine(), _free_in_cgroup(), _free_in_address_space()) if amount is not None
    ]
    return int(resident() + (1 - _MARGIN) * max(0, min(free))) if free else None


def _free_in_machine() -> int | None:
    try:
        lines = (_PROC / "meminfo").read_text("ascii").splitlines()
        (line,) = [line for line in lines if line.startswith("MemAvailable:")]
        return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None


def _free_in_cgroup() -> int | None:
    """What the process's control groups (containers, batch systems) leave it, of both versions."""
    try:
        lines = [line.split(":", 2) for line in (_PROC / "self/cgroup").read_text("utf-8").splitlines()]
    except OSError:
        return None
    found = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        version1 = "memory" in controllers.split(",")
        if controllers and not version1:
            continue
        root = _CGROUPS / "memory" if version1 else _CGROUPS
        names = _FILES_1 if version1 else _FILES_2
        # A container may not see where it is: then its own group is the root. A parent may have the tighter limit.
        place = root / path.lstrip("/")
        for folder in {root, place, *place.parents} - set(root.parents):
            amount = _left(folder, *names)
            if amount is not None:
                found.append(amount)
    return min(found, default=None)


def _left(folder: Path, limit: str, used: str) -> int | None:
    try:
        most = int((folder / limit).read_text("ascii"))  # "max" is no number, and no limit
        taken = int((folder / used).read_text("ascii"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
    except (OSError, ValueError):
        return None
    if most >= _NO_LIMIT:
        return None
    # Pages of files are given back when others need them.
    return most - taken + int(stat.get("inactive_file", 0))


def _free_in_address_space() -> int | None:
    """What `ulimit -v` leaves."""
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        taken = int((_PROC / "self/statm").read_text("ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError, ValueError):
        return None
    return None if most == resource.RLIM_INFINITY else most - taken
