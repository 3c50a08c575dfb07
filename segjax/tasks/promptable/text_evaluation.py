"""Evaluation of text prompts: phrases, vectors of the objects themselves, and others' phrases."""

import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from segjax.data.examples.place_objects import decode_record_image
from segjax.evaluation.zero_shot.concept_prompts import ConceptScores
from segjax.evaluation.zero_shot.text_to_mask import TextScores
from segjax.inference.clip.clip import Clip
from segjax.inference.sam.predictor import SamPredictor
from segjax.masks import decode_mask
from segjax.text.words import KINDS, find_kind

PROMPTS = ("text", "image", "shuffled")
CONFIDENT = 0.5  # a mask of lower predicted IoU counts as silence


def evaluate_texts(
    predictor: SamPredictor,
    clip: Clip,
    source: Sequence[Mapping],
    encode_objects: Callable[[Mapping], np.ndarray],
) -> dict[str, float]:
    """Measures masks of phrases, one phrase of each kind for each object.

    The prediction is the most confident of the three masks.

    Args:
      predictor: SAM with text prompts.
      clip: the CLIP that encodes phrases.
      source: records with phrases. Objects without any are left out.
      encode_objects: from a record to vectors [G, E] of its objects, zeros for none.

    Returns:
      Of "text" (the phrase), "image" (the object's own vector) and "shuffled" (a phrase of the same
      kind of another object of the data): see `TextScores.summarize`. "text_phrases" is the number
      of phrases. See `ConceptScores.summarize` for "text_cgf1", in which shuffled phrases whose
      words are true of no object of the image should find nothing. {} without any phrase.
    """
    items = [item for row, record in enumerate(source) for item in choose_phrases(row, record)]
    if not items:
        return {}
    others = shuffle_phrases(items)
    vectors = dict(
        zip(texts := sorted({item[3] for item in items}), clip.encode_text(texts), strict=True)
    )
    scores, concepts = {name: TextScores() for name in PROMPTS}, ConceptScores()
    start = 0
    while start < len(items):
        row = items[start][0]
        end = next((i for i in range(start, len(items)) if items[i][0] != row), len(items))
        record = source[row]
        own = encode_objects(record)
        predictor.set_image(decode_record_image(record))
        truths = {
            index: decode_mask(record["objects"]["rle"][index], record["height"], record["width"])
            for index in {item[1] for item in items[start:end]}
        }
        prompts = {
            "text": [vectors[item[3]] for item in items[start:end]],
            "image": [own[item[1]] for item in items[start:end]],
            "shuffled": [vectors[text] for text in others[start:end]],
        }
        rows = np.stack([vector for name in PROMPTS for vector in prompts[name]])
        usable = np.linalg.norm(rows, axis=-1) > 0
        rows[~usable] = rows[usable][0]
        masks, iou, _ = predictor.predict_batch(texts=rows)
        best = masks[np.arange(len(rows)), iou.argmax(axis=1)]
        sure = iou.max(axis=1) >= CONFIDENT
        for i, name in enumerate(PROMPTS):
            for j, (_, index, kind, _) in enumerate(items[start:end]):
                slot = i * (end - start) + j
                if not usable[slot]:
                    continue
                scores[name].add(kind, best[slot], truths[index])
                answer = [best[slot]] if sure[slot] else []
                if name == "text":
                    concepts.add(answer, [truths[index]])
                elif name == "shuffled" and is_absent(others[start + j], record):
                    concepts.add(answer, [])
        start = end
    found = {}
    for name in PROMPTS:
        found |= scores[name].summarize(name, KINDS)
    found |= concepts.summarize("text")
    return found | {"text_phrases": float(len(items))}


def is_absent(phrase: str, record: Mapping) -> bool:
    """Tells whether no object of a record has all words of a phrase in its own phrases.

    Phrases about another object (relations) are never said to be absent, because their words say
    nothing about places.
    """
    if find_kind(phrase) == "relation":
        return False
    words = set(phrase.split())
    owners = (set(text.split()) for text in record["objects"]["phrases"])
    return not any(words <= own for own in owners)


def choose_phrases(row: int, record: Mapping) -> list[tuple[int, int, str, str]]:
    """Chooses one phrase of each kind for each object of a record, the same ones each time.

    Returns:
      (row, index of the object, kind, phrase) for each.
    """
    objects = record["objects"]
    chosen = []
    for index, text in enumerate(objects.get("phrases", ())):
        if not text or objects["crowd"][index]:
            continue
        rng = np.random.default_rng([zlib.crc32(record["image_id"].encode()), index])
        by_kind: dict[str, list[str]] = {}
        for phrase in text.split("\n"):
            by_kind.setdefault(find_kind(phrase), []).append(phrase)
        chosen += [
            (row, index, kind, by_kind[kind][rng.integers(len(by_kind[kind]))])
            for kind in KINDS
            if kind in by_kind
        ]
    return chosen


def shuffle_phrases(items: Sequence[tuple[int, int, str, str]]) -> list[str]:
    """Returns for each item a phrase of the same kind that belongs to another image."""
    rng = np.random.default_rng(0)
    by_kind: dict[str, list[tuple[int, int, str, str]]] = {}
    for item in items:
        by_kind.setdefault(item[2], []).append(item)
    others = []
    for row, _, kind, phrase in items:
        candidates = [item for item in by_kind[kind] if item[0] != row] or [(row, 0, kind, phrase)]
        others.append(candidates[rng.integers(len(candidates))][3])
    return others
