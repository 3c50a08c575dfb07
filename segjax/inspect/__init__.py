"""Looks inside models and results: tables of parameters, attention maps, strips of images."""

from segjax.inspect.attention import AttentionMap, attention_maps
from segjax.inspect.strips import draw_heat_map, strip
from segjax.inspect.trees import Table, compare, sharding_table, summary
from segjax.viz.show import show

__all__ = [
    "AttentionMap",
    "Table",
    "attention_maps",
    "compare",
    "draw_heat_map",
    "sharding_table",
    "show",
    "strip",
    "summary",
]
