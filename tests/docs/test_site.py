"""The site has a page for every room, and the figure that README and front page show."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_public_room_has_a_page_and_a_place_in_the_contents():
    rooms = {p.parent.name for p in (ROOT / "scidyn").glob("[a-z]*/__init__.py")} - {"cli"}
    contents = (ROOT / "docs" / "api" / "index.md").read_text(encoding="utf-8")
    for room in rooms:
        page = ROOT / "docs" / "api" / f"{room}.md"
        assert page.exists(), f"docs/api/{room}.md is missing"
        assert f"automodule:: scidyn.{room}\n" in page.read_text(encoding="utf-8")
        assert re.search(rf"^{room}$", contents, re.MULTILINE), f"docs/api/index.md does not list {room}"


def test_images_that_pages_show_exist_and_are_light():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")]
    shown = 0
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)|```\{image\} (\S+)", text):
            file = page.parent / next(filter(None, path))
            assert file.exists(), f"{page.name} shows {file}, which is missing"
            assert file.stat().st_size <= 150_000
            shown += 1
    assert shown >= 2


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_fits_one_screen():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 64
