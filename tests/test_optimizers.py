"""Every file of stylekeras/optimizers solves the same problems; L-BFGS and Adam are compared with their textbooks."""

import inspect
import itertools
import pkgutil

import numpy as np
import pytest
import scipy.optimize
from reference import numpy_ops

from stylekeras import arrays, optimizers, settings, spectrum
from stylekeras.optimizers import adam, lbfgs
from stylekeras.style_losses import gram

NAMES = [module.name for module in pkgutil.iter_modules(optimizers.__path__)]
every = pytest.mark.parametrize("optimizer", [optimizers.load(name) for name in NAMES], ids=NAMES)

SHAPE = (1, 6, 5, 3)
# Evaluations that the quadratics below may take; 2000 for an optimizer that is not named.
STEPS = {"lbfgs": 400}


@pytest.fixture(autouse=True)
def _quiet():
    """`ops.where` evaluates both sides, so the side not taken may overflow: NumPy says so, Keras does not."""
    with np.errstate(all="ignore"):
        yield


class Quadratic:
    """1/2 (x - x0)^T A (x - x0), the eigenvalues of A spread evenly (in logarithm) over [1 / condition, 1]."""

    def __init__(self, condition, low=0.3, high=0.7, seed=0):
        rng = np.random.default_rng(seed)
        size = int(np.prod(SHAPE))
        basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
        self.matrix = (basis * np.logspace(0, -np.log10(condition), size)) @ basis.T
        self.centre = rng.uniform(low, high, size)

    def __call__(self, image):
        offset = np.asarray(image, float).ravel() - self.centre
        gradient = self.matrix @ offset
        return 0.5 * offset @ gradient, gradient.reshape(SHAPE)

    def minimum(self, bounded):
        """SciPy's: the loss, and where."""

        def flat(point):
            loss, gradient = self(point)
            return loss, gradient.ravel()

        found = scipy.optimize.minimize(
            flat,
            np.full(self.centre.size, 0.5),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0, 1)] * self.centre.size if bounded else None,
            options={"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-12},
        )
        return found.fun, found.x.reshape(SHAPE)


def _start():
    return np.full(SHAPE, 0.5)


def _run(optimizer, function, steps, image=None, ops=numpy_ops, **options):
    """The states after each update and the losses evaluated."""
    state = optimizer.init(ops, _start() if image is None else image, **options)
    states, losses = [], []
    for _ in range(steps):
        loss, gradient = function(state.image)
        state = optimizer.update(ops, state, loss, gradient)
        states.append(state)
        losses.append(float(loss))
    return states, losses


def _name(optimizer):
    return optimizer.__name__.rpartition(".")[2]


# --- every optimizer ------------------------------------------------------------------------------------------------


def test_the_setting_knows_every_file():
    assert sorted(settings.CHOICES["optimizer"]) == sorted(NAMES)


@every
def test_it_has_the_three_functions(optimizer):
    assert list(inspect.signature(optimizer.init).parameters)[:3] == ["ops", "image", "clip"]
    assert list(inspect.signature(optimizer.update).parameters) == ["ops", "state", "loss", "gradient"]
    assert list(inspect.signature(optimizer.result).parameters) == ["ops", "state"]
    state = optimizer.init(numpy_ops, _start(), clip=True)
    assert {"image", "loss", "accepted"} <= set(state._fields)
    assert not state.accepted
    np.testing.assert_array_equal(optimizer.result(numpy_ops, state), _start())
    np.testing.assert_array_equal(state.image, _start())


@every
@pytest.mark.parametrize("condition", [1e3, 1e4])
def test_it_finds_scipys_minimum(optimizer, condition):
    """The loss to 1e-8 of the start's and every pixel to 1e-3, at both condition numbers, with Adam's default step."""
    quadratic = Quadratic(condition)
    best, where = quadratic.minimum(bounded=False)
    begin, _ = quadratic(_start())
    states, _ = _run(optimizer, quadratic, STEPS.get(_name(optimizer), 2000))
    image = optimizer.result(numpy_ops, states[-1])
    assert quadratic(image)[0] - best < 1e-8 * begin
    np.testing.assert_allclose(image, where, atol=1e-3)


