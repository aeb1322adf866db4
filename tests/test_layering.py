"""Who may import whom, checked by walking the syntax tree."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "jaxtts"

# package or module -> jaxtts modules (by prefix) it may import; itself is always allowed
ALLOWED = {
    "audio": (),
    "text": (),
    "nn": ("audio.mulaw",),
    "losses": ("audio", "nn.masking"),
    "models.*.model": ("nn", "audio", "losses", "models.*.model", "models.*.discriminators"),
    "models.*.discriminators": ("nn", "audio", "losses", "models.*.model"),
    "models.*.task": ("nn", "audio", "losses", "train.state", "train.steps", "train.optim", "models.*"),
    "models.*.convert": ("weights", "nn.functional", "nn.output", "audio.spec", "models.*"),
    "models.*.parity": ("weights", "nn", "audio", "losses", "models.*", "train.state", "train.steps"),
    "models.*.hf_parity": ("weights", "nn", "models.*"),
    "models.*": ("models.*",),
    "weights": ("nn.functional",),
    "interop": ("weights", "text", "audio.spec", "registry", "config", "nn.functional", "models.*"),
    "data": ("audio", "text", "config", "__version__"),
    "train": ("nn.functional", "config", "weights", "audio.spec", "text", "data"),
    "synth": (
        "registry", "config", "audio", "text", "nn.functional", "nn.alignment", "nn.generation", "train.checkpoint",
        "weights", "voices", "interop", "models.*",
    ),
}  # fmt: skip
NEVER_IMPORT = {"data": {"jax", "flax", "optax"}, "audio.spec": {"jax"}, "weights": {"torch", "flax"}}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


def matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) >= len(wanted) and all(w in ("*", p) for p, w in zip(parts, wanted, strict=False))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name, as everywhere"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_follow_the_house_plan(package):
    for name, path in modules():
        if max((p for p in ALLOWED if matches(name, p)), key=len, default=None) != package:
            continue
        own = name if package.startswith("models") else package
        for target in (t.removeprefix("jaxtts.") for t in imported(path) if t.startswith("jaxtts.")):
            permitted = any(matches(target, p) for p in (*ALLOWED[package], own, package))
            assert permitted, f"jaxtts/{path.relative_to(ROOT)} imports jaxtts.{target}"


@pytest.mark.parametrize("package", NEVER_IMPORT)
def test_some_packages_stay_free_of_others(package):
    for name, path in modules():
        if matches(name, package):
            roots = {t.split(".")[0] for t in imported(path)}
            assert not roots & NEVER_IMPORT[package], f"{path} imports {roots & NEVER_IMPORT[package]}"


def test_nothing_imports_the_outer_rooms():
    for name, path in modules():
        if name not in ("cli", "__main__") and not name.startswith("commands"):
            for target in imported(path):
                assert target.split(".")[0] not in ("tools", "configs"), path
                assert not target.startswith(("jaxtts.cli", "jaxtts.commands")), path
