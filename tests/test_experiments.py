"""Every experiment of the repository: its config, its recipe, and its miniature."""

import contextlib
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from segjax.cli.experiments import read_config
from segjax.models.detection.fpn import VitBackbone
from segjax.models.detection.layers import number_names
from segjax.tasks import make_task
from segjax.tasks.classification.config import classification_config
from segjax.tasks.detection.task import Detection
from segjax.training import sharding
from segjax.training.loop import train
from segjax.training.trainable.partition import make_partition
from segjax.weights.run_folder import load_variables

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "experiments"
EXPERIMENTS = sorted(FOLDER.rglob("*.py"))
name_of = lambda path: path if isinstance(path, str) else f"{path.parent.name}/{path.stem}"
# Term of the loss -> attribute of a detector that has it.
HEADS = {"masks": "mask_head", "keypoints": "keypoint_head", "stuff": "semantic_head"}
# Programs that differ from others only in numbers. By default only the others are traced.
REDUNDANT = ("cityscapes", "coco_r50_lsj", "lvis", "keypoints", "nuclei", "roi_ablation")
REDUNDANT = [FOLDER / "mask_rcnn" / f"{name}.py" for name in REDUNDANT]
REDUNDANT += [
    FOLDER / "sam" / f"{name}.py"
    for name in ("bsds500", "nuclei", "sa1b_vit_b", "sa1b_vit_l", "sa1b_vit_h")
]
REDUNDANT += [FOLDER / "mae" / f"{name}.py" for name in ("imagenet_l", "imagenet_h", "nuclei")]
OWN_DATA = FOLDER / "mask_rcnn" / "finetune.py"  # its classes are read from its data
VARIANTS = [(path, "") for path in EXPERIMENTS if path not in (*REDUNDANT, OWN_DATA)]
VARIANTS += [pytest.param(path, "", marks=pytest.mark.slow) for path in REDUNDANT]
VARIANTS += [pytest.param(FOLDER / "sam" / "coco.py", ":small", marks=pytest.mark.slow)]
VARIANTS += [(FOLDER / "mask_rcnn" / "roi_ablation.py", ":roi_pool,keypoints")]
CASCADES = [FOLDER / "mask_rcnn" / f"{name}.py" for name in ("coco_r50_fpn_1x", "coco_vitdet_b")]
VARIANTS += [pytest.param(path, ":cascade", marks=pytest.mark.slow) for path in CASCADES]
VARIANTS += [(FOLDER / "mae" / f"{name}.py", ":imagenet_b") for name in ("probe", "finetune")]
VARIANTS += [pytest.param(FOLDER / "mae" / "finetune.py", ":imagenet_h", marks=pytest.mark.slow)]
METRICS = {  # that the loss must return
    "promptable": {"first_dice", "later_dice", "first_iou_error"},
    "reconstruction": set(),
    "classification": {"top1"},
    "detection": {"rpn_scores", "dropped", "proposals"},
    "contrastive": {"correct", "scale"},
}


@pytest.mark.parametrize(("path", "variant"), VARIANTS, ids=name_of)
def test_the_full_config_traces(path, variant):
    config = read_config(f"{path}{variant}")
    task, key = make_task(config), jax.random.key(0)
    batch = task.batch_shapes(2)
    variables = jax.eval_shape(task.init, key)
    loss, weight, metrics = jax.eval_shape(
        lambda v, b, k: task.loss(v, b, k, True), variables, batch, key
    )
    assert loss.shape == weight.shape == () and loss.dtype == jnp.float32
    heads = {name for name, attribute in HEADS.items() if getattr(task.model, attribute, None)}
    heads |= set(number_names("classes", len(getattr(task.model, "box_heads", ()))))
    assert METRICS[config.task] | heads <= set(metrics)


