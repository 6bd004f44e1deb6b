"""What happens when the engine's process dies: the whole server ends, so that Kubernetes starts the container again.

Triton (2.51) keeps a decoupled model whose process is gone as READY and answers every request with an error, for ever. A shell of
one line holds the other end of a pipe: if the pipe closes without a word, the process did not end as it should.
"""

import os
import subprocess

SCRIPT = (
    'read -r word; [ "$word" = unloaded ] || { echo "the engine $2 died: ending the server" >&2; kill -TERM "$1"; }'
)


class Watch:
    """Over this process, on behalf of its parent, the server."""

    def __init__(self, engine: str) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", SCRIPT, "watch", str(os.getppid()), engine], stdin=subprocess.PIPE, start_new_session=True
        )

    def dismiss(self) -> None:
        """This process is about to end as it should."""
        try:
            self._shell.communicate(b"unloaded\n", timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            self._shell.kill()
