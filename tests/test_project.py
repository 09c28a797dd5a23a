"""The promises the project makes as a whole: layering, light imports, one version, packaging."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import sympgp

PACKAGE = Path(sympgp.__file__).parent
ROOT = Path(__file__).parent.parent

# From left to right, as in CONTRIBUTING.md: a module imports from its own layer or from its left.
LAYERS = (
    ("distributed",),
    ("cholesky", "compiled", "phase_space", "trajectories"),
    ("energies", "dissipation", "inputs", "noise"),
    ("fields", "kernels"),
    ("integrators",),
    ("rollouts", "shooting"),
    ("models", "systems"),
    ("posterior",),
    ("inference",),
    ("metrics", "plots", "comparison", "report", "arviz"),
    ("benchmarks",),
    ("cli", "__main__"),
)
LAYER = {name: number for number, layer in enumerate(LAYERS) for name in layer}

# sympgp/__init__.py gathers the layers; only the command line stands above it.
ROOT_LAYER = LAYER["cli"]
SOURCES = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py"})


def module_name(source: Path) -> str:
    """The dotted name of a source file: sympgp/energies/fourier.py is sympgp.energies.fourier."""
    parts = source.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything imported, at any depth of the tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = importlib.util.resolve_name("." * node.level + base, package)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def upward_imports(code: str, module: str, package: str) -> list[str]:
    """The imports of a module of sympgp that go against the order of the layers."""
    layer = LAYER[module.split(".")[1]]
    found = []
    for line, name in imported_names(ast.parse(code), package):
        top, _, rest = name.partition(".")
        if top == "sympgp" and LAYER.get(rest.partition(".")[0], ROOT_LAYER) > layer:
            found.append(f"{module}:{line} imports {name}")
    return found


def test_every_module_has_a_layer():
    modules = {module_name(source).split(".")[1] for source in SOURCES}
    assert modules
    assert modules <= LAYER.keys(), "a new module needs a place in LAYERS"


@pytest.mark.parametrize("source", SOURCES, ids=module_name)
def test_imports_go_one_way(source):
    module = module_name(source)
    package = module if source.name == "__init__.py" else module.rpartition(".")[0]
    assert upward_imports(source.read_text(encoding="utf-8"), module, package) == []


@pytest.mark.parametrize(
    "code",
    [
        "import sympgp",
        "import sympgp.plots",
        "from sympgp import fit",
        "from sympgp import posterior",
        "from sympgp.models.ssgp import SSGP",
        "from ..models import SSGP",
        "from .. import rollouts",
        "def late():\n    from sympgp.inference import fit",
    ],
)
def test_the_layer_check_finds_an_import_from_the_right(code):
    assert upward_imports(code, "sympgp.energies.fourier", "sympgp.energies")


@pytest.mark.parametrize(
    "code",
    [
        "import torch",
        "from sympgp.phase_space import symplectic_matrix",
        "from sympgp import dissipation",
        "from .base import Energy",
        "from ..trajectories import Trajectories",
    ],
)
def test_the_layer_check_accepts_an_import_from_the_left(code):
    assert upward_imports(code, "sympgp.energies.fourier", "sympgp.energies") == []


def test_importing_sympgp_leaves_heavy_packages_out():
    """Plots, ArviZ, tables and compilers take seconds and are loaded by what needs them."""
    # Pyro is loaded by GPyTorch itself, so it is promised only while GPyTorch is left out too.
    code = """
import sys, sympgp
for name in sympgp.__all__:
    getattr(sympgp, name)
heavy = {"matplotlib", "arviz", "pandas", "xarray", "h5py", "click", "torchdiffeq"}
heavy |= {"scipy.stats", "torch._dynamo", "torch._inductor.compile_fx"}
if "gpytorch" not in sys.modules:
    heavy.add("pyro")
print(*sorted(heavy & sys.modules.keys()))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.split() == []


def test_the_version_is_written_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "sympgp.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|(a|b|rc)\d+)?", sympgp.__version__)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[?{re.escape(sympgp.__version__)}\b", changelog, re.MULTILINE)


def test_every_dependency_is_pinned():
    """Each requirement of pyproject.toml, extras included, has its tested version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = sum(project["optional-dependencies"].values(), project["dependencies"])
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = re.findall(r"^([\w.-]+)==", constraints, re.MULTILINE)

    def normalise(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    required = {normalise(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}
    assert len(required) > 15
    assert required - {"sympgp"} <= {normalise(pin) for pin in pins}


def test_the_readme_begins_with_the_two_set_up_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    run, develop = blocks[:2]
    assert "pip install -c constraints.txt . " in run and "sympgp demo --out demo" in run
    assert 'pip install -c constraints.txt -e ".[test]" ' in develop and "pytest" in develop
    assert all("-m venv" in block and block.count("\n") == 1 for block in (run, develop))


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").is_file()
