"""Bar, line and pie charts."""
