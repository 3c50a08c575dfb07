"""MAE and SAM learn the same on one device, on eight, and in two processes of four; a run moves between them."""

import json

import jax
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from processes import launch
from training.on_meshes import assert_same, one_device, run_on

from segjax.models.mae import init_mae
from segjax.models.sam.build import init_sam
from segjax.tasks import make_task
from segjax.tasks.promptable_config import promptable_config
from segjax.tasks.reconstruction_config import reconstruction_config
from segjax.training import sharding
from segjax.training.loop import train
from segjax.training.sharding import make_mesh

MODELS = {
    "mae": dict(name="mae_debug", depth=2, decoder_depth=1),
    "sam": dict(name="sam_debug"),
}
SCANNED = dict(scan=True, remat="full")
INIT = {"mae": init_mae, "sam": init_sam}


def config_of(kind, **model):
    config = {"mae": reconstruction_config, "sam": promptable_config}[kind]()
    config.model = MODELS[kind] | model
    config.data.scenes.update(train_count=40, eval_count=2, size=64)
    if kind == "sam":
        config.rounds.update(count=2)
        config.data.max_prompts = 2
    return config


def trained(kind, mesh, microbatches=1, steps=2, **model):
    """Steps of 16 pictures, this process's rows of each, and the `index` of these rows."""
    task = make_task(config_of(kind, **model))
    variables = drawn_variables(make_task(config_of(kind)).model, INIT[kind])
    here = dict(process_index=jax.process_index(), process_count=jax.process_count())
    with task.batches("train", batch_size=16, start=0, seed=3, **here) as loader:
        batches = [next(loader) for _ in range(steps)]
    outcome = run_on(mesh, task, variables, batches, microbatches=microbatches, floor=512)
    return outcome, np.stack([batch["index"] for batch in batches])


_references = {}


def reference(kind, microbatches):
    """On one device, blocks one after another and nothing recomputed."""
    if (kind, microbatches) not in _references:
        _references[kind, microbatches] = trained(kind, one_device(), microbatches)
    return _references[kind, microbatches]


@pytest.mark.parametrize(
    "kind, data, fsdp, microbatches, model",
    [
        ("mae", 2, 4, 2, {}),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("mae", 8, 1, 1, {}),
                ("mae", 1, 8, 1, {}),
                ("mae", 8, 1, 2, SCANNED),
                ("mae", 1, 8, 1, SCANNED),
                ("sam", 8, 1, 1, {}),
                ("sam", 2, 4, 2, {}),
            ]
        ),
    ],
)
def test_eight_devices_learn_what_one_does(kind, data, fsdp, microbatches, model):
    ours, _ = trained(kind, make_mesh(data, fsdp), microbatches, **model)
    split = [leaf for leaf in jax.tree.leaves(ours.state.params) if not leaf.sharding.is_fully_replicated]
    share = sum(leaf.size for leaf in split) / sum(leaf.size for leaf in jax.tree.leaves(ours.state.params))
    assert share > 0.8 if fsdp > 1 else share == 0
    assert all(leaf.addressable_shards[0].data.size == leaf.size // fsdp for leaf in split)
    assert_same(ours, reference(kind, microbatches)[0])


def trained_in_each(cases):
    return [(outcome._replace(state=None), index) for outcome, index in (trained(k, make_mesh(d, f), m) for k, d, f, m in cases)]


@pytest.mark.parametrize(
    "cases",
    [
        [("mae", 2, 4, 2)],
        pytest.param([("mae", 8, 1, 1), ("mae", 1, 8, 1), ("sam", 2, 4, 2)], marks=pytest.mark.slow),
    ],
)
def test_two_processes_of_four_devices_learn_what_one_device_does(tmp_path, cases):
    both = launch(tmp_path, trained_in_each, 2, 4, cases=cases)
    for (kind, *_, microbatches), *parts in zip(cases, *both, strict=True):
        theirs, order = reference(kind, microbatches)
        for ours, index in parts:
            assert index.shape == (2, 8)
            assert_same(ours, theirs)
        np.testing.assert_array_equal(np.concatenate([index for _, index in parts], axis=1), order)
