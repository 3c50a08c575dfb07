import logging
import shutil

import jax
import numpy as np
import pytest

from segjax.training.checkpoints import Checkpoints
from segjax.training.optimizer import make_optimizer, make_schedule
from segjax.training.sharding import make_mesh, state_shardings
from segjax.training.state import init_state
from segjax.weights.run_folder import load_variables
from segjax.weights.run_meta import find_best_step
from segjax.weights.tree import CheckpointError, check_parameters

from .toy import HIDDEN, INPUTS, ToyTask

OPTIMIZER = make_optimizer(make_schedule(0.01, 100), weight_decay=0.1)
META = {"config": {"batch_size": 16}, "examples": 48}


def meshes(devices, fsdp):
    axis_types = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh(
        (devices // fsdp, fsdp), ("data", "fsdp"), axis_types, devices=jax.devices()[:devices]
    )


def make_state(mesh, seed=1, step=3, hidden=HIDDEN, ema=True, optimizer=OPTIMIZER):
    """Makes (state, shapes, shardings). The moving average differs from the parameters."""

    def fresh(key):
        state = init_state(
            ToyTask(hidden=hidden).init(key), optimizer, jax.random.key(seed + 9), ema=ema
        )
        return state.replace(step=state.step + step, ema=jax.tree.map(lambda p: 2 * p, state.ema))

    shapes = jax.eval_shape(fresh, jax.random.key(0))
    shardings = state_shardings(shapes, mesh, floor=64)
    return jax.jit(fresh, out_shardings=shardings)(jax.random.key(seed)), shapes, shardings


def host(state):
    return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Saves checkpoints 2 and 3 of one run on 8 devices. Tests that damage them make a copy."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        for step in (2, 3):
            checkpoints.save(make_state(make_mesh(data=2, fsdp=4), seed=step, step=step)[0], META)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


@pytest.mark.parametrize("devices, fsdp", [(8, 4), (4, 4), (4, 2), (1, 1)])
def test_every_mesh_restores_the_same_values(saved, devices, fsdp):
    want, _, _ = make_state(make_mesh(data=2, fsdp=4), seed=3)
    mesh = meshes(devices, fsdp)
    _, shapes, shardings = make_state(mesh)
    with jax.set_mesh(mesh), Checkpoints(saved) as checkpoints:
        state, meta = checkpoints.restore(shapes, shardings)
    jax.tree.map(np.testing.assert_array_equal, host(state), host(want))
    assert jax.dtypes.issubdtype(state.key.dtype, jax.dtypes.prng_key)
    kernel = state.params["first"]["kernel"]
    assert {s.data.shape for s in kernel.addressable_shards} == {(INPUTS, HIDDEN // fsdp)}
    assert (
        meta["examples"] == 48
        and meta["config"] == META["config"]
        and meta["versions"]["jax"] == jax.__version__
    )


def test_variables_load_without_task_or_mesh_and_prefer_the_average(saved):
    state, _, _ = make_state(make_mesh())
    variables, config = load_variables(saved.parent, step=3)
    want = jax.device_get(make_state(make_mesh(), seed=3)[0])
    jax.tree.map(np.testing.assert_array_equal, variables, dict(want.best_variables))
    assert type(variables["params"]["first"]["kernel"]) is np.ndarray and config == META["config"]
    raw, _ = load_variables(saved, ema=False)
    jax.tree.map(np.testing.assert_array_equal, raw["params"], want.params)


def test_variables_of_a_run_without_average_are_its_parameters(tmp_path):
    state, _, _ = make_state(make_mesh(), ema=False)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, META)
    jax.tree.map(
        np.testing.assert_array_equal,
        load_variables(tmp_path)[0]["params"],
        jax.device_get(state.params),
    )


def segjax_log(caplog):
    """Returns the messages of segjax."""
    return "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith("segjax")
    )


def test_an_interrupted_save_is_ignored_and_deleted(copy):
    shutil.copytree(copy / "3", copy / "4.orbax-checkpoint-tmp")
    assert load_variables(copy)[1] == META["config"]
    _, shapes, shardings = make_state(make_mesh())
    with Checkpoints(copy) as checkpoints:
        assert int(checkpoints.restore(shapes, shardings)[0].step) == 3
    assert not (copy / "4.orbax-checkpoint-tmp").exists()


def test_another_architecture_is_an_error_that_lists_what_differs(saved, caplog):
    _, shapes, shardings = make_state(make_mesh(), hidden=24)
    with (
        Checkpoints(saved) as checkpoints,
        pytest.raises(
            CheckpointError,
            match=r"checkpoints/3 is of another arch.*3 misshapen: .*"
            r"first/bias is \(32,\), expected \(24,\)",
        ),
    ):
        checkpoints.restore(shapes, shardings)
    assert "damaged" not in segjax_log(caplog) and (saved / "3").is_dir()


@pytest.mark.parametrize(
    "changed, message",
    [
        # Clipping comes first in the chain, so Adam's moments are expected at the next index.
        (
            {
                "optimizer": make_optimizer(
                    make_schedule(0.01, 100), weight_decay=0.1, clip_norm=1.0
                )
            },
            r"checkpoints/3 holds another optimizer state .* missing: 1/count \(\).* "
            r"unexpected: .*config.optimizer",
        ),
        (
            {"ema": False},
            r"holds another moving average .*4 unexpected: first/bias \(32,\).*config.ema_decay",
        ),
    ],
)
def test_changed_settings_are_not_reported_as_corruption(saved, caplog, changed, message):
    _, shapes, shardings = make_state(make_mesh(), **changed)
    with Checkpoints(saved) as checkpoints, pytest.raises(CheckpointError, match=message):
        checkpoints.restore(shapes, shardings)
    assert "damaged" not in segjax_log(caplog)
    assert (saved / "3").is_dir() and not saved.with_name("checkpoints_unreadable").exists()


def test_a_missing_moving_average_is_an_error(tmp_path):
    _, shapes, shardings = make_state(make_mesh())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(make_mesh(), ema=False)[0], META)
        checkpoints.wait()
        with pytest.raises(
            CheckpointError, match="another moving average .*4 missing: .*config.ema_decay"
        ):
            checkpoints.restore(shapes, shardings)


