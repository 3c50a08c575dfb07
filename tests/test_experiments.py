"""Every shipped experiment: its config builds, its loss has shapes, its miniature trains, stops and resumes."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from segjax.cli.experiments import read_config
from segjax.tasks import make_task
from segjax.training import sharding
from segjax.training.loop import train

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "experiments"
EXPERIMENTS = sorted(FOLDER.rglob("*.py"))
VARIANTS = [(path, "") for path in EXPERIMENTS] + [(FOLDER / "sam" / "coco.py", ":small")]


@pytest.mark.parametrize(("path", "variant"), VARIANTS, ids=lambda v: getattr(v, "stem", v))
def test_the_real_config_traces(path, variant):
    task = make_task(read_config(f"{path}{variant}"))
    canvas, cells = task.model.canvas, task.model.canvas // task.data["mask_stride"]
    shape = jax.ShapeDtypeStruct
    batch = {
        "image": shape((2, canvas, canvas, 3), jnp.uint8),
        "size": shape((2, 2), jnp.int32),
        "masks": shape((2, 3, cells, cells), jnp.uint8),
        "boxes": shape((2, 3, 4), jnp.float32),
        "valid": shape((2, 3), jnp.bool_),
        "weight": shape((2,), jnp.float32),
    }
    key = jax.random.key(0)
    variables = jax.eval_shape(task.init, key)
    loss, weight, metrics = jax.eval_shape(lambda v, b, k: task.loss(v, b, k, True), variables, batch, key)
    assert loss.shape == weight.shape == () and loss.dtype == jnp.float32
    assert {"first_dice", "later_dice", "first_iou_error"} <= set(metrics)


def test_miniatures_are_one_program():
    configs = [read_config(f"{path}:debug").to_dict() for path in EXPERIMENTS]
    assert len(configs) >= 4 and all(config == configs[0] for config in configs)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_unknown_variant_is_named(path):
    with pytest.raises(ValueError, match="no variant 'tiny'"):
        read_config(f"{path}:tiny")


def test_the_miniature_trains_evaluates_and_resumes_bit_for_bit(tmp_path, monkeypatch):
    # On one device: smaller programs are tested on many, this one takes minutes to compile for eight.
    one = jax.make_mesh((1, 1), sharding.BATCH_AXES, (AxisType.Auto, AxisType.Auto), devices=jax.devices()[:1])
    monkeypatch.setattr(sharding, "make_mesh", lambda data, fsdp: one)

    def run():
        config = read_config(f"{FOLDER / 'sam' / 'quickstart.py'}:debug")
        config.checkpoint.every = 1
        return train(make_task(config), config, tmp_path)

    straight = run()
    rows = (tmp_path / "metrics.jsonl").read_text()
    assert '"iou@1"' in rows and list((tmp_path / "pictures").glob("*.png"))
    shutil.rmtree(tmp_path / "checkpoints" / "2")  # as if it had been killed before this one
    resumed = run()
    assert int(straight.step) == int(resumed.step) == 2
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), straight.params, resumed.params)
    assert all(jax.tree.leaves(same))
