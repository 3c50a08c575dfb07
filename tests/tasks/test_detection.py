"""The detection task: normalization of its loss terms, ignored input, and learning."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from records_made import block, record_of

from segjax.data.examples.copy_paste import CopyPaste
from segjax.data.examples.place_objects import rasterize_mask_in_box
from segjax.data.splits import open_split
from segjax.data.synthetic.figures import JOINTS
from segjax.masks import decode_mask
from segjax.models.detection.family import describe_backbone
from segjax.models.detection.flops import count_detector_multiply_adds
from segjax.tasks import make_task
from segjax.tasks.detection.config import detection_config
from segjax.tasks.variants import as_variant
from segjax.training.program import quick_compilation
from segjax.training.sharding import make_mesh

TERMS = ("rpn_scores", "rpn_boxes", "classes", "boxes", "masks", "keypoints")


def miniature(**model):
    """Returns a config of figures with masks and joints, so that one program has every term."""
    config = as_variant(detection_config(), "debug")
    config.model.update(dict(classes=1, keypoints=len(JOINTS)) | model)
    config.data.scenes.update(kind="figures")
    config.data.augment.flip = False
    return config


@functools.cache
def compile_loss(task):
    def outcome(params, constants, batch, key):
        def objective(params):
            loss, weight, metrics = task.loss(
                {"params": params, "constants": constants}, batch, key, True
            )
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


def compute_loss(task, variables, batch, key=0):
    """Returns (loss per image, weight, sums of metrics, gradient)."""
    outcome = compile_loss(task)(
        variables["params"], variables["constants"], batch, jax.random.key(key)
    )
    (loss, (weight, metrics)), gradient = jax.device_get(outcome)
    return loss, weight, metrics, gradient


def test_the_loss_is_the_sum_of_the_terms_for_any_number_of_images(task, variables, batch):
    loss, weight, metrics, _ = compute_loss(task, variables, batch)
    assert weight == 2 and set(metrics) == {*TERMS, "dropped", "proposals"}
    assert loss == pytest.approx(sum(metrics[name] for name in TERMS) / 2, rel=1e-5)
    # Fresh heads predict almost uniformly: log 2 per mask cell, per anchor, and per region of one
    # class or the background. A joint is in one of 56 x 56 cells.
    assert metrics["masks"] / 2 == pytest.approx(np.log(2), rel=0.05)
    assert metrics["rpn_scores"] / 2 == pytest.approx(np.log(2), rel=0.1)
    assert metrics["classes"] / 2 == pytest.approx(np.log(2), rel=0.3)
    assert metrics["keypoints"] / 2 == pytest.approx(np.log(56 * 56), rel=0.05)
    assert 0 < metrics["proposals"] <= 2


@pytest.mark.parametrize("there", ["nothing", "crowds"])
def test_without_objects_the_box_mask_and_keypoint_terms_are_zero(task, variables, batch, there):
    empty = batch | (
        {"valid": np.zeros_like(batch["valid"])}
        if there == "nothing"
        else {"crowd": batch["valid"]}
    )
    loss, _, metrics, gradient = compute_loss(task, variables, empty)
    assert metrics["rpn_boxes"] == metrics["boxes"] == metrics["masks"] == metrics["keypoints"] == 0
    assert metrics["rpn_scores"] > 0 and metrics["classes"] > 0 and np.isfinite(loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert not any(
        leaf.any()
        for head in ("mask_head", "keypoint_head")
        for leaf in jax.tree.leaves(gradient[head])
    )
    assert any(leaf.any() for leaf in jax.tree.leaves(gradient["backbone"])), (
        "the background trains the backbone"
    )


def test_objects_without_a_mask_train_boxes_alone(task, variables, batch):
    _, _, usual, _ = compute_loss(task, variables, batch)
    unknown = batch | {"has_mask": np.zeros_like(batch["has_mask"])}
    _, _, metrics, gradient = compute_loss(task, variables, unknown)
    assert metrics["masks"] == 0 and metrics["boxes"] == usual["boxes"] > 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient["mask_head"]))
    # A mean over the objects whose masks are known, whatever the others' masks would be
    some = batch["has_mask"].copy()
    some[:, 1:] = False
    other = batch["masks"].copy()
    other[:, 1:] = 1 - other[:, 1:]
    terms = [
        compute_loss(task, variables, batch | {"has_mask": some, "masks": masks})[2]["masks"]
        for masks in (batch["masks"], other)
    ]
    assert terms[0] == terms[1] > 0


def test_degenerate_boxes_and_joints_outside_are_harmless(task, variables, batch):
    boxes = batch["boxes"].copy()
    boxes[:, 0, 2:] = boxes[:, 0, :2]
    loss, _, _, gradient = compute_loss(task, variables, batch | {"boxes": boxes})
    assert np.isfinite(loss) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    # Labeled but far from the boxes, or near but not labeled
    for joints in (batch["keypoints"] + [1000, 0, 0], batch["keypoints"] * [1, 1, 0]):
        _, _, metrics, gradient = compute_loss(
            task, variables, batch | {"keypoints": joints.astype(np.float32)}
        )
        assert metrics["keypoints"] == 0 and metrics["masks"] > 0
        assert not any(leaf.any() for leaf in jax.tree.leaves(gradient["keypoint_head"]))


def test_placeholders_do_not_count(task, variables, batch):
    one = {name: rows[:1] for name, rows in batch.items()}
    # The placeholder holds an image with objects. Only its weight marks it.
    full = batch | {
        "weight": np.array([1, 0], np.float32),
        "dropped": np.array([batch["dropped"][0], 7], np.int32),
    }
    blank = {
        name: np.concatenate([rows[:1], np.zeros_like(rows[:1])]) for name, rows in batch.items()
    }
    blank["size"] = batch["size"]
    loss, weight, metrics, gradient = compute_loss(task, variables, full)
    alone, one_picture, of_one = jax.jit(task.loss, static_argnums=3)(
        variables, one, jax.random.key(0), True
    )
    assert weight == one_picture == 1 and of_one["masks"] > 0
    assert loss == pytest.approx(float(alone), rel=1e-4)
    of_one = {name: float(value) for name, value in of_one.items()}
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
        of_one, rel=1e-4
    )
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(same, gradient, compute_loss(task, variables, blank)[3])


ADAM = optax.adam(3e-3)
update = jax.jit(ADAM.update)


def train_steps(task, variables, batches):
    """Returns (parameters, loss of each step) after one step per batch."""
    params, losses = variables["params"], []
    state = ADAM.init(params)
    for batch in batches:
        loss, _, _, gradient = compute_loss(task, variables | {"params": params}, batch)
        updates, state = update(gradient, state)
        params = optax.apply_updates(params, updates)
        losses.append(loss)
    return params, losses


@pytest.mark.slow
def test_the_loss_falls_in_a_few_steps_on_one_batch(task, variables, batch):
    losses = train_steps(task, variables, [batch] * 12)[1]
    assert np.mean(losses[-3:]) < 0.7 * losses[0], losses


def test_equal_seeds_give_equal_parameters_and_one_program_serves_all_batches(task, variables):
    def run():
        with task.batches("train", batch_size=2, seed=5) as batches:
            some = [
                {name: rows for name, rows in next(batches).items() if name != "index"}
                for _ in range(4)
            ]
        assert len({int(each["valid"].sum()) for each in some}) > 1
        return train_steps(task, variables, some)[0]

    one, other = jax.device_get((run(), run()))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert compile_loss(task)._cache_size() == 1


def test_dropped_objects_are_counted(task, variables, batch):
    crowded = batch | {"dropped": np.array([3, 4], np.int32)}
    assert compute_loss(task, variables, crowded)[2]["dropped"] == 7


def test_perfect_detections_score_as_perfect_in_image_pixels(monkeypatch):
    """Detects the ground truth, on a canvas half as large as the images."""
    config = miniature()
    config.data.scenes.update(eval_count=4, size=128)
    config.eval.boundary = True
    task = make_task(config)
    records = open_split(config.data, "eval")

    def perfect(variables, batch):
        rows = {name: np.asarray(batch[name]) for name in ("size", "original", "weight", "example")}
        slots = task.model.detection_selection.count
        rows |= {
            "boxes": np.zeros((len(batch["size"]), slots, 4)),
            "scores": np.ones((len(batch["size"]), slots)),
        }
        rows |= {
            "labels": np.ones((len(batch["size"]), slots), int),
            "valid": np.zeros(rows["scores"].shape, bool),
        }
        rows["keypoints"] = np.zeros((*rows["scores"].shape, len(JOINTS), 2))
        rows["masks"] = np.zeros((*rows["scores"].shape, 28, 28))
        for row, index in enumerate(rows["example"]):
            objects = records[int(index)]["objects"] if rows["weight"][row] else {"rle": []}
            for slot, (box, rle) in enumerate(
                zip(objects.get("box", []), objects["rle"], strict=True)
            ):
                rows["boxes"][row, slot], rows["valid"][row, slot] = box / 2, True
                rows["keypoints"][row, slot] = objects["keypoints"][slot, :, :2] / 2
                rows["masks"][row, slot] = rasterize_mask_in_box(
                    decode_mask(rle, 128, 128), box, 28
                )
        return rows

    monkeypatch.setattr(task, "_detect", perfect)
    monkeypatch.setattr(
        "segjax.tasks.record_task.check_variables", lambda *arguments, **options: None
    )
    numbers, images = task.evaluate({}, mesh=make_mesh(8, 1))
    assert numbers["bbox/AP"] == numbers["keypoints/AP"] == numbers["segm/AP50"] == 1
    assert 0 < numbers["boundary/AP"] < 1, "28 x 28 cells blur an outline"
    assert numbers["detections_full"] == 0 and images["detections"].dtype == np.uint8
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    batch = {"image": np.zeros((2, 64, 64, 3), np.uint8), "size": np.full((2, 2), 64)}
    batch |= {name: np.zeros(2) for name in ("original", "weight", "example")}
    shapes_out = jax.eval_shape(task._detect_on_canvas, shapes, batch)
    assert shapes_out["keypoints"].shape == (
        2,
        task.model.detection_selection.count,
        len(JOINTS),
        3,
    )
    assert shapes_out["masks"].shape == (2, task.model.detection_selection.count, 28, 28)


@pytest.mark.slow
def test_the_evaluation_loss_is_the_training_loss_over_all_images(task, variables, monkeypatch):
    """Evaluates three images in batches of two, with one placeholder that is ignored."""
    config = miniature()
    config.eval.loss = True
    measuring = make_task(config)
    nothing = {
        "boxes": (4,),
        "scores": (),
        "labels": (),
        "valid": (),
        "masks": (28, 28),
        "keypoints": (len(JOINTS), 3),
    }
    empty = lambda variables, batch: (
        {name: np.zeros((2, 1, *shape)) for name, shape in nothing.items()}
        | {name: np.asarray(batch[name]) for name in ("size", "original", "weight", "example")}
    )
    monkeypatch.setattr(
        measuring, "_detect", lambda *given: empty(*given) | {"valid": np.zeros((2, 1), bool)}
    )
    shares = measuring.detection_scores(variables, mesh=make_mesh(1, 1, jax.devices()[:1])).shares
    expected = images = 0
    for number, batch in enumerate(measuring.batches("eval", batch_size=2)):
        batch.pop("index")
        # Images keep their size here, so their floats are bytes, for which a program exists.
        batch["image"] = batch["image"].astype(np.uint8)
        key = jax.random.fold_in(jax.random.key(0), number)
        outcome = compile_loss(task)(variables["params"], variables["constants"], batch, key)
        (loss, (weight, _)), _ = jax.device_get(outcome)
        expected, images = expected + loss * weight, images + weight
    assert images == 3 and shares["eval_loss"] == pytest.approx(expected / 3, rel=1e-4)
    assert shares["eval_loss"] == pytest.approx(
        sum(shares[name] for name in shares if "/" in name), rel=1e-4
    )
    assert {f"eval_loss/{name}" for name in TERMS} == {name for name in shares if "/" in name}


def test_training_and_evaluation_may_have_different_canvases():
    config = miniature()
    config.data.canvas, config.eval.canvas = (64, 96), (32, 64)
    config.data.augment.scale = (2.0, 3.0)
    task = make_task(config)
    for split, hw in (("train", (64, 96)), ("eval", (32, 64))):
        with task.batches(split, batch_size=2) as batches:
            assert next(batches)["image"].shape == (2, *hw, 3)
    assert (
        make_task(miniature()).canvas("train") == make_task(miniature()).canvas("eval") == (64, 64)
    )
    small, large = make_task(miniature()).flops(), task.flops()
    assert (
        small[1] == "float32" and 1 < large[0] / small[0] < 1.5
    )  # 1.5 times the cells, and as many samples


def test_landscape_and_portrait_images_have_separate_batches_and_canvases(monkeypatch):
    config = miniature(short_side=32)
    config.data.update(by_orientation=True, copy_paste=1.0)
    task = make_task(config)
    hw = [(40, 60), (60, 40)] * 2
    masks = [block(side, 5, 5, 30, 35) for side in hw]
    joints = np.full((1, len(JOINTS), 3), 20, np.float32)
    records = [record_of([mask], image_id=str(n), keypoints=joints) for n, mask in enumerate(masks)]
    monkeypatch.setattr("segjax.tasks.record_task.open_records", lambda *given, **options: records)
    assert (
        task.canvas("train") == (32, 64)
        and task.batch_shape_count == 2
        and make_task(miniature()).batch_shape_count == 1
    )
    with task.batches("train", batch_size=2) as batches:
        for batch in (next(batches) for _ in range(4)):
            portrait = bool(batch["index"][0] % 2)
            assert {int(index) % 2 for index in batch["index"]} == {portrait}
            assert batch["image"].shape[1:3] == ((64, 32) if portrait else (32, 64))
            assert batch["valid"].any() and batch["size"].max() == 48
    assert task.batch_shapes(2)["image"].shape == (2, 32, 64, 3)
    config.data.augment.quarter_turns = True
    with pytest.raises(ValueError, match="by_orientation.*quarter_turns rotates them afterwards"):
        make_task(config)
    assert isinstance(task.build_split_example("train"), CopyPaste) and not isinstance(
        task.build_split_example("eval"), CopyPaste
    )


def test_flops_are_three_passes_over_an_image_and_its_samples(task):
    count = count_detector_multiply_adds(task.model, (64, 64))
    assert task.flops()[0] == 2 * 3 * (count.image + 8 * count.region + 2 * count.foreground)


def test_flops_of_a_backbone_that_nobody_has_counted_are_unknown():
    class OwnBackbone(nn.Module):
        """A backbone from outside of segjax."""

    own = make_task(miniature())
    own.model = own.model.clone(backbone=OwnBackbone())
    assert own.flops() == (0.0, "float32")
    assert describe_backbone(own.model) == "OwnBackbone"
    with pytest.raises(ValueError, match="no count of OwnBackbone"):
        count_detector_multiply_adds(own.model, (64, 64))


def test_settings_that_do_not_fit_raise():
    with pytest.raises(ValueError, match="has 1 classes, the model 3; set config.model.classes=1"):
        make_task(miniature(classes=3)).batches("train", batch_size=2)
    with pytest.raises(
        ValueError, match="has 7 keypoints, the model 2; set config.model.keypoints=7 or prepare"
    ):
        make_task(miniature(keypoints=2)).batches("train", batch_size=2)
    config = miniature()
    config.samples.regions = 3
    with pytest.raises(
        ValueError, match="3 regions per image and positive_regions=0.25, which leaves no positive"
    ):
        make_task(config)
