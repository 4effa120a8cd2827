"""A SAM 2 family small enough for a laptop: models, their training data, training and figures."""
