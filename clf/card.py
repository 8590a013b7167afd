"""The model card: a README beside an exported model, for whoever has to feed it."""

from collections.abc import Mapping
from typing import Any

from clf.data.samples import SCORED_SPLITS
from clf.exported import Exported
from clf.statistics import Proportion


def model_card(exported: Exported, *, proof: Mapping[str, Any], cost: str | None, size: int) -> str:
    """Say what a model is, how it is fed, and how it was shown to be right.

    Args:
        exported: The model.
        proof: Of `clf.proof.Proof`, as primitives.
        cost: What a smaller precision costs, in a line; None for fp32.
        size: Of the file, in bytes.
    Returns:
        Markdown.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("clf"), undefined=StrictUndefined, autoescape=False)
    blocks = exported.preprocessing.to_dict()
    facts = dict.fromkeys(("run", "clf", "network", "data")) | dict(exported.facts)
    scores = {
        SCORED_SPLITS[split]: Proportion(round(entry["acc_top1"] * entry["n"]), entry["n"])
        for split, entry in (facts.get("metrics") or {}).items()
    }
    return environment.get_template("card.md").render(
        facts=facts,
        scores=scores,
        classes=[_code(name) for name in exported.classes],
        embed=exported.embed,
        temperature=exported.temperature,
        sha256=exported.sha256,
        resize=_resize(blocks["input"]),
        proof=proof,
        cost=cost,
        size=size,
        **blocks,
    )


def _resize(spec: Mapping[str, Any]) -> str:
    height, width = spec["resize"]["size"]
    return {
        "fill": f"to {width} x {height} pixels, whatever the aspect ratio,",
        "cover": f"until it covers {width} x {height} pixels, keeping the aspect ratio,",
        "contain": f"until it fits into {width} x {height} pixels and pad it with the mean colour,",
    }[spec["resize"]["fit"]]


def _code(name: str) -> str:
    """Put a class name where Markdown shows text as it is."""
    return " ".join(name.replace("`", "'").split())
