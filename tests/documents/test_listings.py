"""Code that pages show equals the files that it comes from; docs/listings.py writes it."""

from __future__ import annotations

import difflib
import re

import pytest

from docs import listings
from tests.documents.support import DOCUMENTS, name_of

FIX = "run `python docs/listings.py`, or `make format`"

FILE = """\
import os

NAMES = [
    "a",
]


class Chat:
    @decorated
    def greet(self):
        # start of greeting
        print("hello")

        print("you")
        # end of greeting

    async def leave(self):
        pass
"""


def difference(page, text):
    """Return what to change in a page as a unified diff; empty if its listings are right."""
    before, after = text.splitlines(keepends=True), listings.updated(text).splitlines(keepends=True)
    return "".join(difflib.unified_diff(before, after, f"{page} as it is", f"{page} from files"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_listings_equal_their_files(document):
    """A page that differs from its sources fails with the diff and the command that fixes it."""
    found = difference(name_of(document), document.read_text())
    assert not found, f"{FIX}\n{found}"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository with one file."""
    monkeypatch.setattr(listings, "ROOT", tmp_path)
    (tmp_path / "chat.py").write_text(FILE)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("chat.py", FILE),
        ("chat.py#NAMES", 'NAMES = [\n    "a",\n]\n'),
        ("chat.py#Chat.leave", "async def leave(self):\n    pass\n"),
        (
            "chat.py#NAMES, Chat.leave",
            'NAMES = [\n    "a",\n]\n\n\nasync def leave(self):\n    pass\n',
        ),
        ("chat.py#region greeting", 'print("hello")\n\nprint("you")\n'),
        ('chat.py#"async def"', "async def leave(self):\n    pass\n"),
        ('chat.py#"NAMES" to "]"', 'NAMES = [\n    "a",\n]\n'),
        ('chat.py#"@decorated" before "# start"', "@decorated\ndef greet(self):\n"),
        ('chat.py#before "NAMES"', "import os\n"),
        ('chat.py#"import os" to "import os"', "import os\n"),
        ('chat.py#line "import os"; line "hello"', 'import os\nprint("hello")\n'),
    ],
)
def test_source_names_code(source, code, root):
    """A source is a file, definitions in it, a region, or lines from one text to another."""
    assert listings.listing(source) == code


def test_decorators_belong_to_a_definition(root):
    """A method is shown with its decorators, and without the indentation of its class."""
    assert listings.listing("chat.py#Chat.greet").startswith("@decorated\ndef greet(self):\n    #")


def test_step_of_the_tutorial_is_a_source():
    """A step keeps its indentation, because readers paste it into a file."""
    assert listings.listing("step 1.1").strip()
    with pytest.raises(listings.BadListing, match=r"step 9\.99: the tutorial has no such step"):
        listings.listing("step 9.99")


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("room.py", "there is no file room.py"),
        ("chat.py#Chat.join", "chat.py has no definition of 'Chat.join'"),
        ("chat.py#region farewell", "chat.py has no '# start of farewell' that is followed by"),
        ('chat.py#"NAMES" to "}"', "chat.py has no line with '}' from line 3 on"),
        ('chat.py#"NAMES" until "}"', "chat.py has no lines that could be meant by"),
    ],
)
def test_source_without_code_is_an_error(source, complaint, root):
    """The error names the source and the missing part."""
    with pytest.raises(listings.BadListing, match=re.escape(f"{source}: {complaint}")):
        listings.listing(source)


def test_page_is_updated_in_place(root):
    """Only the code changes. A block in a list keeps its indentation; a mark may have two lines."""
    page = (
        "# Page\n\n<!-- from chat.py#NAMES -->\n```python\nold\n```\n\n"
        "- item\n\n  <!-- from\n  chat.py#Chat.leave -->\n  ```python\n  ```\n\nEnd.\n"
    )
    after = (
        '# Page\n\n<!-- from chat.py#NAMES -->\n```python\nNAMES = [\n    "a",\n]\n```\n\n'
        "- item\n\n  <!-- from\n  chat.py#Chat.leave -->\n  ```python\n"
        "  async def leave(self):\n      pass\n  ```\n\nEnd.\n"
    )
    assert listings.updated(page) == after
    assert listings.updated(after) == after
    assert "-old\n+NAMES = [\n" in difference("page.md", page)
    assert not difference("page.md", after)


@pytest.mark.parametrize("text", ["", "\n```python\n```\n", "```{note}\n```\n"])
def test_mark_that_stands_before_no_block_is_an_error(text, root):
    """A mark belongs on the line directly before a fenced block of code."""
    with pytest.raises(listings.BadListing, match="1 marks, but 0 of them stand before a block"):
        listings.updated(f"<!-- from chat.py -->\n{text}")


def test_code_with_a_fence_needs_a_longer_one(root):
    """A fence within the code would end the block."""
    (root / "page.md").write_text("```\nx\n```\n")
    with pytest.raises(listings.BadListing, match="write a longer one"):
        listings.updated("<!-- from page.md -->\n```md\n```\n")
    longer = listings.updated("<!-- from page.md -->\n````md\n````\n")
    assert longer == "<!-- from page.md -->\n````md\n```\nx\n```\n````\n"
