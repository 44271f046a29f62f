"""The decoder, its scalar heads and its cache; checkpoints in the Hugging Face layout; device-dependent settings.

Import from the modules: this package imports nothing, so that ``import tutelage`` stays free of torch.
"""
