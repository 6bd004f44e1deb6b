"""Converts a BLOOM checkpoint of Hugging Face to FasterTransformer's weights: `<output-dir>/<N>-gpu/`.

Byte for byte what FasterTransformer's own huggingface_bloom_convert.py writes, save that it leaves out a tied
`lm_head.weight`, which FasterTransformer would load and answer garbage with. The folder is written beside its final name,
checked, brought to the disk and then renamed, so what has the final name is whole. `.<N>-gpu.complete.json` beside it says
from which inputs; a run that finds it true does nothing.
"""

import argparse
import configparser
import errno
import fcntl
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine_jobs import errors
from engine_jobs.errors import UserError
from engine_jobs.fastertransformer.checkpoint import CONFIG, Checkpoint
from engine_jobs.fastertransformer.layout import CONFIG_NAME, ITEM_SIZES, check_sizes, weight_files
from engine_jobs.fastertransformer.weight_writer import WeightJob, prepare_worker, sync_file, write_files

PROGRESS_SECONDS = 5.0
SMALL_FILES_BYTES = 2**20
"""Files under this go to a worker together, up to this much at a time."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What to convert, and where it goes."""

    checkpoint: Checkpoint
    output_dir: Path
    ranks: int
    data_type: str
    workers: int

    @property
    def final(self) -> Path:
        return self.output_dir / f"{self.ranks}-gpu"

    @property
    def partial(self) -> Path:
        return self.output_dir / f".{self.ranks}-gpu.partial"

    @property
    def replaced(self) -> Path:
        return self.output_dir / f".{self.ranks}-gpu.replaced"

    @property
    def stamp(self) -> Path:
        return self.output_dir / f".{self.ranks}-gpu.complete.json"

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of every file of the folder, by name."""
        item = ITEM_SIZES[self.data_type]
        sizes = {file.name: file.items * item for file in weight_files(self.checkpoint.config.dimensions, self.ranks)}
        return {**sizes, CONFIG_NAME: len(self.config_ini().encode())}

    def config_ini(self) -> str:
        """The text of config.ini, in the order and spelling of FasterTransformer's converter."""
        config, size = self.checkpoint.config, self.checkpoint.config.dimensions
        parser = configparser.ConfigParser(interpolation=None)
        parser["gpt"] = {
            "model_name": config.name_or_path,
            "num_layer": str(size.layers),
            "head_num": str(size.heads),
            "inter_size": str(4 * size.hidden),
            "size_per_head": str(size.head_width),
            "vocab_size": str(size.vocabulary),
            "tensor_para_size": str(self.ranks),
            "weight_data_type": self.data_type,
            "model_variant": "bloom-post" if config.post_layer_norm else "bloom-pre",
            "layernorm_eps": str(config.layer_norm_epsilon),
            "layernorm_type": "post_layernorm" if config.post_layer_norm else "pre_layernorm",
            "activation_type": "Gelu",
            "has_positional_encoding": "False",
            "has_pre_decoder_layernorm": "True",
            "has_post_decoder_layernorm": "True",
            "use_attention_linear_bias": "True",
            "start_id": str(config.start_id),
            "end_id": str(config.end_id),
        }
        text = io.StringIO()
        parser.write(text, space_around_delimiters=False)
        return text.getvalue()

    def stamp_text(self) -> str:
        """What was converted into what: inputs by name, size and time of change, outputs by name and size."""
        inputs = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in self.checkpoint.files]
        config = hashlib.sha256((self.checkpoint.folder / CONFIG).read_bytes()).hexdigest()
        stamp = {
            "schema": 1,
            "config_sha256": config,
            "inputs": inputs,
            "tensor_parallel_size": self.ranks,
            "data_type": self.data_type,
            "files": self.sizes,
        }
        return json.dumps(stamp, indent=1) + "\n"

    def is_complete(self) -> bool:
        """Whether the final folder was made by this program from these very inputs and has every file in full."""
        try:
            if self.stamp.read_text(encoding="utf-8") != self.stamp_text():
                return False
            check_sizes(self.final, self.sizes)
        except (FileNotFoundError, UserError):
            return False
        return True


def plan(arguments: argparse.Namespace) -> Conversion:
    """Reads the checkpoint and checks that it can be converted so. Raises UserError."""
    checkpoint = Checkpoint.open(arguments.input_dir)
    heads, ranks = checkpoint.config.dimensions.heads, arguments.tensor_parallel_size
    if ranks < 1 or heads % ranks:
        possible = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise UserError(
            f"--tensor-parallel-size {ranks} does not divide the {heads} heads of {arguments.input_dir / CONFIG}. "
            f"Possible: {possible}."
        )
    if arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers} must be 1 or more.")
    return Conversion(
        checkpoint=checkpoint,
        output_dir=arguments.output_dir,
        ranks=ranks,
        data_type=arguments.data_type,
        workers=arguments.workers,
    )


