"""Fuzzers of everything that segjax reads: `bash tools/fuzz --help`."""
