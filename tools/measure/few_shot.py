"""Measures few-shot segmentation on synthetic scenes: find "this red star" in another scene.

    python tools/measure/few_shot.py --pairs 40 --seeds 0 1 2

Each pair is one object in two scenes with other objects, places, sizes and backgrounds: same shape,
color and texture. The first scene with the object's mask is the example. Prints the mean IoU in
the second scene for each seed: PerSAM, PerSAM-F, "unguided" (the most similar pixel as an ordinary
click, the most confident of three masks), and "chance" (a perfect mask of a random object).
"""

import argparse
import collections
import json

import numpy as np

import segjax
from segjax.cli.experiments import read_config
from segjax.data.examples.place_objects import decode_record_image
from segjax.data.splits import open_split
from segjax.inference.sam.personalize import PersonalSam
from segjax.masks import compute_iou, decode_mask

SCENES = 1500  # that pairs are looked for in
SMALLEST = 150  # pixels of an object of 128 x 128


def list_pairs(records, count: int, seed: int) -> list[tuple]:
    """Returns pairs of (record, index of the object) with equal objects in different scenes."""
    places = collections.defaultdict(list)
    rng = np.random.default_rng(seed)
    for index in rng.permutation(len(records))[:SCENES]:
        record = records[int(index)]
        for number, phrases in enumerate(record["objects"]["phrases"]):
            first = phrases.split("\n")[0]
            mask = decode_mask(record["objects"]["rle"][number], record["height"], record["width"])
            # Full phrases, such as "the red striped star", and objects that cover some cells
            if len(first.split()) == 4 and mask.sum() >= SMALLEST:
                places[first].append((record, number))
    pairs = []
    for phrase in sorted(places):
        found = places[phrase]
        others = [row for row in found[1:] if row[0]["image_id"] != found[0][0]["image_id"]]
        pairs += [(found[0], others[0])] if others else []
    rng.shuffle(pairs)
    return pairs[:count]


def read(place) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the image, the object's mask and the number of objects."""
    record, number = place
    mask = decode_mask(record["objects"]["rle"][number], record["height"], record["width"])
    return decode_record_image(record), mask, len(record["objects"]["rle"])


def measure(predictor, pairs) -> dict[str, float]:
    """Returns the mean IoU of every method."""
    scores = collections.defaultdict(list)
    personal = PersonalSam(predictor)
    for example, target in pairs:
        image, mask, _ = read(example)
        other, truth, objects = read(target)
        personal.set_example(image, mask)
        found = personal.predict(other)
        scores["persam"].append(compute_iou(found.mask, truth))
        masks, iou, _ = predictor.predict(found.points[:1], np.array([1]))
        scores["unguided"].append(compute_iou(masks[int(iou.argmax())], truth))
        scores["click on the object"].append(float(truth[tuple(found.points[0][::-1])]))
        personal.set_example(image, mask, learn=True)
        scores["persam-f"].append(compute_iou(personal.predict(other).mask, truth))
        scores["chance"].append(1 / objects)
    return {name: round(float(np.mean(values)), 3) for name, values in scores.items()}


def main() -> None:
    """Prints one line of JSON per seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="sam_tiny_demo")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    predictor = segjax.SamPredictor.load(args.checkpoint)
    records = open_split(read_config("sam/words").data.to_dict(), "train")
    for seed in args.seeds:
        pairs = list_pairs(records, args.pairs, seed)
        print(
            json.dumps({"seed": seed, "pairs": len(pairs)} | measure(predictor, pairs)), flush=True
        )


if __name__ == "__main__":
    main()
