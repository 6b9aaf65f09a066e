"""A vision server: tiles in, visual tokens out. Holds tower, projectors and router alone."""
