"""The one kind of error that is the user's to mend."""


class UserError(Exception):
    """A mistake in an option, a table, an image or a checkpoint, told in one line.

    The message names the file or option, what was expected and what was found. The front door
    prints it without a traceback and ends with exit status 2.
    """
