"""What is the PyTorch engine's own: its operators, and steps that are written into their own state."""

import os

import numpy as np
import parity
import pytest

import stylekeras as sk
from stylekeras import machines

if os.environ["KERAS_BACKEND"] != "torch":
    pytest.skip("make test-engines runs these", allow_module_level=True)

import torch

from stylekeras.engines import torch as engine
from stylekeras.engines.torch import ops, vgg


@pytest.fixture
def double():
    generator = torch.Generator().manual_seed(3)

    def of(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return of


def _last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("padding", [0, 1])
def test_the_turned_convolution_is_the_gradient(double, padding):
    kernel, bias = double(5, 4, 3, 3), double(5)
    layer = vgg._Layer(kernel, bias, padding, kernel.flip(2, 3).transpose(0, 1))
    x = _last(double(1, 4, 6, 7))
    plain = torch.relu(torch.nn.functional.conv2d(x, kernel, bias, padding=padding))
    torch.testing.assert_close(vgg._Convolution.apply(x, layer), plain)
    assert torch.autograd.gradcheck(lambda x: vgg._Convolution.apply(x, layer), x)


def test_a_layer_turns_its_kernel_and_gives_no_gradient_to_what_is_not_seen():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 2))
    layer = vgg._layer(kernel, np.zeros(2), 2, 1, "float32", "cpu")
    assert layer.kernel[1, 3, 0, 2] == np.float32(kernel[0, 2, 3, 1])
    assert layer.turned[0, 1, 0, 2] == np.float32(kernel[2, 0, 0, 1])
    assert not layer.turned[2:].any()


@pytest.mark.parametrize("shape", [(8, 6), (7, 9)])
def test_the_average_has_its_gradient(double, shape):
    x = _last(double(1, 3, *shape))
    torch.testing.assert_close(vgg._Average.apply(x), torch.nn.functional.avg_pool2d(x, 2))
    assert torch.autograd.gradcheck(vgg._Average.apply, x)


@pytest.mark.parametrize("repeated", [True, False])
def test_the_entry_has_its_gradient(repeated):
    """It is affine, so a difference is a derivative; float32 is what it takes."""
    factor, shift = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([0.1, 0.2, 0.3])
    done = vgg._Preparation(factor, shift, repeated, torch.float32)
    image = torch.rand(1, 5, 4, 3).requires_grad_()
    entered = vgg._Entry.apply(image, done)
    other = torch.rand(entered.shape)
    (gradient,) = torch.autograd.grad((entered * other).sum(), image)
    step = torch.randn(image.shape)
    change = ((vgg._Entry.apply(image + step, done) - entered) * other).sum()
    torch.testing.assert_close((gradient * step).sum(), change, rtol=1e-4, atol=1e-4)


def test_a_low_precision_has_the_picture_in_two_parts():
    done = vgg._Preparation(torch.ones(3), torch.zeros(3), False, torch.bfloat16)
    image = torch.rand(1, 4, 4, 3)
    entered = vgg._Entry.apply(image, done).float().permute(0, 2, 3, 1)
    assert entered.shape == (1, 4, 4, 8)
    assert not entered[..., 6:].any()
    torch.testing.assert_close(entered[..., :3] + entered[..., 3:6], image, rtol=2**-16, atol=1e-7)


def test_a_history_is_written_into_and_read_oldest_first():
    rows, found = torch.zeros(3, 1, 2, 2, 3), torch.zeros(3, 1, 2, 2, 3)
    history = ops.History(rows, torch.arange(3))
    for number in range(5):
        picture, wanted = torch.full((1, 2, 2, 3), number + 1.0), torch.tensor(number != 2)
        history = ops.remember(history, picture, wanted)
        found = ops.remember(found, picture, wanted)
        torch.testing.assert_close(history.sorted(), found)
    assert history.rows is rows
    assert found[:, 0, 0, 0, 0].tolist() == [2, 4, 5]
    picture, coefficients = torch.rand(1, 2, 2, 3), torch.tensor([1.0, 10.0, 100.0])
    for one, other in [(history, found)]:
        torch.testing.assert_close(ops.inner_products(one, [picture]), ops.inner_products(other, [picture]))
        torch.testing.assert_close(ops.combination(coefficients, one), ops.combination(coefficients, other))


def test_products_in_low_precision_have_a_gradient_in_the_second(double):
    x, y, other = double(6, 3), double(6, 4).requires_grad_(), double(3, 4)
    found = ops.Narrow().products(x, y)
    torch.testing.assert_close(found, x.T @ y)
    (gradient,) = torch.autograd.grad((found * other).sum(), y)
    torch.testing.assert_close(gradient, x @ other)


CASES = [{}, {"optimizer": "adam"}, {"style_loss": "wasserstein", "clip": False}, {"style_loss": "sliced"}]


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_steps_written_into_their_own_state_are_the_same(monkeypatch, changes):
    """As on a GPU, but for the recording: both ways of every condition, one step ahead."""
    job = parity.job("torch", steps=8, **changes)
    apart = list(sk.iterate(*job))

    class InPlace(engine.Recorded):
        def _begin(self, targets, weights):
            self._given = None
            return super()._begin(targets, weights)

    def chosen(condition, yes, no):
        return ops._chosen(condition, yes(), no())

    monkeypatch.setattr(ops, "cond", chosen)
    monkeypatch.setattr(engine, "Loop", lambda *given: InPlace(*given, queue=True))
    machines._built.cache_clear()
    try:
        together = list(sk.iterate(*job))
        (*_, last) = sk.iterate(*job, resume=together[3].state)
    finally:
        machines._built.cache_clear()
    for one, other in zip(apart, together, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        np.testing.assert_allclose(other.image, one.image, atol=1e-4)
    for name, value in apart[5].state["optimizer"].items():
        np.testing.assert_allclose(together[5].state["optimizer"][name], value, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(last.image, together[-1].image, atol=1e-4)


def test_what_cannot_be_recorded_is_run(monkeypatch, caplog):
    job = parity.job("torch", steps=5)
    *_, wanted = sk.iterate(*job)

    def fails(*given):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(engine.Recorded, "_record", fails)
    monkeypatch.setattr(engine, "Loop", lambda *given: engine.Recorded(*given, queue=True))
    machines._built.cache_clear()
    try:
        *_, found = sk.iterate(*job)
    finally:
        machines._built.cache_clear()
    np.testing.assert_allclose(found.image, wanted.image, atol=1e-4)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be recorded" in caplog.text


@pytest.mark.parametrize("text", ["CUDA error: out of memory", "[enforce fail] can't allocate memory: you tried"])
def test_memory_that_ran_out_is_known_by_its_text_too(text):
    assert engine.Engine("float32").out_of_memory(RuntimeError(text))
    assert not engine.Engine("float32").out_of_memory(RuntimeError("shapes do not match"))


def test_the_wasserstein_loss_is_the_same_without_the_fused_product(monkeypatch):
    image, content, styles = parity.pictures(parity.CASES[3])
    chosen = parity.settings(parity.CASES[3], "torch")
    one = sk.loss_and_gradient(image, content, styles, chosen)
    monkeypatch.delattr(ops, "plus_product")
    other = sk.loss_and_gradient(image, content, styles, chosen)
    assert other.loss == pytest.approx(one.loss, rel=1e-6)
    assert parity.gradient_error(other.gradient, one.gradient) < 1e-4
