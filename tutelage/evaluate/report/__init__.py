"""The report of an evaluation: one HTML page without scripts or requests, its plots as files, and tables for the terminal."""
