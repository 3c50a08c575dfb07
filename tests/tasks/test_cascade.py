"""A detector with a cascade of box heads learns: its terms, and the two steps of the miniature."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from segjax.tasks import make_task
from segjax.tasks.detection_config import as_variant, detection_config
from segjax.training import sharding
from segjax.training.loop import train
from segjax.training.start import quick_compilation

STAGES = range(3)


def miniature(**model):
    config = as_variant(detection_config(), "debug")
    config.model.update(dict(box_stages=3, agnostic_boxes=True) | model)
    return config


@quick_compilation()
def test_a_few_steps_on_one_batch_make_every_stage_s_loss_fall():
    """Without masks: they are trained on the regions that were drawn, as ever."""
    task = make_task(miniature(mask_convs=0))
    variables = jax.jit(task.init)(jax.random.key(0))
    with task.batches("train", batch_size=2, seed=1) as batches:
        batch = next(batches)
    batch.pop("index")
    adam = optax.adam(3e-3)

    @jax.jit
    def step(params, state):
        def objective(params):
            loss, weight, metrics = task.loss(variables | {"params": params}, batch, jax.random.key(0), True)
            return loss / weight, metrics

        (loss, metrics), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        updates, state = adam.update(gradient, state)
        return optax.apply_updates(params, updates), state, loss, metrics

    params, rows = variables["params"], []
    state = adam.init(params)
    for _ in range(12):
        params, state, loss, metrics = step(params, state)
        rows.append({name: float(value) / 2 for name, value in metrics.items()} | {"loss": float(loss)})
    terms = {"rpn_scores", "rpn_boxes", *(f"{name}_{stage}" for name in ("classes", "boxes") for stage in STAGES)}
    assert set(rows[0]) == {*terms, "loss", "dropped", "proposals"}
    assert rows[0]["loss"] == pytest.approx(sum(rows[0][name] for name in terms), rel=1e-5)
    for stage in STAGES:
        # Fresh heads say next to nothing, of one of five classes or the background.
        assert rows[0][f"classes_{stage}"] == pytest.approx(np.log(6), rel=0.2)
        assert rows[-1][f"classes_{stage}"] < 0.7 * rows[0][f"classes_{stage}"], rows
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"], rows


@pytest.mark.slow
def test_the_miniature_trains_and_is_measured(tmp_path, monkeypatch):
    """On one device: a program for eight takes minutes to compile."""
    auto = (jax.sharding.AxisType.Auto,) * 2
    one = jax.make_mesh((1, 1), sharding.BATCH_AXES, auto, devices=jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", lambda data, fsdp: one)
    config = miniature()
    state = train(make_task(config), config, tmp_path)
    assert int(state.step) == 2 and all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    rows = (tmp_path / "metrics.jsonl").read_text()
    assert '"boxes_2"' in rows and '"segm/AP50"' in rows
