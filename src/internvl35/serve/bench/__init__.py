"""A load for servers of OpenAI's API, drawn pictures and all, and what they make of it."""
