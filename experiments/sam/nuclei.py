"""Nuclei of the 2018 Data Science Bowl, segmented by clicks."""

import ml_collections

from segjax.tasks.promptable_config import as_variant, promptable_config


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    config = promptable_config()
    config.total_steps = 3500
    config.batch_size = 4
    config.log_every = 100
    config.eval_every = 0
    config.model = ml_collections.ConfigDict(dict(name="sam_tiny", canvas=128, patch=8))
    config.rounds.update(count=8, sampled=True, correction_weight=1 / 7)
    config.loss.update(focal_normalise="area", focal_weight=4.0)
    config.data.update(source="data/nuclei", train_split="stage1_train", eval_split="stage1_test")
    config.data.update(max_prompts=8, mask_stride=2, cache_mb=500.0, percentiles=(1.0, 99.0))
    config.data.augment = ml_collections.ConfigDict(
        dict(scale=(1.6, 2.5), flip=True, vertical_flip=True, quarter_turns=True, brightness=0.2, contrast=0.2)
    )
    config.eval.update(tile=128, overlap=32, batch_size=8, max_prompts=24)
    config.optimizer.update(peak_lr=2e-3, b1=0.9, b2=0.99, weight_decay=0.05, clip_norm=1.0, warmup_steps=40)
    return as_variant(config, variant)
