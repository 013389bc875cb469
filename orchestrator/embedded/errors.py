"""The one error of the embedded servers."""


class EmbeddedServerError(RuntimeError):
    """An embedded server cannot be found, started or stopped; the message says how to mend it."""
