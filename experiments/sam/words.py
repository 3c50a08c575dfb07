"""Trains text prompts for a small SAM, with a small CLIP, in minutes on a laptop's CPU.

As in the paper's section 7.5, SAM learns from CLIP's vectors of images and is asked with those of
texts. The CLIP comes from experiments/clip/quickstart.py.

    segjax train --config=experiments/clip/quickstart.py --workdir=runs/clip
    segjax train --config=experiments/sam/words.py --workdir=runs/words
    segjax predict image.png --checkpoint runs/words --text "the red star"

The variant `phrases` also trains on the vectors of phrases about the training scenes.

`text_miou` is the mean IoU of masks that phrases asked for, `image_miou` that of the objects' own
vectors, and `shuffled_miou` that of phrases about other images. Expected: 0.35, 0.66 and 0.12 after
a quarter of an hour; phrases without a color hardly work (docs/results/words.md).
"""

import ml_collections

from segjax.tasks.promptable.config import promptable_config
from segjax.tasks.variants import as_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the experiment, or its variant "phrases"."""
    config = promptable_config()
    config.update(total_steps=4000, batch_size=8, log_every=100, init_from="sam:sam_tiny_demo")
    config.model = dict(name="sam_tiny", text_width=96)
    config.rounds.update(count=3, empty_random=False, empty_last=False, sampled=True)
    config.rounds.update(text_rate=0.9, correction_weight=0.25)
    config.loss.update(focal_normalise="area", focal_weight=4.0, iou_weight=3.0)
    config.optimizer.update(name="muon", peak_lr=3e-3, b1=0.9, b2=0.99, weight_decay=0.05)
    config.optimizer.update(clip_norm=1.0, warmup_steps=40)
    config.data.update(max_prompts=4, mask_stride=2, cache_mb=500.0)
    config.data.scenes.update(kind="captions", train_count=4000, eval_count=64)
    config.data.text.update(clip="runs/clip", min_side=8.0, crops=2, noise=0.5)
    # Vectors of images stay true when a scene is turned; phrases such as "left of" do not
    config.data.augment = dict(flip=True, vertical_flip=True, quarter_turns=True)
    if variant == "phrases":
        config.data.text.phrases = 0.5
        config.data.augment = {}
    return as_variant(config, variant, known=("phrases",))
