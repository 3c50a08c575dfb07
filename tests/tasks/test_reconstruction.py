"""The reconstruction task: exact sums over masked patches, for any batch and any devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from golden.sam_inputs import make_images
from jax.sharding import AxisType

from segjax.models.mae import init_mae
from segjax.tasks import complete_config, make_task
from segjax.tasks.reconstruction.config import reconstruction_config
from segjax.training.sharding import BATCH_AXES, make_mesh


def config(**changes):
    config = reconstruction_config()
    config.model = dict(name="mae_debug", depth=2, decoder_depth=1) | changes
    config.data.scenes.update(train_count=6, eval_count=5, size=64)
    config.eval.update(batch_size=2, pictures=2)
    return config


@pytest.fixture(scope="module")
def task():
    return make_task(config())


@pytest.fixture(scope="module")
def variables(task):
    return jax.tree.map(jnp.asarray, drawn_variables(task.model, init_mae))


def make_batch(count=8):
    return {
        "image": make_images(64, count),
        "weight": np.array([1.0] * (count - 1) + [0.0], np.float32),
    }


def one_device():
    return jax.make_mesh(
        (1, 1), BATCH_AXES, (AxisType.Auto, AxisType.Auto), devices=jax.devices()[:1]
    )


def outcome_of(task):
    def outcome(variables, batch):
        objective = lambda params: task.loss({"params": params}, batch, jax.random.key(1), True)[:2]
        return jax.value_and_grad(objective, has_aux=True)(variables["params"])

    return outcome


@pytest.fixture(scope="module")
def expected(task, variables):
    return jax.jit(outcome_of(task))(variables, make_batch())


def assert_same(ours, theirs, tolerance=1e-5):
    """Compares losses and gradients, with a tolerance relative to the largest gradient."""
    ((loss, weight), gradient), ((their_loss, their_weight), their_gradient) = jax.device_get(
        (ours, theirs)
    )
    np.testing.assert_allclose((loss, weight), (their_loss, their_weight), rtol=tolerance)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(their_gradient))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest)
    jax.tree.map(close, gradient, their_gradient)


def test_the_weight_is_the_number_of_masked_patches_of_real_images(expected):
    (loss, weight), _ = expected
    assert weight == 7 * 12 and 0 < loss < 1000  # int(16 * 0.25) of 16 patches are visible


def test_a_placeholder_counts_for_nothing(task, variables, expected):
    batch = make_batch()
    batch["image"][-1] = 255
    assert_same(jax.jit(outcome_of(task))(variables, batch), expected, 1e-6)


def test_the_evaluation_is_the_same_for_any_batch_and_number_of_devices(task, variables):
    one = one_device()
    numbers, sheets = task.evaluate(variables, mesh=one)
    many, _ = task.evaluate(variables, mesh=make_mesh())  # eight rows, three of them placeholders
    assert numbers["eval_loss"] == pytest.approx(many["eval_loss"], rel=1e-5)
    sheet = sheets["reconstruction"]
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 3 * 256 + 4 * 10  # three panels


def test_training_images_are_cropped_at_random_and_evaluation_images_are_not(task):
    train = next(task.batches("train", batch_size=4))
    assert train["image"].shape == (4, 64, 64, 3) and train["image"].dtype == np.uint8
    again = next(task.batches("eval", batch_size=5)), next(task.batches("eval", batch_size=5))
    np.testing.assert_array_equal(again[0]["image"], again[1]["image"])


def test_devices_resize_images_as_the_host_does(monkeypatch):
    changed = config()
    changed.data.crop.frame = 64
    framed = make_task(changed)
    host, device = (
        next(task.batches("train", batch_size=4, seed=3)) for task in (make_task(config()), framed)
    )
    assert device["image"].shape == (4, 64, 86, 3)
    monkeypatch.setattr(framed, "_apply", lambda _, batch, *__: (batch["image"], 1, None))
    resized, *_ = jax.jit(lambda batch: framed.loss({}, batch, jax.random.key(0), True))(device)
    difference = np.abs(np.asarray(resized, int) - host["image"])
    assert (
        resized.dtype == np.uint8 and difference.mean() < 0.1 and np.percentile(difference, 99) <= 1
    )


def test_unreadable_records_are_listed_in_the_folder_of_the_run(tmp_path, monkeypatch):
    class Cut(list):
        def __getitem__(self, index):
            return super().__getitem__(index) | ({"image": b"cut"} if index == 1 else {})

    records = Cut({"image": np.zeros((9, 9, 3), np.uint8), "image_id": f"n{i}"} for i in range(4))
    task = make_task(config())
    monkeypatch.setattr(task, "open_source", lambda split: records)
    batch = next(task.batches("train", batch_size=4, workdir=tmp_path))
    assert batch["weight"].sum() == 3
    (file,) = (tmp_path / "broken").iterdir()
    assert '"position": 1, "image_id": "n1", "reason": "ImageError' in file.read_text()


def test_a_completed_config_states_all_options_of_the_same_model():
    full = complete_config(config())
    assert (full.model.mask_ratio, full.model.norm_pix, full.model.dtype) == (0.75, True, "float32")
    assert (
        complete_config(full).to_dict() == full.to_dict()
        and make_task(full).model == make_task(config()).model
    )
    with pytest.raises(ValueError, match="unknown model 'mae_tinny'; nearest: mae_tiny"):
        complete_config({"task": "reconstruction", "model": {"name": "mae_tinny"}})


def test_the_default_recipe_is_that_of_the_paper():
    """Compares with appendix A.1.

    800 epochs, 40 of them warm-up, batches of 4096, AdamW with betas 0.9 and 0.95, weight decay
    0.05, learning rate 2.4e-3.
    """
    recipe = reconstruction_config()
    assert (recipe.total_steps, recipe.optimizer.warmup_steps) == (250_227, 12_511)
    assert recipe.optimizer.base_lr * recipe.batch_size / 256 == pytest.approx(2.4e-3)
    assert (recipe.optimizer.b1, recipe.optimizer.b2, recipe.optimizer.weight_decay) == (
        0.9,
        0.95,
        0.05,
    )


def test_an_evaluation_without_readable_images_is_an_error(task, variables, monkeypatch):
    blank = {
        "image": np.zeros((2, 64, 64, 3), np.uint8),
        "weight": np.zeros(2, np.float32),
        "index": np.arange(2),
    }
    monkeypatch.setattr(task, "batches", lambda *_, **__: iter([blank]))
    one = one_device()
    with pytest.raises(ValueError, match="nothing to measure"):
        task.evaluate(variables, mesh=one)
