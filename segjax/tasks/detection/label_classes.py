"""Maps the labels of a detector to the categories of a data set."""

import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)


def match_labels_to_classes(
    labels: int,
    label_names: Sequence[str],
    categories: Sequence[str],
    ids: Sequence[int],
    *,
    source: str = "the data",
) -> dict[int, int]:
    """Returns the category of the data that each label of a model means.

    The first rule that applies, and that no shared name contradicts, decides:
      1. There are as many categories as labels: label k is category k - 1. Models that segjax
         trained are of this kind.
      2. The largest category id equals the number of labels: a label is a category id. COCO models
         of torchvision, whose ids have gaps, are of this kind.
      3. Otherwise a label is the category of the same name.

    Logs a warning if some categories have no label: their objects count as missed.

    Args:
      labels: number of labels K of the model.
      label_names: names of the labels 1..K from the checkpoint, or empty.
      categories: names of the categories of the data.
      ids: ids of the categories, increasing.
      source: name of the data in error messages.

    Returns:
      Label in 1..K -> category index from 0. Labels without a category are absent.

    Raises:
      ValueError: No rule gives any label a category.
    """
    # Names that occur twice (such as "N/A") identify no label.
    unique = {
        name: label
        for label, name in enumerate(label_names, 1)
        if list(label_names).count(name) == 1
    }
    by_name = {index: unique[name] for index, name in enumerate(categories) if name in unique}
    by_index = {index: index + 1 for index in range(len(ids))} if len(ids) == labels else {}
    by_id = dict(enumerate(ids)) if ids and min(ids) > 0 and max(ids) == labels else {}
    # A rule is dropped if a shared name contradicts it.
    chosen = next(
        (rule for rule in (by_index, by_id) if rule and by_name.items() <= rule.items()),
        by_name,
    )
    if not chosen:
        names = f" ({abbreviate_names(label_names)})" if label_names else ""
        raise ValueError(
            f"{source!r} has {len(ids)} classes ({abbreviate_names(categories)}), the model "
            f"{labels}{names}, and no name is in both. A label is matched with the class of the "
            "same name. Without shared names it is matched by its position if there are as many "
            f"classes, or with the category of its own id if the largest id is {labels}. Prepare "
            "the data under the names or the ids that the model was trained with"
        )
    if absent := [name for index, name in enumerate(categories) if index not in chosen]:
        logger.warning(
            "the model has no label for %d of the %d classes of %r (%s): their objects count as "
            "missed",
            *(len(absent), len(ids), source, abbreviate_names(absent)),
        )
    return {label: index for index, label in chosen.items()}


def abbreviate_names(names: Sequence[str]) -> str:
    """Joins the first five names with commas, and "..." for the others."""
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)
