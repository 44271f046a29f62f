"""The papers' claims: a recipe, a direction that was written down before it ran, three seeds, a verdict."""
