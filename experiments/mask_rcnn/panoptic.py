"""This is quickstart.py, but with stuff: a semantic branch on the pyramid (Panoptic FPN).

    segjax train --config=experiments/mask_rcnn/panoptic.py --workdir=runs/panoptic

The five shapes lie on regions of four textures, the classes of stuff. Colors, scales and directions
of the textures are random, so the pattern alone tells the class. Evaluation merges detections and
stuff, and reports panoptic quality (PQ), which is segmentation quality (SQ) times recognition
quality (RQ) for each class.

docs/results/detection.md has the result of 248 steps. All 800 have not been run.
Panoptic FPN: arXiv 1901.02446.
"""

import ml_collections

from segjax.tasks.variants import as_variant

from . import quickstart


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment."""
    config = quickstart.get_config()
    config.update(total_steps=800, eval_every=400)
    config.model.update(stuff=4, stuff_width=32)
    config.data.scenes.kind = "panoptic"
    return as_variant(config, variant)
