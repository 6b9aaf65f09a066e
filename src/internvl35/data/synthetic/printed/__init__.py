"""Print: fonts, words, lines, receipts and pages."""
