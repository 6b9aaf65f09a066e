"""The exceptions this package raises for mistakes that are not its own.

One tree, so that ``except InternVLError`` catches everything a caller can put right. A message says
what was found, what was needed and what to do. Errors of the package itself stay plain Python
exceptions.
"""


class InternVLError(Exception):
    """Root of every error that a caller can cause and can put right."""


class ConfigError(InternVLError):
    """A setting or a config.json is missing, unknown or out of range."""


class CheckpointError(InternVLError):
    """A checkpoint cannot be found, read, or does not fit the network its config describes."""


class PromptError(InternVLError):
    """A conversation cannot be turned into a prompt."""


class MediaError(InternVLError):
    """A picture or a video cannot be fetched, decoded or tiled."""


class DataError(InternVLError):
    """A data set, a row of one, or a training folder cannot be used."""


class ServerError(InternVLError):
    """A server refused or lost a request."""


class BusyError(ServerError):
    """So much is in work that a request has no room now; it may be tried again.

    Args:
        message: what is full.
        retry_after_s: when to ask again.
    """

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        """Keep the time beside the message."""
        super().__init__(message)
        self.retry_after_s = retry_after_s
