"""What a run would be on machines that are not here: compiled for them, counted, and weighed against their chips."""
