"""Objectives: pure functions on tensors, from torch alone.

Conventions of every module here:

- ``b`` batch, ``s`` sequence, ``n`` counted tokens, ``v`` vocabulary, ``p`` prompts, ``k`` completions of a prompt.
- A mask is boolean and True means "counts". Values where it is False (padding, even NaN) affect no loss, metric or
  gradient.
- A loss is a sum divided by ``count``, the number of counted things in the **whole batch**, over all its microbatches
  and processes. So the losses, gradients and statistics of eight microbatches add up to those of the one batch.
  Without ``count`` the tensors given are the whole batch. Where nothing counts, the loss is 0.
- The arithmetic is float32, whatever the inputs are.
"""
