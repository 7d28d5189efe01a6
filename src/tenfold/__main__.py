"""`python -m tenfold`, for where the `tenfold` command is not on the search path."""

import sys

from tenfold.cli import main

sys.exit(main())