def convert(conversion: Conversion) -> None:
    """Writes the final folder unless it is complete. Raises UserError; leaves nothing half-written under the final name."""
    conversion.output_dir.mkdir(parents=True, exist_ok=True)
    with _only_one(conversion.output_dir):
        if conversion.is_complete():
            _say(f"{conversion.final} is complete, nothing to do")
            return
        if conversion.final.exists() and not conversion.stamp.exists():
            raise UserError(
                f"{conversion.final} exists and was not made by this program. Move it away, or choose another --output-dir."
            )
        for leftover in (conversion.partial, conversion.replaced):
            if leftover.exists():
                shutil.rmtree(leftover)
        _check_room(conversion)
        try:
            _write_partial(conversion)
            _rename(conversion)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise _disk_full(conversion, "the disk filled up while converting") from error
        finally:
            shutil.rmtree(conversion.partial, ignore_errors=True)
        shutil.rmtree(conversion.replaced, ignore_errors=True)


def _write_partial(conversion: Conversion) -> None:
    started = time.monotonic()
    sizes, tensors, target = conversion.sizes, conversion.checkpoint.tensors, conversion.partial
    total = sum(sizes.values())
    _say(
        f"converting {conversion.checkpoint.folder} to {conversion.final}: {len(sizes)} files, {total / 1e9:.2f} GB, "
        f"{conversion.data_type}, {conversion.workers} workers"
    )
    for name in conversion.checkpoint.ignored:
        _say(f"note: {name} is no tensor of a BLOOM and is left out")
    target.mkdir()
    jobs = [
        WeightJob(
            target=target,
            file=file,
            tensor=tensors[file.tensor],
            dimensions=conversion.checkpoint.config.dimensions,
            ranks=conversion.ranks,
            data_type=conversion.data_type,
        )
        for file in weight_files(conversion.checkpoint.config.dimensions, conversion.ranks)
    ]
    (target / CONFIG_NAME).write_text(conversion.config_ini(), encoding="utf-8")
    written = 0
    said = started
    with _workers(conversion.workers) as pool:
        for done in as_completed([pool.submit(write_files, load) for load in _loads(jobs)]):
            written += done.result()
            if time.monotonic() - said > PROGRESS_SECONDS:
                said = time.monotonic()
                _say(f"{written / 1e9:.2f} of {total / 1e9:.2f} GB, {written / 1e6 / (said - started):.0f} MB/s")
        expected = total - sizes[CONFIG_NAME]
        if written != expected:
            raise UserError(f"{target}: {written} of {expected} bytes were written; the checkpoint changed meanwhile?")
        for _ in pool.map(sync_file, [target / name for name in sizes], chunksize=16):
            pass
    check_sizes(target, sizes)
    sync_file(target)
    seconds = time.monotonic() - started
    _say(f"converted {total / 1e9:.2f} GB in {seconds:.1f} s ({total / 1e6 / seconds:.0f} MB/s)")


def _loads(jobs: list[WeightJob]) -> Iterator[tuple[WeightJob, ...]]:
    """The biggest files first, each alone, then the small ones together, so that the workers end at about the same time."""
    load: list[WeightJob] = []
    for job in sorted(jobs, key=lambda job: job.size, reverse=True):
        load.append(job)
        if sum(one.size for one in load) >= SMALL_FILES_BYTES:
            yield tuple(load)
            load = []
    if load:
        yield tuple(load)


@contextmanager
def _workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose work stops at the first error. Raises UserError when the kernel ends a worker."""
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=prepare_worker)
    try:
        yield pool
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, most likely for want of memory, or because a shard was cut while it was read. "
            "Give the Job more memory or use fewer --workers, and run again."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _rename(conversion: Conversion) -> None:
    """Puts the partial folder in its final place. Between any two steps the final folder is whole, or is not there."""
    stamp = conversion.stamp.with_suffix(".partial")
    stamp.write_text(conversion.stamp_text(), encoding="utf-8")
    sync_file(stamp)
    if conversion.final.exists():
        conversion.final.rename(conversion.replaced)
    stamp.replace(conversion.stamp)
    conversion.partial.rename(conversion.final)
    sync_file(conversion.output_dir)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Lets one conversion at a time write into a folder. The kernel lets go of the lock however the process ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"another conversion is writing to {folder}, waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _check_room(conversion: Conversion) -> None:
    needed, free = _needed(conversion), shutil.disk_usage(conversion.output_dir).free
    if needed > free:
        raise _disk_full(conversion, "there is too little room to convert")


def _needed(conversion: Conversion) -> int:
    """Bytes on the disk, each file rounded up to whole blocks."""
    block = os.statvfs(conversion.output_dir).f_frsize
    return sum(-(-size // block) * block for size in conversion.sizes.values())


def _disk_full(conversion: Conversion, what: str) -> UserError:
    free = shutil.disk_usage(conversion.output_dir).free
    return UserError(
        f"{what}: {conversion.final} needs {_needed(conversion):,} bytes, and {conversion.output_dir} has {free:,} free. "
        "Make room or choose a larger volume, and run again."
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="engine_jobs.fastertransformer.convert", description=__doc__)
    parser.add_argument("--input-dir", type=Path, required=True, metavar="DIR", help="a downloaded BLOOM checkpoint")
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="where <N>-gpu is made")
    parser.add_argument("--tensor-parallel-size", type=int, default=1, metavar="N", help="GPUs to split the model over")
    parser.add_argument("--data-type", choices=tuple(ITEM_SIZES), default="fp32", help="type of the weights written")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=int, default=cores, metavar="N", help=f"processes; here {cores} by default")
    convert(plan(parser.parse_args(argv)))


if __name__ == "__main__":
    errors.run(main)
