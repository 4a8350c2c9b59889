"""The error that a user's slip ends in: one clear line, no traceback."""


class OptionError(ValueError):
    """What was asked for cannot be: the message says what was wrong and what would be right."""