def test_differences_are_counted_and_the_first_listed():
    want = {f"w{i}": np.zeros((2, 3)) for i in range(8)} | {"both": np.zeros(2)}
    with pytest.raises(CheckpointError) as error:
        check_parameters(
            want, {"both": np.zeros(3), "extra": {"deep": np.zeros(1)}}, source="file.ckpt"
        )
    message = str(error.value)
    assert message.startswith("file.ckpt is of another architecture")
    assert "8 missing: w0 (2, 3), w1" in message and "w5" not in message and "..." in message
    assert (
        "1 unexpected: extra/deep (1,)" in message
        and "1 misshapen: both is (3,), expected (2,)" in message
    )
    check_parameters(want, want, source="file.ckpt")


def test_an_error_names_the_folder_without_checkpoints(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}.*no numbered folder"):
        load_variables(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"step 9 in .*steps \[2, 3\]"):
        load_variables(saved, step=9)


@pytest.mark.parametrize("mode, kept", [("max", [2, 4]), ("min", [1, 4])])
def test_the_newest_and_the_best_are_kept(tmp_path, mode, kept):
    with Checkpoints(tmp_path, keep=1, best="iou", best_mode=mode) as checkpoints:
        for step, iou in ((1, 0.3), (2, 0.8), (3, 0.5), (4, None)):
            state, _, _ = make_state(make_mesh(), step=step)
            checkpoints.save(state, META, None if iou is None else {"iou": iou})
        checkpoints.wait()
        assert checkpoints.steps == kept
    with Checkpoints(
        tmp_path, keep=1, best="iou", best_mode=mode
    ) as checkpoints:  # the run is resumed
        checkpoints.save(make_state(make_mesh(), step=5)[0], META, {"iou": 0.6})
        checkpoints.wait()
        assert checkpoints.steps == [kept[0], 5]


@pytest.mark.parametrize("mode, step", [("max", 4), ("min", 3)])
def test_the_best_is_the_newest_of_equals_and_always_a_number(mode, step):
    scores = {
        1: {"iou": 0.8},
        2: {"iou": 0.1},
        3: {"iou": 0.1},
        4: {"iou": 0.8},
        5: {"loss": 9.0},
        6: {"iou": np.nan},
    }
    assert find_best_step(scores, "iou", mode) == step
    assert find_best_step(scores, "noc", mode) is None


def test_a_donated_state_does_not_change_a_save_under_way(tmp_path):
    """Saves in the background while the step reuses the memory of the state."""
    add = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    state, shapes, shardings = make_state(make_mesh(), hidden=4096)
    want = host(state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, META)
        state = state.replace(params=add(state.params))
        jax.block_until_ready(state.params)
        checkpoints.wait()
        got, _ = checkpoints.restore(shapes, shardings)
    jax.tree.map(np.testing.assert_array_equal, host(got).params, want.params)


def test_saving_a_step_twice_keeps_the_first(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "segjax")
    with Checkpoints(tmp_path) as checkpoints:
        for seed in (1, 2):
            checkpoints.save(make_state(make_mesh(), seed=seed)[0], META)
        checkpoints.wait()
    want = jax.device_get(make_state(make_mesh(), seed=1)[0].ema)
    jax.tree.map(np.testing.assert_array_equal, load_variables(tmp_path)[0]["params"], want)
