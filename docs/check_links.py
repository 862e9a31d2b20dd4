"""Every link inside the built site leads to a page that is there, and every fragment to an element of it.

python docs/check_links.py docs/_build/html
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links and the names of one page."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect."""
        # From a module's source back to its page: viewcode knows one page a module, and here several share one.
        back = "viewcode-back" in (dict(attrs).get("class") or "")
        for name, value in attrs:
            if value is None:
                continue
            value = value.partition("#")[0] if back and name == "href" else value
            if (tag, name) in {("a", "href"), ("link", "href"), ("img", "src"), ("script", "src")}:
                self.links.append(value)
            if name == "id" or (tag, name) == ("a", "name"):
                self.names.add(value)


def broken(site: Path) -> list[str]:
    """Links that lead nowhere, as ``page: link``."""
    pages = {file.resolve(): Page(file.read_text(encoding="utf-8")) for file in sorted(site.rglob("*.html"))}
    found = []
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            there = target.exists() and (
                not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].names
            )
            if not there:
                found.append(f"{file.relative_to(site.resolve())}: {link}")
    return found


def main(site: str) -> int:
    """Print what is broken; the exit code is 1 where anything is."""
    lines = broken(Path(site))
    print("\n".join(lines) if lines else f"{site}: every internal link leads somewhere")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
