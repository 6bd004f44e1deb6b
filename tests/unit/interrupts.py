"""For tests that interrupt a child process."""

import signal


def take_interrupts() -> None:
    """A child's `preexec_fn`: SIGINT ends it also where the tests run in the background, whose processes ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