# MedSAM's count is published. The decoder has 4,058,340 parameters, the prompt encoder 6,220.
@pytest.mark.parametrize(
    "variant, trained",
    [
        ("", 4_064_560),
        (":decoder", 4_064_560),
        (":lora", 4_064_560 + 147_456),
        (":samed", 4_064_560 + 147_456),
        (":full", 93_735_472),
        (":medsam", 93_729_252),
    ],
)
def test_variants_of_sam_finetune_train_as_many_parameters_as_they_say(variant, trained):
    config = read_config(f"{FOLDER}/sam/finetune.py{variant}")
    task, key = make_task(config), jax.random.key(0)
    shapes = jax.eval_shape(task.init, key)
    partition = make_partition(config, shapes, task.encoder_path)
    params = jax.eval_shape(partition.split, shapes, key)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == trained


@pytest.mark.parametrize("variant", ["", ":tiny"])
def test_a_detector_with_0_classes_gets_the_categories_of_its_data(variant):
    config = read_config(f"{OWN_DATA}{variant}")
    config.data.source = "synthetic"
    task = make_task(config)
    assert task.model.classes == config.model.classes == 5  # and in the run's config.json


@pytest.mark.parametrize(("variant", "epochs"), [("", 800), (":1600ep", 1600)])
@pytest.mark.parametrize("size", "blh")
def test_imagenet_is_pretrained_by_the_paper_s_recipe(size, variant, epochs):
    """Checks appendix A.1: 1,281,167 images, batches of 4096, 40 epochs of warm-up, AdamW."""
    config = read_config(f"{FOLDER}/mae/imagenet_{size}.py{variant}")
    assert (config.total_steps, config.batch_size) == (epochs * 1_281_167 // 4096, 4096)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.schedule, optimizer.warmup_steps) == (
        "adamw",
        "cosine",
        40 * 1_281_167 // 4096,
    )
    assert (optimizer.b1, optimizer.b2, optimizer.weight_decay, optimizer.base_lr) == (
        0.9,
        0.95,
        0.05,
        1.5e-4,
    )
    assert (optimizer.clip_norm, optimizer.final_lr, optimizer.layer_decay, config.ema_decay) == (
        0,
        0,
        1,
        0,
    )
    crop, model = config.data.crop, make_task(config).model
    assert (tuple(crop.scale), tuple(crop.ratio), crop.flip) == ((0.2, 1.0), (3 / 4, 4 / 3), True)
    assert (model.canvas, model.mask_ratio, model.mask_strategy, model.drop_path) == (
        224,
        0.75,
        "random",
        0.0,
    )
    assert (model.decoder_width, model.decoder_depth, model.decoder_heads) == (
        512,
        8,
        16,
    ) and model.norm_pix


@pytest.mark.parametrize(
    ("name", "steps", "batch", "rate", "drops"),
    [
        ("coco_r50_fpn_1x.py", 90_000, 16, 0.02, (60_000, 80_000)),
        ("coco_r50_fpn_1x.py:3x", 270_000, 16, 0.02, (210_000, 250_000)),
        ("coco_r50_fpn_1x.py:cascade", 90_000, 16, 0.02, (60_000, 80_000)),
        ("coco_r50_fpn_1x.py:3x,cascade", 270_000, 16, 0.02, (210_000, 250_000)),
        ("keypoints.py", 90_000, 16, 0.02, (60_000, 80_000)),
        ("cityscapes.py", 24_000, 8, 0.01, (18_000,)),
        ("lvis.py", 180_000, 16, 0.02, (120_000, 160_000)),
        ("coco_r50_lsj.py", 184_375, 64, 0.1, (163_889, 177_546)),
        ("coco_vitdet_b.py", 184_375, 64, 1e-4, (163_889, 177_546)),
        ("coco_vitdet_b.py:cascade", 184_375, 64, 1e-4, (163_889, 177_546)),
    ],
)
def test_detectors_are_trained_by_detectron2_s_recipes(name, steps, batch, rate, drops):
    """Checks MAX_ITER, IMS_PER_BATCH, BASE_LR and STEPS of its configs, momentum and decay."""
    config = read_config(f"{FOLDER}/mask_rcnn/{name}")
    assert (config.total_steps, config.batch_size) == (steps, batch)
    optimizer, model = config.optimizer, make_task(config).model
    assert len(model.box_heads) == (3 if "cascade" in name else 1)
    assert (optimizer.peak_lr, optimizer.base_lr, optimizer.schedule, optimizer.boundaries) == (
        rate,
        0,
        "step",
        drops,
    )
    if isinstance(model.backbone, VitBackbone):
        drop_path = model.backbone.trunk["drop_path"]
        assert (optimizer.name, optimizer.weight_decay, optimizer.layer_decay, drop_path) == (
            "adamw",
            0.1,
            0.7,
            0.1,
        )
        return
    jitter = tuple(config.data.augment.scale) == (0.1, 2.0)
    assert (optimizer.name, optimizer.b1, optimizer.weight_decay) == (
        "sgd",
        0.9,
        4e-5 if jitter else 1e-4,
    )
    assert (model.backbone.freeze_at, model.backbone.norm) == (
        (0, "gn") if jitter else (2, "frozen_bn")
    )


