"""A detector with a semantic branch (Panoptic FPN): targets, loss, evaluation, and learning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden.drawn_weights import drawn_variables
from jax.sharding import AxisType

from segjax.data.records import UNKNOWN_STUFF, validate_record
from segjax.data.splits import list_stuff, open_split
from segjax.images.placement import Placement
from segjax.inference.detection.detector import Detector
from segjax.inference.detection.postprocess import ImageDetections
from segjax.losses import detection
from segjax.masks import RecordError
from segjax.models.build import build_model, init_model
from segjax.models.detection.flops import count_detector_multiply_adds
from segjax.tasks import make_task
from segjax.tasks.detection.config import detection_config
from segjax.tasks.detection.panoptic import PanopticEvaluator
from segjax.tasks.variants import as_variant
from segjax.training import sharding
from segjax.training.program import quick_compilation

STUFF = ("plain", "striped", "dotted", "checked")


def panoptic_config():
    config = as_variant(detection_config(), "debug")
    config.model.update(stuff=len(STUFF), stuff_width=16)
    config.data.scenes.update(kind="panoptic")
    return config


@pytest.fixture(scope="module")
def task():
    return make_task(panoptic_config())


@pytest.fixture(scope="module")
def variables(task):
    with quick_compilation():
        return jax.jit(task.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def batch(task):
    rows = next(task.batches("train", batch_size=2))
    return {name: rows[name] for name in task.batch_shapes(2)}


def test_records_have_a_class_of_every_pixel(task):
    assert list_stuff(task.data) == STUFF and UNKNOWN_STUFF == detection.UNKNOWN_STUFF
    source = open_split(task.data, "train")
    for record in (source[0], source[1]):
        stuff = record["stuff"]
        assert stuff.dtype == np.uint8 and stuff.shape == record["image"].shape[:2]
        assert set(np.unique(stuff)) <= {0, 1, 2, 3, 4, UNKNOWN_STUFF}
        assert np.count_nonzero(stuff == 0) == record["objects"]["area"].sum()
        assert len(set(np.unique(stuff)) & {1, 2, 3, 4}) >= 2
        validate_record(record)
    with pytest.raises(RecordError, match=r"stuff.*uint8 \[32, 64\]"):
        validate_record(record | {"stuff": stuff[:32]})
    again = open_split(task.data, "train")[1]
    np.testing.assert_array_equal(stuff, again["stuff"])


def test_labels_are_placed_like_the_image():
    """Values identify the pixels: turned, mirrored, doubled and cut."""
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    placement = Placement((3, 4), (8, 6), (1, 0), (6, 5), turns=1, flip_x=True)
    doubled = labels.T[::-1][:, ::-1].repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(placement.apply_labels(labels), doubled[1:7, :5])


def test_without_stuff_nothing_of_the_model_changes():
    plain, own = (build_model("maskrcnn_debug", stuff=stuff) for stuff in (0, 2))
    assert plain.semantic_head is None
    shapes = [
        jax.eval_shape(lambda k, m=m: init_model(m, k), jax.random.key(0)) for m in (plain, own)
    ]
    assert set(shapes[1]["params"]) - set(shapes[0]["params"]) == {"semantic_head"}
    extra = count_detector_multiply_adds(own, (64, 64)).image
    extra -= count_detector_multiply_adds(plain, (64, 64)).image
    # P2: 256 cells; P3: 64; P4: 16 and 64; P5: 4, 16 and 64; then 3 classes on 256 cells
    first, later = 9 * 16 * 128, 9 * 128 * 128
    assert extra == (256 + 64 + 16 + 4) * first + (64 + 16 + 64) * later + 256 * 128 * 3


def test_stuff_does_not_depend_on_the_canvas():
    model = build_model("maskrcnn_debug", stuff=2, stuff_width=8)
    variables = jax.tree.map(jnp.asarray, drawn_variables(model, init_model))
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    larger = np.full((1, 128, 96, 3), 99, np.uint8)
    larger[:, :64, :64] = image
    forward = lambda model, images, sizes: model.segment_stuff(
        model.encode_image(images, sizes), sizes
    )
    run = jax.jit(
        lambda images: model.apply(variables, images, np.array([[64, 64]]), method=forward)
    )
    with quick_compilation():
        alone, padded = run(image), run(larger)
    assert alone.shape == (1, 64, 64, 3) and padded.shape == (1, 128, 96, 3)
    np.testing.assert_allclose(padded[:, :64, :64], alone, atol=1e-4)


def test_the_loss_falls_and_unknown_pixels_do_not_count(task, variables, batch):
    weight = task.model.loss_rules.stuff_weight

    def objective(params, batch):
        tree = variables | {"params": params}
        loss, count, metrics = task.loss(tree, batch, jax.random.key(1), True)
        return loss / count, metrics["stuff"] / count

    step = jax.jit(jax.value_and_grad(objective, has_aux=True))
    optimizer = optax.adam(3e-3)
    params, state, terms = variables["params"], optimizer.init(variables["params"]), []
    with quick_compilation():
        for _ in range(8):
            (_, term), gradients = step(params, batch)
            terms.append(float(term))
            updates, state = jax.jit(optimizer.update)(gradients, state, params)
            params = optax.apply_updates(params, updates)
        unknown = batch | {"stuff": np.full_like(batch["stuff"], UNKNOWN_STUFF)}
        (_, none), gradients = step(params, unknown)
    assert weight == 0.5 and 0 < terms[0] < 3 and terms[-1] < 0.8 * terms[0]
    assert none == 0 and not any(x.any() for x in jax.tree.leaves(gradients["semantic_head"]))


def test_evaluation_reports_panoptic_quality(task, variables):
    axes = (AxisType.Auto, AxisType.Auto)
    mesh = jax.make_mesh((1, 1), sharding.BATCH_AXES, axes, devices=jax.devices()[:1])
    with quick_compilation():
        numbers, _ = task.evaluate(variables, mesh=mesh)
    for suffix in ("", "_things", "_stuff"):
        assert all(0 <= numbers[f"panoptic/{name}{suffix}"] <= 1 for name in ("PQ", "SQ", "RQ"))


def test_perfect_detections_have_a_panoptic_quality_of_one(task):
    source = open_split(task.data, "eval")
    evaluator = PanopticEvaluator(source.categories, STUFF)
    for index in range(len(source)):
        record = source[index]
        objects, hw = record["objects"], record["stuff"].shape
        # Unknown pixels are predicted to be of a class that does not cover enough of the image.
        detections = ImageDetections(
            hw,
            objects["box"],
            objects["category"] + 1,
            np.ones(len(objects["rle"])),
            objects["rle"],
            stuff=np.where(record["stuff"] == UNKNOWN_STUFF, 0, record["stuff"]),
        )
        evaluator.add(index, record, detections, objects["category"].tolist())
        evaluator.add(index, record, detections._replace(masks=[]), [])  # the image again
    assert evaluator.compute_scores()["panoptic/PQ"] == pytest.approx(1)


def test_the_detector_returns_stuff_in_the_image_s_frame(task, variables):
    image = open_split(task.data, "eval")[0]["image"][:40]
    detector = Detector(task.model, variables, canvases="tight")
    with quick_compilation():
        found = detector([image])[0]["stuff"]
    assert found.shape == (40, 64) and found.dtype == np.uint8 and found.max() <= len(STUFF)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(model=dict(stuff=3)),
            "has 4 classes of stuff, the model 3; set config.model.stuff=4",
        ),
        (dict(data=dict(copy_paste=0.5)), "config.data.copy_paste moves objects without the map"),
        (
            dict(data=dict(scenes=dict(kind="shapes"))),
            "has 0 classes of stuff, the model 4; set config.model.stuff=0",
        ),
    ],
)
def test_data_that_does_not_fit_the_branch_is_reported(change, message):
    config = panoptic_config()
    config.update(change)
    with pytest.raises(ValueError, match=message):
        make_task(config).open_source("train")


def test_a_record_without_a_map_of_stuff_is_reported(task):
    record = dict(open_split(task.data, "train")[0])
    example, rng = task.build_example(train=True), np.random.default_rng(0)
    with pytest.raises(ValueError, match="class 9 of stuff; expected 0 to 4"):
        example(record | {"stuff": np.full_like(record["stuff"], 9)}, rng)
    del record["stuff"]
    with pytest.raises(ValueError, match="no map of stuff.*set config.model.stuff=0"):
        example(record, rng)
