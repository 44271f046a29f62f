"""Token ids in, token ids out: ``sampler`` picks the next token, ``engine`` runs many requests through a model at once.

Import from the modules: this package does no work, so that it stays free of torch until it is needed.
"""
