"""tutelage: raise your own ChatGPT, from text, demonstrations and rankings to an aligned assistant.

>>> import tutelage
>>> assistant = tutelage.load("runs/demo/ppo_ptx/checkpoint")
>>> assistant.chat([{"role": "user", "content": "Where does Helen live?"}])

Importing the package loads neither torch nor anything else that is slow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tutelage.assistant.assistant import Assistant

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(path: str, *, device: str = "auto", dtype: str = "auto") -> Assistant:
    """Load a checkpoint folder: a language model (``chat``, ``stream``, ``generate``, ``logits``) or a reward model (``score``).

    ``dtype`` is what matrix products are computed in: bf16, fp32, or auto, bf16 where the hardware has it. Raises CheckpointError
    if the folder is not a checkpoint, naming what is missing.
    """
    from tutelage.assistant.assistant import Assistant

    return Assistant.load(path, device=device, dtype=dtype)
