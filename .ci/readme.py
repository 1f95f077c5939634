"""
Give the package a README whose links are absolute, once the project has an address.

Links in documents are relative, and a package index has only the README. This hook of the build
makes links of them to the repository in [project.urls], at the tag of the version.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

ROOT = Path(__file__).parents[1]
LINK = re.compile(
    r"(?P<image>!?)(?P<text>\[[^\]]*\])\((?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)"
)


class ReadmeHook(MetadataHookInterface):
    """Set the metadata field `readme`."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        if repository := metadata.get("urls", {}).get("Repository"):
            text = with_absolute_links(text, repository, f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def with_absolute_links(text: str, repository: str, tag: str) -> str:
    """Return a text whose relative links lead to a repository: pictures to their contents."""

    def absolute(match: re.Match[str]) -> str:
        view = "raw" if match["image"] else "blob"
        target = f"{repository.rstrip('/')}/{view}/{tag}/{match['target']}{match['anchor'] or ''}"
        return f"{match['image']}{match['text']}({target})"

    return LINK.sub(absolute, text)
