"""Rounds, proposals, reports and the simulated annotator on scenes with planted objects."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from segjax.engine import rounds
from segjax.engine.annotations import AnnotationStore, ConflictError, select_current
from segjax.engine.annotator import GOOD, MOST_CLICKS, Effort, SimulatedAnnotator
from segjax.engine.images import ImageFolder
from segjax.engine.model_hash import hash_weights
from segjax.engine.prefill import prefill
from segjax.engine.report import format_report, make_report
from segjax.inference.sam.predictor import SamPredictor
from segjax.masks import compute_iou
from segjax.models.build import build_model, init_model

ABOUT = {"class": "", "annotator": "Ada", "stage": "manual", "seconds": 4.0, "model": "m1"}


def block(rows, columns):
    mask = np.zeros((40, 60), bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


BIG, SMALL = block((5, 25), (10, 40)), block((30, 38), (45, 58))


@pytest.fixture(scope="module")
def predictor():
    model = build_model("sam_debug")
    return SamPredictor(model, init_model(model, jax.random.key(0)))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(tmp_path / f"{index}.png")
    return tmp_path


class Painter(SamPredictor):
    """Predicts the ground truth from the given click on, and half of it before."""

    def __init__(self, predictor, truth, good_at):
        super().__init__(predictor.model, predictor.variables)
        self.truth, self.good_at = truth, good_at

    def predict(self, points, labels, mask_input=None, multimask_output=True):
        assert (mask_input is None) == (len(points) == 1) == multimask_output
        last = points[-1].astype(int)
        half = self.truth & (np.arange(60) < 25)
        # Every click is where the person would click
        expected = self.truth if len(points) == 1 else self.truth & ~half
        assert labels[-1] == 1 and expected[last[1], last[0]]
        mask = self.truth if len(points) >= self.good_at else half
        return mask[None], np.array([0.5]), np.zeros((1, 16, 16))


@pytest.mark.parametrize("good_at, clicks", [(1, 1), (3, 3), (99, MOST_CLICKS)])
def test_the_annotator_clicks_until_it_is_good(folder, predictor, good_at, clicks):
    annotator = SimulatedAnnotator(folder, Painter(predictor, BIG, good_at))
    mask, steps, _ = annotator.draw(BIG)
    assert len(steps) == clicks and len(steps[-1]["points"]) == clicks
    assert (compute_iou(mask, BIG) >= GOOD) == (good_at <= MOST_CLICKS)


def test_review_accepts_good_proposals_and_removes_others(folder, predictor):
    store = AnnotationStore(folder)
    wrong = block((0, 4), (0, 4))
    report = prefill(folder, lambda image: ([BIG, wrong, BIG], [0.9, 0.8, 0.7]), predictor)
    assert (report.images, report.objects, report.overlapping) == (3, 6, 3)
    annotator = SimulatedAnnotator(folder, Painter(predictor, SMALL, 1))
    (entry, *_), effort = ImageFolder(folder).list_entries(), Effort()
    annotator.annotate(entry, np.stack([BIG, SMALL]), effort)
    assert (effort.accepted, effort.removed, effort.objects, effort.clicks) == (1, 1, 1, 1)
    assert effort.seconds == pytest.approx(2 * 1.0 + 3.0 + 1.2) and effort.good == 1
    content = store.read(entry.name)
    assert content["done"] and [r["stage"] for r in select_current(content)] == [
        "prefilled",
        "manual",
    ]
    # Done images are left alone, and nothing is proposed twice
    again = prefill(folder, lambda image: ([BIG], [0.9]), predictor)
    assert (again.done, again.objects, again.overlapping) == (1, 0, 2)


def test_report_by_model(folder):
    store = AnnotationStore(folder)
    steps = [{"points": [[1, 2, 1]], "box": None}, {"points": [[1, 2, 1], [3, 4, 0]], "box": None}]
    store.commit("0.png", BIG, ABOUT | {"steps": steps})
    store.commit("0.png", SMALL, ABOUT | {"steps": [{"points": [], "box": [1, 2, 3, 4]}]})
    first = store.commit("1.png", BIG, ABOUT | {"stage": "prefilled", "model": "m2", "seconds": 0})
    parent = first["objects"][0]["id"]
    almost = BIG.copy()
    almost[5] = False  # 19 of 20 rows: IoU 0.95
    store.commit("1.png", almost, ABOUT | {"model": "m2", "seconds": 1.0}, parent=parent)
    store.commit("1.png", SMALL, ABOUT | {"stage": "prefilled", "model": "m2", "seconds": 0})
    one, two = make_report(folder)
    assert one["model"] == "m1" and one["clicks"] == 1.5 and one["seconds"] == 4.0
    assert one["objects_per_image"] == 2 and one["prefilled"] == 0 and one["iou_90"] is None
    assert two["objects"] == 2 and two["prefilled"] == 0.5 and two["corrected"] == 1
    assert two["iou_90"] == two["iou_75"] == 1.0
    assert "m2" in format_report([one, two])


def test_when_a_round_is_due(folder):
    assert "no object is committed" in rounds.explain_wait(folder)
    store = AnnotationStore(folder)
    for name in ("0.png", "1.png"):
        store.commit(name, BIG, ABOUT)
    assert rounds.explain_wait(folder) == ""
    (folder / "rounds" / "0001").mkdir(parents=True)
    (folder / "rounds" / "0001" / "sam.json").write_text(json.dumps({"objects": 2}))
    assert "the next one is due at 3" in rounds.explain_wait(folder)
    store.commit("0.png", SMALL, ABOUT)
    assert rounds.explain_wait(folder) == "" and rounds.count_objects(folder) == (3, 2)


def make_config():
    from segjax.tasks.promptable.config import promptable_config

    config = promptable_config()
    config.update(total_steps=1, batch_size=8, log_every=1)
    config.model.name = "sam_debug"
    config.rounds.update(count=3)
    config.data.max_prompts = 1
    config.eval.update(batch_size=8, max_prompts=1, num_points=1)
    config.optimizer.warmup_steps = 0
    return config


def commit_objects(folder):
    store = AnnotationStore(folder)
    for name in ("0.png", "1.png", "2.png"):
        store.commit(name, BIG, ABOUT)


def test_a_round_starts_from_the_last_one(folder, monkeypatch):
    commit_objects(folder)
    seen = []
    monkeypatch.setattr(
        "segjax.training.loop.train", lambda task, config, workdir: seen.append((config, workdir))
    )
    first = rounds.start_round(folder, make_config())
    second = rounds.start_round(
        folder, make_config(), extra={str(first.run.parent / "sam_data"): 2}
    )
    assert (first.number, second.number) == (1, 2)
    assert first.about["start"] == "scratch" and second.about["start"] == str(first.run)
    assert [row.number for row in rounds.list_rounds(folder)] == [1, 2]
    (one, where), (two, _) = seen
    assert where == first.run and one.data.source == str(folder / "rounds" / "0001" / "sam_data")
    assert two.init_from == str(first.run)
    assert [weight for _, weight in two.data.source] == [1.0, 2.0]
    assert not list(folder.glob("instances*"))


@pytest.mark.slow
def test_a_round_trains_the_model_of_the_last_one(folder):
    commit_objects(folder)
    first, second = (rounds.start_round(folder, make_config()) for _ in range(2))
    one, two = (hash_weights(SamPredictor.load(row.run).variables) for row in (first, second))
    assert one != two


def test_histories_have_no_forks(folder):
    store = AnnotationStore(folder)
    first = store.commit("0.png", BIG, ABOUT)["objects"][0]["id"]
    store.commit("0.png", SMALL, ABOUT, parent=first)
    with pytest.raises(ConflictError, match="changed or removed meanwhile"):
        store.commit("0.png", BIG, ABOUT, parent=first)
