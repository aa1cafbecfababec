"""The catalogue and its documentation agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from strop.strategies import CATALOGUE
from strop.strategies.kit import Chat, Message, Request, catalogue, run
from strop.strategies.kit.knobs import Knobs
from strop.strategies.testing import Scripted

PAGE = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text(encoding="utf-8")


def section(name: str) -> str:
    return re.split(r"^## ", PAGE.partition(f"\n## {name}\n")[2], flags=re.MULTILINE)[0]


def plain(value: object) -> str:
    return str(value).lower()


def rows(name: str) -> dict[str, tuple[str, str]]:
    """Knob to default and values, as documented."""
    found = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| .+ \|$", section(name), flags=re.MULTILINE)
    return {knob: (default, values) for knob, default, values in found}


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_table_of_knobs_is_the_signature(name: str) -> None:
    fields = CATALOGUE[name].knobs.model_fields
    documented = rows(name)
    assert {knob: default for knob, (default, _) in documented.items()} == {
        knob: plain(field.default) for knob, field in fields.items()
    }
    for knob, field in fields.items():
        for limit in (getattr(m, bound) for m in field.metadata for bound in ("ge", "le", "gt") if hasattr(m, bound)):
            assert str(limit) in documented[knob][1], knob


def descriptions(knobs: type[Knobs]) -> list[str]:
    return [name for name, field in knobs.model_fields.items() if not field.description]


def test_every_knob_has_a_description() -> None:
    assert {name: lost for name, s in CATALOGUE.items() if (lost := descriptions(s.knobs))} == {}


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name != "direct"])
def test_the_documentation_cites_the_papers_of_the_docstring(name: str) -> None:
    cited = set(re.findall(r"\d{4}\.\d{5}", CATALOGUE[name].paper))
    assert cited
    assert cited <= set(re.findall(r"\d{4}\.\d{5}", section(name)))


async def test_the_example_strategy_and_its_test_run() -> None:
    own = PAGE.partition("\n## Your own\n")[2]
    code = re.findall(r"```python\n(.*?)```", own, flags=re.DOTALL)[0]
    module: dict[str, object] = {"__name__": __name__}
    exec(compile(code.replace('"""', 'DOC = """', 1), "longer", "exec"), module)
    longer = module["longer"]
    assert callable(longer)
    longer.__doc__ = str(module["DOC"])
    engine = Scripted({"draft": ["Four.", "It is four."]})
    request = Request(catalogue(longer)["longer"], Chat((Message("user", "What is 2 + 2?"),)))
    assert (await run(request, engine)).answers[0].text == "It is four."
