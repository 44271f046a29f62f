"""Data files to records and back, records to tokens, tokens to batches.

read/        files, folders, saved data sets and the hub -> rows with their places
formats/     one module per family of formats: recognise, read and write rows; read_documents, read_conversations, ...
writing.py   records -> JSON lines, JSON or Parquet in any of the formats: write_records
inspect.py   what is in a file or folder: counts, lengths, scripts, duplicates, problems
prepare.py   files that people have -> the files that the stages read, held-out parts split off
tokens/      documents -> memory-mapped shards -> mixed batches; conversations and rankings -> padded tensors
"""
