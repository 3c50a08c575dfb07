"""Readers of raw datasets, one file per format. `raw.RawSource` tells how to add one."""
