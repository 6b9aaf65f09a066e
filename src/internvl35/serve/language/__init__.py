"""A language server: prompts and visual tokens in, answers out. Holds the language model alone."""
