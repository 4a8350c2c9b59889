"""Errors that end in one clear line instead of a traceback."""


class UserError(ValueError):
    """Something that a user can mend: the message says what was wrong and what would be right."""


class OptionError(UserError):
    """A wrong option or argument."""
