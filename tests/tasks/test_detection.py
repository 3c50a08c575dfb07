"""The detection task: what its terms are divided by, what counts for nothing, and that it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from segjax.tasks import make_task
from segjax.tasks.detection_config import as_variant, detection_config
from segjax.training.start import quick_compilation

TERMS = ("rpn_scores", "rpn_boxes", "classes", "boxes", "masks")


def miniature(**model):
    config = as_variant(detection_config(), "debug")
    config.model.update(model)
    config.data.augment.flip = False
    return config


@functools.cache
def compiled(task):
    def outcome(params, constants, batch, key):
        def objective(params):
            loss, weight, metrics = task.loss({"params": params, "constants": constants}, batch, key, True)
            return loss / jnp.maximum(weight, 1), (weight, metrics)

        return jax.value_and_grad(objective, has_aux=True)(params)

    return jax.jit(outcome)


@pytest.fixture(scope="module")
def task():
    return make_task(miniature())


@pytest.fixture(scope="module")
def variables(task):
    with quick_compilation():
        return jax.jit(task.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def batch(task):
    batch = next(task.batches("train", batch_size=2, seed=1))
    batch.pop("index")
    assert batch["valid"].any(axis=1).all()
    return batch


def measured(task, variables, batch, key=0):
    """(loss a picture, weight, sums of metrics, gradient)."""
    outcome = compiled(task)(variables["params"], variables["constants"], batch, jax.random.key(key))
    (loss, (weight, metrics)), gradient = jax.device_get(outcome)
    return loss, weight, metrics, gradient


def test_the_loss_is_the_sum_of_the_terms_whatever_the_number_of_pictures(task, variables, batch):
    loss, weight, metrics, _ = measured(task, variables, batch)
    assert weight == 2 and set(metrics) == {*TERMS, "dropped"}
    assert loss == pytest.approx(sum(metrics[name] for name in TERMS) / 2, rel=1e-5)
    # Fresh heads say next to nothing: log 2 a cell, and an anchor; log 6 a region of five classes and the background.
    assert metrics["masks"] / 2 == pytest.approx(np.log(2), rel=0.05)
    assert metrics["rpn_scores"] / 2 == pytest.approx(np.log(2), rel=0.1)
    assert metrics["classes"] / 2 == pytest.approx(np.log(6), rel=0.3)


def test_without_objects_boxes_and_masks_are_exactly_nothing(task, variables, batch):
    empty = batch | {"valid": np.zeros_like(batch["valid"])}
    loss, _, metrics, gradient = measured(task, variables, empty)
    assert metrics["rpn_boxes"] == metrics["boxes"] == metrics["masks"] == 0
    assert metrics["rpn_scores"] > 0 and metrics["classes"] > 0 and np.isfinite(loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient["mask_head"]))
    assert any(leaf.any() for leaf in jax.tree.leaves(gradient["backbone"])), "all of it is background"


def test_a_placeholder_counts_for_nothing(task, variables, batch):
    one = {name: rows[:1] for name, rows in batch.items()}
    # What it holds is a picture with objects: its weight alone says that it is none.
    full = batch | {"weight": np.array([1, 0], np.float32), "dropped": np.array([batch["dropped"][0], 7], np.int32)}
    blank = {name: np.concatenate([rows[:1], np.zeros_like(rows[:1])]) for name, rows in batch.items()}
    blank["size"] = batch["size"]
    loss, weight, metrics, gradient = measured(task, variables, full)
    alone, one_picture, of_one = jax.jit(task.loss, static_argnums=3)(variables, one, jax.random.key(0), True)
    assert weight == one_picture == 1 and of_one["masks"] > 0
    assert loss == pytest.approx(float(alone), rel=1e-4)
    of_one = {name: float(value) for name, value in of_one.items()}
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(of_one, rel=1e-4)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(same, gradient, measured(task, variables, blank)[3])


def test_a_few_steps_on_one_batch_make_the_loss_fall(task, variables, batch):
    optimizer = optax.adam(3e-3)
    params, losses = variables["params"], []
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for step in range(12):
        loss, _, _, gradient = measured(task, variables | {"params": params}, batch, key=step)
        updates, state = update(gradient, state)
        params = optax.apply_updates(params, updates)
        losses.append(loss)
    assert np.mean(losses[-3:]) < 0.7 * losses[0], losses


def test_dropped_objects_are_counted(task, variables, batch):
    crowded = batch | {"dropped": np.array([3, 4], np.int32)}
    assert measured(task, variables, crowded)[2]["dropped"] == 7


def test_what_does_not_fit_is_said():
    with pytest.raises(
        ValueError, match=r"2 keypoints, which this task does not train yet; set config.model.keypoints=0"
    ):
        make_task(miniature(keypoints=2))
    with pytest.raises(ValueError, match="has 5 classes, the model 3; set config.model.classes=5"):
        make_task(miniature(classes=3)).batches("train", batch_size=2)
    config = miniature()
    config.samples.regions = 3
    with pytest.raises(ValueError, match="3 regions, 0.25 of which may show objects: that is none"):
        make_task(config)
