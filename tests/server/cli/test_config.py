"""Where settings come from, which one wins, and how a wrong one is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from strop.server.commands.flags import FILE_ONLY, fields, flags
from strop.server.settings import Settings


def resolved(strop: Any, *words: str) -> dict[str, Any]:
    done = strop("config", "show", "--resolved", "--json", *words)
    assert done.exit_code == 0, done.output
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


def written(tmp_path: Path, **settings: Any) -> list[str]:
    path = tmp_path / "strop.yaml"
    path.write_text(yaml.safe_dump(settings))
    return ["--config", str(path)]


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(
    strop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, port=1111, max_choices=3, limits={"calls": 10, "seconds": 20.0, "tokens": 30})
    monkeypatch.setenv("STROP_PORT", "2222")
    monkeypatch.setenv("STROP_LIMITS__CALLS", "11")
    shown = resolved(strop, *file, "--port", "3333", "--max-tokens-per-request", "33")
    assert shown["port"] == 3333
    assert shown["limits"] == {"calls": 11, "seconds": 20.0, "tokens": 33, "usd": None}
    assert (shown["max_choices"], shown["max_messages"]) == (3, 2048)
    assert resolved(strop, *file)["port"] == 2222
    monkeypatch.delenv("STROP_PORT")
    assert resolved(strop, *file)["port"] == 1111
    assert resolved(strop)["port"] == 8000


def test_show_without_resolved_prints_only_what_was_set(strop: Any) -> None:
    done = strop("config", "show", "some/model", "--max-request-seconds", "9", "--no-metrics-public")
    shown = yaml.safe_load(done.stdout)
    assert (shown["model"], shown["limits"]["seconds"], shown["metrics_public"]) == ("some/model", 9.0, False)
    assert "host" not in shown


def test_presets_efforts_and_prices_of_flags_are_added(strop: Any, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("big: {input: 1, output: 2}\n")
    shown = resolved(
        strop,
        *written(tmp_path, presets={"mine": {"strategy": "direct"}}, prices={"*": {"gpu_hour": 2}}),
        *("--preset", 'fast={"strategy":"best_of_n","knobs":{"n":2}}', "--preset", 'mine={"strategy":"best_of_n"}'),
        *("--effort-map", '{"low":"fast"}', "--prices", str(prices)),
    )
    assert set(shown["presets"]) == {"mine", "fast"}
    assert shown["presets"]["mine"]["strategy"] == "best_of_n"
    assert (shown["effort_map"]["low"], shown["effort_map"]["high"]) == ("fast", "adaptive")
    assert (shown["prices"]["*"]["gpu_hour"], shown["prices"]["big"]["output"]) == (2.0, 2.0)


def test_repeated_flags_and_a_json_list_mean_the_same(strop: Any) -> None:
    twice = resolved(strop, "--allowed-origins", "http://a", "--allowed-origins", "http://b")
    once = resolved(strop, "--allowed-origins", '["http://a", "http://b"]')
    assert twice["allowed_origins"] == once["allowed_origins"] == ["http://a", "http://b"]


def test_secrets_are_hidden(strop: Any, tmp_path: Path) -> None:
    file = written(tmp_path, keys=[{"sha256": "ab" * 32, "tenant": "acme"}], upstream={"api_key": "sk-upstream-secret"})
    for words in (["--resolved"], ["--resolved", "--json"], []):
        done = strop("config", "show", *file, "--api-key", "sk-my-own-long-secret", *words)
        assert done.exit_code == 0
        assert "acme" in done.stdout
        for secret in ("sk-my-own-long-secret", "sk-upstream-secret", "abab"):
            assert secret not in done.output


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--bogus", "1"], "--bogus"),
        (["--port", "70000"], "(flag --port)"),
        (["--skill", "2"], "(flag --skill)"),
        (["--engine", "magic"], "(flag --engine)"),
        (["--max-request-seconds", "900"], "(flag --max-request-seconds)"),
        (["--preset", "no-json"], "--preset wants name=JSON"),
        (["--preset", "x={bad"], "--preset wants name=JSON"),
        (["--preset", 'x={"strategy":"direct","nobs":{}}'], "--preset: x.nobs"),
        (["--preset", 'X Y={"strategy":"direct"}'], "--preset"),
        (["--effort-map", "[]"], "--effort-map"),
        (["--prices", "/nowhere/prices.yaml"], "/nowhere/prices.yaml"),
        (["--host", "0.0.0.0"], "without an API key"),
        (["--config", "/nowhere/strop.yaml"], "/nowhere/strop.yaml"),
    ],
)
def test_a_wrong_flag_is_named_and_ends_with_code_2(strop: Any, words: list[str], named: str) -> None:
    done = strop("config", "show", *words)
    assert done.exit_code == 2
    assert named in done.stderr.replace("\n", " ")
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("STROP_BOGUS", "1", "STROP_BOGUS"),
        ("STROP_LIMITS__BOGUS", "1", "limits.bogus: unknown key (environment variable STROP_LIMITS__BOGUS)"),
        ("STROP_LIMITS__CALLS", "many", "(environment variable STROP_LIMITS__CALLS)"),
        ("STROP_SERVICE_HOST", "10.0.0.1", "enableServiceLinks"),
        ("STROP_PRESETS", "{bad", "presets"),
    ],
)
def test_a_wrong_variable_is_named(
    strop: Any, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    monkeypatch.setenv(variable, value)
    done = strop("config", "show")
    assert done.exit_code == 2
    assert named in done.stderr


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("prot: 1", "prot: unknown key (config file)"),
        ("limits: {callz: 1}", "limits.callz: unknown key (config file)"),
        ("presets: {x: {strategy: direct, n: 1}}", "presets.x.n: unknown key (config file)"),
        ("prices: {'*': {input: 1}}", "prices.*: give either gpu_hour, or both input and output"),
        ("- 1", "must hold a mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_file_is_explained(strop: Any, tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "strop.yaml"
    path.write_text(text)
    done = strop("config", "show", "--config", str(path))
    assert done.exit_code == 2
    assert named in done.stderr


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--default-strategy", "nope"], "default_strategy: there is no strategy or preset 'nope'"),
        (["--preset", 'x={"strategy":"nope"}'], "presets.x: there is no strategy 'nope'"),
        (["--preset", 'x={"strategy":"best_of_n","knobs":{"q":1}}'], "presets.x.knobs"),
        (["--effort-map", '{"low":"nope"}'], "effort_map.low: there is no strategy or preset 'nope'"),
        (["--api-key", "short"], "api_key"),
        (["--engine", "vllm"], "vllm"),
    ],
)
def test_names_that_mean_nothing_stop_the_server_before_it_starts(strop: Any, words: list[str], named: str) -> None:
    done = strop("serve", "--engine", "simulated", *words)
    assert done.exit_code == 2
    assert named in done.stderr


def test_the_schema_accepts_what_show_prints(strop: Any) -> None:
    import jsonschema

    schema = json.loads(strop("config", "schema").stdout)
    shown = resolved(strop)
    jsonschema.validate(shown, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**shown, "prot": 1}, schema)


def test_every_setting_has_a_flag_or_is_too_large_for_one() -> None:
    named = {flag.path for flag in flags().values()} | FILE_ONLY | {("model",)}
    assert {path for path, _ in fields()} == named
    assert len({flag.name for flag in flags().values()}) == len(flags())


def test_flags_have_the_names_of_vllm_where_they_mean_the_same(strop: Any) -> None:
    names = {flag.name for flag in flags().values()}
    assert names >= {
        *("host", "port", "api-key", "served-model-name", "max-model-len", "dtype", "allowed-origins"),
        *("uvicorn-log-level", "root-path", "ssl-keyfile", "ssl-certfile", "max-num-seqs", "sse-keep-alive-interval"),
    }


def test_every_flag_sets_its_setting(strop: Any, tmp_path: Path) -> None:
    """No flag is read and then forgotten."""
    (tmp_path / "prices.yaml").write_text("x: {gpu_hour: 1}\n")
    special = {
        "presets": 'x={"strategy":"direct"}',
        "effort_map": '{"low":"vote-8"}',
        "prices": str(tmp_path / "prices.yaml"),
        "dtype": "float16",
        "engine": "simulated",
        "reward_format": "orm",
        "api_key": "sk-0123456789abcdef",
        "upstream_api_key": "k",
    }
    samples = {bool: None, int: "2050", float: "0.5", Path: "/some/where", str: "word", list[str]: "http://item"}
    before = Settings()
    for name, flag in flags().items():
        value = special.get(name, samples[flag.type])
        words = (
            [f"--{flag.name}", value]
            if value
            else [f"--no-{flag.name}" if _at(before, flag.path) else f"--{flag.name}"]
        )
        extra = ["--insecure"] if name == "host" else []
        shown = resolved(strop, *words, *extra)
        was = json.loads(before.model_dump_json())
        assert _at(shown, flag.path) != _at(was, flag.path), flag.name


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        tree = tree[part] if isinstance(tree, dict) else getattr(tree, part)
    return tree


def test_variables_of_other_parts_of_strop_are_not_taken_for_settings(
    strop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STROP_KERNELS", "STROP_CACHE", "STROP_URL"):
        monkeypatch.setenv(name, "torch")
    assert resolved(strop)
