"""Data files to records and back, records to tokens, tokens to batches.

files.py       what is common to files: rows and their places, rejects, opening, lines of text, whole writing
json_rows.py   rows of JSON lines and JSON arrays, streamed, by the letter
tables.py      rows of Parquet and Arrow files, streamed, as plain values
hub.py         rows of data sets on the Hugging Face hub
sources.py     a path, a folder, a saved data set or a hub's name -> files -> rows
rows.py        one function a format: a row -> record(s), or the reason why it gives none
row_parts.py   what these functions share
trees.py       the same for Open-Assistant's conversation trees
pieces.py      a plain text -> documents
formats.py     recognise a file and read it: read_documents, read_conversations, read_prompts, read_rankings
writers.py     one function a format: a record -> a row, or why the format cannot hold it
writing.py     records -> JSON lines, JSON or Parquet in any of these formats: write_records
inspection.py  what is in a file or folder: counts, lengths, scripts, duplicates, problems
shards.py      documents -> one memory-mapped stream of tokens
mixing.py      streams -> pretraining batches by weight; stable held-out splits
batches.py     conversations and rankings -> padded tensors
heldout.py     held-out text -> windows and bits per byte (with batches.py the only module here that needs torch)
prepare.py     files that people have -> the files that the stages read, held-out parts split off
"""
