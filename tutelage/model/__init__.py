"""The decoder, its scalar heads and its cache; checkpoints in the Hugging Face layout; what depends on the device.

Import from the modules: this package does no work, so that ``import tutelage`` stays free of torch.
"""
