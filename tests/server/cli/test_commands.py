"""The commands that need no server of their own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from strop.server.commands import doctor
from strop.server.keys import Keyring, digest
from strop.server.settings import Key, Settings
from strop.strategies import CATALOGUE

DOCS = Path(__file__).parents[3] / "docs"


def test_a_key_is_printed_once_with_an_entry_that_admits_it(strop: Any) -> None:
    done = strop("key", "--tenant", "acme", "--strategy", "direct", "--tokens-per-minute", "100", "--admin")
    plain, *entry = done.stdout.splitlines()
    keys = yaml.safe_load("\n".join(entry))["keys"]
    assert plain not in "".join(entry)
    assert keys[0]["sha256"] == digest(plain)
    principal = Keyring.of(Settings(keys=keys)).find(plain)
    assert principal is not None
    assert (principal.tenant, principal.strategies, principal.admin) == ("acme", frozenset({"direct"}), True)


def test_every_key_is_another_one(strop: Any) -> None:
    made = {json.loads(strop("key", "--json").stdout)["key"] for _ in range(5)}
    assert len(made) == 5
    assert all(len(key) > 40 and key.startswith("sk-strop-") for key in made)


def test_a_key_entry_in_json_is_a_key(strop: Any) -> None:
    Key(**json.loads(strop("key", "--json").stdout)["entry"])


def test_a_key_for_an_impossible_tenant_is_refused_by_name(strop: Any) -> None:
    done = strop("key", "--tenant", "Big Corp")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "tenant" in done.stderr


def test_strategies_lists_the_catalogue(strop: Any) -> None:
    cards = json.loads(strop("strategies", "--json").stdout)
    assert [card["name"] for card in cards][: len(CATALOGUE)] == list(CATALOGUE)
    best = next(card for card in cards if card["name"] == "best_of_n")
    assert best["knobs"]["properties"]["n"]["default"] == 8
    text = strop("strategies").stdout
    assert all(name in text for name in CATALOGUE)


def test_strategies_of_a_server_say_which_are_available(strop: Any, server: Any) -> None:
    cards = json.loads(strop("strategies", "--url", server.url, "--json").stdout)
    assert {card["name"]: card["available"] for card in cards}["direct"] is True


def test_a_server_that_is_not_there_is_a_failure_in_words(strop: Any) -> None:
    done = strop("strategies", "--url", "http://127.0.0.1:9")
    assert done.exit_code == 1
    assert "no strategies from http://127.0.0.1:9" in done.stderr


def test_version_is_that_of_the_package(strop: Any) -> None:
    assert strop("version").stdout.strip() == f"strop {version('strop')}"
    assert json.loads(strop("version", "--json").stdout)["strop"] == version("strop")


def test_doctor_knows_this_machine(strop: Any) -> None:
    done = strop("doctor", "--json")
    facts = json.loads(done.stdout)
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(facts["engines"]) == {"transformers", "remote", "simulated", "vllm"}
    assert all(verdict["why"] for verdict in facts["engines"].values())
    assert facts["packages"]["strop"] == version("strop")
    assert facts["memory_gib"] > 0
    assert (done.exit_code, facts["engines"]["simulated"]["ok"]) == (0, True)


def test_doctor_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, strop: Any) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: None if name in ("torch", "vllm") else "1.0")
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    facts = json.loads(strop("doctor", "--json").stdout)
    assert facts["engines"]["transformers"] == {
        "ok": False,
        "why": "not installed: torch; pip install 'strop[embedded]'",
    }
    assert facts["accelerator"]["why"] == "torch is not installed"
    assert "engine transformers" in strop("doctor").stdout


def test_doctor_sees_that_a_port_is_taken(strop: Any, server: Any) -> None:
    port = server.url.rpartition(":")[2]
    assert json.loads(strop("doctor", "--json", "--port", port).stdout)["port"] == {"number": int(port), "free": False}


def test_unknown_commands_end_with_code_2(strop: Any) -> None:
    done = strop("srve")
    assert done.exit_code == 2
    assert "srve" in done.stderr


def test_the_command_line_loads_no_engine_and_no_torch() -> None:
    code = "import sys, strop.server.cli; assert not {'torch', 'transformers', 'vllm', 'openai'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0


def test_the_tables_of_the_documentation_are_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert [path.name for path, _ in generate.stale()] == [], "run python docs/generate.py"
