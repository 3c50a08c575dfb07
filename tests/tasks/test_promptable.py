"""Promptable task: exact sums over prompts, on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

from segjax.data.prepare import prepare
from segjax.models.sam.build import init_sam
from segjax.models.sam.flops import count_decoder_multiply_adds, count_encoder_multiply_adds
from segjax.tasks import make_task
from segjax.tasks.promptable.config import promptable_config
from segjax.training.optimizer import make_optimizer, make_schedule
from segjax.training.sharding import make_mesh, place_batch, state_shardings
from segjax.training.state import init_state
from segjax.training.step import TrainStep, sum_gradients

CANVAS, STRIDE = 64, 4
# These programs run once or twice: optimizing them would take longest.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def config(**model):
    config = promptable_config()
    config.model = dict(name="sam_debug", decoder_depth=1) | model
    config.rounds.count = 3
    config.rounds.empty_last = (
        False  # a first prompt, a click, an empty round, in either order of the latter
    )
    return config


@functools.cache
def task():
    return make_task(config())


def make_batch(images=8, prompts=3, seed=0):
    """Makes rectangles on noise. The last prompt is padding, and the last image has weight 0."""
    rng = np.random.default_rng(seed)
    cells = CANVAS // STRIDE
    low = rng.integers(0, cells // 2, (images, prompts, 2))
    high = low + rng.integers(2, cells // 2, low.shape)
    rows, columns = np.arange(cells)[:, None], np.arange(cells)
    inside = lambda axis, index: (
        (index >= low[..., axis, None, None]) & (index < high[..., axis, None, None])
    )
    valid = np.ones((images, prompts), bool)
    weight = np.ones(images, np.float32)
    if prompts > 1:
        valid[:, -1] = False
    if images > 1:
        weight[-1] = 0
    return dict(
        image=rng.integers(0, 256, (images, CANVAS, CANVAS, 3), dtype=np.uint8),
        size=np.tile(np.array([[64, 50]], np.int32), (images, 1)),
        masks=(inside(1, rows) & inside(0, columns)).astype(np.uint8),
        boxes=STRIDE * np.concatenate([low, high], -1).astype(np.float32),
        valid=valid,
        area=np.ones((images, prompts), np.float32),
        weight=weight,
    )


@pytest.fixture(scope="module")
def variables():
    """Variables without zeros, so that every path matters."""
    return jax.tree.map(jnp.asarray, drawn_variables(task().model, init_sam))


KEY = jax.random.key(7)


def outcome(variables, batch, of=None):
    def objective(params):
        loss, weight, metrics = (of or task()).loss(
            variables | {"params": params}, batch, KEY, True
        )
        return loss, (weight, metrics)

    return jax.value_and_grad(objective, has_aux=True)(variables["params"])


on_one_device = jit(outcome)


@pytest.fixture(scope="module")
def expected(variables):
    return on_one_device(variables, make_batch())


def assert_same(ours, theirs, tolerance=1e-5):
    """Compares gradients relative to the largest one, and each number."""
    (loss, rest), gradient = jax.device_get(ours)
    (their_loss, their_rest), their_gradient = jax.device_get(theirs)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance),
        (loss, rest),
        (their_loss, their_rest),
    )
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(their_gradient))
    assert largest > 0.01
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest)
    jax.tree.map(close, gradient, their_gradient)


@pytest.mark.slow
def test_one_device_and_eight_agree_with_sharded_parameters(variables, expected):
    mesh = make_mesh(data=2, fsdp=4)
    shardings = state_shardings(variables, mesh, floor=512)
    placed = jax.device_put(variables, shardings)
    split = [
        leaf for leaf in jax.tree.leaves(placed["params"]) if not leaf.sharding.is_fully_replicated
    ]
    elements = lambda leaves: sum(leaf.size for leaf in leaves)
    assert elements(split) > 0.8 * elements(jax.tree.leaves(placed["params"]))
    for leaf in split:
        assert leaf.addressable_shards[0].data.size == leaf.size // 4
    with jax.set_mesh(mesh):
        gradient_like = ((None, None), shardings["params"])
        result = jit(outcome, out_shardings=gradient_like)(placed, place_batch(make_batch(), mesh))
    kernel = result[1]["image_encoder"]["patch_embed"]["kernel"]
    assert len(kernel.sharding.device_set) == 8 and not kernel.sharding.is_fully_replicated
    assert_same(result, expected)


@pytest.mark.slow  # each by itself is tested with the models, the rounds and the trunk
def test_saving_memory_changes_neither_loss_nor_gradient(variables, expected):
    """Recomputes blocks, rounds and groups of prompts (3 in groups of 2) together."""
    thrifty = config(prompts_at_once=2, remat="full", scan=True)
    thrifty.rounds.remat = True
    assert_same(
        jit(functools.partial(outcome, of=make_task(thrifty)))(variables, make_batch()), expected
    )


def test_weight_counts_the_real_prompts(expected):
    (loss, (weight, metrics)), _ = expected
    assert weight == 7 * 2 and np.isfinite(loss) and loss > 0
    names = {
        f"{when}_{term}" for when in ("first", "later") for term in ("focal", "dice", "iou_error")
    }
    assert set(metrics) == names


def test_loss_is_the_weighted_sum_of_its_terms(expected):
    """20 focal + dice + IoU loss: first round and two corrections (metrics hold their mean)."""
    (loss, (_, metrics)), _ = expected
    one = lambda when: (
        20 * metrics[f"{when}_focal"] + metrics[f"{when}_dice"] + metrics[f"{when}_iou_error"]
    )
    np.testing.assert_allclose(loss, one("first") + 2 * one("later"), rtol=1e-5)


def test_padding_prompts_and_placeholder_images_are_ignored(variables, expected):
    batch = make_batch()
    batch["masks"][:, -1] = 1 - batch["masks"][:, -1]
    batch["boxes"][:, -1] = [3, 3, 60, 40]
    batch["image"][-1] = 255 - batch["image"][-1]
    batch["masks"][-1] = 0
    batch["boxes"][-1] = 0
    batch["size"][-1] = 0
    assert_same(on_one_device(variables, batch), expected, 1e-6)


def test_a_batch_of_placeholders_has_no_nan(variables):
    """All zeros, as the loader pads a ragged end: weight 0 and no NaN in any sum."""
    batch = {name: np.zeros_like(rows) for name, rows in make_batch().items()}
    (loss, (weight, metrics)), gradient = on_one_device(variables, batch)
    assert loss == 0 and weight == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((metrics, gradient)))


def test_more_padding_prompts_change_nothing(variables):
    """One prompt alone equals the same one followed by two padding prompts."""
    batch = make_batch(images=1, prompts=3, seed=3)
    batch["valid"][:, 1:] = False
    alone = {
        name: rows[:, :1] if name in ("masks", "boxes", "valid", "area") else rows
        for name, rows in batch.items()
    }
    options = config()
    options.rounds.update(count=1, empty_random=False)
    loss = jit(lambda batch: make_task(options).loss(variables, batch, KEY, False)[:2])
    (more, more_weight), (one, one_weight) = loss(batch), loss(alone)
    assert more_weight == one_weight == 1
    np.testing.assert_allclose(more, one, rtol=1e-5)


def count_primitives(jaxpr, name):
    total = 0
    for equation in jaxpr.eqns:
        total += equation.primitive.name == name
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            total += count_primitives(inner, name) if hasattr(inner, "eqns") else 0
    return total


def test_the_image_is_encoded_once(variables):
    """The neck has the only two convolutions, and none of them is in the scan over rounds."""
    jaxpr = jax.make_jaxpr(lambda v, b: task().loss(v, b, KEY, False)[0])(
        variables, make_batch()
    ).jaxpr
    assert count_primitives(jaxpr, "conv_general_dilated") == 2
    scans = [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]
    bodies = [equation.params["jaxpr"].jaxpr for equation in scans]
    assert any(count_primitives(body, "dot_general") > 10 for body in bodies)  # the rounds
    assert all(count_primitives(body, "conv_general_dilated") == 0 for body in bodies)


@pytest.mark.slow
def test_gradient_accumulation_adds_up_microbatches(variables):
    """Rows 0, 2, 4, ... and 1, 3, 5, ... are microbatches with a key each."""
    batch = make_batch()
    optimizer = make_optimizer(
        make_schedule(0.01, 10, schedule="constant"), weight_decay=0.1, clip_norm=1.0
    )
    state = init_state(variables, optimizer, KEY, ema=False)
    sums = jit(lambda state, batch: sum_gradients(task().loss, state, batch, KEY, 2))
    _, loss, weight, _ = sums(state, batch)
    piece = jit(lambda rows, key: task().loss(variables, rows, key, True)[:2])
    parts = [
        piece({k: v[i::2] for k, v in batch.items()}, jax.random.fold_in(KEY, i)) for i in range(2)
    ]
    np.testing.assert_allclose(loss, parts[0][0] + parts[1][0], rtol=1e-5)
    assert weight == parts[0][1] + parts[1][1] == 14


@pytest.mark.slow
def test_a_whole_step_lowers_for_a_mesh(variables):
    """Lowers optimizer, bfloat16, drop path, scanned blocks, remat and sampled rounds together."""
    options = config(dtype="bfloat16", drop_path=0.2, scan=True, remat="full")
    options.rounds.sampled = options.rounds.remat = True
    everything = make_task(options)
    schedule = make_schedule(0.01, 10, schedule="constant")
    optimizer = make_optimizer(schedule, weight_decay=0.1, clip_norm=1.0)
    state = jax.eval_shape(
        lambda key: init_state(everything.init(key), optimizer, key, ema=False), jax.random.key(0)
    )
    mesh = make_mesh(data=4, fsdp=2)
    shardings = state_shardings(state, mesh, floor=512)
    options = dict(loss_fn=everything.loss, optimizer=optimizer, schedule=schedule)
    step = TrainStep(mesh, shardings, **options)
    batch = {
        name: jax.ShapeDtypeStruct(rows.shape, rows.dtype) for name, rows in make_batch().items()
    }
    with jax.set_mesh(mesh):
        lowered = step.trace(state, batch).lower()
    new_state, metrics = lowered.out_info
    assert jax.tree.map(jnp.shape, new_state.params) == jax.tree.map(jnp.shape, state.params)
    assert metrics["loss"].dtype == jnp.float32


def test_unknown_task_and_options():
    unknown = config()
    unknown.task = "promtable"
    with pytest.raises(ValueError, match="unknown task 'promtable'; nearest: promptable"):
        make_task(unknown)
    unknown = config(name="sam_vit_g")
    with pytest.raises(ValueError, match="unknown model 'sam_vit_g'"):
        make_task(unknown)


def test_a_missing_evaluation_split_is_an_error_before_training(tmp_path):
    prepare("synthetic", None, tmp_path / "scenes", limit=2, size=64)
    options = config()
    options.data.update(source=str(tmp_path / "scenes"), train_split="train", eval_split="valid")
    with pytest.raises(ValueError, match="valid.*heldout"):
        make_task(options).batches("train", batch_size=2)


@pytest.mark.parametrize("sampled", [False, True])
def test_flops_count_the_passes_of_a_step(sampled):
    """Three passes for rounds with a gradient and one for those before a sampled round."""
    settings = config()
    settings.rounds.update(count=4, sampled=sampled)
    task = make_task(settings)
    cost = [count_decoder_multiply_adds(task.model, tokens=2 + number) for number in range(4)]
    draws = [dict.fromkeys(range(4), 3)]
    if sampled:
        draws = [dict.fromkeys(range(1, drawn), 1) | {0: 3, drawn: 3} for drawn in (1, 2, 3)]
    rounds = np.mean([sum(passes * cost[n] for n, passes in draw.items()) for draw in draws])
    expected = 2 * (3 * count_encoder_multiply_adds(task.model) + task.data["max_prompts"] * rounds)
    assert task.flops() == (pytest.approx(expected), "float32")
