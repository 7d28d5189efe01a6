"""The one exception with which Tenfold turns its user's input down."""

__all__ = ["InputError"]


class InputError(ValueError):
    """What the caller gave cannot be used; the message says what was wrong, where, and what to do.

    The message is one line that quotes the input, for instance `base.fvecs: row 812 says
    dimension 96, the rows before it 128; the file is cut or mixed`. The command line prints it
    as `tenfold: <message>` and exits with status 2. Every room raises it, and nothing else, for
    files, arrays and options that it refuses.
    """
