"""The stack file's part with a candidate's settings. Standard library only."""

from engine_jobs.load.spec import Candidate, Tuning
from engine_jobs.smoke_test.decode import Json


def stack_snippet(model: str, tuning: Tuning, candidate: Candidate) -> str:
    """YAML that belongs into the stack file, under the model's name there."""
    recipe: dict[str, Json] = {}
    values: list[tuple[str | None, Json]] = [
        (tuning.max_batch_size, candidate.max_batch_size),
        (tuning.instances, candidate.instances),
        (tuning.dynamic_batching, {} if candidate.batches else None),
    ]
    if candidate.batches:
        values.append((tuning.queue_delay_us, candidate.queue_delay_us))
    for place, value in values:
        if place is not None:
            _put(recipe, place.split("."), value)
    entry: dict[str, Json] = {"config": {"llm-serving:models": {model: {"recipe": recipe}}}}
    return "\n".join(_yaml(entry, 0)) + "\n"


def _put(into: dict[str, Json], place: list[str], value: Json) -> None:
    for key in place[:-1]:
        inner = into.setdefault(key, {})
        assert isinstance(inner, dict)
        into = inner
    into[place[-1]] = value


def _yaml(value: dict[str, Json], depth: int) -> list[str]:
    lines = []
    for key, item in value.items():
        head = f"{'  ' * depth}{key}:"
        if isinstance(item, dict) and item:
            lines += [head, *_yaml(item, depth + 1)]
        else:
            lines.append(f"{head} {'null' if item is None else '{}' if item == {} else item}")
    return lines