@pytest.mark.parametrize(
    "experiment", ["sam/quickstart", "mae/quickstart", "mae/probe", "mask_rcnn/quickstart"]
)
def test_batch_shapes_agree_with_real_batches(experiment):
    config = read_config(f"{FOLDER / experiment}.py:debug")
    task = make_task(config)
    with contextlib.closing(task.batches("train", batch_size=2)) as batches:
        read = {name: (rows.shape, rows.dtype) for name, rows in next(batches).items()}
    del read["index"]  # stays on the host
    assert read == {
        name: (shape.shape, shape.dtype) for name, shape in task.batch_shapes(2).items()
    }


def test_miniatures_of_a_task_are_one_program():
    configs = [read_config(f"{path}:debug").to_dict() for path in EXPERIMENTS]
    program = lambda config: (config["task"], config["model"].get("frozen", False))
    by_program = {program(config): config for config in configs}
    classification = {("classification", False), ("classification", True)}
    assert (
        set(by_program)
        == {(name, False) for name in ("promptable", "reconstruction", "detection", "contrastive")}
        | classification
    )
    assert all(config == by_program[program(config)] for config in configs)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_an_unknown_variant_is_reported(path):
    with pytest.raises(ValueError, match="no variant 'unheard'"):
        read_config(f"{path}:unheard")


MEASURED = [
    ("sam/quickstart", "iou@1"),
    ("mae/probe", "knn@3"),
    ("mask_rcnn/quickstart", "segm/AP50"),
]


@pytest.mark.parametrize(
    ("experiment", "number", "resumes"),
    # Resuming is the loop's work. By default only the task that compiles fastest tests it.
    [("mae/quickstart", "eval_loss", True), *((*case, False) for case in MEASURED)]
    + [pytest.param(*case, True, marks=pytest.mark.slow) for case in MEASURED],
)
def test_the_miniature_trains_evaluates_and_resumes_bit_for_bit(
    tmp_path, monkeypatch, experiment, number, resumes
):
    # On one device: this program takes minutes to compile for eight. Smaller ones are tested there.
    one = jax.make_mesh(
        (1, 1), sharding.BATCH_AXES, (AxisType.Auto, AxisType.Auto), devices=jax.devices()[:1]
    )
    monkeypatch.setattr(sharding, "make_mesh", lambda data, fsdp: one)

    def run():
        config = read_config(f"{FOLDER / experiment}.py:debug")
        config.checkpoint.every = 1
        return train(make_task(config), config, tmp_path)

    straight = run()
    rows = (tmp_path / "metrics.jsonl").read_text()
    assert f'"{number}"' in rows and list((tmp_path / "pictures").glob("*.png"))
    if resumes:
        shutil.rmtree(
            tmp_path / "checkpoints" / "2"
        )  # as if the run had been killed before this checkpoint
        resumed = run()
        assert int(straight.step) == int(resumed.step) == 2
        same = jax.tree.map(lambda a, b: np.array_equal(a, b), straight.params, resumed.params)
        assert all(jax.tree.leaves(same))
    # Constants do not change.
    (before, _), (after, saved) = (load_variables(tmp_path, step) for step in (1, 2))
    jax.tree.map(np.testing.assert_array_equal, before["constants"], after["constants"])
    # The checkpoint of a detector holds the names of its classes.
    task = make_task(read_config(f"{FOLDER / experiment}.py:debug"))
    classes = {name: list(values) for name, values in task.describe_classes().items()}
    assert bool(classes) == isinstance(task, Detection)
    assert saved.get("classes") == (classes or None)


