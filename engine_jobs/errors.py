"""How a container-side program tells a user what is wrong: one message on stderr and exit code 1, never a traceback."""

import sys
from collections.abc import Callable, Sequence


class UserError(Exception):
    """Something the user can put right. The message says what is wrong, where (file, key, resource), and what to do."""


def run(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> None:
    """Runs a program's `main` on the command line's arguments; a UserError or OSError becomes its message and exit code 1."""
    try:
        main(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "))
    except KeyboardInterrupt:
        sys.exit(130)