@every
@pytest.mark.parametrize("condition", [1e3, 1e4])
def test_it_finds_scipys_minimum_within_bounds(optimizer, condition):
    """About half of the pixels want to be outside [0, 1]: where they are held, the others' minimum is another one."""
    quadratic = Quadratic(condition, low=-0.4, high=1.4)
    best, where = quadratic.minimum(bounded=True)
    begin, _ = quadratic(_start())
    states, _ = _run(optimizer, quadratic, STEPS.get(_name(optimizer), 2000), clip=True)
    assert all(state.image.min() >= 0 and state.image.max() <= 1 for state in states)
    image = optimizer.result(numpy_ops, states[-1])
    held = (where < 1e-9) | (where > 1 - 1e-9)
    assert 10 < held.sum() < 80
    assert quadratic(image)[0] - best < 1e-8 * begin
    np.testing.assert_allclose(image, where, atol=1e-3)


@every
def test_it_changes_no_argument_and_forgets_nothing_in_its_state(optimizer):
    """Pure functions: what `resume` rests on. A state taken apart and put together goes on bit for bit."""
    quadratic = Quadratic(1e3)
    states, _ = _run(optimizer, quadratic, 20)
    fields = {name: np.array(value) for name, value in states[9]._asdict().items()}
    kept = {name: value.copy() for name, value in fields.items()}
    state = optimizer.State(**fields)
    for _ in range(10):
        state = optimizer.update(numpy_ops, state, *quadratic(state.image))
    optimizer.result(numpy_ops, state)
    for name, value in states[-1]._asdict().items():
        np.testing.assert_array_equal(getattr(state, name), value, err_msg=name)
    for name, value in fields.items():
        np.testing.assert_array_equal(value, kept[name], err_msg=name)


@every
@pytest.mark.parametrize("clip", [False, True])
def test_the_graph_engines_numpy_agrees(optimizer, clip):
    """Its history is a tuple of pictures; taken apart for a checkpoint, one array."""
    quadratic = Quadratic(1e3)
    states, _ = _run(optimizer, quadratic, 30, clip=clip)
    ours, _ = _run(optimizer, quadratic, 30, ops=arrays, clip=clip)
    for name, value in states[-1]._asdict().items():
        np.testing.assert_allclose(np.array(getattr(ours[-1], name)), value, rtol=1e-9, atol=1e-12, err_msg=name)
    again = optimizer.State(**{name: np.array(value) for name, value in ours[19]._asdict().items()})
    for _ in range(10):
        again = optimizer.update(arrays, again, *quadratic(again.image))
    for name, value in ours[-1]._asdict().items():
        np.testing.assert_array_equal(np.array(getattr(again, name)), np.array(value), err_msg=name)


@every
@pytest.mark.parametrize("clip", [False, True])
def test_keras_and_numpy_agree(optimizer, clip, float64):
    import keras
    import tensorflow as tf

    quadratic = Quadratic(1e2, low=-0.4, high=1.4)
    states, _ = _run(optimizer, quadratic, 15, clip=clip)

    def through_tensorflow(image):
        loss, gradient = quadratic(image.numpy())
        return tf.constant(loss), tf.constant(gradient)

    theirs, _ = _run(optimizer, through_tensorflow, 15, tf.constant(_start()), keras.ops, clip=clip)
    for ours, other in zip(states, theirs, strict=True):
        np.testing.assert_allclose(other.image.numpy(), ours.image, rtol=1e-9, atol=1e-12)
    for name, value in states[-1]._asdict().items():
        np.testing.assert_allclose(np.asarray(getattr(theirs[-1], name)), value, rtol=1e-7, atol=1e-12, err_msg=name)
    wanted = optimizer.result(numpy_ops, states[-1])
    np.testing.assert_allclose(optimizer.result(keras.ops, theirs[-1]).numpy(), wanted, rtol=1e-9)


