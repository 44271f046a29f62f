"""Speed beside peers: one file a piece of work, run by ``python -m bench``; README.md says how."""
