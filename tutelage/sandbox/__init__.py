"""Running code that nobody trusts: what a model wrote runs behind a wall, within limits, and its end is reported."""