@every
def test_float32_stays_float32(optimizer):
    import keras
    import tensorflow as tf

    quadratic = Quadratic(1e2)

    def single(image):
        loss, gradient = quadratic(image.numpy())
        return tf.constant(loss, tf.float32), tf.constant(gradient, tf.float32)

    start = tf.constant(_start(), tf.float32)
    states, losses = _run(optimizer, single, 40, start, keras.ops)
    for value, first in zip(states[-1], optimizer.init(keras.ops, start), strict=True):
        assert np.asarray(value).dtype == np.asarray(first).dtype
        assert np.shape(value) == np.shape(first)
    assert losses[-1] < losses[0] / 10


# --- Adam -----------------------------------------------------------------------------------------------------------


def test_adam_is_algorithm_1():
    """Kingma and Ba (2015), algorithm 1, and section 7.2's average of the iterates with its bias correction."""
    quadratic = Quadratic(1e2)
    states, losses = _run(adam, quadratic, 7, learning_rate=0.05)
    x, m, v, average = _start(), 0.0, 0.0, 0.0
    for t in range(1, 8):
        _, g = quadratic(x)
        m = 0.9 * m + 0.1 * g
        v = 0.99 * v + 0.01 * g**2
        x = x - 0.05 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
        average = 0.99 * average + 0.01 * x
        state = states[t - 1]
        np.testing.assert_allclose(state.image, x, rtol=1e-12)
        np.testing.assert_allclose(adam.result(numpy_ops, state), average / (1 - 0.99**t), rtol=1e-12)
        assert state.accepted
        assert state.loss == losses[t - 1]


def test_adam_does_not_report_a_finite_loss_for_a_broken_picture():
    gradient = np.zeros(SHAPE)
    gradient[0, 1, 1, 1] = np.inf
    state = adam.update(numpy_ops, adam.init(numpy_ops, _start()), np.float64(1.0), gradient)
    assert not np.isfinite(state.image).all()
    assert np.isnan(state.loss)


# --- L-BFGS ---------------------------------------------------------------------------------------------------------


def _two_loops(pairs, gradient, guess):
    """-H gradient: Nocedal and Wright (2006), algorithm 7.4 with the scaling of equation 7.20, H_0 = scale * guess."""
    q, alphas = gradient.copy(), []
    for s, y in reversed(pairs):
        alpha = np.sum(s * q) / np.sum(s * y)
        alphas.append(alpha)
        q = q - alpha * y
    s, y = pairs[-1]
    r = guess(q) * np.sum(s * y) / np.sum(y * guess(y))
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        beta = np.sum(y * r) / np.sum(s * y)
        r = r + (alpha - beta) * s
    return -r


@pytest.mark.parametrize("history", [1, 3, 12])
@pytest.mark.parametrize("curvature", [None, gram.CURVATURE])
def test_lbfgs_direction_is_the_two_loop_recursion(history, curvature):
    quadratic = Quadratic(1e2)
    states, _ = _run(lbfgs, quadratic, 40, history=history, curvature=curvature)

    def guess(image):
        return image if curvature is None else spectrum.flatten(numpy_ops, curvature.response(*SHAPE[1:3]), image)

    pairs, compared = [], 0
    for before, after in itertools.pairwise(states):
        if after.accepted:
            pairs = [*pairs, (after.base - before.base, after.gradient - before.gradient)][-history:]
            wanted = _two_loops(pairs, after.gradient, guess)
            # The same arithmetic in another order; it is worse conditioned the closer the minimum is.
            error = np.linalg.norm(after.direction - wanted) / np.linalg.norm(wanted)
            assert error < 1e-6
            compared += 1
    assert compared > 25


def test_lbfgs_needs_few_steps_where_the_curvature_is_as_it_was_told(rng):
    shape = (1, 24, 20, 3)
    inverse = gram.CURVATURE.response(*shape[1:3])
    centre = rng.uniform(0.3, 0.7, shape)

    def loss(image):
        gradient = spectrum.flatten(numpy_ops, 1 / inverse, image - centre)
        return 0.5 * np.sum((image - centre) * gradient), gradient

    fallen = {}
    for curvature in (None, gram.CURVATURE):
        state = lbfgs.init(numpy_ops, np.full(shape, 0.5), curvature=curvature)
        losses = []
        for _ in range(25):
            value, gradient = loss(state.image)
            losses.append(value)
            state = lbfgs.update(numpy_ops, state, value, gradient)
        fallen[curvature] = min(losses) / losses[0]
    assert fallen[gram.CURVATURE] < 1e-5 * fallen[None]


