import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from segjax.training.optimizer import make_optimizer, make_schedule
from segjax.training.sharding import make_mesh, place_batch
from segjax.training.state import init_state
from segjax.training.step import sum_gradients, train_step

from .on_meshes import assert_same, one_device, run_on
from .toy import HIDDEN, INPUTS, ToyTask, examples

SCHEDULE = make_schedule(0.01, 100, schedule="constant")
OPTIMIZER = make_optimizer(SCHEDULE, weight_decay=0.1, clip_norm=1.0)


def jit_step(loss_fn, **options):
    options = dict(loss_fn=loss_fn, optimizer=OPTIMIZER, schedule=SCHEDULE, **options)
    step = jax.jit(functools.partial(train_step, **options))
    return lambda state, batch: step(state, state.key, batch)


def fresh(task, ema=False):
    return init_state(task.init(jax.random.key(1)), OPTIMIZER, jax.random.key(2), ema=ema)


def device_batch(count=16, **changes):
    batch = {**examples(0, count), **changes}
    return {k: jnp.asarray(v) for k, v in batch.items() if k != "index"}


@pytest.mark.parametrize("pieces", [2, 4, 8])
def test_gradient_accumulation_equals_the_full_batch_with_unequal_weights(pieces):
    task = ToyTask(noise=0.0)
    state, batch = fresh(task), device_batch()
    assert len(set(np.asarray(batch["weight"]).reshape(-1, pieces).sum(0).tolist())) > 1
    whole = jax.jit(lambda s, b: sum_gradients(task.loss, s, b, s.key, 1))(state, batch)
    split = jax.jit(lambda s, b: sum_gradients(task.loss, s, b, s.key, pieces))(state, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-5), whole, split)
    one, two = (jit_step(task.loss, microbatches=n)(state, batch)[1] for n in (1, pieces))
    np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-6)
    np.testing.assert_allclose(one["absolute"], two["absolute"], rtol=1e-6)


def test_loss_and_metrics_are_divided_by_the_weight_once():
    task = ToyTask(noise=0.0)
    state, batch = fresh(task), device_batch()
    _, metrics = jit_step(task.loss)(state, batch)
    total, weight, sums = jax.device_get(
        jax.jit(task.loss, static_argnums=3)(state.variables, batch, state.key, True)
    )
    np.testing.assert_allclose(metrics["loss"], total / weight, rtol=1e-6)
    np.testing.assert_allclose(metrics["absolute"], sums["absolute"] / weight, rtol=1e-6)
    np.testing.assert_allclose(metrics["lr"], 0.01)
    assert metrics["finite"]
    mean_loss = lambda p: (
        task.loss({"params": p, "constants": state.constants}, batch, state.key, True)[0] / weight
    )
    norm = jax.jit(lambda params: optax.tree.norm(jax.grad(mean_loss)(params)))(state.params)
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)


def test_a_batch_of_weight_zero_has_gradient_zero():
    task = ToyTask(noise=0.0)
    step = jit_step(task.loss)
    state, metrics = step(fresh(task), device_batch(weight=np.zeros(16)))
    assert metrics["loss"] == 0 and metrics["grad_norm"] == 0 and bool(metrics["finite"])
    assert all(np.isfinite(p).all() for p in jax.tree.leaves(state.params))


def test_exponential_moving_average_in_closed_form():
    task = ToyTask()
    step = jit_step(task.loss, ema_decay=0.75)
    states = [fresh(task, ema=True)]
    for _ in range(3):
        states.append(step(states[-1], device_batch())[0])
    p0, p1, p2, p3 = (s.params["first"]["kernel"] for s in states)
    want = 0.75**3 * p0 + 0.25 * (0.75**2 * p1 + 0.75 * p2 + p3)
    np.testing.assert_allclose(states[-1].ema["first"]["kernel"], want, rtol=1e-5)
    assert states[-1].best_variables["params"] is states[-1].ema


def test_the_key_of_a_step_depends_on_the_run_and_the_step_only():
    task = ToyTask(noise=1.0)
    step = jit_step(task.loss)
    state, batch = fresh(task), device_batch()
    losses = [
        float(step(s, batch)[1]["loss"]) for s in (state, state, state.replace(step=state.step + 1))
    ]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_after_a_non_finite_step_nothing_changes(where):
    task = ToyTask()
    loss_fn = task.loss
    if where == "gradient":  # sqrt(0): finite itself, infinite slope

        def loss_fn(variables, batch, key, train):
            total, weight, sums = task.loss(variables, batch, key, train)
            bad = batch["x"][0, 0] == 1e6
            return (
                total
                + jnp.sqrt(jnp.where(bad, 0.0 * variables["params"]["second"]["bias"][0], 1.0)),
                weight,
                sums,
            )

    step = jit_step(loss_fn, ema_decay=0.9)
    before, _ = step(fresh(task, ema=True), device_batch())
    x = examples(0, 16)["x"]
    x[0, 0] = np.nan if where == "loss" else 1e6
    after, metrics = step(before, device_batch(x=x))
    assert not metrics["finite"] and not after.finite
    assert bool(jnp.isfinite(metrics["loss"])) == (where == "gradient")
    later, metrics = step(
        after, device_batch()
    )  # a good batch after the bad one must not move it either
    assert not metrics["finite"] and int(later.step) == 1
    for name in ("params", "opt_state", "ema"):
        jax.tree.map(np.testing.assert_array_equal, getattr(later, name), getattr(before, name))


def test_one_and_eight_devices_agree_with_sharded_parameters():
    task = ToyTask()
    batches = [examples(16 * i, 16) for i in range(3)]
    run = lambda mesh: run_on(mesh, task, task.init(jax.random.key(3)), batches)
    ours = run(make_mesh(data=2, fsdp=4))
    assert_same(ours, run(one_device()))
    state = ours.state
    for array in (state.params["first"]["kernel"], state.opt_state[0].trace["first"]["kernel"]):
        assert array.sharding.spec[-1] == "fsdp"
        assert {s.data.shape for s in array.addressable_shards} == {(INPUTS, HIDDEN // 4)}


def test_splitting_into_microbatches_moves_no_rows_between_devices():
    mesh, task = make_mesh(), ToyTask()
    with jax.set_mesh(mesh):
        state, batch = fresh(task), place_batch(examples(0, 32), mesh)
        text = (
            jax.jit(lambda s, b: sum_gradients(task.loss, s, b, s.key, 4))
            .lower(state, batch)
            .compile()
            .as_text()
        )
    assert "all-reduce" in text
    for movement in ("all-gather", "all-to-all", "collective-permute"):
        assert movement not in text
