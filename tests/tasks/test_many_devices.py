"""MAE and SAM train alike on one device, on eight, and in two processes with four each."""

import json
import shutil

import jax
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from processes import launch
from training.on_meshes import assert_same, one_device, run_on

from segjax.models.mae import init_mae
from segjax.models.sam.build import init_sam
from segjax.tasks import make_task
from segjax.tasks.promptable.config import promptable_config
from segjax.tasks.reconstruction.config import reconstruction_config
from segjax.training import sharding
from segjax.training.loop import train
from segjax.training.sharding import make_mesh

MODELS = {
    "mae": dict(name="mae_debug", decoder_depth=1),
    "sam": dict(name="sam_debug", decoder_depth=1),
}
SCANNED = dict(scan=True, remat="full")
INIT = {"mae": init_mae, "sam": init_sam}


def config_of(kind, **model):
    config = {"mae": reconstruction_config, "sam": promptable_config}[kind]()
    config.model = MODELS[kind] | model
    config.data.scenes.update(train_count=40, eval_count=2, size=64)
    if kind == "sam":
        config.rounds.update(count=3, empty_last=False)
        config.data.max_prompts = 2
    return config


def trained(kind, mesh, microbatches=1, **model):
    """Returns batches of 16 images (rows of this process) and the `index` of these rows."""
    steps = (
        3 if kind == "mae" else 1
    )  # a click lies where a mask is most wrong: rounding may move a later one
    task = make_task(config_of(kind, **model))
    variables = drawn_variables(make_task(config_of(kind)).model, INIT[kind])
    here = dict(process_index=jax.process_index(), process_count=jax.process_count())
    with task.batches("train", batch_size=16, start=0, seed=3, **here) as loader:
        batches = [next(loader) for _ in range(steps)]
    outcome = run_on(mesh, task, variables, batches, microbatches=microbatches, floor=512)
    return outcome, np.stack([batch["index"] for batch in batches])


_references = {}


def reference(kind, microbatches):
    """Trains on one device, without scan over blocks and without rematerialization."""
    if (kind, microbatches) not in _references:
        _references[kind, microbatches] = trained(kind, one_device(), microbatches)
    return _references[kind, microbatches]


MESHES = [
    ("mae", 8, 1, 1, {}),
    ("mae", 1, 8, 1, {}),
    ("mae", 8, 1, 2, SCANNED),
    ("mae", 1, 8, 1, SCANNED),
    ("sam", 8, 1, 1, {}),
    ("sam", 2, 4, 2, {}),
]


@pytest.mark.parametrize(
    "kind, data, fsdp, microbatches, model",
    # Both axes of the mesh at once by default, each alone in the slow suite
    [("mae", 2, 4, 2, {}), *(pytest.param(*case, marks=pytest.mark.slow) for case in MESHES)],
)
def test_eight_devices_train_like_one(kind, data, fsdp, microbatches, model):
    ours, _ = trained(kind, make_mesh(data, fsdp), microbatches, **model)
    split = [
        leaf for leaf in jax.tree.leaves(ours.state.params) if not leaf.sharding.is_fully_replicated
    ]
    share = sum(leaf.size for leaf in split) / sum(
        leaf.size for leaf in jax.tree.leaves(ours.state.params)
    )
    assert share > 0.8 if fsdp > 1 else share == 0
    assert all(leaf.addressable_shards[0].data.size == leaf.size // fsdp for leaf in split)
    assert_same(ours, reference(kind, microbatches)[0])


def trained_in_each(cases):
    return [
        (outcome._replace(state=None), index)
        for outcome, index in (trained(k, make_mesh(d, f), m) for k, d, f, m in cases)
    ]


@pytest.mark.slow  # training/test_two_processes.py has a smaller model in the default suite
@pytest.mark.parametrize(
    "cases", [[("mae", 2, 4, 2)], [("mae", 8, 1, 1), ("mae", 1, 8, 1), ("sam", 2, 4, 2)]]
)
def test_two_processes_with_four_devices_train_like_one_device(tmp_path, cases):
    both = launch(tmp_path, trained_in_each, 2, 4, cases=cases)
    for (kind, *_, microbatches), *parts in zip(cases, *both, strict=True):
        theirs, order = reference(kind, microbatches)
        for ours, index in parts:
            assert index.shape[1] == 8
            assert_same(ours, theirs)
        np.testing.assert_array_equal(np.concatenate([index for _, index in parts], axis=1), order)


def gone_on(workdir, total_steps, fsdp=4):
    """Trains a MAE to a number of steps and returns the `index` of the rows of each step."""
    config = config_of("mae")
    config.update(total_steps=total_steps, batch_size=16, log_every=1, microbatches=2)
    config.optimizer.update(schedule="constant", warmup_steps=1)
    config.checkpoint.every = 0
    config.mesh.update(fsdp=fsdp, floor=512)
    task, seen = make_task(config), []
    read = task.batches

    def watched(split, **options):
        for batch in read(split, **options):
            if split == "train":
                seen.append(batch["index"])
            yield batch

    task.batches = watched
    train(task, config, workdir)
    return np.stack(seen)


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.slow
def test_a_run_on_eight_devices_resumes_on_four_and_in_two_processes_with_two(
    tmp_path, monkeypatch
):
    order = gone_on(tmp_path / "whole", 4)
    expected = losses(tmp_path / "whole")
    begun = gone_on(tmp_path / "run", 2)
    shutil.copytree(tmp_path / "run", tmp_path / "two" / "run")

    axis_types = (jax.sharding.AxisType.Auto,) * 2
    four = jax.make_mesh((1, 4), ("data", "fsdp"), axis_types, devices=jax.devices()[:4])
    monkeypatch.setattr(sharding, "make_mesh", lambda data, fsdp: four)
    np.testing.assert_array_equal(np.concatenate([begun, gone_on(tmp_path / "run", 4)]), order)
    np.testing.assert_allclose(losses(tmp_path / "run"), expected, rtol=1e-5)

    parts = launch(tmp_path / "two", gone_on, 2, 2, workdir=tmp_path / "two" / "run", total_steps=4)
    np.testing.assert_array_equal(np.concatenate([begun, np.concatenate(parts, axis=1)]), order)
    np.testing.assert_allclose(losses(tmp_path / "two" / "run"), expected, rtol=1e-5)
