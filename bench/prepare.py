"""The files that participants read: models of random weights in given shapes, their GGUF files, the embedded world's texts.

Made once per run in a temporary folder, as participants ask for them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from tutelage.data.formats import write_jsonl
from tutelage.export.gguf import export
from tutelage.model.checkpoint import read_config, save_model
from tutelage.model.config import ModelConfig
from tutelage.model.decoder import Decoder
from tutelage.model.heads import ScalarModel
from tutelage.text.tokenizer import Tokenizer
from tutelage.train import sft
from tutelage.world.build import WorldData, WorldSettings, draw_world_data

SHAPES: dict[str, dict[str, Any]] = {
    "S": {
        "family": "llama", "num_layers": 4, "hidden_size": 256, "num_heads": 4, "intermediate_size": 688,
        "vocab_size": 4096, "max_position_embeddings": 256,
    },
    "M": {
        "family": "llama", "num_layers": 12, "hidden_size": 768, "num_heads": 12, "intermediate_size": 2048,
        "vocab_size": 32000, "max_position_embeddings": 256,
    },
    "demo": {
        "family": "qwen3", "num_layers": 4, "hidden_size": 128, "num_heads": 2,
        "vocab_size": 4096, "max_position_embeddings": 512,
    },
}  # fmt: skip
"""S has 4.2, M 110 and the demo's model 1.3 million weights. Embeddings are tied."""
WORLD = WorldSettings(
    people=16, towns=6, values=8, documents=12000, demonstrations=2000, prompts=600, heldout_prompts=50,
    heldout_demonstrations=50, heldout_documents=50,
)  # fmt: skip
"""The demo's world, with fewer of everything."""


@dataclass
class Prepared:
    """Files by name; each is made when it is first asked for."""

    folder: Path
    smollm2: Path | None = None
    quick: bool = False
    """Whether all is to be seen to run, and not to be measured: works take less of everything."""

    @cached_property
    def world(self) -> WorldData:
        return draw_world_data(
            WORLD.model_copy(update={"documents": 1500, "demonstrations": 300} if self.quick else {})
        )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The world's, of 4,096 tokens."""
        texts = [document.text for document in self.world.files["documents"]]
        spoken = [message.text for one in self.world.files["demonstrations"] for message in one.messages]
        return Tokenizer.train(texts + spoken, 4096)

    def model(self, shape: str, *, scalar: bool = False, **changes: Any) -> str:
        """A checkpoint folder of this shape; ``scalar``: a reward model. ``changes`` of its settings."""
        if shape == "smollm2":
            assert self.smollm2 is not None
            return str(self.smollm2)
        config = config_of(shape, **changes)
        named = [shape, *(["reward"] if scalar else []), *(f"{key}{value}" for key, value in changes.items())]
        folder = self.folder / "-".join(named)
        if not folder.exists():
            torch.manual_seed(0)
            decoder, tokenizer = Decoder(config), self.tokenizer
            ids = {"bos_id": tokenizer.bos_id, "end_id": tokenizer.end_id, "pad_id": tokenizer.pad_id}
            save_model(folder, ScalarModel.from_decoder(decoder) if scalar else decoder, **ids)
            tokenizer.save(folder)
        return str(folder)

    def demonstrated(self) -> str:
        """S after an epoch of the world's demonstrations: it knows how long an answer is, and little else."""
        out, demonstrations = self.folder / "sft", self.folder / "demonstrations.jsonl"
        if not out.exists():
            write_jsonl(demonstrations, self.world.files["demonstrations"])
            inputs = sft.SFTInputs(checkpoint=Path(self.model("S")), demonstrations=demonstrations)
            sft.main(sft.SFTSettings(epochs=1), inputs, out)
        return str(out / "checkpoint")

    def rows(self, name: str, rows: list[dict[str, Any]]) -> str:
        """A JSON file of these rows."""
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(rows))
        return str(file)

    def vocab_size(self, shape: str) -> int:
        """Rows of a shape's embedding."""
        return int(read_config(Path(self.model(shape)))["vocab_size"])

    def gguf(self, shape: str, kind: str) -> str:
        """The same model as a GGUF file, by `tutelage export`."""
        file = self.folder / f"{shape}-{kind}.gguf"
        if not file.exists():
            export(Path(self.model(shape)), file, kind)  # type: ignore[arg-type]
        return str(file)


def config_of(shape: str, **changes: Any) -> ModelConfig:
    """The settings of a shape, with weights spread as `tutelage pretrain` spreads them."""
    given = {"tie_embeddings": True, **SHAPES[shape], **changes}
    return ModelConfig(**{"init_std": given["hidden_size"] ** -0.5, **given})