@pytest.mark.parametrize("clip", [False, True])
def test_lbfgs_never_goes_up_and_returns_the_best(clip):
    """On a function with narrow valleys, where trials do fail: Rosenbrock's, along each row of pixels."""

    def rosenbrock(image):
        x = image.ravel()
        return scipy.optimize.rosen(x), scipy.optimize.rosen_der(x).reshape(SHAPE)

    states, losses = _run(lbfgs, rosenbrock, 150, clip=clip)
    kept = [float(state.loss) for state in states]
    assert all(after <= before for before, after in itertools.pairwise(kept))
    assert 0 < sum(not state.accepted for state in states) < 60
    assert kept[-1] == min(losses)
    assert rosenbrock(lbfgs.result(numpy_ops, states[-1]))[0] == kept[-1]
    assert kept[-1] < 0.02 * kept[0]


def test_lbfgs_takes_no_rise_where_the_bounds_turn_the_step_uphill():
    """The projection cut off the part of the step that went down; what is left has a positive slope."""
    base = np.full(SHAPE, 0.5)
    base[0, 0, 0, 0] = 0.99
    gradient = np.zeros(SHAPE)
    gradient[0, 0, 0, 0], gradient[0, 1, 0, 0] = -1.0, 0.5
    direction = np.zeros(SHAPE)
    direction[0, 0, 0, 0], direction[0, 1, 0, 0] = 1.0, 0.4
    state = lbfgs.init(numpy_ops, base, clip=True)._replace(
        loss=np.float64(1.0), gradient=gradient, direction=direction, image=np.clip(base + direction, 0, 1)
    )
    assert np.sum((state.image - state.base) * gradient) > 0
    after = lbfgs.update(numpy_ops, state, np.float64(1.000001), gradient)
    assert not after.accepted
    assert after.loss == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("when", [[1], [2, 3], [10], [5, 6, 7, 8, 9, 10, 11, 12, 13]], ids=str)
def test_lbfgs_recovers_from_bad_trials(bad, when):
    quadratic = Quadratic(1e2)
    calls = iter(range(1000))

    def sometimes(image):
        loss, gradient = quadratic(image)
        return (bad, np.full(SHAPE, np.nan)) if next(calls) in when else (loss, gradient)

    states, losses = _run(lbfgs, sometimes, 100)
    assert all(np.isfinite(state.image).all() and np.isfinite(state.direction).all() for state in states)
    assert not any(states[index].accepted for index in when)
    assert losses[-1] < 1e-6 * losses[0]
    assert quadratic(lbfgs.result(numpy_ops, states[-1]))[0] < 1e-6 * losses[0]


def test_lbfgs_does_not_trust_a_gradient_with_nan():
    quadratic = Quadratic(1e2)
    states, _ = _run(lbfgs, quadratic, 1)
    hole = np.ones(SHAPE)
    hole[0, 2, 2, 1] = np.nan
    after = lbfgs.update(numpy_ops, states[0], states[0].loss / 2, hole)
    assert not after.accepted
    np.testing.assert_array_equal(after.base, states[0].base)


def test_lbfgs_keeps_inside_a_region_without_asking():
    """log(1 - x) has no value beyond 1, and steps that go there are halved until they do not."""

    def barrier(image):
        loss = np.sum(-0.01 * np.log(1 - image) + (image - 0.99) ** 2)
        return loss, 0.01 / (1 - image) + 2 * (image - 0.99)

    wanted = scipy.optimize.brentq(lambda x: barrier(np.array([x]))[1][0], 0.5, 0.999)
    states, _ = _run(lbfgs, barrier, 120, np.linspace(0.1, 0.9, 90).reshape(SHAPE))
    np.testing.assert_allclose(lbfgs.result(numpy_ops, states[-1]), wanted, atol=1e-4)


