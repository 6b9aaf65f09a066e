"""Room plans seen from above."""
