"""The step "cloze": passages with their own last word, each beside the same passage with a word that ends another.

A model that has read such text should find its own word likelier. GPT-2 was asked for the last word of passages of novels (LAMBADA;
Radford et al. 2019, section 3.3) and for a missing one among ten (Children's Book Test, section 3.2); here there are two, and both
end passages of the same documents, so that neither is the commoner one.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

from pydantic import Field

from tutelage.data.formats import read_documents
from tutelage.errors import DataError
from tutelage.files import write_atomic
from tutelage.runs.folder import open_run
from tutelage.seeds import derive
from tutelage.settings import Inputs, Settings

_PASSAGE = re.compile(r"(?P<start>.*[a-z,;] )(?P<word>[a-z]{4,})(?P<end>[.!?])")


class ClozeInputs(Inputs):
    """What the passages are from."""

    documents: Path = Field(description="documents that the models have not read")


class ClozeSettings(Settings):
    """How many passages, and how long."""

    passages: int = Field(1000, gt=1, description="passages to be asked")
    shortest: int = Field(150, gt=0, description="shortest passage [characters]")
    longest: int = Field(700, gt=0, description="longest passage [characters]")
    seed: int = Field(0, description="seed of the passages and the other words")


def main(knobs: ClozeSettings, inputs: ClozeInputs, out: Path) -> Path:
    """Write blimp/cloze.jsonl, in BLiMP's format; returns the folder. DataError if there are too few passages.

    A passage is a line of a document; its last word has at least four letters, none of them a capital. The other word ends
    another passage, and is another word.
    """
    with open_run(out, "cloze", knobs, inputs) as run:
        if run.finished:
            return out
        found = [
            match
            for document in read_documents(inputs.documents)
            for line in document.text.splitlines()
            if knobs.shortest <= len(line) <= knobs.longest and (match := _PASSAGE.fullmatch(line.strip()))
        ]
        words = [match["word"] for match in found]
        if len(found) < knobs.passages or len(set(words)) < 2:
            problem = (
                f"has {len(found):,} passages that end in a word of four letters, and {knobs.passages:,} are wanted"
            )
            raise DataError(problem, path=inputs.documents)
        rng = random.Random(derive(knobs.seed, "reproduce.cloze"))
        rows = []
        for match in rng.sample(found, knobs.passages):
            other = match["word"]
            while other == match["word"]:
                other = rng.choice(words)
            own, wrong = (f"{match['start']}{word}{match['end']}" for word in (match["word"], other))
            rows.append({"sentence_good": own, "sentence_bad": wrong, "UID": "cloze"})
        (out / "blimp").mkdir(exist_ok=True)
        write_atomic(out / "blimp" / "cloze.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
        run.finish({"passages": len(rows), "of": len(found)})
    return out
