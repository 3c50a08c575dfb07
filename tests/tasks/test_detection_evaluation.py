"""Answers for a prepared COCO folder, whose category ids have gaps, are counted for the classes that they mean."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from PIL import Image
from pycocotools.coco import COCO

from segjax.cli import main
from segjax.cli.evaluate import make_evaluation_config, say_what_was_left_out
from segjax.data.examples.detection import DetectionExample
from segjax.masks import encode_mask
from segjax.models.build import build_model, init_model
from segjax.tasks import make_task
from segjax.tasks.detection.config import detection_config
from segjax.tasks.detection.evaluation import DetectionEvaluator, match_labels_to_classes
from segjax.tasks.detection.task import Detection
from segjax.tasks.variants import as_variant
from segjax.weights.checkpoint import write_checkpoint

NAMES, IDS = ("cat", "dog", "owl"), (3, 5, 9)
# By picture: category id and x, y, width, height of its rectangles.
OBJECTS = (
    [(9, (4, 6, 20, 12)), (3, (30, 10, 16, 24))],
    [(5, (2, 2, 30, 20))],
    [(3, (8, 8, 12, 12))],
)
HW = (40, 60)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A COCO-format folder with one split."""
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


def perfect(raw, label_of, surplus=()):
    """A detector's program that answers with the annotations, by pycocotools' own reading of them.

    label_of: by category id. surplus: labels of further answers in the first picture's corner.
    """
    truth = COCO(raw / "instances_val.json")
    boxes, labels = (
        np.zeros((len(truth.imgs), 8, 4), np.float32),
        np.zeros((len(truth.imgs), 8), np.int32),
    )
    for row, number in enumerate(truth.imgs):
        for place, annotation in enumerate(truth.imgToAnns[number]):
            x, y, width, height = annotation["bbox"]
            boxes[row, place] = x, y, x + width, y + height
            labels[row, place] = label_of[annotation["category_id"]]
    for place, label in enumerate(surplus, 4):
        boxes[0, place], labels[0, place] = (0, 0, 3, 3), label

    def detected(task, variables, batch):
        number, found = batch["example"], jnp.asarray(labels)[batch["example"]]
        scale = jnp.tile((batch["size"] / batch["original"])[:, ::-1], 2)
        rows = dict(boxes=jnp.asarray(boxes)[number] * scale[:, None])
        rows |= dict(
            labels=found,
            valid=found > 0,
            scores=1.0 * (found > 0),
            masks=jnp.ones((*found.shape, 28, 28)),
        )
        return rows | {name: batch[name] for name in ("size", "original", "weight", "example")}

    return detected


@pytest.fixture(scope="module")
def variables():
    return drawn_variables(build_model("maskrcnn_debug", classes=9, keypoints=0), init_model)


def measured(prepared, variables, tmp_path, classes=None, options=()):
    """What `segjax eval` writes of a file with nine labels. classes: what it says of them."""
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
    for picture in ("detections.png", "confusion.png", "precision_recall.png"):
        assert np.asarray(Image.open(out / picture)).ndim == 3
    COCO(out / "truth.json").loadRes(str(out / "detections.json"))
    return json.loads((out / "evaluation.json").read_text())["trained"]


def test_labels_may_be_the_categories_own_numbers(raw, prepared, variables, tmp_path, monkeypatch):
    """As torchvision's detectors of COCO have them; an answer of a number that was never given is told."""
    monkeypatch.setattr(
        Detection, "_detect_on_canvas", perfect(raw, dict(zip(IDS, IDS, strict=True)), surplus=[4])
    )
    numbers = measured(prepared, variables, tmp_path)
    # torchvision's rule of pasting moves a mask's edge by up to a pixel, of 12.
    assert all(
        0.8 < numbers[name] < 1 for name in numbers if re.fullmatch("segm/A[PR][1s]?0*", name)
    )
    whole = ("AP50", "AP75")
    perfect_numbers = {f"segm/{name}": 1 for name in whole} | {
        f"bbox/{name}": 1 for name in ("AP", *whole, "APs", "AR1")
    }
    perfect_numbers |= {"detections_full": 0, "left_out": 1 / 5}
    assert {name: numbers[name] for name in perfect_numbers} == pytest.approx(perfect_numbers), (
        "one answer of five"
    )
    assert numbers["per_class"]["bbox"] == pytest.approx(dict.fromkeys(NAMES, 1))


