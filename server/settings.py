"""Settings: one YAML file, `STROP_*` environment variables, command-line flags; later ones win.

Unknown keys are errors. Nested keys are written `STROP_LIMITS__SECONDS=60` in the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

RewardFormat = Literal["auto", "math_shepherd", "rlhflow", "skywork", "qwen", "trl", "trl_paragraphs", "yes_no", "orm"]
EngineKind = Literal["transformers", "remote", "simulated", "vllm"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]


class Part(BaseModel):
    """A group of settings: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(Part):
    """What one request may spend at most. A request can only lower these."""

    tokens: int = Field(65_536, ge=1, description="generated tokens, hidden ones included")
    calls: int = Field(128, ge=1, description="generations, one per draft")
    seconds: float = Field(540.0, gt=0, le=595, description="wall time; OpenAI's SDKs give up at 600 s")
    usd: float | None = Field(None, gt=0, description="money at the price table")


class Preset(Part):
    """A named strategy with knobs and budget, offered as model `base:name`."""

    strategy: str
    knobs: dict[str, Any] = {}
    budget: dict[str, float] = {}
    description: str = ""


class ModelPrice(Part):
    """Dollars per million tokens, or dollars per GPU-hour times the GPUs the model occupies."""

    input: float | None = Field(None, ge=0)
    cached_input: float | None = Field(None, ge=0)
    output: float | None = Field(None, ge=0)
    gpu_hour: float | None = Field(None, ge=0)
    gpus: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _one_way(self) -> ModelPrice:
        if (self.gpu_hour is None) == (self.input is None or self.output is None):
            raise ValueError("give either gpu_hour, or both input and output")
        return self


