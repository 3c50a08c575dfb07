"""Retrieval among a few captions: which caption belongs to an image, and the other way round."""

from collections.abc import Sequence

import numpy as np


def draw_sets(captions: Sequence[str], size: int, seed: int = 0) -> list[np.ndarray]:
    """Splits captions into random sets in which no caption occurs twice.

    Args:
      captions: one per image.
      size: captions of a set. Those that fill no set are left out.
      seed: of the order.

    Returns:
      Arrays of `size` indices.
    """
    order = np.random.default_rng(seed).permutation(len(captions)).tolist()
    sets: list[list[int]] = []
    for index in order:
        for members in sets:
            if len(members) < size and all(captions[index] != captions[j] for j in members):
                members.append(index)
                break
        else:
            sets.append([index])
    return [np.array(members) for members in sets if len(members) == size]


def score_retrieval(
    images: np.ndarray, texts: np.ndarray, sets: Sequence[np.ndarray]
) -> dict[str, float]:
    """Computes top-1 and top-5 accuracy of retrieval within sets.

    Args:
      images: [N, E], of length 1.
      texts: [N, E], of length 1. Row i is the caption of image i.
      sets: indices of the captions among which is chosen, see `draw_sets`.

    Returns:
      {"image_to_text@1", "image_to_text@5", "text_to_image@1", "text_to_image@5"}. Equal cosines
      count as wrong.
    """
    ranks: dict[str, list[np.ndarray]] = {"image_to_text": [], "text_to_image": []}
    for members in sets:
        cosines = images[members] @ texts[members].T
        own = np.diagonal(cosines)
        ranks["image_to_text"].append((cosines >= own[:, None]).sum(axis=1))
        ranks["text_to_image"].append((cosines >= own[None, :]).sum(axis=0))
    return {
        f"{name}@{k}": float(np.mean(np.concatenate(found) <= k)) if found else float("nan")
        for name, found in ranks.items()
        for k in (1, 5)
    }