def test_masks_that_a_sam_has_drawn_are_measured(raw, prepared, variables, tmp_path, monkeypatch):
    """One that fills each box exactly: no edge is moved any more. It sees each picture, whose grey tells its number."""
    monkeypatch.setattr(Detection, "_detect_on_canvas", perfect(raw, dict(zip(IDS, IDS, strict=True))))
    seen = []

    def filled(box):
        x1, y1, x2, y2 = box.round().astype(int)
        mask = np.zeros(HW, bool)
        mask[y1:y2, x1:x2] = True
        return encode_mask(mask)

    def exact(checkpoint, refine_if):
        assert (checkpoint, refine_if) == ("runs/sam", "surer")

        def refine(image, found):
            seen.append((image.shape, int(image.max()), len(found.boxes)))
            return found._replace(masks=[filled(box) for box in found.boxes])

        return refine

    monkeypatch.setattr("segjax.tasks.detection.task.make_mask_refiner", exact)
    options = ["--config.eval.refine=runs/sam", "--config.eval.refine_if=surer"]
    assert measured(prepared, variables, tmp_path, options=options)["segm/AP"] == pytest.approx(1)
    assert seen == [((*HW, 3), 80, 2), ((*HW, 3), 160, 1), ((*HW, 3), 240, 1)]


def test_a_loss_is_of_the_model_s_own_classes_in_their_order(
    prepared, variables, monkeypatch, capsys, tmp_path
):
    options = ["--config.eval.loss=True"]
    with pytest.raises(AssertionError):
        measured(prepared, variables, tmp_path, options=options)
    assert (
        "has 3 classes, the model 9, so that training's loss cannot be measured"
        in capsys.readouterr().err
    )
    task = make_task(as_variant(detection_config(), "debug"))
    task.data["source"], task.eval["loss"], task.eval["label_names"] = prepared, True, NAMES[::-1]
    task.model = build_model("maskrcnn_debug", classes=3, keypoints=0)
    monkeypatch.setattr(Detection, "evaluation_batches", lambda *given: iter(()))
    with pytest.raises(ValueError, match="classes in another order.*set config.eval.loss=False"):
        task.detection_scores({}, mesh=None)


def test_boxes_alone_are_enough_for_the_masks_of_a_sam(prepared):
    task = make_task(as_variant(detection_config(), "debug"))
    task.data["source"], model = (
        prepared,
        build_model("maskrcnn_debug", classes=3, keypoints=0, mask_convs=0),
    )
    whole = encode_mask(np.ones(HW, bool))
    refine = lambda image, found: found._replace(masks=[whole] * len(found.boxes))
    measurement = DetectionEvaluator(model, task.data, task.eval, refine)
    row = dict(
        boxes=np.array([[[0, 0, 60, 40]]]), scores=np.ones((1, 1)), labels=np.ones((1, 1), int)
    )
    row |= dict(
        valid=np.ones((1, 1)) > 0, weight=np.ones(1), size=np.array([HW]), original=np.array([HW])
    )
    measurement.add(row | dict(example=np.zeros(1, int)))
    assert set(measurement.compute_scores().kinds) == {"bbox", "segm"}


