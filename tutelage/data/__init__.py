"""Data files to records, records to tokens, tokens to batches.

files.py     what a file holds: lines of text, rows of JSON, each with its place; writing JSONL
rows.py      one function a format: a row -> record(s), or the reason why it gives none
trees.py     the same for Open-Assistant's conversation trees
formats.py   recognise a file and read it: read_documents, read_conversations, read_prompts, read_rankings
shards.py    documents -> one memory-mapped stream of tokens
mixing.py    streams -> pretraining batches by weight; stable held-out splits
batches.py   conversations and rankings -> padded tensors
heldout.py   held-out text -> windows and bits per byte (with batches.py the only module here that needs torch)
prepare.py   files that people have -> the files that the stages read, held-out parts split off
"""
