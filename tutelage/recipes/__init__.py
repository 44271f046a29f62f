"""Recipes: ordered lists of named steps, and running them."""
