"""`python -m engine_jobs.fetch`: brings what serving needs of a model from the Hugging Face Hub, complete and checked.

The files go to a folder beside the wanted one, each is compared with the Hub's size and hash and every safetensors header
with its file, and only then the folder gets its name. Run again after a kill, it keeps the files that were complete.
"""

import argparse
import json
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from glob import escape
from pathlib import Path
from typing import TypeVar

from engine_jobs.durable import complete, full_disk_named, only_one, print_line
from engine_jobs.errors import UserError, run
from engine_jobs.hub_files import INDEX, RemoteFile, is_intact, select
from engine_jobs.manifest import Manifest, ManifestFile, now, sha256_of
from engine_jobs.progress import bytes_reported
from engine_jobs.resolve import HubModelRevision, TransientHubError, explained, resolve_revision
from engine_jobs.safetensors_header import read_header

RECORD = ".fetched.json"
"""In the finished folder: which model and commit it is, as a manifest."""

CLIENT_FOLDER = ".cache"
"""Where huggingface_hub keeps its own notes and unfinished files below a download's folder."""

ATTEMPTS = 5
FIRST_PAUSE = 1.0  # seconds; twice as long each time

Result = TypeVar("Result")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m engine_jobs.fetch", description=__doc__)
    parser.add_argument("--model", required=True, help="the model's id on the Hub, ORGANIZATION/NAME")
    parser.add_argument("--revision", required=True, help="a branch, a tag or, best, a commit")
    parser.add_argument("--output-dir", type=Path, required=True, help="gets its name when it is complete")
    parser.add_argument("--endpoint", help="the Hub (default: HF_ENDPOINT, or the public one)")
    arguments = parser.parse_args(argv)
    # The client's own guess about the disk; what really happens is told once, by full_disk_named.
    warnings.filterwarnings("ignore", message="Not enough free disk space")
    wanted = HubModelRevision(model=arguments.model, revision=arguments.revision, endpoint=arguments.endpoint)
    fetch(wanted, arguments.output_dir)


def fetch(wanted: HubModelRevision, output: Path) -> None:
    """Makes `output` hold the model's files for serving. Raises UserError where it can't, and then leaves no `output`."""
    with only_one(output):
        if is_commit(wanted.revision) and already_fetched(output, wanted.model, wanted.revision):
            return
        sha = patiently(lambda: resolve_revision(wanted.model, wanted.revision, wanted.endpoint, wanted.token))
        if already_fetched(output, wanted.model, sha):
            return
        partial = partial_of(output, sha)
        for stale in set(output.parent.glob(f"{escape(output.name)}.partial-*")) - {partial}:
            shutil.rmtree(stale)  # of another revision, and nobody else is at it: we hold the lock
        with full_disk_named(partial):
            files = download(wanted, sha, partial)
            shutil.rmtree(partial / CLIENT_FOLDER, ignore_errors=True)
            record = Manifest(key=sha, files=files, created=now(), inputs={"model": wanted.model, "revision": sha})
            (partial / RECORD).write_text(record.to_json())
            complete(partial, output)
        print_line(
            f"{output} holds {wanted.model} at {sha}: {len(record.files)} files, {record.size} bytes, all checked"
        )


def download(wanted: HubModelRevision, sha: str, partial: Path) -> tuple[ManifestFile, ...]:
    """Fills `partial` with the wanted files of the commit, each one checked; takes up what an earlier call left there."""
    files = patiently(lambda: select(list_files(wanted, sha), wanted.model))
    discard_unfinished(partial, {file.path for file in files})
    total = sum(file.size for file in files)
    there = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    free = shutil.disk_usage(partial).free
    if free < total - there:
        raise UserError(
            f"{partial} has {free} bytes free, and {total - there} are to come. Make room and run this again."
        )
    print_line(
        f"fetching {wanted.model} at {sha} from {wanted.effective_endpoint()}: {len(files)} files, {total} bytes"
    )

    damaged: list[RemoteFile] = []
    for _ in range(2):
        # A second time only for files that arrived damaged: a bad byte on the way is rare, and not the Hub's fault.
        with bytes_reported(partial, total):
            patiently(lambda: snapshot(wanted, sha, partial, files))
        damaged = [file for file in files if not is_intact(partial / file.path, file)]
        if not damaged:
            break
        for file in damaged:
            print_line(f"{file.path} arrived damaged")
            (partial / file.path).unlink(missing_ok=True)
            # Without its note the client fetches the file anew.
            (partial / CLIENT_FOLDER / "huggingface" / "download" / f"{file.path}.metadata").unlink(missing_ok=True)
    if damaged:
        raise UserError(
            f"{', '.join(file.path for file in damaged)} of {wanted.model} at {sha}: size or hash is not what the Hub "
            f"at {wanted.effective_endpoint()} lists, twice. The Hub's copy, or a proxy in between, is corrupt."
        )
    check_shards(partial)
    return tuple(
        ManifestFile(path=file.path, size=file.size, sha256=file.sha256 or sha256_of(partial / file.path))
        for file in files
    )


