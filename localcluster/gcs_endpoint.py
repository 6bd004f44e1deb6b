"""The GCS endpoint as a component: fake-gcs-server stands in for Google Cloud Storage, on a directory of the cache, so that
finished artifacts outlive the cluster. It asks for no credentials.

`python -m localcluster.gcs_endpoint FOLDER COMMAND …`: removes what a killed server left half written, then becomes the server.
"""

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from engine_jobs.errors import UserError, run
from localcluster.component import Component, ToolPath, answers
from localcluster.paths import GCS_PORT, HOST_ADDRESS, REPOSITORY, Paths

# It listens on one address only, and the bridge's is the one that pods and the host both reach. Uploads in parts, and downloads
# of listed objects, are sent there by the server itself.
URL = f"http://{HOST_ADDRESS}:{GCS_PORT}"

ATTRIBUTES = "user.metadata"
"""The extended attribute in which it keeps an object's attributes; in a file beside it where the file system has none."""
ATTRIBUTES_SUFFIX = ".metadata"


def gcs(paths: Paths, tool: ToolPath) -> Component:
    paths.gcs_store.mkdir(parents=True, exist_ok=True)
    return Component(
        name="gcs",
        argv=(
            f"{sys.prefix}/bin/python3",
            *("-m", "localcluster.gcs_endpoint", str(paths.gcs_store)),
            str(tool("fake-gcs-server")),
            "-backend=filesystem",
            f"-filesystem-root={paths.gcs_store}",
            "-scheme=http",
            f"-host={HOST_ADDRESS}",
            f"-port={GCS_PORT}",
            f"-external-url={URL}",
            f"-public-host={HOST_ADDRESS}:{GCS_PORT}",
            "-log-level=warn",  # below that, a line for each request
        ),
        environment={"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
        addresses=((HOST_ADDRESS, GCS_PORT),),
        is_healthy=lambda: answers(f"{URL}/_internal/healthcheck"),
    )


def remove_unfinished(folder: Path) -> list[Path]:
    """Removes every object without its attributes, and returns them.

    The server writes a file first and its attributes second. Killed in between, it would answer each later list of that bucket
    with 404, as if there were no such bucket.
    """
    unfinished = [path for path in folder.glob("*/**/*") if path.is_file() and not _is_whole(path)]
    for path in unfinished:
        path.unlink()
    return unfinished


def _is_whole(path: Path) -> bool:
    try:
        os.getxattr(path, ATTRIBUTES)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            return False
        return path.name.endswith(ATTRIBUTES_SUFFIX) or path.with_name(path.name + ATTRIBUTES_SUFFIX).is_file()
    return True


def main(arguments: Sequence[str]) -> None:
    if len(arguments) < 2:
        raise UserError("usage: python -m localcluster.gcs_endpoint FOLDER COMMAND [ARGUMENT …]")
    folder, *command = arguments
    for path in remove_unfinished(Path(folder)):
        print(f"removed {path}, which was never finished", flush=True)
    os.execv(command[0], command)


if __name__ == "__main__":
    run(main, sys.argv[1:])
