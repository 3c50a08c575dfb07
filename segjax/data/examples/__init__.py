"""From a record to one training example, one file per task."""
