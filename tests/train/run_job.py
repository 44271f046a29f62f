"""The entry for torchrun: run the pickled jobs of a file, one after another. `torchrun --nproc_per_node 2 run_job.py FILE`."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import torch

if __name__ == "__main__":
    torch.set_num_threads(1)
    for job in pickle.loads(Path(sys.argv[1]).read_bytes()):
        job.run()
