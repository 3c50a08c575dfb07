"""Raw files of published data sets, read into records."""
