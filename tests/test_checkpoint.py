"""Checkpoint files: what is written is read back, nothing else is, and an old one is kept until a new one is whole."""

import copy
import errno
import io
import json
import os
import zipfile

import numpy as np
import pytest

import stylekeras as sk
from stylekeras import arrays, checkpoint, files
from stylekeras.optimizers import adam, lbfgs

SETTINGS = sk.Settings(
    size=64,
    min_size=48,
    steps=(3, 2),
    weights="random",
    backbone="vgg16",
    style_loss="gram",
    content_layers="block1_conv2",
    style_layers="block1_conv1",
    margin=2,
)
CANVAS = (1, 36 + 4, 48 + 4, 3)


def made_up(settings=SETTINGS):
    """A state as `Progress.state` is, without a run."""
    rng = np.random.default_rng(3)
    shapes = dict.fromkeys(("image", "base", "gradient", "flat", "direction", "mean", "square", "average"), CANVAS)
    shapes |= {"steps": (12, *CANVAS), "flats": (12, *CANVAS), "response": (2, *CANVAS[1:3], 1)}
    shapes |= {"steps_changes": (12, 12), "flats_changes": (12, 12)}
    module = {"lbfgs": lbfgs, "adam": adam}[settings.optimizer]
    arrays = {name: rng.random(shapes.get(name, ())).astype(np.float32) for name in module.State._fields}
    arrays = {name: np.asarray(value, bool if name in ("accepted", "clip") else "f4") for name, value in arrays.items()}
    run = {
        "settings": settings.to_dict(),
        "precision": "float32",
        "sizes": [48, 64],
        "shape": [48, 64],
        "styles": [[1.0, 1.0]],
    }
    place = {
        "scale": 0,
        "step": 2,
        "last": False,
        "terms": {"content": 0.1, "style": 1 / 3},
        "moved": [0.1, 1e-17],
        "tile": None,
    }
    return {"run": run, **place, "optimizer": arrays}


def rewrite(path, change=None, raw=None, compression=zipfile.ZIP_STORED):
    """The checkpoint again, its description passed through `change` and members replaced by those of `raw`."""
    with zipfile.ZipFile(path) as archive:
        members = {item.filename: archive.read(item) for item in archive.infolist()}
    if change is not None:
        about = json.loads(members["checkpoint.json"])
        members["checkpoint.json"] = json.dumps(change(about) or about).encode()
    members |= raw or {}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            if data is not None:
                archive.writestr(name, data)


def npy(array=None, shape=None, descr="<f4"):
    stream = io.BytesIO()
    if array is not None:
        np.save(stream, array, allow_pickle=True)
    else:
        np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "run.npz"
    checkpoint.save(path, made_up(), {"seconds": 2.5, "done": 2, "output": "out.png", "extra": ["kept"]})
    return path


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_what_is_written_is_read_back(tmp_path, optimizer):
    settings = sk.Settings(**{**SETTINGS.to_dict(), "optimizer": optimizer})
    state = made_up(settings)
    inputs = [{"role": "content", "name": "a.png", "path": "/a.png", "sha256": "0" * 64, "bytes": 5}]
    checkpoint.save(tmp_path / "run.npz", state, {"inputs": inputs, "provenance": {"engine": "x"}, "seconds": 1.5})
    about, found, picture = checkpoint.load(tmp_path / "run.npz")
    assert picture is None
    assert (about["settings"], about["inputs"], about["seconds"]) == (settings, inputs, 1.5)
    assert about["provenance"] == {"engine": "x"}
    assert {name: found[name] for name in found if name != "optimizer"} == {
        name: state[name] for name in state if name != "optimizer"
    }
    assert list(found["optimizer"]) == list(state["optimizer"])
    for name, value in state["optimizer"].items():
        assert found["optimizer"][name].dtype == value.dtype
        np.testing.assert_array_equal(found["optimizer"][name], value)
    assert [item.name for item in tmp_path.iterdir()] == ["run.npz"]


def test_it_is_an_npz_and_the_same_state_is_the_same_file(path, tmp_path):
    with np.load(path, allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["optimizer/image"], made_up()["optimizer"]["image"])
    checkpoint.save(tmp_path / "b.npz", made_up(), {"seconds": 2.5, "done": 2, "output": "out.png", "extra": ["kept"]})
    assert (tmp_path / "b.npz").read_bytes() == path.read_bytes()


