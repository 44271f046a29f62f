"""What a run leaves behind: its folder, its lineage, and the commands that look at them."""
