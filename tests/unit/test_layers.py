"""What may import what: the rules that keep a recipe, a program and a component apart."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def offenders(folder: str, forbidden: tuple[str, ...]) -> list[str]:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files, f"{folder} has no Python files: the rule would hold of nothing"
    return [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in files
        for module in sorted(imports(file))
        if module.split(".")[0] in forbidden
    ]


class TestNothingFlowsBack:
    @pytest.mark.parametrize(
        ("folder", "forbidden"),
        [
            ("engine_jobs", ("pulumi", "pulumi_kubernetes", "components", "stacks", "localcluster")),
            ("components", ("stacks", "localcluster")),
            ("stacks", ("localcluster", "components")),
            ("localcluster", ("components", "stacks")),
        ],
    )
    def test_layers(self, folder: str, forbidden: tuple[str, ...]) -> None:
        assert offenders(folder, forbidden) == []

    def test_components_know_no_recipe(self) -> None:
        for file in (ROOT / "components").rglob("*.py"):
            for module in imports(file):
                parts = module.split(".")
                assert not (
                    parts[0] == "engine_jobs"
                    and len(parts) > 1
                    and (ROOT / "engine_jobs" / parts[1] / "recipe.py").exists()
                )

    def test_a_description_never_needs_its_programs_libraries(self) -> None:
        heavy = {"numpy", "boto3", "huggingface_hub", "tritonclient", "kubernetes", "torch"}
        for file in (ROOT / "engine_jobs").glob("*/recipe.py"):
            assert not {module.split(".")[0] for module in imports(file)} & heavy
