"""
The directive `{step} 3.2`: what to write in the tutorial in place of `# TODO 3.2: ...`.

The code is that of the showcase, found by sandbox/tutorial/steps.py. There is no copy of it
in the pages.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from sphinx.directives.code import container_wrapper
from sphinx.util.docutils import SphinxDirective

from sandbox.tutorial import steps

if TYPE_CHECKING:
    from sphinx.application import Sphinx

LANGUAGES = {".py": "python", ".js": "js"}

all_steps = cache(steps.all_steps)


class StepDirective(SphinxDirective):
    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        step = all_steps().get(self.arguments[0])
        if step is None:
            known = ", ".join(all_steps())
            raise self.error(f"the tutorial has no step {self.arguments[0]!r}; it has {known}")
        for folder in (steps.TEMPLATES, steps.FINISHED):
            self.env.note_dependency(str(folder / step.path))
        code = nodes.literal_block(step.code, step.code, language=LANGUAGES[step.path.suffix])
        # A part of a file need not be one by itself.
        code["force"] = True
        self.set_source_info(code)
        box = nodes.container(classes=["step"], ids=[f"step-{step.number.replace('.', '-')}"])
        place = nodes.paragraph()
        place += [nodes.Text("in place of "), nodes.literal("", step.todo.strip())]
        box += [container_wrapper(self, code, f"`sandbox/{step.path}`"), place]
        return [box]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("step", StepDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
