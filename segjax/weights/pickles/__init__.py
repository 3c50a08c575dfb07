"""Reads pickles without running code in them, and within bounds of memory and time."""
