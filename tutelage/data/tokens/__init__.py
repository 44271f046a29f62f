"""Records -> token streams on disk, pretraining batches, padded tensors."""
