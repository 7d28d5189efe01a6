"""Folders for indexes that nobody gave a place."""

import shutil
import weakref
from pathlib import Path
from tempfile import mkdtemp

__all__ = ["TemporaryFolder"]


class TemporaryFolder:
    """A folder that goes with this object, or when Python ends; without the warning of `tempfile.TemporaryDirectory`.

    Attributes:
        path: The folder.
        remove: Called without arguments, removes it at once.
    """

    def __init__(self) -> None:
        self.path = Path(mkdtemp(prefix="tenfold-"))
        self.remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