@pytest.mark.parametrize(
    ("size", "steps", "batch", "rate", "decay", "drop"),
    [
        ("b", 180_000, 128, 8e-4, 0.6, 0.6),
        ("l", 180_000, 128, 4e-4, 0.8, 0.4),
        ("h", 90_000, 256, 8e-4, 0.8, 0.4),
    ],
)
def test_sa1b_is_trained_on_by_the_paper_s_recipe(size, steps, batch, rate, decay, drop):
    """Checks SAM's appendix A: 90,000 steps of 256 for H, 180,000 steps of 128 for B and L."""
    config = read_config(f"{FOLDER}/sam/sa1b_vit_{size}.py")
    optimizer, rounds, model = config.optimizer, config.rounds, make_task(config).model
    assert (config.total_steps, config.batch_size, model.drop_path, model.canvas) == (
        steps,
        batch,
        drop,
        1024,
    )
    assert (optimizer.name, optimizer.peak_lr, optimizer.layer_decay) == ("adamw", rate, decay)
    assert (optimizer.b1, optimizer.b2, optimizer.weight_decay, optimizer.schedule) == (
        0.9,
        0.999,
        0.1,
        "step",
    )
    assert tuple(optimizer.boundaries) == ((60_000, 86_666) if size == "h" else (120_000, 173_332))
    assert (optimizer.warmup_steps, config.data.max_prompts, config.data.max_area_fraction) == (
        250,
        64,
        0.9,
    )
    assert (rounds.count, rounds.empty_random, rounds.empty_last, rounds.sampled) == (
        11,
        True,
        True,
        False,
    )
    assert not any(value for name, value in config.data.augment.items() if name != "resize")
    assert (config.loss.focal_weight, config.loss.dice_weight, config.loss.iou_weight) == (20, 1, 1)


def test_classifiers_are_trained_by_the_recipes_of_mae():
    """Checks batches, epochs of ImageNet and peak rates of appendix A.1 and the published code."""
    base, large = (read_config(f"{FOLDER}/mae/finetune.py:imagenet_{size}") for size in "bl")
    assert (base.total_steps, base.optimizer.warmup_steps, base.batch_size) == (125_113, 6255, 1024)
    assert base.optimizer.base_lr * base.batch_size / 256 == pytest.approx(2e-3)
    optimizer, mix = base.optimizer, base.mix
    assert (optimizer.layer_decay, base.model.drop_path, optimizer.final_lr) == (0.65, 0.1, 1e-6)
    assert (mix.mixup, mix.cutmix, mix.switch, mix.smoothing) == (0.8, 1.0, 0.5, 0.1)
    assert (large.total_steps, large.optimizer.layer_decay, large.model.drop_path) == (
        62_556,
        0.75,
        0.2,
    )
    defaults = classification_config()
    assert defaults.optimizer == optimizer and defaults.total_steps == base.total_steps
    # The linear probe
    linear = read_config(f"{FOLDER}/mae/probe.py:imagenet_b")
    assert (linear.total_steps, linear.optimizer.warmup_steps, linear.optimizer.name) == (
        7037,
        781,
        "lars",
    )
    assert linear.optimizer.base_lr * linear.batch_size / 256 == pytest.approx(6.4)
    assert linear.model.frozen and linear.model.pool == "token" and not linear.mix.smoothing