class Key(Part):
    """One API key: its SHA-256 (hex), and what its holder may do."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tenant: Name = "default"
    strategies: tuple[str, ...] | None = Field(None, description="allowed strategies; none given: all")
    limits: Limits | None = Field(None, description="per-request limits instead of the server's")
    tokens_per_minute: int | None = Field(None, ge=1, description="hidden tokens included")
    admin: bool = False


class Simulation(Part):
    """The simulated engine: how good, how fast, how broken."""

    skill: float = Field(0.7, ge=0, le=1, description="probability that a draft is right")
    taste: float = Field(0.8, ge=0, le=1, description="probability that a judge is right")
    latency: float = Field(0.0, ge=0, description="seconds before the first token")
    tokens_per_second: float = Field(0.0, ge=0, description="decoding speed per draft; 0: instant")
    faults: str = Field("", description="for example crash:0.01,hang:0.02,slow:0.1,garbage:0.05,overload:0.01")


class Upstream(Part):
    """OpenAI-compatible servers behind the remote engine."""

    urls: tuple[str, ...] = ()
    api_key: SecretStr | None = None
    timeout: float = Field(600.0, gt=0, description="seconds for one engine call")


class Verifiers(Part):
    """What clients may use to check answers; see scorers.md."""

    sandbox: bool = Field(False, description="let clients check answers by programs, in bubblewrap; see scorers.md")
    sandbox_seconds: float = Field(10.0, gt=0, le=300, description="time for one such program")
    sandbox_megabytes: int = Field(512, ge=64, description="memory for one such program")
    callbacks: tuple[str, ...] = Field((), description="addresses that clients may have asked for verdicts over HTTP")


DEFAULT_PRESETS: dict[str, Preset] = {
    "best-of-8": Preset(strategy="best_of_n", knobs={"n": 8}, description="8 drafts, a judge picks"),
    "vote-8": Preset(strategy="self_consistency", knobs={"n": 8}, description="8 drafts, the most frequent answer"),
    "adaptive": Preset(
        strategy="adaptive", description="four drafts, more only where they disagree; the recommended one"
    ),
    "refine": Preset(strategy="self_refine", description="critique and revise behind a trust gate"),
    "deep": Preset(strategy="id_sampling", description="iterative-deepening sampling"),
}


class Settings(BaseSettings):
    """Everything the server can be told. Flags of `strop serve` have the same names."""

    model_config = SettingsConfigDict(
        env_prefix="STROP_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )
    yaml_file: ClassVar[Path | None] = None

    model: str | None = Field(None, description="HF id, folder or GGUF file; none: the embedded SmolLM2-135M-Instruct")
    engine: EngineKind = Field("transformers", description="where tokens come from")
    served_model_name: str | None = Field(None, description="name in /v1/models; default: the model's own")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = Field("auto", description="cpu, cuda, cuda:1, ...")
    max_model_len: int | None = Field(None, ge=16, description="context in tokens; default: the model's own")
    max_num_seqs: int = Field(32, ge=1, description="drafts decoded together")
    vllm_flags: tuple[str, ...] = Field((), description="words of vLLM's own command line, for the vllm engine")
    upstream: Upstream = Upstream()
    simulation: Simulation = Simulation()
    judge: str | None = Field(None, description="OpenAI-compatible URL of a separate judge model")
    judge_model: str | None = Field(None, description="model name at the judge's URL")
    reward_model: str | None = Field(None, description="HF id or folder of a reward model, run by transformers")
    reward_format: RewardFormat = Field("auto", description="what the reward model was trained on; see scorers.md")
    verifiers: Verifiers = Verifiers()

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)
    root_path: str = ""
    uvicorn_log_level: str = "info"
    ssl_keyfile: Path | None = None
    ssl_certfile: Path | None = None
    allowed_origins: tuple[str, ...] = Field((), description="CORS; off by default")
    keys: tuple[Key, ...] = Field((), description="API keys, hashed; see `strop key`")
    api_key: SecretStr | None = Field(None, description="one plain key, for simple set-ups; hashed at start")
    insecure: bool = Field(False, description="allow a public address without keys")
    metrics_public: bool = Field(True, description="serve /metrics without a key")

    default_strategy: str = Field("direct", description="strategy of requests that choose none")
    presets: dict[Name, Preset] = Field(DEFAULT_PRESETS, description="named strategies, offered as model base:name")
    effort_map: dict[str, str] = Field(
        {
            "none": "direct",
            "minimal": "direct",
            "low": "direct",
            "high": "adaptive",
            "xhigh": "best-of-8",
            "max": "best-of-8",
        },
        description="reasoning_effort to preset or strategy",
    )
    limits: Limits = Limits()
    default_max_tokens: int = Field(1024, ge=1, description="length of a draft when the client sets none")
    max_choices: int = Field(16, ge=1, description="largest n of a request")
    max_concurrent_requests: int = Field(256, ge=1)
    max_queued_requests: int = Field(512, ge=0)
    max_body_bytes: int = Field(8 * 2**20, ge=1024)
    max_messages: int = Field(2048, ge=1)
    sse_keep_alive_interval: float = Field(10.0, ge=0, description="seconds between keep-alive comments; 0: none")
    prices: dict[str, ModelPrice] = Field({}, description="model name to price; '*' for every model")
    trace_log: Path | None = Field(None, description="append every request's trace to this JSONL file")

    @classmethod
    def settings_customise_sources(  # the signature is pydantic-settings' own
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags over environment over YAML."""
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=cls.yaml_file)

    @model_validator(mode="after")
    def _public_needs_keys(self) -> Settings:
        local = self.host in ("127.0.0.1", "::1", "localhost")
        if not (local or self.keys or self.api_key or self.insecure):
            raise ValueError(f"refusing to listen on {self.host} without an API key; set api_key or keys, or insecure")
        return self


def load(config: Path | None = None, **flags: Any) -> Settings:
    """Settings from a YAML file, the environment and flags (flags that are None are left out)."""
    given = {name: value for name, value in flags.items() if value is not None}
    source = type("ConfiguredSettings", (Settings,), {"yaml_file": config})
    settings: Settings = source(**given)
    return settings
