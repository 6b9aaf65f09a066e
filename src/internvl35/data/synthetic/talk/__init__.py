"""Small talk, and saying that one does not know."""
