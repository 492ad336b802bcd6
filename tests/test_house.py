"""The laws of the house, by `ast`: who may import whom, and how long things may be (CONTRIBUTING.md, "The house")."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import lipjax

HOUSE = Path(lipjax.__file__).parent
# A module imports its own package and lower ones.  `ops` and `system` stand on nothing; siblings have one number.
FLOORS = {"ops": 0, "system": 0, "config": 0, "data": 1, "checkpoint": 1, "certificates": 2, "layers": 3, "models": 4}
FLOORS |= {"workdir": 6, "interop": 6, "released": 7, "training": 8, "evaluation": 8, "__init__": 9, "commands": 10}
FLOORS |= {"export": 11}
FILES = {path.relative_to(HOUSE.parent).with_suffix(""): path for path in sorted(HOUSE.rglob("*.py"))}
MODULES = {".".join(name.parts).removesuffix(".__init__"): path for name, path in FILES.items()}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
LINES = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}


def package(module):
    return [*module.split("."), "__init__"][1]


def imports(module):
    """Full names of the modules that a module imports anywhere in it, inside functions too."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports in lipjax are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)


def test_every_import_points_down_or_stays_in_its_package():
    for module in MODULES:
        for name in set(imports(module)):
            if name.split(".")[0] == "lipjax":
                here, there = package(module), package(name)
                assert here == there or FLOORS[here] > FLOORS[there], f"{module} imports {name}"


def test_packages_import_only_what_their_law_allows():
    for module in MODULES:
        roots = {name.split(".")[0] for name in imports(module)}
        if package(module) == "ops":
            assert roots <= {"jax", "numpy", "scipy", "lipjax", *sys.stdlib_module_names}, f"{module}: {roots}"
        assert "flax" not in roots or package(module) not in ("ops", "system", "data", "certificates"), module
        assert "jaxopt" not in roots or module == "lipjax.certificates.dual_solver", module


def test_no_circle_of_imports():
    graph = {module: {name for name in imports(module) if name in MODULES} for module in MODULES}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(MODULES)  # CycleError names a circle


def test_lengths():
    flat = [name for name in MODULES if name.count(".") == 1 and MODULES[name].name != "__init__.py"]
    assert len(flat) <= 6, flat
    assert not {name: lines for name, lines in LINES.items() if lines > 350}
    functions = [
        (name, node) for name, tree in TREES.items() for node in ast.walk(tree) if hasattr(node, "decorator_list")
    ]
    functions = [(name, node) for name, node in functions if not isinstance(node, ast.ClassDef)]
    assert not {f"{name}.{f.name}": n for name, f in functions if (n := f.end_lineno - f.lineno + 1) > 60}
    assert sum(n for name, n in LINES.items() if package(name) in ("ops", "certificates", "layers", "models")) <= 13100
    assert sum(LINES.values()) <= 24400


def test_precisions_are_asked_for_in_one_place():
    """With float64 comes the precision of products, which jax may have been told to lower."""
    asked = {(module, ast.unparse(node)) for module, tree in TREES.items() for node in ast.walk(tree)}
    asked = {(module, call) for module, call in asked if call.startswith("jax.enable_x64(")}
    assert asked == {
        ("lipjax.ops.arithmetic", "jax.enable_x64(precision == 'float64')"),
        ("lipjax.system.devices", "jax.enable_x64(False)"),
    }


def test_every_text_file_is_opened_as_utf_8():
    """The locale of a machine must not decide what is read and written."""
    root, found = HOUSE.parent, []
    scripts = [root / "train.py", root / "certify.py", *(root / "configs").glob("*.py")]
    folders = (HOUSE, root / "experiments", root / "benchmarks", root / "notebooks")
    for path in [*scripts, *(path for folder in folders for path in folder.rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _opens_text(node):
                keywords = {keyword.arg for keyword in node.keywords}
                if not keywords & {"encoding", None}:  # None: **, which has it
                    found.append(f"{path.relative_to(root)}:{node.lineno}")
    assert not found


def _opens_text(call):
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
    if name in ("read_text", "write_text"):
        return True
    if isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", None) in ("os", "Image", "archive"):
        return False  # descriptors, pictures, and members of a zip file
    modes = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return name in ("open", "fdopen") and not any(set(mode) <= set("rwaxb+") and "b" in mode for mode in modes)


def test_the_check_of_encodings_sees_what_names_none():
    calls = {
        "open(p)": True,
        "p.open('w')": True,
        "p.read_text()": True,
        "os.fdopen(h, 'wb')": False,
        "fdopen(h)": True,
    }
    assert {text: _opens_text(ast.parse(text).body[0].value) for text in calls} == calls


def test_importing_lipjax_loads_neither_training_nor_what_is_slow():
    slow = "('orbax', 'tensorflow_datasets', 'jaxopt', 'matplotlib', 'lipjax.training', 'lipjax.evaluation')"
    loaded = f"[n for n in sys.modules if any((n + '.').startswith(s + '.') for s in {slow})]"
    done = subprocess.run(
        [sys.executable, "-c", f"import lipjax, sys; print({loaded})"], capture_output=True, text=True
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
