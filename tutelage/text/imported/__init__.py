"""What tokenizers of other models need: their files, their chat templates, and control tokens that only a template may write."""
