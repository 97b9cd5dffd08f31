"""What people script against is there, and asking for it costs nothing."""

import inspect
import json
import subprocess
import sys

import pytest

import stylekeras as sk
from stylekeras import errors

CONTRACT = """Evaluation Progress Settings Style StyleKerasError iterate load_image loss_and_gradient save_image
stylize"""

CHILD = """
import json, resource, sys
before = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
import stylekeras
after = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
print(json.dumps({"seconds": after, "import": after - before, "modules": sorted(sys.modules)}))
"""


def test_all_is_what_the_contract_names():
    assert set(CONTRACT.split()) <= set(sk.__all__)
    assert sorted(set(sk.__all__)) == sk.__all__
    assert set(sk.__all__) == set(sk._HOME)
    for name in sk.__all__:
        value = getattr(sk, name)
        assert value.__name__ == name
        assert value.__doc__, name
        assert name in dir(sk)


def test_star_import_and_an_unknown_name():
    names = {}
    exec("from stylekeras import *", names)
    assert set(sk.__all__) <= set(names)
    with pytest.raises(AttributeError, match="module 'stylekeras' has no attribute 'styelize'"):
        sk.styelize  # noqa: B018


def test_signatures():
    def parameters(function):
        return list(inspect.signature(function).parameters)

    assert parameters(sk.stylize) == ["content", "styles", "settings", "callback"]
    assert parameters(sk.iterate) == ["content", "styles", "settings", "resume"]
    assert parameters(sk.loss_and_gradient) == ["image", "content", "styles", "settings"]
    assert parameters(sk.Style) == ["image", "weight", "scale", "mask", "region", "layers"]
    assert {"loss", "terms", "gradient"} <= set(parameters(sk.Evaluation))
    wanted = {"step", "steps", "size", "scale", "scales", "loss", "terms", "seconds"}
    assert wanted <= set(parameters(sk.Progress))
    assert all(isinstance(getattr(sk.Progress, name), property) for name in ("image", "state"))


def test_every_error_is_a_child_of_one():
    for name, value in vars(errors).items():
        if isinstance(value, type) and name.endswith("Error"):
            assert issubclass(value, sk.StyleKerasError)
            assert getattr(sk, name) is value
            if value not in (sk.StyleKerasError, sk.RequestError, sk.RunError):
                assert issubclass(value, sk.RequestError) != issubclass(value, sk.RunError)
    assert issubclass(sk.RequestError, ValueError)
    assert issubclass(sk.RunError, RuntimeError)


def test_importing_it_loads_no_framework_and_takes_no_time():
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    loaded = {name.partition(".")[0] for name in found["modules"]}
    assert not loaded & {"tensorflow", "keras", "jax", "torch", "numpy", "PIL", "scipy", "h5py"}
    assert found["seconds"] < 0.3, "of the processor, the interpreter's own start included"
    assert done.stderr == ""


def test_settings_load_no_framework_either():
    program = "import sys, stylekeras as s; s.Settings(preset='paper'); print([m for m in sys.modules if '.' not in m])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"tensorflow", "keras", "torch", "jax"} & set(json.loads(done.stdout.replace("'", '"')))


def test_the_version_is_the_distributions():
    from importlib.metadata import version

    assert sk.__version__ == version("stylekeras")
