"""The logs of the components: those of processes, and that of KServe's controller, which runs as a pod."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from engine_jobs.errors import UserError
from localcluster.cluster import Cluster
from localcluster.kserve import CONTROLLER
from localcluster.paths import Paths

KSERVE_CONTROLLER = "kserve-controller"


def names(paths: Paths) -> list[str]:
    """The components that have a log, or could have one."""
    processes = {path.stem for path in paths.logs.glob("*.log")}
    cluster = Cluster(paths)
    if cluster.is_prepared:
        processes |= {component.name for wave in cluster.waves(Path, "") for component in wave}
    return sorted({*processes, KSERVE_CONTROLLER})


def log_file(paths: Paths, component: str) -> Path:
    """Where its log is. Raises UserError for a name that is none, and where nothing has been logged yet."""
    known = names(paths)
    if component not in known:
        raise UserError(f"there is no component {component!r}: name one of {', '.join(known)}")
    if component == KSERVE_CONTROLLER:
        logs = list(paths.pod_logs.glob(f"kserve_{CONTROLLER}-*/manager/*.log"))
        found = max(logs, key=lambda path: path.stat().st_mtime, default=None)
    else:
        found = paths.logs / f"{component}.log"
    if found is None or not found.exists():
        raise UserError(f"{component} has no log yet: it has not been started (run `python -m localcluster up`)")
    return found


def print_log(paths: Paths, component: str, *, lines: int, follow: bool) -> None:
    """Prints the last lines, then, if told to follow, what comes after them until it is interrupted."""
    path = log_file(paths, component)
    with path.open(errors="replace") as log:
        for line in log.read().splitlines(keepends=True)[-lines:]:
            sys.stdout.write(line)
        sys.stdout.flush()
        if follow:
            for addition in _additions(log):
                sys.stdout.write(addition)
                sys.stdout.flush()


def _additions(log: Iterator[str]) -> Iterator[str]:
    while True:
        yield from log
        time.sleep(0.3)
