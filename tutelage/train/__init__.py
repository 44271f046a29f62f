"""The stages of training, one readable file each, over one loop."""
