"""Which parameters of a model a run trains: whole arrays, or low-rank adapters beside them."""
