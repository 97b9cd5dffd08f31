"""Time-lapses: which steps they show, and what is in the files."""

import itertools
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import stylekeras as sk
from stylekeras.cli import timelapse

COLOURS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def step(colour, shape=(60, 80)):
    return SimpleNamespace(image=np.broadcast_to(np.float32(colour), (*shape, 3)))


@pytest.fixture
def film():
    """Three frames, of a run whose first scale was smaller; then a last one."""

    def film(ending, wanted=(1, 2, 5)):
        said = []
        made = timelapse.Film((60, 80), ending, set(wanted), said.append)
        for number, colour in enumerate(itertools.islice(itertools.cycle(COLOURS), 6), start=1):
            made.watch(number, step(colour, (60, 80) if number > 2 else (30, 40)))
        assert said == []
        made.end(7, step((1, 1, 1)).image)
        return made

    return film


def shown(path):
    """The colour in the middle, every 80 ms."""
    found = []
    with Image.open(path) as image:
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            assert image.size == (80, 60)
            middle = image.convert("RGB").getpixel((40, 30))
            found += [tuple(round(value / 255) for value in middle)] * (image.info["duration"] // 80)
    return found


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_frames_of_one_size_the_last_one_longer(film, tmp_path, ending):
    path = tmp_path / f"film{ending}"
    film(ending).write(path)
    assert shown(path) == [(1, 0, 0), (0, 1, 0), (0, 1, 0), *[(1, 1, 1)] * 25]
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_mp4(film, tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "film.mp4"
    film(".mp4").write(path)
    assert path.read_bytes()[4:8] == b"ftyp"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    read = subprocess.run(command, capture_output=True, check=True)
    assert b"yuv420p(tv, bt709" in read.stderr
    assert b"12.50 fps" in read.stderr
    found = np.frombuffer(read.stdout, np.uint8).reshape(-1, 60, 80, 3)[:, 30, 40] / 255
    wanted = [COLOURS[0], COLOURS[1], COLOURS[1], *[(1, 1, 1)] * 25]
    np.testing.assert_allclose(found, wanted, atol=0.05)


def test_mp4_takes_odd_sizes(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    made = timelapse.Film((33, 47), ".mp4", {1}, print)
    assert made.shape == (34, 48)
    made.watch(1, step(COLOURS[0], (33, 47)))
    made.write(tmp_path / "film.mp4")
    assert (tmp_path / "film.mp4").stat().st_size > 500


def test_a_program_that_fails_leaves_nothing(film, tmp_path, monkeypatch):
    made = film(".mp4")
    monkeypatch.setattr(timelapse, "_ffmpeg", lambda: "cat")  # does not know the options
    with pytest.raises(OSError, match="ffmpeg: cat"):
        made.write(tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []


def test_large_pictures_become_small_frames():
    assert timelapse.Film((3000, 4000), ".gif", {1}, print).shape == (360, 480)
    assert timelapse.Film((4000, 1000), ".webp", {1}, print).shape == (720, 180)


@pytest.mark.parametrize(("steps", "least", "most"), [(60, 50, 60), (100, 60, 80), (200, 70, 80), (5000, 78, 80)])
def test_frames_are_many_and_close_together_at_first(steps, least, most):
    wanted = sorted(timelapse.moments(steps, None))
    assert least <= len(wanted) <= most
    assert (wanted[0], wanted[-1]) == (1, steps)
    gaps = np.diff(wanted)
    assert gaps[: len(gaps) // 4].max() <= gaps[-len(gaps) // 4 :].min()


def test_a_frame_every_n_steps():
    assert timelapse.moments(10, 3) == {3, 6, 9}
    assert timelapse.moments(2, 5) == set()


def test_the_first_step_is_always_there_and_the_last_not_twice(tmp_path):
    made = timelapse.Film((60, 80), ".gif", {3}, print)
    for number in range(11, 14):
        made.watch(number, step(COLOURS[0]))
    assert made.count == 1
    made.end(11, step(COLOURS[0]).image)
    assert made.count == 1
    made.write(tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as image:
        assert (image.n_frames, image.info["duration"]) == (1, 2000)


def test_what_is_not_a_picture_is_no_frame():
    made = timelapse.Film((60, 80), ".gif", {1, 2}, print)
    made.watch(1, step((np.nan, 0, 0)))
    assert made.count == 0
    made.watch(2, step((1.5, -1, 0)))
    assert made.count == 1
    assert made._frames()[0, 0, 0].tolist() == [255, 0, 0, 255]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError()])
def test_a_full_disk_ends_the_film_and_not_the_run(film, monkeypatch, error):
    said = []
    made = timelapse.Film((60, 80), ".gif", {1, 2, 3, 4}, said.append)
    made.watch(1, step(COLOURS[0]))

    def full(*_):
        raise error

    monkeypatch.setattr(timelapse, "resize", full)
    for number in (2, 3, 4):
        made.watch(number, step(COLOURS[1]))
    assert made.count == 1
    assert len(said) == 1
    assert said[0].startswith("the time-lapse ends at step 1: ")


def test_too_many_frames():
    with pytest.raises(sk.SettingsError, match="use 6 or more"):
        timelapse.check("film.gif", 1, 5000)
    assert timelapse.check("film.GIF", 6, 5000) == ".gif"


def test_mp4_without_its_program(monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(sk.RequestError, match=r"pip install 'stylekeras\[video\]'"):
        timelapse.check("film.mp4", None, 10)


def test_ctrl_c_in_the_terminal_does_not_reach_the_program(film, tmp_path, monkeypatch):
    started = []
    popen = subprocess.Popen

    def watched(*arguments, **options):
        started.append(options["process_group"])
        return popen(*arguments, **options)

    pytest.importorskip("imageio_ffmpeg")
    made = film(".mp4")
    monkeypatch.setattr(subprocess, "Popen", watched)
    made.write(tmp_path / "film.mp4")
    assert started[-1] == 0
