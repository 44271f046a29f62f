"""Recognise a data file by its name's ending and first row, and read it as records.

    read_documents      text files and folders, zip archives of them, {text}, {source, target}
    read_conversations  {messages}, Alpaca, ShareGPT, {prompt, completion} (T0), seed tasks, Open-Assistant trees
    read_prompts        {messages}, {prompt}, {turns} (MT-bench), JSON strings; and the prompts of any other format
    read_rankings       our Ranking, hh-rlhf, {prompt, chosen, rejected}, UltraFeedback, AlpacaEval, Open-Assistant trees
    read_answers        our Answers

Rows come from JSON, JSON lines, Parquet and Arrow files, saved data sets and the hub, one after another: memory does not
grow with a file. A wrong row stops the reader with a DataError that names file, line, field, what was expected and what was
found; ``on_bad="skip"`` counts it in ``rejects`` instead. What a format leaves out by its nature is counted there too.

Each module holds a family of formats: how its rows are recognised, read and written. table.py lists them all.
"""

from tutelage.data.formats.own import write_jsonl
from tutelage.data.formats.reading import (
    OnBad,
    detect,
    read_answers,
    read_conversations,
    read_documents,
    read_prompts,
    read_rankings,
    records_of,
    what_is_in,
)
from tutelage.data.formats.table import FORMATS, recognise
from tutelage.data.read.rows import Rejects

__all__ = [
    "FORMATS",
    "OnBad",
    "Rejects",
    "detect",
    "read_answers",
    "read_conversations",
    "read_documents",
    "read_prompts",
    "read_rankings",
    "recognise",
    "records_of",
    "what_is_in",
    "write_jsonl",
]
