"""What an image's tag depends on, what goes into an image, and what its lock may say."""

import ast
import dataclasses
import importlib.metadata
import re
import shutil
import sys
from pathlib import Path

import pytest

from engine_jobs.image import REPOSITORY, source_files
from engine_jobs.images import IMAGES, _tag, content_tag, reference

LOCAL = [name for name, image in IMAGES.items() if image.local]
BY_TRITON = {"triton_python_backend_utils"}  # of files that a Job only copies; Triton brings it
LOCKS = {name: path for name, image in IMAGES.items() if (path := REPOSITORY / image.lock).exists()}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what images are made from."""
    shutil.copytree(REPOSITORY / "engine_jobs", tmp_path / "engine_jobs", ignore=shutil.ignore_patterns("__pycache__"))
    tools = "localcluster/tools/kserve"
    shutil.copytree(REPOSITORY / tools, tmp_path / tools)
    return tmp_path


def tags(checkout: Path) -> dict[str, str]:
    _tag.cache_clear()
    return {name: content_tag(name, repository=checkout) for name in IMAGES}


def made_on(base: str) -> set[str]:
    """The image and all that are made on it, at any depth."""
    above = {name for name, image in IMAGES.items() if image.base == base}
    return {base}.union(*(made_on(name) for name in above))


def changed_by(checkout: Path, path: str) -> set[str]:
    """The images whose tag another byte at the end of this file changes."""
    before = tags(checkout)
    with (checkout / path).open("a") as file:
        file.write("\n# changed\n")
    after = tags(checkout)
    return {name for name in IMAGES if before[name] != after[name]}


class TestATagChangesWithWhatGoesIn:
    def test_it_is_the_same_for_the_same_files(self, checkout: Path) -> None:
        assert tags(checkout) == tags(REPOSITORY)
        assert all(re.fullmatch(r"[0-9a-f]{16}", tag) for tag in tags(checkout).values())

    def test_with_a_program_of_a_job(self, checkout: Path) -> None:
        changed = changed_by(checkout, "engine_jobs/fetch.py")
        assert changed >= made_on("jobs") and "transformer" not in changed

    def test_with_a_module_that_a_program_imports(self, checkout: Path) -> None:
        assert changed_by(checkout, "engine_jobs/object_bucket.py") >= made_on("jobs")

    def test_with_the_files_that_a_job_copies_into_the_model_repository(self, checkout: Path) -> None:
        assert changed_by(checkout, "engine_jobs/fastertransformer/cpu_backend/model.py") == {
            "fastertransformer-converter"
        }

    def test_with_a_lock(self, checkout: Path) -> None:
        assert changed_by(checkout, IMAGES["transformer"].lock) == {"transformer"}

    def test_with_a_containerfile(self, checkout: Path) -> None:
        assert changed_by(checkout, "engine_jobs/images/triton-cpu/Containerfile") == made_on("triton-cpu")

    def test_with_its_base(self, checkout: Path) -> None:
        assert made_on("base") > {"base", "jobs", "smoke-test", "triton-cpu", "transformer", "storage-initializer"}
        assert changed_by(checkout, "engine_jobs/images/base/packages.txt") == made_on("base")

    def test_with_another_value_of_a_build_argument(self) -> None:
        other = {"TRANSFORMERS": "git+https://github.com/huggingface/transformers.git@main"}
        assert content_tag("triton-python", other) != content_tag("triton-python")
        with pytest.raises(KeyError, match="no build argument TRANSFORMER"):
            content_tag("triton-python", {"TRANSFORMER": "x"})

    def test_with_a_build_argument(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = tags(REPOSITORY)
        other = dataclasses.replace(IMAGES["triton-ft"], args={"TRITON_VERSION": "23.04"})
        monkeypatch.setitem(IMAGES, "triton-ft", other)
        after = tags(REPOSITORY)
        assert {name for name in IMAGES if before[name] != after[name]} == {"triton-ft"}


class TestATagStaysWithWhatDoesNot:
    def test_an_engine_keeps_its_address_when_the_smoke_test_changes(self, checkout: Path) -> None:
        changed = changed_by(checkout, "engine_jobs/smoke_test/runner.py")
        assert "smoke-test" in changed and not {"jobs", "fastertransformer-converter"} & changed

    def test_an_engine_keeps_its_address_when_the_transformer_changes(self, checkout: Path) -> None:
        assert changed_by(checkout, "engine_jobs/fastertransformer/completion.py") == {"transformer"}

    @pytest.mark.parametrize(
        "path",
        [
            "engine_jobs/fastertransformer/recipe.py",
            "engine_jobs/recipe.py",
            "engine_jobs/images/__init__.py",
            "engine_jobs/images/jobs/requirements.in",
        ],
    )
    def test_what_only_describes_a_build_is_in_no_image(self, checkout: Path, path: str) -> None:
        assert changed_by(checkout, path) == set()

    def test_a_new_file_that_nothing_imports_is_in_no_image(self, checkout: Path) -> None:
        before = tags(checkout)
        (checkout / "engine_jobs/notes.py").write_text("")
        assert tags(checkout) == before


class TestWhatGoesIn:
    def test_a_reference_is_fully_qualified(self) -> None:
        assert reference("jobs") == f"localhost/llm-serving/jobs:{content_tag('jobs')}"

    def test_an_unknown_name_is_refused(self) -> None:
        with pytest.raises(KeyError):
            content_tag("job")

    def test_a_missing_file_is_named(self, checkout: Path) -> None:
        (checkout / "engine_jobs/images/pause/main.go").unlink()
        with pytest.raises(FileNotFoundError, match=r"pause.*main\.go"):
            source_files(IMAGES["pause"], checkout)

    def test_a_missing_module_is_named(self, checkout: Path) -> None:
        (checkout / "engine_jobs/manifest.py").unlink()
        with pytest.raises(FileNotFoundError, match=r"engine_jobs\.manifest"):
            source_files(IMAGES["storage-initializer"], checkout)

    def test_a_function_s_own_import_counts(self) -> None:
        assert "engine_jobs/fastertransformer/kserve_model.py" in source_files(IMAGES["transformer"])

    @pytest.mark.parametrize("name", LOCAL)
    def test_nothing_of_pulumi_or_the_local_cluster(self, name: str) -> None:
        for file in source_files(IMAGES[name]):
            if file.endswith(".py"):
                text = (REPOSITORY / file).read_text()
                assert not re.search(r"^\s*(import|from) (pulumi|localcluster|stacks|components)\b", text, re.MULTILINE)

    @pytest.mark.parametrize("name", ["jobs", "smoke-test", "transformer"])
    def test_every_imported_package_is_in_the_lock(self, name: str) -> None:
        locked = locked_names(LOCKS[name if name in LOCKS else "jobs"])
        distributions = importlib.metadata.packages_distributions()
        for file in source_files(IMAGES[name]):
            if not file.endswith(".py"):
                continue
            for package in top_level_imports(REPOSITORY / file):
                owners = {normalized(owner) for owner in distributions.get(package, [package])}
                assert owners & locked, f"{file} imports {package}, which the image {name} lacks"


class TestALock:
    @pytest.mark.parametrize("name", sorted(LOCKS))
    def test_it_names_no_registry(self, name: str) -> None:
        text = LOCKS[name].read_text()
        assert "://" not in text
        assert not re.search(r"^--?(index|extra-index|find-links|trusted-host|i\b|f\b)", text, re.MULTILINE)

    @pytest.mark.parametrize("name", sorted(LOCKS))
    def test_every_entry_is_pinned_and_hashed(self, name: str) -> None:
        entries = re.split(r"\n(?=[A-Za-z0-9])", LOCKS[name].read_text())
        pinned = [entry for entry in entries if re.match(r"[A-Za-z0-9][\w.\-]*==", entry)]
        assert pinned
        assert all("--hash=sha256:" in entry for entry in pinned)

    @pytest.mark.parametrize("name", sorted(LOCKS))
    def test_it_has_what_was_asked_for(self, name: str) -> None:
        asked = (LOCKS[name].parent / "requirements.in").read_text().split()
        assert {normalized(re.split(r"[=<>\[]", line)[0]) for line in asked} <= locked_names(LOCKS[name])

    def test_triton_gets_the_numpy_that_its_stub_can_read(self) -> None:
        assert re.search(r"^numpy==1\.", LOCKS["triton-cpu"].read_text(), re.MULTILINE)


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked_names(lock: Path) -> set[str]:
    return {normalized(name) for name in re.findall(r"^([A-Za-z0-9][\w.\-]*)==", lock.read_text(), re.MULTILINE)}


def top_level_imports(file: Path) -> set[str]:
    """Names of the packages that a file imports outside of `if TYPE_CHECKING`, the standard library's and ours left out."""
    names: set[str] = set()
    left: list[ast.AST] = [ast.parse(file.read_bytes())]
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
        left.extend(ast.iter_child_nodes(node))
    return names - set(sys.stdlib_module_names) - {"engine_jobs"} - BY_TRITON
