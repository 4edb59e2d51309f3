"""Hooks of MkDocs, which `mkdocs.yml` names.

- The API reference is read from this folder, not from an installed version (which mkdocstrings does
  not find if it is an editable one). Nothing of ours is imported for it.
- Files that a page links to become pages of the site: `[a2c.py](../agents/a2c.py)`
  leads to the file where the repository is read, and to a page that shows it here. A link to a file
  that is not there is left to `mkdocs build --strict`, which ends with it.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(\.\./([\w./-]+)\)")
SOURCES = tempfile.TemporaryDirectory()


def on_startup(**_: Any) -> None:
    """Lays the packages out as they are imported, for mkdocstrings to read."""
    for name in ("agents", "envs", "training"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, Path(SOURCES.name, "vantage", name), ignore=ignored)
    sys.path.insert(0, SOURCES.name)


def on_shutdown() -> None:
    """Removes them."""
    SOURCES.cleanup()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each file that is linked to, and for those in a folder that is."""
    texts = [page.content_string for page in files.documentation_pages() if _is_top(page)]
    paths = {ROOT / target for text in texts for target in LINK.findall(text)}
    paths |= {module for path in paths for module in path.glob("[!_]*.py")}
    for path in sorted(path for path in paths if path.is_dir() or path.is_file()):
        name = path.relative_to(ROOT).as_posix()
        if path.is_dir():
            modules = sorted(path.glob("[!_]*.py"))
            content = "\n".join(f"- [{each.name}]({path.name}/{each.name}.md)" for each in modules)
        else:
            content = f"`````python\n{path.read_text(encoding='utf-8')}`````"
        page = File.generated(config, f"source/{name}.md", content=f"# {name}\n\n{content}\n")
        page.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(page)
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Makes the links lead there."""

    def link(match: re.Match[str]) -> str:
        uri = f"source/{match[1]}.md"
        return f"]({uri})" if files.get_file_from_path(uri) else match[0]

    return LINK.sub(link, markdown) if _is_top(page.file) else markdown


def _is_top(file: File) -> bool:
    return "/" not in file.src_uri
