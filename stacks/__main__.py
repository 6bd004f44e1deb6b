"""`python -m stacks`: what can be asked of a stack file without an engine."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from engine_jobs.errors import UserError, run
from stacks.settings import STACKS_DIR, stack_file

SCHEMA_FILE = STACKS_DIR / "stack.schema.json"


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m stacks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    render = commands.add_parser(
        "render", help="print every Kubernetes object and configuration file that a stack would make, as YAML"
    )
    images = commands.add_parser("images", help="print the names of the project's images that a stack runs")
    select = commands.add_parser("select", help="print a stack file with some of its models")
    for command in (render, images, select):
        which = command.add_mutually_exclusive_group(required=True)
        which.add_argument("--stack", help="a stack of stacks/, by name")
        which.add_argument("--file", type=Path, help="a stack file anywhere")
    select.add_argument("names", nargs="+", metavar="NAME", help="models or recipes; `all` for every model")
    schema = commands.add_parser("schema", help="the JSON schema of stack files, for editors")
    schema.add_argument("--check", action="store_true", help=f"only say whether {SCHEMA_FILE.name} is up to date")
    args = parser.parse_args(argv)
    match args.command:
        case "schema":
            _schema(check=args.check)
        case "render":
            _render(args.stack, _file(args))
        case "images":
            _images(_file(args))
        case "select":
            from stacks.selection import select as select_models

            print(select_models(_file(args), args.names), end="")


def _file(args: argparse.Namespace) -> Path:
    return args.file or stack_file(args.stack)


def _render(stack: str | None, file: Path) -> None:
    from stacks.render import render, to_yaml

    name = stack or file.stem.removeprefix("Pulumi.")
    print(to_yaml(render(name, file)), end="")


def _images(file: Path) -> None:
    from stacks.planning import image_names
    from stacks.settings import parse_settings, read_stack_file

    print("\n".join(image_names(parse_settings(read_stack_file(file), file))))


def _schema(*, check: bool) -> None:
    from stacks.schema import stack_schema

    text = json.dumps(stack_schema(), indent=2) + "\n"
    if not check:
        SCHEMA_FILE.write_text(text)
    elif SCHEMA_FILE.read_text() != text:
        raise UserError(f"{SCHEMA_FILE}: behind the settings model; run `python -m stacks schema`")


if __name__ == "__main__":
    run(main)