def check_shards(folder: Path) -> None:
    """Raises UserError where a safetensors file contradicts its own header, or the index names what is not there."""
    tensors = {path.name: read_header(path).keys() for path in sorted(folder.glob("*.safetensors"))}
    index = folder / INDEX["safetensors"]
    if not index.exists():
        return
    try:
        shard_of = dict(json.loads(index.read_bytes())["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index} is no index of safetensors files ({type(error).__name__}: {error}).") from error
    for tensor, shard in shard_of.items():
        if tensor not in tensors.get(shard, ()):
            where = f"its file {shard} lacks it" if shard in tensors else f"the repository has no file {shard}"
            raise UserError(f"{index} names a tensor {tensor}, and {where}: the checkpoint was not uploaded whole.")


def snapshot(wanted: HubModelRevision, sha: str, folder: Path, files: Sequence[RemoteFile]) -> None:
    """One call of snapshot_download; raises TransientHubError for what may go better next time."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # a log is no place for a bar; bytes_reported prints lines
    with explained(wanted):
        try:
            snapshot_download(
                wanted.model,
                revision=sha,
                local_dir=folder,
                cache_dir=folder / CLIENT_FOLDER / "hub",
                endpoint=wanted.effective_endpoint(),
                token=wanted.effective_token() or False,
                allow_patterns=[escape(file.path) for file in files],
            )
        except OSError as error:
            if "Consistency check failed" in str(error):
                raise TransientHubError(f"{wanted.model}: a file arrived short ({error})") from error
            raise
    # With the Hub gone, the client makes do with what the folder holds.
    if missing := [file.path for file in files if not (folder / file.path).is_file()]:
        raise TransientHubError(f"{wanted.model}: the Hub did not give {', '.join(missing)}. Try again later.")


def list_files(wanted: HubModelRevision, sha: str) -> list[RemoteFile]:
    """Every file of the commit, as the Hub lists it."""
    with explained(wanted):
        from huggingface_hub import HfApi, RepoFile

        api = HfApi(endpoint=wanted.effective_endpoint(), token=wanted.effective_token() or False)
        return [
            RemoteFile(
                path=item.path, size=item.size, blob_id=item.blob_id, sha256=item.lfs.sha256 if item.lfs else None
            )
            for item in api.list_repo_tree(wanted.model, recursive=True, revision=sha)
            if isinstance(item, RepoFile)
        ]


def already_fetched(output: Path, model: str, sha: str) -> bool:
    """True where `output` is this model at this commit; moves a damaged one aside to be completed.

    Raises UserError where `output` is something else.
    """
    if not output.exists():
        return False
    foreign = UserError(f"{output} exists and is not {model} at {sha}: remove it, or choose another --output-dir.")
    try:
        record = Manifest.from_json((output / RECORD).read_bytes(), str(output / RECORD))
    except (OSError, UserError) as error:
        raise foreign from error
    if record.inputs != {"model": model, "revision": sha}:
        raise foreign
    bad = [file.path for file in record.files if not is_whole(output / file.path, file.size)]
    if not bad:
        print_line(f"{output} holds {model} at {sha} already, nothing to do")
        return True
    print_line(f"{output} lacks, or holds cut short: {', '.join(bad)}; fetching them again")
    (output / RECORD).unlink()
    partial = partial_of(output, sha)
    shutil.rmtree(partial, ignore_errors=True)
    output.rename(partial)
    for path in bad:
        (partial / path).unlink(missing_ok=True)
    return False


def is_whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def discard_unfinished(partial: Path, wanted: set[str]) -> None:
    """Keeps of an earlier call's folder the finished files only: the client can't go on in the middle of one."""
    partial.mkdir(parents=True, exist_ok=True)
    for path in list(partial.rglob("*")):
        name = path.relative_to(partial).as_posix()
        if path.suffix == ".incomplete" or (
            path.is_file() and name not in wanted and not name.startswith(CLIENT_FOLDER)
        ):
            path.unlink()


def partial_of(output: Path, sha: str) -> Path:
    """Where the files are gathered: beside the output, so on the same disk, and found again by the next run."""
    return output.with_name(f"{output.name}.partial-{sha[:12]}")


def is_commit(revision: str) -> bool:
    return len(revision) == 40 and not set(revision) - set("0123456789abcdef")


def patiently(call: Callable[[], Result]) -> Result:
    """Calls again, a few times with growing pauses, where the Hub can't serve it just now."""
    pause = FIRST_PAUSE
    for _ in range(ATTEMPTS - 1):
        try:
            return call()
        except TransientHubError as error:
            print_line(f"{error} Trying again in {pause:.0f} s.")
            time.sleep(pause)
            pause *= 2
    return call()


if __name__ == "__main__":
    run(main)
