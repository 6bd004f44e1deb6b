"""A load report of a model that is being served, as `make load` makes it, and a search of its settings, as `make tune` does."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.stack_runs import ROOT


def load_target(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stacks.load_target", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=dict(environment), capture_output=True, text=True, check=False, timeout=500
    )


class TestALoadReport:
    def test_of_a_served_model(self, environment: Mapping[str, str], tmp_path: Path) -> None:
        out = tmp_path / "report"
        done = load_target(
            environment,
            *("sweep", "--stack", "local", "--model", "tiny-llama", "--concurrency", "1,4", "--window", "2"),
            *("--out", str(out)),
        )
        assert done.returncode == 0, done.stderr
        results = json.loads((out / "results.json").read_text())
        levels = results["levels"]
        assert [level["concurrency"] for level in levels] == [1, 4]
        assert all(level["errors"] == 0 or level["errors"] == {} for level in levels), levels
        page = (out / "index.html").read_text()
        assert "<svg" in page and "tiny-llama" in page
        assert "http-equiv" not in page and 'src="http' not in page and 'href="http' not in page
        assert (out / "results.csv").read_text().count("\n") >= 3


class TestATuning:
    def test_ranks_settings_and_serves_as_before(self, environment: Mapping[str, str], tmp_path: Path) -> None:
        search = "--search exhaustive --instances 1,4 --max-batch-sizes 4 --queue-delays-us off,0 --concurrency 4"
        what = "tune --stack local --model two-models --served-model tiny-opt --yes --out"
        done = load_target(environment, *what.split(), str(tmp_path / "tuning"), *search.split())
        assert done.returncode == 0, done.stderr
        assert "instances:" in done.stdout
        ranked = json.loads((tmp_path / "tuning" / "results.json").read_text())
        assert len(ranked["trials"]) == 1 + 4, "the settings as they were, and each combination"
        after = load_target(
            environment, *["sweep", "--stack", "local", "--model", "two-models", "--concurrency", "1", "--window", "1"]
        )
        assert after.returncode == 0, after.stderr

    def test_refuses_a_server_that_is_not_for_it(self, environment: Mapping[str, str]) -> None:
        done = load_target(environment, "tune", "--stack", "local", "--model", "tiny-llama", "--yes")
        assert done.returncode == 1 and "explicit" in done.stderr and "Traceback" not in done.stderr
