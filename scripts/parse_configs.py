"""Say whether every shipped config is understood, without training; pre-commit runs it when one has changed."""

import contextlib
import io
import sys

from clf.main import main
from clf.yamlfile import shipped_configs

KEYS = {
    "augment": "--data",
    "data": "--data",
    "logger": "--trainer.logger",
    "model": "--model",
    "optim": "--model",
    "trainer": "--trainer",
}
"""The key that the parts of a folder are written for."""


def understood(name: str) -> bool:
    """Compose and type one config, an experiment or a part of one; what is wrong is printed."""
    folder = name.rpartition("/")[0]
    part = [KEYS[folder], name] if folder else []
    with contextlib.redirect_stdout(io.StringIO()):
        code = main(["fit", "--config", "demo.yaml" if part else name, *part, "--print_config"])
    if code:
        print(f"configs/{name} is not understood", file=sys.stderr)
    return not code


if __name__ == "__main__":
    answers = [understood(name) for name in shipped_configs()]
    sys.exit(not all(answers))