def test_names_that_the_checkpoint_has_count_for_more(
    raw, prepared, variables, tmp_path, monkeypatch, caplog
):
    """A detector of other data, which has two of the classes, under other numbers; and a picture breaks."""
    names = ["owl", "cat", *(f"thing {n}" for n in range(7))]
    monkeypatch.setattr(Detection, "_detect_on_canvas", perfect(raw, {9: 1, 3: 2, 5: 5}))
    usual = DetectionExample.__call__

    def breaking(example, record, rng):
        return usual(example, record | {"image": b""} if record["image_id"] == "3" else record, rng)

    monkeypatch.setattr(DetectionExample, "__call__", breaking)
    numbers = measured(
        prepared, variables, tmp_path, dict(categories=names, category_ids=list(range(9)))
    )
    # The dog is no class of the detector's: its AP is 0. The one cat of two that was seen: precision 1 up to recall .5,
    # which are 51 of the 101 recalls.
    assert numbers["bbox/AP"] == pytest.approx((51 / 101 + 0 + 1) / 3)
    assert (numbers["left_out"], numbers["unread"]) == pytest.approx((1 / 3, 1 / 3))
    assert "no label for 1 of the 3 classes" in caplog.text and "(dog)" in caplog.text


@pytest.mark.parametrize(
    "labels, names, want",
    [
        (3, (), {1: 0, 2: 1, 3: 2}),
        (3, ("class 1", "class 2", "class 3"), {1: 0, 2: 1, 3: 2}),
        (3, ("cat", "hound", "owl"), {1: 0, 2: 1, 3: 2}),  # as many, and no name says otherwise
        (3, ("owl", "dog", "cat"), {3: 0, 2: 1, 1: 2}),
        (9, (), {3: 0, 5: 1, 9: 2}),
        (9, ("N/A", "N/A", "cat", "N/A", "dog", *"abc", "uhu"), {3: 0, 5: 1, 9: 2}),
        (4, ("-", "dog", "-", "cat"), {4: 0, 2: 1}),
        (12, ("dog", *"abcdefghijk"), {1: 1}),
    ],
)
def test_which_class_a_label_is(labels, names, want):
    assert match_labels_to_classes(labels, names, NAMES, IDS) == want


def test_what_does_not_fit_is_said(prepared):
    config = as_variant(detection_config(), "debug")
    config.data.update(source=prepared, train_split="val")
    config.model.classes = 9
    with pytest.raises(
        ValueError, match=r"has 3 classes, the model 9; set config.model.classes=3.*'detector:PATH'"
    ):
        make_task(config).batches("train", batch_size=2)
    said = r"has 3 classes \(cat, dog, owl\), the model 7 \(a, b, c, d, e, ...\), and no name is in both.* largest is 7"
    with pytest.raises(ValueError, match=said):
        match_labels_to_classes(7, tuple("abcdefg"), NAMES, IDS)


def test_what_was_not_prepared_is_told(raw, tmp_path, capsys):
    content = json.loads((raw / "instances_val.json").read_text())
    Image.fromarray(np.zeros((*HW, 3), np.uint8)).save(raw / "4.png")
    content["images"].append(dict(id=4, file_name="4.png", height=HW[0], width=HW[1]))
    for split in ("one", "two"):
        (tmp_path / f"instances_{split}.json").write_text(json.dumps(content))
        (tmp_path / split).symlink_to(raw)
    assert main(["prepare", "coco", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    say_what_was_left_out(str(tmp_path / "out"), "two")
    said = capsys.readouterr().err
    assert (
        "was prepared without 1 images of two: image has no objects" in said
        and "--keep-empty" in said
    )
    with pytest.raises(
        ValueError, match="has no split 'val' to measure on; choose --split one or --split two"
    ):
        make_evaluation_config({"model": {"name": "maskrcnn_debug"}}, str(tmp_path / "out"), None, [])


def test_data_without_keypoints_measures_the_rest(prepared):
    task = make_task(as_variant(detection_config(), "debug"))
    task.data["source"], model = prepared, build_model("maskrcnn_debug")
    assert model.keypoints and model.classes == 3
    measurement = DetectionEvaluator(model, task.data, task.eval)
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
    measurement.add(
        row | dict(size=np.array([HW]), original=np.array([HW]), example=np.zeros(1, int))
    )
    numbers = measurement.compute_scores().summarize_for_log()
    assert {name.split("/")[0] for name in numbers} == {"bbox", "segm", "detections_full", "unread"}
