"""The schema's history. A landed revision never changes; tests/store keeps a database of each."""
