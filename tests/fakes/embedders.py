"""Embeddings for tests: texts are alike where their words are. And a package that brings them along."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

DIMENSIONS = 512


class BagOfWords:
    """Counts words; says nothing of what they mean."""

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [self._of(text) for text in texts]

    def _of(self, text: str) -> list[float]:
        vector = [0.001] * DIMENSIONS
        for word in text.lower().replace("?", "").replace(".", "").split():
            vector[zlib.crc32(word.encode()) % DIMENSIONS] += 1
        return vector


class Broken:
    """Fails whatever it is given."""

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        raise RuntimeError("on purpose")


class Nowhere:
    """Gives vectors without a direction."""

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[0.0] * 3 for _ in texts]


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with embedders, as if it were installed."""
    info = folder / "embedders-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: embedders\nVersion: 1.0\n")
    names = {"words": "BagOfWords", "broken": "Broken", "nowhere": "Nowhere", "missing": "NotThere"}
    lines = [f"{name} = fakes.embedders:{value}\n" for name, value in names.items()]
    (info / "entry_points.txt").write_text("[mcp_gateway.embedders]\n" + "".join(lines))
    monkeypatch.syspath_prepend(str(folder))
