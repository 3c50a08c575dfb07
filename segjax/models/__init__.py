"""Models: linen modules and their sizes, one `Family` record per model family."""
