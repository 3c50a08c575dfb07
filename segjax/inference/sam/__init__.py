"""SAM for users: the predictor, segment-everything and the steps between them and the network."""
