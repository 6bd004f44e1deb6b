"""Measures the FasterTransformer conversion on a random checkpoint of bloom-560m's shape.

    python -m tests.bench.convert [--folder DIR] [--reference PATH/huggingface_bloom_convert.py --reference-python PYTHON]

Each conversion is a process of its own, timed from its start to its end, output brought to the disk. It is held against a
plain copy of the very files that it wrote (shutil.copyfile and fsync, one after another), and, where given, against
NVIDIA/FasterTransformer's own converter on the same cores: timed as a process, too, and by its own clock, which leaves out
the imports. It does not bring anything to the disk. Its files are compared with ours, byte for byte. Prints a table in Markdown.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from engine_jobs import errors
from engine_jobs.errors import UserError
from engine_jobs.fastertransformer.layout import Dimensions, tensor_shapes

ROOT = Path(__file__).resolve().parents[2]
BLOOM_560M = Dimensions(layers=24, heads=16, hidden=1024, vocabulary=250_880)
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True, kw_only=True)
class Run:
    """Seconds, those of the cores, the largest process's resident bytes, and the seconds that the program itself counted."""

    seconds: float
    cores: float
    memory: int
    own_clock: float = 0.0


def make_checkpoint(folder: Path, size: Dimensions) -> None:
    """Writes config.json and model.safetensors (fp16) of the given size; the numbers repeat after 2^24."""
    folder.mkdir(parents=True)
    config = {"model_type": "bloom", "n_embed": size.hidden, "n_layer": size.layers, "num_attention_heads": size.heads}
    config |= {"vocab_size": size.vocabulary, "bos_token_id": 1, "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    numbers = (np.random.default_rng(560).standard_normal(2**24, np.float32) * 0.02).astype(np.float16)
    header, at = {}, 0
    shapes = tensor_shapes(size)
    for name, shape in shapes.items():
        end = at + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            left = int(np.prod(shape))
            while left:
                file.write(numbers[: min(left, len(numbers))].data)
                left -= min(left, len(numbers))


def timed(command: Sequence[str | Path], environment: dict[str, str] | None = None) -> tuple[Run, str]:
    """One process, with its largest descendant's memory, and what it said."""
    with tempfile.TemporaryFile("w+") as said:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read()
    if process.returncode:
        raise UserError(f"{' '.join(map(str, command))} failed:\n{text}")
    return Run(seconds=seconds, cores=usage.ru_utime + usage.ru_stime, memory=usage.ru_maxrss * 1024), text


def ours(checkpoint: Path, output: Path, ranks: int) -> Run:
    command: list[str | Path] = [sys.executable, "-m", "engine_jobs.fastertransformer.convert"]
    command += ["--input-dir", checkpoint, "--output-dir", output]
    command += ["--data-type", "fp16", "--tensor-parallel-size", str(ranks)]
    return timed(command)[0]


def reference(python: Path, script: Path, checkpoint: Path, output: Path, ranks: int, processes: int) -> Run:
    names: list[str | Path] = ["-i", checkpoint, "-o", output, "-tp", str(ranks), "-dt", "fp16", "-p", str(processes)]
    run, said = timed([python, script, *names], {**os.environ, "HF_HUB_OFFLINE": "1"})
    found = re.search(r"elapsed time: ([\d.]+) sec", said)
    if found is None:
        raise UserError(f"{script} said nothing of its time:\n{said}")
    return replace(run, own_clock=float(found[1]))


def copy(source: Path, target: Path) -> Run:
    """A plain copy of a folder's files."""
    started, before = time.perf_counter(), os.times()
    target.mkdir()
    for file in sorted(source.iterdir()):
        shutil.copyfile(file, target / file.name)
        descriptor = os.open(target / file.name, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    after = os.times()
    cores = after.user - before.user + after.system - before.system
    return Run(seconds=time.perf_counter() - started, cores=cores, memory=0)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to make `output`; it starts from an empty one."""

    name: str
    output: Path
    measure: Callable[[], Run]

    def run(self) -> Run:
        shutil.rmtree(self.output, ignore_errors=True)
        os.sync()
        return self.measure()


def in_turn(contenders: Sequence[Contender], rounds: int) -> list[list[Run]]:
    """Each contender's runs. They take turns, so that what else the machine does meets all of them."""
    results = [[contender.run() for contender in contenders] for _ in range(rounds)]
    return [list(runs) for runs in zip(*results, strict=True)]


def same_files(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    if names != sorted(path.name for path in other.iterdir()):
        return False
    return all(subprocess.run(["cmp", "-s", one / name, other / name], check=False).returncode == 0 for name in names)


def compared(ours: list[Run], others: list[Run]) -> str:
    """How much faster ours is than a plain copy (no memory measured) or than another converter."""
    ratio = statistics.median(run.seconds for run in others) / statistics.median(run.seconds for run in ours)
    if not others[0].memory:
        return f"{1 / ratio:.2f}x its time"
    inner = statistics.median(run.own_clock for run in others) / statistics.median(run.seconds for run in ours)
    return f"{ratio:.1f}x as fast ({inner:.1f}x by its own clock), same bytes"


def rows(folder: Path, checkpoint: Path, ranks: int, arguments: argparse.Namespace) -> list[str]:
    """The table's rows for one tensor parallel size. Raises UserError where the reference wrote other bytes."""
    own, copied, theirs = folder / "ours", folder / "copy", folder / "reference"
    made = own / f"{ranks}-gpu"
    contenders = [
        Contender(name="this converter", output=own, measure=partial(ours, checkpoint, own, ranks)),
        Contender(name="plain copy of its files", output=copied, measure=partial(copy, made, copied)),
    ]
    for processes in (1, CORES) if arguments.reference else ():
        script = (arguments.reference_python, arguments.reference)
        run = partial(reference, *script, checkpoint, theirs, ranks, processes)
        contenders.append(Contender(name=f"FasterTransformer's, -p {processes}", output=theirs, measure=run))
    results = in_turn(contenders, arguments.runs)
    if arguments.reference and not same_files(made, theirs / f"{ranks}-gpu"):
        raise UserError(f"{made} and {theirs}/{ranks}-gpu differ")
    size = sum(path.stat().st_size for path in made.iterdir())
    lines = []
    for contender, runs in zip(contenders, results, strict=True):
        seconds = [run.seconds for run in runs]
        median = statistics.median(seconds)
        cells = [contender.name, str(ranks), f"{median:.2f} s ({min(seconds):.2f}-{max(seconds):.2f})"]
        cells += [f"{size / 1e6 / median:.0f} MB/s", compared(results[0], runs) if runs is not results[0] else ""]
        cells.append(f"{statistics.median(run.cores for run in runs):.2f} s")
        cells.append(f"{max(run.memory for run in runs) / 2**20:.0f} MiB" if runs[0].memory else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def measure(folder: Path, arguments: argparse.Namespace) -> list[str]:
    checkpoint = folder / "checkpoint"
    make_checkpoint(checkpoint, BLOOM_560M)
    lines = [
        f"bloom-560m's shape, fp16 to fp16, {CORES} cores, medians of {arguments.runs} runs, load average {os.getloadavg()[0]:.1f}",
        "",
        "| | tensor parallel | time (least-most) | throughput | this converter is | time of cores | largest process |",
        "|---|---|---|---|---|---|---|",
    ]
    for ranks in arguments.tensor_parallel_size:
        lines += rows(folder, checkpoint, ranks, arguments)
    return lines


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tests.bench.convert", description="Measure the FasterTransformer conversion."
    )
    parser.add_argument("--folder", type=Path, help="where to work, 5 GB; a temporary folder by default")
    parser.add_argument("--runs", type=int, default=3, help="of each measurement; %(default)s by default")
    parser.add_argument("--tensor-parallel-size", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--reference", type=Path, help="huggingface_bloom_convert.py of NVIDIA/FasterTransformer")
    parser.add_argument(
        "--reference-python", type=Path, default=Path(sys.executable), help="one with torch and transformers"
    )
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="llm-serving-bench-") as folder:
        print("\n".join(measure(Path(folder), arguments)))


if __name__ == "__main__":
    errors.run(main)
