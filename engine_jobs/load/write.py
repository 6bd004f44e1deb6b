"""The results' folder, complete or absent, and how results are read again: from a file, or from the log of a Job."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine_jobs.durable import complete, full_disk_named
from engine_jobs.errors import UserError
from engine_jobs.load.results import SweepResult, TuneResult
from engine_jobs.load.spec import from_json
from engine_jobs.smoke_test.decode import encode

FORMATS = {SweepResult.format: SweepResult, TuneResult.format: TuneResult}
"""What a results.json is, by its `format`."""


def refuse_existing(folder: Path | None) -> None:
    """Before anything is measured: raises UserError where the results could not be written."""
    if folder is not None and folder.exists():
        raise UserError(f"--out {folder}: it is there already; name another folder, or take it away")


def write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Makes the folder with these files, all of them or none."""
    partial = folder.with_name(f".{folder.name}.partial")
    with full_disk_named(folder.parent):
        partial.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (partial / name).write_text(content, encoding="utf-8")
        complete(partial, folder)


def results_json(result: SweepResult | TuneResult) -> str:
    return json.dumps(encode(result), indent=2, ensure_ascii=False) + "\n"


def results_line(result: SweepResult | TuneResult) -> str:
    """The same as one line, for a log."""
    return json.dumps(encode(result), separators=(",", ":"))


def csv_text(rows: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_result(path: Path) -> SweepResult | TuneResult:
    """Of a results.json, a results' folder, or a log in which one is a line (its last). Raises UserError for anything else."""
    file = path / "results.json" if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not text in UTF-8: {error}") from None
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file; name a results.json, its folder, or a Job's log") from None
    for candidate in (text, *reversed([line for line in text.splitlines() if line.startswith("{")])):
        try:
            document = json.loads(candidate)
        except (json.JSONDecodeError, RecursionError):
            continue
        kind = FORMATS.get(str(document.get("format"))) if isinstance(document, dict) else None
        if kind is not None:
            return from_json(kind, candidate, str(file))
    raise UserError(f"{file}: no results of this program in it (JSON with a `format` of {' or '.join(FORMATS)})")
