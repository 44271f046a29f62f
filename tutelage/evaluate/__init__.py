"""Evaluation: what a checkpoint can do, and which of two is preferred; every figure has its interval."""
