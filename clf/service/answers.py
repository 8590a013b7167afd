"""What answers look like: the service's side of its OpenAPI description."""

from typing import Any

from pydantic import BaseModel, Field

from clf.files import spelled_out
from clf.predictions import Ranked


class Health(BaseModel):
    """How the service is."""

    status: str


class Scored(BaseModel):
    """A label with its probability."""

    label: str
    confidence: float


class Answer(BaseModel):
    """What one image is."""

    label: str
    confidence: float
    top_k: list[Scored]
    model: str


class Outcome(BaseModel):
    """What one image of several is, or why that is not known."""

    name: str = Field(description="The file's name, as it was sent.")
    status: int = Field(description="The status that the image alone would have been answered with.")
    label: str | None = None
    confidence: float | None = None
    top_k: list[Scored] | None = None
    detail: str | None = Field(default=None, description="What is wrong with it.")


class Batch(BaseModel):
    """What several images are, in their order."""

    results: list[Outcome]
    model: str


class Failure(BaseModel):
    """Why there is no answer."""

    detail: str


_FILE = {"type": "string", "format": "binary"}
_FILES = {"type": "array", "minItems": 1, "items": _FILE}
_FORM = {"type": "object", "required": ["file"]}
ONE_IMAGE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _FORM | {"properties": {"file": _FILE}}},
            "image/*": {"schema": _FILE},
            "application/octet-stream": {"schema": _FILE},
        },
    }
}
"""The body of a request with one image."""

SEVERAL_IMAGES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _FORM | {"properties": {"file": _FILES}}},
        },
    }
}
"""The body of a request with several."""

_REASONS = {
    400: "The form cannot be read",
    401: "The API key is missing or wrong",
    408: "The body did not come in time",
    413: "The body is too large, or has too many files",
    415: "Not an image",
    422: "An image of too many pixels, or damaged; or a wrong parameter",
    503: "No model yet, or too many requests at once",
    504: "No answer in time",
}


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe what an endpoint may answer beside success."""
    return {status: {"model": Failure, "description": _REASONS[status]} for status in statuses}


def answer(ranked: Ranked, *, model: str) -> Answer:
    """Put a prediction into words.

    Args:
        ranked: Labels with probabilities, most probable first.
        model: What the model is called.
    """
    scored = [Scored(label=spelled_out(label), confidence=confidence) for label, confidence in ranked]
    return Answer(label=scored[0].label, confidence=scored[0].confidence, top_k=scored, model=model)
