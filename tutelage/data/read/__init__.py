"""Files, folders and data sets on the hub -> rows or lines of text, each with its place."""
