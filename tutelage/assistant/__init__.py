"""A conversation in, an answer out."""
