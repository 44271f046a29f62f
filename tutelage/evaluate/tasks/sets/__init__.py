"""The tasks, a file each: where rows are and how one is read, how it is asked, and what scores the answer."""
