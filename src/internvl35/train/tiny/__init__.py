"""The embedded checkpoint: its shape and recipe, its lessons, its run."""
