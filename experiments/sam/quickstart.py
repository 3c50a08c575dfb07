"""A tiny SAM learns to segment from clicks, in minutes on a laptop's CPU."""

import ml_collections

from segjax.tasks.promptable_config import as_variant, promptable_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = promptable_config()
    config.total_steps = 2300
    config.batch_size = 8
    config.log_every = 100
    config.eval_every = 0
    config.model = ml_collections.ConfigDict(dict(name="sam_tiny"))
    config.rounds.update(count=6, empty_random=False, empty_last=False, sampled=True, correction_weight=1 / 5)
    config.loss.update(focal_normalise="area", focal_weight=4.0, iou_weight=3.0)
    config.data.update(max_prompts=4, mask_stride=2, cache_mb=500.0)
    config.data.scenes.update(train_count=2000, eval_count=64)
    config.data.augment = ml_collections.ConfigDict(dict(flip=True, vertical_flip=True, quarter_turns=True))
    config.optimizer.update(peak_lr=3e-3, b1=0.9, b2=0.99, weight_decay=0.05, clip_norm=1.0, warmup_steps=40)
    return as_variant(config, variant)