def test_a_history_may_be_a_sequence_of_pictures(path, tmp_path):
    state = made_up()
    state["optimizer"]["steps"] = tuple(state["optimizer"]["steps"])
    checkpoint.save(tmp_path / "b.npz", state)
    found = checkpoint.load(tmp_path / "b.npz")[1]
    np.testing.assert_array_equal(found["optimizer"]["steps"], made_up()["optimizer"]["steps"])


@pytest.mark.parametrize("shaped", [False, True])
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_the_state_that_an_optimizer_begins_with_is_taken(tmp_path, optimizer, shaped):
    module = {"lbfgs": lbfgs, "adam": adam}[optimizer]
    begun = module.init(arrays, np.zeros(CANVAS, np.float32))
    if optimizer == "lbfgs" and shaped:
        begun = begun._replace(response=np.zeros((2, *CANVAS[1:3], 1), np.float32))
    settings = sk.Settings(**{**SETTINGS.to_dict(), "optimizer": optimizer})
    checkpoint.save(tmp_path / "run.npz", {**made_up(settings), "optimizer": begun._asdict()})
    found = checkpoint.load(tmp_path / "run.npz")[1]["optimizer"]
    for name, value in begun._asdict().items():
        np.testing.assert_array_equal(found[name], value)


def test_a_large_history_stays_in_the_file(path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_MAPPED", 0)
    whole = path.read_bytes()
    found = checkpoint.load(path)[1]["optimizer"]
    # Another one takes its name, as it does while the run goes on.
    checkpoint.save(path, {**made_up(), "step": 3})
    for name, value in made_up()["optimizer"].items():
        assert isinstance(found[name], tuple) == (name in ("steps", "flats") and os.name != "nt")
        np.testing.assert_array_equal(found[name], value)
    for picture in found["steps"]:
        assert picture.ctypes.data % 4 == 0
        picture[:] = 0  # changes the reader's own, and no file
    path.write_bytes(whole)
    np.testing.assert_array_equal(checkpoint.load(path)[1]["optimizer"]["steps"], made_up()["optimizer"]["steps"])
    at = whole.index(made_up()["optimizer"]["steps"].tobytes()[-64:])
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(sk.CheckpointError, match="damaged"):
        checkpoint.load(path)


def test_one_that_another_program_packed_is_read_too(path, monkeypatch):
    """Its arrays lie anywhere in the file."""
    monkeypatch.setattr(checkpoint, "_MAPPED", 0)
    rewrite(path)
    found = checkpoint.load(path)[1]["optimizer"]
    for name, value in made_up()["optimizer"].items():
        np.testing.assert_array_equal(found[name], value)


def test_arrays_lie_in_the_file_as_in_memory(path):
    text = path.read_bytes()
    for name in ("image", "steps", "flats_changes"):
        assert text.index(made_up()["optimizer"][name].tobytes()) % 64 == 0


def test_the_last_picture(tmp_path):
    picture = np.random.default_rng(0).random((36, 48, 3)).astype(np.float32)
    checkpoint.save(tmp_path / "run.npz", {**made_up(), "step": 3, "last": True}, picture=picture)
    np.testing.assert_array_equal(checkpoint.load(tmp_path / "run.npz")[2], picture)


def _set(*names, value):
    def change(about):
        inner = about
        for name in names[:-1]:
            inner = inner[name]
        inner[names[-1]] = value

    return change


BAD_INPUT = {"role": "content", "path": "a", "name": "a"}
BAD = {
    "newer": ({"change": _set("format", value=2)}, "of a newer version"),
    "another version": ({"change": _set("stylekeras", value="9.9")}, "of another version, stylekeras 9.9"),
    "no format": ({"change": _set("format", value="1")}, "not a checkpoint"),
    "no state": ({"change": _set("state", value=[])}, "does not say where"),
    "a bad setting": ({"change": _set("state", "run", "settings", "size", value=-3)}, "size"),
    "an unknown setting": ({"change": _set("state", "run", "settings", "shell", value="rm")}, "unknown settings"),
    "other scales": ({"change": _set("state", "run", "sizes", value=[1 << 19, 64])}, "scales"),
    "a shape of text": ({"change": _set("state", "run", "shape", value=["4", 4])}, "size of the photo"),
    "no such scale": ({"change": _set("state", "scale", value=2)}, "no scale 2"),
    "no such step": ({"change": _set("state", "step", value=4)}, "no step 4"),
    "terms": ({"change": _set("state", "terms", value={"content": "x"})}, "terms"),
    "moved": ({"change": _set("state", "moved", value=None)}, "moved"),
    "last": ({"change": _set("state", "last", value=1)}, "moved"),
    "tile": ({"change": _set("state", "tile", value=15)}, "no such tiles"),
    "seconds": ({"change": _set("seconds", value=-1)}, "no time"),
    "done": ({"change": _set("done", value=True)}, "steps"),
    "output": ({"change": _set("output", value=3)}, "output"),
    "inputs": ({"change": _set("inputs", value={})}, "inputs"),
    "a short hash": ({"change": _set("inputs", value=[{**BAD_INPUT, "sha256": "12"}])}, "hash"),
    "no path": ({"change": _set("inputs", value=[{"role": "content", "sha256": "0" * 64}])}, "file or hash"),
    "a weight": ({"change": _set("inputs", value=[{**BAD_INPUT, "sha256": "0" * 64, "weight": -1}])}, "weight"),
    "provenance": ({"change": _set("provenance", value=3)}, "inputs"),
    "another size": ({"change": _set("state", "scale", value=1)}, "no step|another size"),
    "not JSON": ({"raw": {"checkpoint.json": b"{"}}, "damaged"),
    "deep JSON": ({"raw": {"checkpoint.json": b"[" * 100_000}}, "damaged"),
    "long JSON": ({"raw": {"checkpoint.json": b" " * (1 << 21)}}, "too long"),
    "no description": ({"raw": {"checkpoint.json": None}}, "not a checkpoint"),
    "a field is missing": ({"raw": {"optimizer/base.npy": None}}, "not the state of lbfgs"),
    "one field more": ({"raw": {"optimizer/more.npy": npy(np.zeros(1))}}, "not the state of lbfgs"),
    "outside": ({"raw": {"../base.npy": npy(np.zeros(1))}}, "not the state of lbfgs"),
    "pickle": ({"raw": {"optimizer/loss.npy": npy(np.array([{}], object))}}, "no state has"),
    "text": ({"raw": {"optimizer/loss.npy": npy(np.array("a"))}}, "no state has"),
    "declared huge": ({"raw": {"optimizer/base.npy": npy(shape=(1 << 40,))}}, "not as long as it says"),
    "declared huge, overflowing": ({"raw": {"optimizer/base.npy": npy(shape=(1 << 62, 16))}}, "not as long"),
    "declared negative": ({"raw": {"optimizer/base.npy": npy(shape=(-1, 3))}}, "no state has"),
    "too short": ({"raw": {"optimizer/base.npy": npy(shape=CANVAS)}}, "not as long as it says"),
    "another shape": ({"raw": {"optimizer/base.npy": npy(np.zeros((1, 40, 60, 3), "f4"))}}, "has the shape"),
    "another picture": ({"raw": {"optimizer/image.npy": npy(np.zeros((1, 40, 40, 3), "f4"))}}, "another size"),
    "a picture too early": ({"raw": {"picture.npy": npy(np.zeros((36, 48, 3), "f4"))}}, "last picture"),
    "another type": ({"raw": {"optimizer/base.npy": npy(np.zeros(CANVAS))}}, "base is float64, not float32"),
    "another type of number": ({"raw": {"optimizer/clip.npy": npy(np.float32(1))}}, "clip is float32, not bool"),
    "a vector for a number": ({"raw": {"optimizer/loss.npy": npy(np.zeros(7, "f4"))}}, "loss has the shape"),
    "a number for a picture": ({"raw": {"optimizer/flat.npy": npy(np.float32(1))}}, "flat has the shape"),
    "a picture for a number": ({"raw": {"optimizer/length.npy": npy(np.zeros(CANVAS, "f4"))}}, "length has the"),
    "a short history": ({"raw": {"optimizer/steps.npy": npy(np.zeros((2, *CANVAS), "f4"))}}, "steps has the shape"),
    "a small matrix": ({"raw": {"optimizer/flats_changes.npy": npy(np.zeros((3, 5), "f4"))}}, "flats_changes has"),
    "other frequencies": ({"raw": {"optimizer/response.npy": npy(np.zeros((2, 3, 4, 1), "f4"))}}, "response has"),
    "a long setting": ({"change": _set("settings", value={"size": "9" * 9999})}, "damaged: size="),
    "no array": ({"raw": {"optimizer/base.npy": b"abc"}}, "damaged"),
    "compressed": ({"compression": zipfile.ZIP_DEFLATED}, "compressed"),
}


@pytest.mark.parametrize(("how", "message"), BAD.values(), ids=BAD)
def test_anything_else_is_refused_in_one_line(path, how, message):
    rewrite(path, **how)
    with pytest.raises(sk.CheckpointError, match=message) as caught:
        checkpoint.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300


def test_a_file_that_is_cut_or_damaged_anywhere_is_refused(path):
    whole = path.read_bytes()
    for size in [0, 10, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(sk.CheckpointError):
            checkpoint.load(path)
    for at in range(40, len(whole), len(whole) // 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(sk.CheckpointError):
            checkpoint.load(path)


def test_parts_that_lie_over_each_other_are_refused(path):
    """As in zip bombs that do not compress: many members, one place."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more", b"")
        for number in range(20):
            entry = copy.copy(archive.getinfo("optimizer/steps.npy"))
            entry.filename = f"optimizer/{number}.npy"
            archive.filelist.append(entry)
    with pytest.raises(sk.CheckpointError, match="its parts are larger than the file"):
        checkpoint.load(path)


@pytest.mark.parametrize(("name", "message"), [("no.npz", "no such checkpoint"), (".", "not a file")])
def test_what_is_not_there(tmp_path, name, message):
    with pytest.raises(sk.CheckpointError, match=message):
        checkpoint.read(tmp_path / name)


def test_another_file_is_none(tmp_path):
    np.savez(tmp_path / "weights.npz", a=np.zeros(3))
    with pytest.raises(sk.CheckpointError, match="not a checkpoint of stylekeras"):
        checkpoint.read(tmp_path / "weights.npz")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("after", [0, 3, 40])
def test_an_old_one_is_kept_until_a_new_one_is_whole(path, monkeypatch, error, after):
    before, written = path.read_bytes(), []

    class Full(io.FileIO):
        def write(self, data):
            written.append(len(data))
            if len(written) > after:
                raise error
            return super().write(data)

    monkeypatch.setattr(type(path), "open", lambda self, mode: Full(self, mode))
    with pytest.raises(type(error)):
        checkpoint.save(path, {**made_up(), "step": 3})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == ["run.npz"]


def test_what_json_has_no_word_for_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(sk.RequestError, match="JSON"):
        checkpoint.save(tmp_path / "run.npz", made_up(), {"extra": object()})
    state = made_up()
    state["optimizer"]["loss"] = np.array({})
    with pytest.raises(sk.RequestError, match="no arrays of object"):
        checkpoint.save(tmp_path / "run.npz", state)
    assert list(tmp_path.iterdir()) == []


def test_where_one_can_be_written(path, tmp_path):
    assert checkpoint.check_destination(tmp_path / "new") == tmp_path / "new"
    assert checkpoint.check_destination(path, overwrite=True) == path
    (tmp_path / "thesis.odt").write_bytes(b"years of work")
    for name, overwrite, message in [
        ("run.npz", False, "an interrupted run is in it"),
        ("run.png", False, "a picture's ending"),
        ("thesis.odt", True, "is no checkpoint"),
        ("no/run.npz", False, "no such folder"),
    ]:
        with pytest.raises(sk.OutputError, match=message):
            checkpoint.check_destination(tmp_path / name, overwrite=overwrite)


def test_what_killed_processes_left_is_swept_and_nothing_else(path, tmp_path):
    with files.replacing(path) as stream:
        left = stream.name
    (tmp_path / left).write_bytes(b"half a checkpoint")
    (tmp_path / ".stylekeras-00000000-1.tmp").write_bytes(b"another file's")
    files.sweep(path)
    assert sorted(item.name for item in tmp_path.iterdir()) == [".stylekeras-00000000-1.tmp", "run.npz"]
