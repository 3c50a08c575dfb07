"""SAM as linen modules, with its sizes."""
