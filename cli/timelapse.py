"""Time-lapses: a picture as it was made, as GIF, WebP or MP4."""

from __future__ import annotations

import io
import math
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

import stylekeras as sk
from stylekeras.files import reason, replacing, write
from stylekeras.images import fit_shape, resize, to_uint8

# Milliseconds of a frame, and of the last.
FRAME, LAST = 80, 2000
# About so many frames if nothing is said.
FRAMES = 80
# The longest side of a frame. A GIF does not compress paint: 80 frames are 12 MB.
LONGEST = {".gif": 480, ".webp": 720, ".mp4": 720}
ENDINGS = tuple(LONGEST)
# A GIF's frames are in memory together when they are written, 8 bits a pixel.
MOST = 1000


def check(path: str, every: int | None, steps: int) -> str:
    """Whether a time-lapse of a run of so many steps can be made. Returns: its ending. Raises: RequestError."""
    if every is not None and steps // every >= MOST:
        raise sk.SettingsError(
            f"--timelapse-every {every}: {steps // every} frames of {steps} steps are too many, at most {MOST} are "
            f"kept; use {steps // MOST + 1} or more"
        )
    ending = Path(path).suffix.lower()
    if ending == ".mp4":
        _ffmpeg()
    return ending


def moments(steps: int, every: int | None) -> set[int]:
    """The steps to take a frame after, of `steps` over all scales.

    With `every` each of that number; else about `FRAMES`, close together at first, when the picture changes most: the
    kth is after steps * (k / FRAMES)^2, none twice.
    """
    if every is not None:
        return set(range(every, steps + 1, every))
    return {max(1, round(steps * (k / FRAMES) ** 2)) for k in range(1, FRAMES + 1)}


class Film:
    """The frames of one run. They lie in a temporary file, so that in memory there is one at a time.

    Args:
        shape: The last scale's (height, width); frames are that large, or `LONGEST`, those of coarse scales enlarged.
        ending: Of the file.
        wanted: The steps to take a frame after, see `moments`; the first is always taken.
        warn: Called if no more frames can be taken, which is no reason to end a run.
    """

    def __init__(self, shape: tuple[int, int], ending: str, wanted: set[int], warn: Callable[[str], None]) -> None:
        height, width = fit_shape(*shape, min(LONGEST[ending], max(shape)))
        # MP4 halves the resolution of colour.
        self.shape = (height + height % 2, width + width % 2) if ending == ".mp4" else (height, width)
        self.count = 0
        self._wanted = wanted
        self._warn = warn
        self._last = 0
        self._file: IO[bytes] | None = None

    def watch(self, step: int, progress: sk.Progress) -> None:
        """Take a frame if one is wanted after that step."""
        if self._wanted and (step in self._wanted or not self.count):
            try:
                self._take(step, progress.image)
            except (OSError, MemoryError) as error:
                self._warn(f"the time-lapse ends at step {self._last}: {reason(error)}")
                self._wanted = set()

    def end(self, step: int, image: npt.NDArray[Any]) -> None:
        """The picture that the run ended with. Raises: OSError."""
        if step > self._last:
            self._take(step, image)

    def write(self, target: Path) -> None:
        """Write the frames as the file's ending says, whole or not at all. Raises: OSError."""
        if target.suffix.lower() == ".mp4":
            with replacing(target) as stream:
                self._mp4(stream)
            return
        stored = io.BytesIO()  # writing to a file itself, Pillow overlooks what a full disk has cut short
        durations = [FRAME] * (self.count - 1) + [LAST]
        first, *others = self._pictures()
        if target.suffix.lower() == ".gif":
            # Each frame has its own palette, of the method that takes milliseconds; no dithering, which would flicker.
            method, dither = Image.Quantize.FASTOCTREE, Image.Dither.NONE
            small = (frame.convert("RGB").quantize(256, method, dither=dither) for frame in (first, *others))
            next(small).save(stored, "GIF", save_all=True, append_images=small, duration=durations, loop=0)
        else:
            options: dict[str, Any] = {"quality": 85, "method": 2}
            first.save(stored, "WEBP", save_all=True, append_images=others, duration=durations, loop=0, **options)
        write(target, stored.getvalue())

    def _take(self, step: int, image: npt.NDArray[Any]) -> None:
        low, high = float(image.min()), float(image.max())
        if not math.isfinite(low + high):
            return
        frame = np.full((*self.shape, 4), 255, np.uint8)
        # A large picture is not copied.
        frame[..., :3] = to_uint8(resize(image if low >= 0 and high <= 1 else np.clip(image, 0, 1), *self.shape))
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
            weakref.finalize(self, self._file.close)
        # Counted only when it is whole; an interruption may come at any time.
        self._file.seek(self.count * frame.nbytes)
        self._file.write(frame.data)
        self._file.flush()
        self.count, self._last = self.count + 1, step

    def _frames(self) -> npt.NDArray[np.uint8]:
        """(frames, height, width, 4), read from the file as they are needed."""
        assert self._file is not None
        return np.memmap(self._file, np.uint8, "r", shape=(self.count, *self.shape, 4))

    def _pictures(self) -> Iterator[Image.Image]:
        """Of this mode Pillow takes the memory as it is: so none of them is in memory before it is looked at."""
        height, width = self.shape
        for frame in self._frames():
            yield Image.frombuffer("RGBX", (width, height), frame.data, "raw", "RGBX", 0, 1)

    def _mp4(self, stream: BinaryIO) -> None:
        height, width = self.shape
        source = ["-f", "rawvideo", "-pix_fmt", "rgb0", "-s", f"{width}x{height}", "-r", str(1000 / FRAME), "-i", "-"]
        # Colours as HD players take them, and at half the resolution, which is what all of them play.
        matrix = "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"
        tags = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
        made = ["-vf", matrix, *tags, "-c:v", "libx264", "-crf", "18", "-movflags", "+faststart", "-f", "mp4"]
        command = [_ffmpeg(), "-nostdin", "-loglevel", "error", "-y", *source, "-an", *made, stream.name]
        frames = self._frames()
        # A group of its own: Ctrl-C ends the run, and what is done of the film is still to be written.
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0) as process:
            assert process.stdin is not None
            try:
                for frame in [*frames, *[frames[-1]] * (LAST // FRAME - 1)]:
                    process.stdin.write(frame.data)
            except BrokenPipeError:  # it says why itself
                pass
            _, told = process.communicate()
        if process.returncode:
            raise OSError(f"ffmpeg: {' '.join(told.decode('utf-8', 'replace').split())[:300] or process.returncode}")


def _ffmpeg() -> str:
    """The program's path. Raises: RequestError."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError:
        raise sk.RequestError(
            "a time-lapse as MP4 needs imageio-ffmpeg: pip install 'stylekeras[video]', or name a .gif or .webp"
        ) from None
    try:
        return str(get_ffmpeg_exe())
    except RuntimeError as error:
        raise sk.RequestError(f"a time-lapse as MP4 needs ffmpeg: {error}") from error