def _second_evaluation(cosine, size):
    """The state after a first accepted step s, the change y of the gradient having that cosine with it and size."""
    state = lbfgs.init(numpy_ops, _start())
    first = np.zeros(SHAPE)
    first[0, 0, 0, 0] = size
    state = lbfgs.update(numpy_ops, state, np.float64(size), first)
    step = state.image - state.base
    across = np.zeros(SHAPE)
    across[0, 3, 3, 1] = 1.0
    change = cosine * step / np.linalg.norm(step) + np.sqrt(1 - cosine**2) * across
    return lbfgs.update(numpy_ops, state, np.float64(0.0), first + size * change)


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize(("cosine", "kept"), [(-0.5, False), (0.0, False), (0.019, False), (0.021, True), (1.0, True)])
def test_lbfgs_curvature_guard_is_relative(cosine, kept, size):
    state = _second_evaluation(cosine, size)
    assert state.accepted
    assert bool(state.steps_changes.any()) is kept
    assert (state.flats[-1] != 0).any() == kept
    # Without a pair the next step goes down the gradient, twice as long as the first.
    if not kept:
        assert np.sqrt(np.mean(state.direction**2)) == pytest.approx(2 * lbfgs.FIRST_LENGTH)


@pytest.mark.parametrize("factor", [2.0**-20, 2.0**20])
def test_lbfgs_does_not_see_the_losss_scale(factor):
    """A power of two is exact in floating point, so the path is the same bit for bit."""
    quadratic = Quadratic(1e3)

    def scaled(image):
        loss, gradient = quadratic(image)
        return loss * factor, gradient * factor

    plain, _ = _run(lbfgs, quadratic, 60)
    other, _ = _run(lbfgs, scaled, 60)
    for ours, theirs in zip(plain, other, strict=True):
        np.testing.assert_array_equal(theirs.image, ours.image)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_lbfgs_takes_as_many_steps_at_any_scale(factor):
    quadratic = Quadratic(1e3)

    def scaled(image):
        loss, gradient = quadratic(image)
        return loss * factor, gradient * factor

    plain, losses = _run(lbfgs, quadratic, 60)
    other, theirs = _run(lbfgs, scaled, 60)
    np.testing.assert_allclose(np.array(theirs) / factor, losses, rtol=1e-4)
    np.testing.assert_allclose(other[-1].base, plain[-1].base, atol=1e-6)


def test_lbfgs_begins_with_about_one_grey_level():
    quadratic = Quadratic(1e3)
    states, _ = _run(lbfgs, quadratic, 1)
    assert np.sqrt(np.mean((states[0].image - _start()) ** 2)) == pytest.approx(lbfgs.FIRST_LENGTH)


def test_lbfgs_at_a_minimum_stays_there():
    states, losses = _run(lbfgs, lambda image: (np.float64(0.0), np.zeros(SHAPE)), 20)
    assert losses == [0.0] * 20
    np.testing.assert_array_equal(states[-1].image, _start())


@pytest.mark.parametrize(("toward", "tried"), [(0.4, True), (-0.4, False)])
def test_lbfgs_tries_what_it_is_told_only_where_the_loss_falls_that_way(toward, tried):
    def bowl(image):
        return 0.5 * np.sum((image - 0.7) ** 2), image - 0.7

    told = _start() + toward * np.eye(6, 5)[None, :, :, None]
    states, _ = _run(lbfgs, bowl, 12, toward=told)
    assert np.allclose(states[0].image, told) is tried
    np.testing.assert_allclose(lbfgs.result(numpy_ops, states[-1]), 0.7, atol=1e-3)


def test_lbfgs_goes_part_of_the_way_where_what_it_is_told_is_too_far():
    def bowl(image):
        return 0.5 * np.sum((image - 0.7) ** 2), image - 0.7

    states, losses = _run(lbfgs, bowl, 3, toward=_start() + 2.0)
    assert losses[1] > losses[0] > losses[2]
    np.testing.assert_allclose(states[1].image, 0.7, atol=0.01)
