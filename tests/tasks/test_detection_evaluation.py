"""Detectors on a prepared COCO folder whose category ids have gaps: labels find their classes."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from PIL import Image
from pycocotools.coco import COCO

from segjax.cli import main
from segjax.cli.evaluate import make_evaluation_config
from segjax.data.examples.detection import DetectionExample
from segjax.masks import encode_mask
from segjax.models.build import build_model, init_model
from segjax.tasks import make_task
from segjax.tasks.detection.config import detection_config
from segjax.tasks.detection.evaluation import DetectionEvaluator, match_labels_to_classes
from segjax.tasks.detection.report import print_skipped
from segjax.tasks.detection.task import Detection
from segjax.tasks.variants import as_variant
from segjax.weights.checkpoint import write_checkpoint

NAMES, IDS = ("cat", "dog", "owl"), (3, 5, 9)
# For each image: category id and x, y, width, height of its rectangles
OBJECTS = (
    [(9, (4, 6, 20, 12)), (3, (30, 10, 16, 24))],
    [(5, (2, 2, 30, 20))],
    [(3, (8, 8, 12, 12))],
)
HW = (40, 60)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Writes a COCO folder with one split."""
    folder = tmp_path_factory.mktemp("raw")
    images = [
        dict(id=n, file_name=f"{n}.png", height=HW[0], width=HW[1])
        for n in range(1, len(OBJECTS) + 1)
    ]
    annotations = []
    for image, objects in zip(images, OBJECTS, strict=True):
        Image.fromarray(np.full((*HW, 3), 80 * image["id"], np.uint8)).save(
            folder / image["file_name"]
        )
        for category, (x, y, width, height) in objects:
            outline = [x, y, x + width, y, x + width, y + height, x, y + height]
            row = dict(
                id=len(annotations) + 1,
                image_id=image["id"],
                category_id=category,
                segmentation=[outline],
            )
            annotations.append(
                row | dict(bbox=[x, y, width, height], area=width * height, iscrowd=0)
            )
    categories = [dict(id=number, name=name) for number, name in zip(IDS, NAMES, strict=True)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (folder / "instances_val.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def prepared(raw):
    assert main(["prepare", "coco", str(raw), "--out", str(raw / "prepared")]) == 0
    return str(raw / "prepared")


def make_perfect_detector(raw, label_of, surplus=()):
    """Returns a device program that detects the annotations, as pycocotools reads them.

    Args:
      raw: COCO folder.
      label_of: category id -> label.
      surplus: labels of further detections in a corner of the first image.
    """
    annotations = COCO(raw / "instances_val.json")
    boxes, labels = (
        np.zeros((len(annotations.imgs), 8, 4), np.float32),
        np.zeros((len(annotations.imgs), 8), np.int32),
    )
    for row, number in enumerate(annotations.imgs):
        for slot, annotation in enumerate(annotations.imgToAnns[number]):
            x, y, width, height = annotation["bbox"]
            boxes[row, slot] = x, y, x + width, y + height
            labels[row, slot] = label_of[annotation["category_id"]]
    for slot, label in enumerate(surplus, 4):
        boxes[0, slot], labels[0, slot] = (0, 0, 3, 3), label

    def detected(task, variables, batch):
        number, found_labels = batch["example"], jnp.asarray(labels)[batch["example"]]
        scale = jnp.tile((batch["size"] / batch["original"])[:, ::-1], 2)
        rows = dict(boxes=jnp.asarray(boxes)[number] * scale[:, None])
        rows |= dict(
            labels=found_labels,
            valid=found_labels > 0,
            scores=1.0 * (found_labels > 0),
            masks=jnp.ones((*found_labels.shape, 28, 28)),
        )
        return rows | {name: batch[name] for name in ("size", "original", "weight", "example")}

    return detected


@pytest.fixture(scope="module")
def variables():
    return drawn_variables(build_model("maskrcnn_debug", classes=9, keypoints=0), init_model)


def run_eval(prepared, variables, tmp_path, classes=None, options=()):
    """Runs `segjax eval` on a detector of nine labels and returns its numbers.

    Args:
      prepared: prepared data.
      variables: variables of the detector.
      tmp_path: folder for the files.
      classes: class metadata of the checkpoint.
      options: further command-line options.
    """
    metadata = {"model": dict(name="maskrcnn_debug", classes=9, keypoints=0)}
    path, out = tmp_path / "detector.safetensors", tmp_path / "out"
    write_checkpoint(
        path, variables, metadata=metadata | ({"classes": classes} if classes else {}), canvas=64
    )
    words = [
        "--checkpoint",
        str(path),
        "--data",
        prepared,
        "--out",
        str(out),
        "--config.eval.batch_size=2",
        *options,
    ]
    assert main(["eval", *words]) == 0
    for name in ("detections.png", "confusion.png", "precision_recall.png"):
        assert np.asarray(Image.open(out / name)).ndim == 3
    COCO(out / "truth.json").loadRes(str(out / "detections.json"))
    return json.loads((out / "evaluation.json").read_text())["trained"]


def test_labels_may_be_category_ids(raw, prepared, variables, tmp_path, monkeypatch):
    """Evaluates labels as in torchvision's COCO detectors, one of them without a category."""
    monkeypatch.setattr(
        Detection,
        "_detect_on_canvas",
        make_perfect_detector(raw, dict(zip(IDS, IDS, strict=True)), surplus=[4]),
    )
    numbers = run_eval(prepared, variables, tmp_path)
    # torchvision pastes masks with an error of up to one pixel, of 12.
    assert all(
        0.8 < numbers[name] < 1 for name in numbers if re.fullmatch("segm/A[PR][1s]?0*", name)
    )
    whole = ("AP50", "AP75")
    perfect_numbers = {f"segm/{name}": 1 for name in whole} | {
        f"bbox/{name}": 1 for name in ("AP", *whole, "APs", "AR1")
    }
    perfect_numbers |= {"detections_full": 0, "left_out": 1 / 5}
    assert {name: numbers[name] for name in perfect_numbers} == pytest.approx(perfect_numbers), (
        "one detection of five is left out"
    )
    assert numbers["per_class"]["bbox"] == pytest.approx(dict.fromkeys(NAMES, 1))


def test_masks_of_a_sam_are_evaluated(raw, prepared, variables, tmp_path, monkeypatch):
    """Refines with masks that fill each box exactly. The gray level identifies the image."""
    monkeypatch.setattr(
        Detection, "_detect_on_canvas", make_perfect_detector(raw, dict(zip(IDS, IDS, strict=True)))
    )
    seen = []

    def filled(box):
        x1, y1, x2, y2 = box.round().astype(int)
        mask = np.zeros(HW, bool)
        mask[y1:y2, x1:x2] = True
        return encode_mask(mask)

    def exact(checkpoint, refine_if):
        assert (checkpoint, refine_if) == ("runs/sam", "surer")

        def refine(image, detections):
            seen.append((image.shape, int(image.max()), len(detections.boxes)))
            return detections._replace(masks=[filled(box) for box in detections.boxes])

        return refine

    monkeypatch.setattr("segjax.tasks.detection.task.make_mask_refiner", exact)
    options = ["--config.eval.refine=runs/sam", "--config.eval.refine_if=surer"]
    assert run_eval(prepared, variables, tmp_path, options=options)["segm/AP"] == pytest.approx(1)
    assert seen == [((*HW, 3), 80, 2), ((*HW, 3), 160, 1), ((*HW, 3), 240, 1)]


def test_the_loss_needs_the_classes_of_the_model_in_their_order(
    prepared, variables, monkeypatch, capsys, tmp_path
):
    options = ["--config.eval.loss=True"]
    with pytest.raises(AssertionError):
        run_eval(prepared, variables, tmp_path, options=options)
    assert (
        "has 3 classes, the model 9, so that the training loss cannot be measured"
        in capsys.readouterr().err
    )
    task = make_task(as_variant(detection_config(), "debug"))
    task.data["source"], task.eval["loss"], task.eval["label_names"] = prepared, True, NAMES[::-1]
    task.model = build_model("maskrcnn_debug", classes=3, keypoints=0)
    monkeypatch.setattr(Detection, "evaluation_batches", lambda *given: iter(()))
    with pytest.raises(ValueError, match="classes in another order.*set config.eval.loss=False"):
        task.detection_scores({}, mesh=None)


def test_a_detector_without_a_mask_head_gets_the_masks_of_a_sam(prepared):
    task = make_task(as_variant(detection_config(), "debug"))
    task.data["source"], model = (
        prepared,
        build_model("maskrcnn_debug", classes=3, keypoints=0, mask_convs=0),
    )
    whole = encode_mask(np.ones(HW, bool))
    refine = lambda image, detections: detections._replace(masks=[whole] * len(detections.boxes))
    evaluator = DetectionEvaluator(model, task.data, task.eval, refine)
    row = dict(
        boxes=np.array([[[0, 0, 60, 40]]]), scores=np.ones((1, 1)), labels=np.ones((1, 1), int)
    )
    row |= dict(
        valid=np.ones((1, 1)) > 0, weight=np.ones(1), size=np.array([HW]), original=np.array([HW])
    )
    evaluator.add(row | dict(example=np.zeros(1, int)))
    assert set(evaluator.compute_scores().kinds) == {"bbox", "segm"}


def test_class_names_of_the_checkpoint_take_precedence(
    raw, prepared, variables, tmp_path, monkeypatch, caplog
):
    """Evaluates a detector that shares two class names under other labels. One image is broken."""
    names = ["owl", "cat", *(f"thing {n}" for n in range(7))]
    monkeypatch.setattr(
        Detection, "_detect_on_canvas", make_perfect_detector(raw, {9: 1, 3: 2, 5: 5})
    )
    usual = DetectionExample.__call__

    def breaking(example, record, rng):
        return usual(example, record | {"image": b""} if record["image_id"] == "3" else record, rng)

    monkeypatch.setattr(DetectionExample, "__call__", breaking)
    numbers = run_eval(
        prepared, variables, tmp_path, dict(categories=names, category_ids=list(range(9)))
    )
    # The detector has no dog: AP 0. It detects one cat of two: precision 1 up to recall 0.5, which
    # are 51 of the 101 recalls.
    assert numbers["bbox/AP"] == pytest.approx((51 / 101 + 0 + 1) / 3)
    assert (numbers["left_out"], numbers["unread"]) == pytest.approx((1 / 3, 1 / 3))
    assert "no label for 1 of the 3 classes" in caplog.text and "(dog)" in caplog.text


@pytest.mark.parametrize(
    "labels, names, expected",
    [
        (3, (), {1: 0, 2: 1, 3: 2}),
        (3, ("class 1", "class 2", "class 3"), {1: 0, 2: 1, 3: 2}),
        (3, ("cat", "hound", "owl"), {1: 0, 2: 1, 3: 2}),  # as many, and no name contradicts
        (3, ("owl", "dog", "cat"), {3: 0, 2: 1, 1: 2}),
        (9, (), {3: 0, 5: 1, 9: 2}),
        (9, ("N/A", "N/A", "cat", "N/A", "dog", *"abc", "uhu"), {3: 0, 5: 1, 9: 2}),
        (4, ("-", "dog", "-", "cat"), {4: 0, 2: 1}),
        (12, ("dog", *"abcdefghijk"), {1: 1}),
    ],
)
def test_labels_match_classes(labels, names, expected):
    assert match_labels_to_classes(labels, names, NAMES, IDS) == expected


def test_classes_that_do_not_fit_raise(prepared):
    config = as_variant(detection_config(), "debug")
    config.data.update(source=prepared, train_split="val")
    config.model.classes = 9
    with pytest.raises(
        ValueError, match=r"has 3 classes, the model 9; set config.model.classes=3.*'detector:PATH'"
    ):
        make_task(config).batches("train", batch_size=2)
    message = (
        r"has 3 classes \(cat, dog, owl\), the model 7 \(a, b, c, d, e, ...\), and no name is in "
        "both.* largest id is 7"
    )
    with pytest.raises(ValueError, match=message):
        match_labels_to_classes(7, tuple("abcdefg"), NAMES, IDS)


def test_images_that_were_not_prepared_are_reported(raw, tmp_path, capsys):
    content = json.loads((raw / "instances_val.json").read_text())
    Image.fromarray(np.zeros((*HW, 3), np.uint8)).save(raw / "4.png")
    content["images"].append(dict(id=4, file_name="4.png", height=HW[0], width=HW[1]))
    for split in ("one", "two"):
        (tmp_path / f"instances_{split}.json").write_text(json.dumps(content))
        (tmp_path / split).symlink_to(raw)
    assert main(["prepare", "coco", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    print_skipped(str(tmp_path / "out"), "two")
    printed = capsys.readouterr().err
    assert (
        "was prepared without 1 images of two: image has no objects" in printed
        and "--keep-empty" in printed
    )
    with pytest.raises(
        ValueError, match="has no split 'val' to measure on; choose --split one or --split two"
    ):
        make_evaluation_config(
            {"model": {"name": "maskrcnn_debug"}}, str(tmp_path / "out"), None, []
        )


def test_data_without_keypoints_evaluates_boxes_and_masks(prepared):
    task = make_task(as_variant(detection_config(), "debug"))
    task.data["source"], model = prepared, build_model("maskrcnn_debug")
    assert model.keypoints and model.classes == 3
    evaluator = DetectionEvaluator(model, task.data, task.eval)
    row = dict(
        boxes=np.zeros((1, 1, 4)),
        scores=np.zeros((1, 1)),
        labels=np.ones((1, 1), int),
        valid=np.ones((1, 1)) > 0,
    )
    row |= dict(
        masks=np.ones((1, 1, 28, 28)),
        keypoints=np.zeros((1, 1, model.keypoints, 3)),
        weight=np.ones(1),
    )
    evaluator.add(
        row | dict(size=np.array([HW]), original=np.array([HW]), example=np.zeros(1, int))
    )
    numbers = evaluator.compute_scores().summarize_for_log()
    assert {name.split("/")[0] for name in numbers} == {"bbox", "segm", "detections_full", "unread"}
