"""Training on cached image embeddings: the same as the live frozen encoder, and never mixed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.data.fetch import SettingsError
from segjax.tasks import make_task
from segjax.tasks.promptable import embeddings as module
from segjax.tasks.promptable.config import miniature, promptable_config
from segjax.training.loop import train
from segjax.weights.tree import flatten


def make(folder="", **changes):
    config = miniature(promptable_config())
    config.update(trainable="decoder", total_steps=3)
    config.data.embeddings.folder = str(folder)
    config.data.augment = dict(flip=True)
    for name, value in changes.items():
        group = config.data.embeddings if name == "dtype" else config
        group[name] = value
    config = make_task(config).complete_config(config)
    return make_task(config), config


@pytest.fixture(scope="module")
def variables():
    return make()[0].init(jax.random.key(0))


def list_decoder(variables):
    return {path for path in flatten(variables["params"]) if "image_encoder" not in path}


def prepare(task, variables, tmp_path):
    task.prepare_training(variables, trained=list_decoder(variables), workdir=tmp_path)


def first_batch(task, **options):
    with task.batches("train", batch_size=4, seed=1, **options) as batches:
        return next(batches)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 2e-3)])
def test_batches_hold_the_embeddings_of_their_images(variables, tmp_path, dtype, tolerance):
    live, _ = make()
    cached, _ = make("workdir", dtype=dtype)
    prepare(cached, variables, tmp_path)
    # 4 scenes, as they are and mirrored
    assert len(list((tmp_path / "embeddings").iterdir())) == 8
    one, other = first_batch(live), first_batch(cached)
    assert "image" not in other and other["embedding"].dtype == dtype
    expected = live.model.apply(variables, one["image"], one["size"], method="encode_image")
    assert jnp.abs(expected).max() > 0.1
    np.testing.assert_allclose(other["embedding"], expected, atol=tolerance, rtol=tolerance)
    for name in ("masks", "boxes", "valid", "size", "index"):
        np.testing.assert_array_equal(one[name], other[name])
    shapes = cached.batch_shapes(4)
    assert {name: (x.shape, x.dtype) for name, x in shapes.items()} == {
        name: (x.shape, x.dtype) for name, x in other.items() if name != "index"
    }
    assert cached.flops()[0] < live.flops()[0]


def test_other_weights_and_canvases_have_files_of_their_own(variables, tmp_path):
    task, _ = make(tmp_path / "shared")
    prepare(task, variables, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").iterdir()}
    # The same run again computes nothing
    prepare(task, variables, tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").iterdir()}
    other = jax.tree.map(lambda x: x + 0.01, variables)
    prepare(task, other, tmp_path)
    assert len(list((tmp_path / "shared").iterdir())) == 2 * len(before)
    scaled = first_batch(task)
    expected = task.model.apply(
        other, first_batch(make()[0])["image"], scaled["size"], method="encode_image"
    )
    np.testing.assert_allclose(scaled["embedding"], expected, atol=2e-3, rtol=2e-3)


def test_damaged_and_missing_files_are_computed_again_or_named(variables, tmp_path):
    task, _ = make("workdir")
    prepare(task, variables, tmp_path)
    first, second, *_ = sorted((tmp_path / "embeddings").iterdir())
    intact = first.read_bytes()
    first.write_bytes(intact[:-1] + b"x")
    second.unlink()
    prepare(task, variables, tmp_path)
    assert first.read_bytes() == intact and second.exists()
    for path in (tmp_path / "embeddings").iterdir():
        path.unlink()
    with pytest.raises(SettingsError, match="cannot be read"):
        first_batch(task)


def test_a_disk_that_is_too_small_or_fills_ends_with_one_sentence(variables, tmp_path, monkeypatch):
    task, _ = make("workdir")
    usage = module.shutil.disk_usage
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(path)._replace(free=1_000))
    with pytest.raises(OSError, match=r"8 embeddings need [\d,]+ bytes in .*1,000 bytes free"):
        prepare(task, variables, tmp_path)
    monkeypatch.undo()
    written = []

    def write_three(path, content):
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(path)
        path.write_bytes(content)

    monkeypatch.setattr(module, "write_atomic", write_three)
    with pytest.raises(OSError, match="No space left on device.*3 of 8 are written"):
        prepare(task, variables, tmp_path)
    monkeypatch.undo()
    prepare(task, variables, tmp_path)
    assert len(list((tmp_path / "embeddings").iterdir())) == 8


def test_a_trained_encoder_and_endless_augmentation_are_refused(variables, tmp_path):
    task, _ = make("workdir")
    with pytest.raises(ValueError, match="needs a frozen image encoder, but 37 of its arrays"):
        task.prepare_training(
            variables,
            trained={path for path in flatten(variables["params"])},
            workdir=tmp_path,
        )
    task.data["augment"] = task.data["augment"] | {"scale": (0.5, 1.5)}
    with pytest.raises(ValueError, match="augmentation scale draws a new image each time"):
        prepare(task, variables, tmp_path)
    with pytest.raises(ValueError, match="'float16' or 'float32'|float16 or float32"):
        prepare(make("workdir", dtype="int8")[0], variables, tmp_path)


@pytest.mark.slow
def test_the_loss_curve_is_that_of_the_live_encoder(tmp_path):
    ends = {}
    for name, folder, dtype in (
        ("live", "", "float16"),
        ("f4", "a", "float32"),
        ("f2", "b", "float16"),
    ):
        task, config = make(folder and tmp_path / folder, dtype=dtype, batch_size=8)
        ends[name] = jax.device_get(train(task, config, tmp_path / name).params)
    close = lambda name, tolerance: jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), ends["live"], ends[name]
    )
    close("f4", 1e-5)  # three steps of Adam, whose first divides by the gradient
    close("f2", 5e-3)
