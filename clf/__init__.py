"""Train, check, export and serve image classifiers from YAML."""

__version__: str


def __getattr__(name: str) -> str:
    # Read when asked for: importlib.metadata costs a tenth of what `clf --help` may take.
    if name == "__version__":
        from importlib.metadata import version

        return version("clf")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
