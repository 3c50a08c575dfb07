"""Cascade R-CNN: the loss terms of its stages fall, and the miniature run trains."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden.drawn_weights import drawn_variables

from segjax.models.build import init_model
from segjax.models.detection.layers import number_names
from segjax.tasks import make_task
from segjax.tasks.detection.config import detection_config
from segjax.tasks.variants import as_variant
from segjax.training import sharding
from segjax.training.loop import train
from segjax.training.program import quick_compilation


def miniature(**model):
    config = as_variant(detection_config(), "debug")
    config.model.update(dict(box_stages=3, agnostic_boxes=True) | model)
    return config


@pytest.mark.slow
@quick_compilation()
def test_the_loss_of_every_stage_falls_in_a_few_steps_on_one_batch():
    """Trains the box heads alone, from zero class logits and a constant bias of the deltas."""
    task = make_task(miniature(mask_convs=0))
    drawn = drawn_variables(task.model, init_model)
    heads = {name: {**drawn["params"][name]} for name in number_names("box_head", 3)}
    for head in heads.values():
        head |= jax.tree.map(np.zeros_like, {name: head[name] for name in ("scores", "deltas")})
        head["deltas"]["bias"] += 0.5
    with task.batches("train", batch_size=2, seed=1) as batches:
        batch = next(batches)
    batch.pop("index")
    adam = optax.adam(3e-3)

    @jax.jit
    def step(drawn, heads, state):
        def objective(heads):
            variables = drawn | {"params": drawn["params"] | heads}
            loss, weight, metrics = task.loss(variables, batch, jax.random.key(0), True)
            return loss / weight, metrics

        (loss, metrics), gradient = jax.value_and_grad(objective, has_aux=True)(heads)
        updates, state = adam.update(gradient, state)
        return optax.apply_updates(heads, updates), state, metrics | {"loss": 2 * loss}

    state, rows = adam.init(heads), []
    for _ in range(12):
        heads, state, metrics = step(drawn, heads, state)
        rows.append({name: float(value) / 2 for name, value in metrics.items()})
    terms = {
        "rpn_scores",
        "rpn_boxes",
        *(f"{name}_{stage}" for name in ("classes", "boxes") for stage in range(3)),
    }
    assert set(rows[0]) == {*terms, "loss", "dropped", "proposals"}
    assert rows[0]["loss"] == pytest.approx(sum(rows[0][name] for name in terms), rel=1e-5)
    for stage in range(3):
        assert rows[0][f"classes_{stage}"] == pytest.approx(np.log(6), rel=1e-5), (
            "five classes and the background"
        )
        assert rows[-1][f"classes_{stage}"] < 0.7 * rows[0][f"classes_{stage}"], rows
        assert 0 < rows[-1][f"boxes_{stage}"] < rows[0][f"boxes_{stage}"], rows
    assert rows[-1]["loss"] < rows[0]["loss"] - 1, rows


@pytest.mark.slow
def test_the_miniature_trains_and_is_evaluated(tmp_path, monkeypatch):
    """Runs on one device, because a program for eight takes minutes to compile."""
    auto = (jax.sharding.AxisType.Auto,) * 2
    one = jax.make_mesh((1, 1), sharding.BATCH_AXES, auto, devices=jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", lambda data, fsdp: one)
    config = miniature()
    state = train(make_task(config), config, tmp_path)
    assert int(state.step) == 2 and all(
        jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params)
    )
    rows = (tmp_path / "metrics.jsonl").read_text()
    assert '"boxes_2"' in rows and '"segm/AP50"' in rows
