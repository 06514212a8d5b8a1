"""Puts the compiled engine into a wheel, where there is a C++ compiler."""

import importlib.util
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("autotrain_env/training/native")


class EngineHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles the engine for every instruction set of this kind of machine."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the libraries to the wheel, which then fits this platform alone.

        A checkout (`version` is `"editable"`) compiles at first use instead, so that its libraries are
        never older than its sources.
        """
        if self.target_name != "wheel" or version == "editable":
            return
        build = _load_build(Path(self.root))
        self.scratch = tempfile.TemporaryDirectory()
        try:
            libraries = [
                build.build(name, Path(self.scratch.name), portable=True) for name in build.buildable()
            ]
        except build.BuildError as error:
            self.app.display_warning(f"The wheel is built without the compiled engine: {error}")
            return
        for path in libraries:
            build_data["force_include"][str(path)] = str(NATIVE / path.name)
        if libraries:
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled."""
        if hasattr(self, "scratch"):
            self.scratch.cleanup()


def _load_build(root: Path) -> Any:
    """Import build.py alone: the package itself needs torch, which need not be there yet."""
    spec = importlib.util.spec_from_file_location("autotrain_native_build", root / NATIVE / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
