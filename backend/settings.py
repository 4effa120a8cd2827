"""All settings of the service: from the environment, typed, checked, and printable without secrets.

Names are `USAM_` and the field's name in capitals (`USAM_CACHE_BYTES`); `LABEL_STUDIO_URL`,
`LABEL_STUDIO_API_KEY` and `REDIS_URL` keep the names that everybody knows. Lists are separated by commas.
docs/backend.md has the table.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from backend.addresses import http_origin, is_loopback, without_password
from backend.errors import SettingsError

if TYPE_CHECKING:
    from sqlalchemy import URL

Strategy = Literal[
    "expected-error", "task", "epistemic", "task+epistemic", "prompt", "predicted-iou", "entropy", "samscore", "random"
]
Names = Annotated[tuple[str, ...], NoDecode]

MIB = 1024 * 1024
BUCKET_SCHEMES = ("s3", "gs", "azure-blob")
"""Storages whose addresses Label Studio itself serves, as it names them."""
OTHER_VARIABLES = frozenset(
    {"USAM_HOME", "USAM_LABEL_STUDIO", "USAM_MIRROR", "USAM_MODELS", "USAM_SHARED", "USAM_UPDATE_DOCS"}
)
"""Variables that other parts read. Those of benches and tests are passed over too, with a line in the log."""
SIMILAR = 0.85
"""How alike a variable's name and a setting's are, from 0 to 1, where the one is taken for the other misspelt."""
log = logging.getLogger(__name__)
_RENAMED = {
    "USAM_GRID_SIDE": "points_per_side",
    "USAM_KEEP_IOU": "pred_iou_thresh",
    "USAM_CHUNK_PROMPTS": "points_per_batch",
}
"""Variables of old, and the field that each sets still."""
_GONE = {
    "USAM_POINTS_BUDGET": "more points inside a doubtful mask lost true IoU (-0.055 where the prompt gap is highest; "
    "docs/actions.md), so none are added",
    "USAM_CLICK_ALTERNATIVES_BUDGET": "all three masks of a click were never shown to save an annotator's time, so a "
    "click gives one",
}
"""Variables of old that do nothing now, and why."""


class Settings(BaseSettings):
    """What the service may be told. Build it with `Settings.from_environment()`; keyword arguments win."""

    model_config = SettingsConfigDict(
        env_prefix="USAM_",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    # where things are kept
    data_dir: Path = Path("var")
    """Folder of the store, the head-set versions and caches."""
    database_url: SecretStr = SecretStr("")
    """SQLAlchemy address of the store; empty: SQLite in the data folder."""
    redis_url: SecretStr = Field(SecretStr(""), validation_alias=AliasChoices("REDIS_URL", "redis_url"))
    """Redis for the job queue; empty: a private server is started."""

    # who may ask us, and where
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(9090, ge=0, le=65535)
    """Port to listen on."""
    hosts: Names = ()
    """Names under which a proxy or another machine calls us; this machine's own need not be listed."""
    auth_user: str = ""
    """User of HTTP Basic."""
    auth_password: SecretStr = SecretStr("")
    """HTTP Basic, together with the user."""
    auth_token: SecretStr = SecretStr("")
    """Bearer token; may be set beside Basic."""
    request_bytes: int = Field(64 * MIB, ge=1024)
    """Largest request body taken. A noisy 4K brush region alone is several MB."""

    # Label Studio
    label_studio_url: str = Field("", validation_alias=AliasChoices("LABEL_STUDIO_URL", "label_studio_url"))
    """Address of Label Studio, with its path prefix if it has one."""
    label_studio_api_key: SecretStr = Field(
        SecretStr(""), validation_alias=AliasChoices("LABEL_STUDIO_API_KEY", "label_studio_api_key")
    )
    """Legacy token or personal access token."""
    label_studio_public_url: str = ""
    """Address by which browsers reach Label Studio, for links; empty: LABEL_STUDIO_URL."""
    label_studio_aliases: Names = ()
    """Other origins by which tasks name the same Label Studio (`http://localhost:8080`)."""

    # images
    allowed_hosts: Names = ()
    """Hosts, or host:port, whose images may be fetched; a listed host may have a private address."""
    allowed_buckets: Names = ()
    """Buckets (`s3://name`, `gs://name` or `azure-blob://container`) that Label Studio may be asked to presign."""
    fetch_seconds: float = Field(20.0, gt=0, le=600)
    """Longest time that fetching one image may take."""
    fetch_bytes: int = Field(64 * MIB, ge=1024)
    """Largest image file taken."""
    image_pixels: int = Field(100_000_000, ge=1)
    """Most pixels an image may have."""

    # models
    model: str = "nano-m"
    """Checkpoint that answers; see `usam models`."""
    larger_model: str = ""
    """Checkpoint that decodes again where the model gap is high; `auto`: the next larger one; empty: none."""
    heads: str = "auto"
    """`auto` (those that come with the checkpoint), `none`, or a file."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    encoder_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type that images are encoded in; `auto`: bfloat16 where the processor has it. The nano family stays float32."""
    encoder_runtime: Literal["torch", "openvino"] = "torch"
    """What encodes in float32 on a processor; `openvino` needs that package, and falls back to torch with a word."""
    threads: int = Field(0, ge=0, le=1024)
    """Threads that torch may use; 0: its own choice."""
    random_weights: bool = False
    """Build the model without its weights. For tests of speed and plumbing only: masks mean nothing."""

    # engine
    cache_bytes: int = Field(1024 * MIB, ge=0)
    """Bound of the embedding cache."""
    embedding_files_bytes: int = Field(2048 * MIB, ge=0)
    """Bound of the embeddings kept as files in the data folder, for service and workers; 0 keeps none."""
    pending_bytes: int = Field(1024 * MIB, ge=MIB)
    """Bound of the decoded images that wait for the engine; beyond it, it says that it is busy."""
    wait_seconds: float = Field(90.0, gt=0, le=86_400)
    """How long a request waits for the engine; Label Studio gives up after 100 s."""
    queue_limit: int = Field(64, ge=1)
    """Waiting clicks, and waiting batch pieces, beyond which the engine says that it is busy."""
    points_per_batch: int = Field(8, ge=1, le=1024)
    """Prompts decoded at once; between two chunks a click gets its turn."""
    prefetch: int = Field(2, ge=0, le=64)
    """Likely next tasks whose embeddings are computed ahead."""

    # acting on uncertainty (docs/actions.md)
    larger_budget: float = Field(0.35, ge=0, le=1)
    """Share of what the larger model would cost for everything that may be spent on it."""
    larger_margin: float = Field(0.1, ge=0, le=1)
    """The larger model's mask is kept unless its predicted IoU is lower by more than this."""
    alternatives_budget: float = Field(0.2, ge=0, le=1)
    """Share of the unlabelled tasks that may get a second prediction, of the masks that may be meant instead."""
    act_gap_above: float = Field(0.0, ge=0, le=0.5)
    """Gap (in IoU) that is not acted on unless it is higher, whatever the budget."""
    budget_warm_up: int = Field(20, ge=1)
    """Gaps seen before the first is acted on: they tell what is high here."""
    mask_choice: Literal["auto", "predicted-iou", "samscore"] = "auto"
    """Which of the three masks is taken; `auto`: by predicted IoU, unless this project's labels say that it loses."""

    # predictions
    points_per_side: int = Field(8, ge=1, le=64)
    """Points a side of the grid that prompts an image nobody has prompted; 8 makes 64 prompts."""
    tiles: int = Field(0, ge=0, le=4)
    """Parts a side into which an image is cut to look for small objects; 1: none, 0: as the project's labels ask."""
    pred_iou_thresh: float = Field(0.5, ge=0, le=1)
    """Predicted IoU below which a proposal is dropped."""
    nms_iou: float = Field(0.7, gt=0, le=1)
    """IoU of two proposals above which the worse is dropped."""
    max_regions: int = Field(8, ge=1, le=1000)
    """Most regions of one prediction. Unless it is set, what is shown of the wanted is bounded by candidates alone."""
    polygon_tolerance: float = Field(1.5, ge=0, le=1000)
    """Largest distance in pixels between a mask's outline and the polygon sent for it."""
    unknown_label: Literal["none", "first"] = "none"
    """What an object gets whose label nobody told, where several are offered: none, or the configuration's first."""

    # queue and learning
    strategy: Strategy = "expected-error"
    """What makes a task worth asking; see usam.active.acquisition."""
    image_rule: Literal["expected", "top-mean", "max", "mean", "sum"] = "expected"
    """How object scores become an image's score; see usam.active.acquisition. `expected-error` heeds none."""
    audit_share: float = Field(0.1, ge=0, le=1)
    """Share of tasks served uniformly at random among the ranked ones."""
    control_share: float = Field(0.0, ge=0, le=1)
    """Share of tasks, drawn by hash, on which nothing is shown, so that the time that masks save can be told."""
    marked_in_part: bool = False
    """Whether people mark only some of what the project is about: then what they leave unmarked teaches nothing."""
    retrain_after: int = Field(20, ge=1)
    """New labels from which a retraining starts."""
    own_decoder_seconds: float = Field(60.0, ge=0, le=3600)
    """Longest time that a retraining spends on a mask decoder of the project's own; 0: it keeps the checkpoint's."""
    sync_seconds: float = Field(60.0, gt=0, le=604_800)
    """How often the truth is fetched from Label Studio without being woken."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of everything that is drawn at random."""

    @classmethod
    def from_environment(cls, **overrides: Any) -> Settings:
        """Read the environment; `overrides` (None is passed over) win. Old names still work, with a warning.

        Raises `SettingsError` that names each bad setting, without its value, each variable that seems to be a
        setting's name misspelt, and one that is no more.
        """
        cls._check_names(os.environ)
        given = {name: value for name, value in overrides.items() if value is not None}
        try:
            return cls(**{**_from_old_names(os.environ), **given})
        except ValidationError as error:
            bad = "; ".join(f"{_variable(e['loc'])}: {e['msg']}" for e in error.errors())
            raise SettingsError("usable settings", bad, "correct the environment (docs/backend.md)") from None

    @classmethod
    def _check_names(cls, names: Iterable[str]) -> None:
        right = OTHER_VARIABLES | _RENAMED.keys() | _GONE.keys() | {_variable((name,)) for name in cls.model_fields}
        for field in cls.model_fields.values():  # a renamed setting keeps its old variable
            if isinstance(field.validation_alias, AliasChoices):
                right |= {choice.upper() for choice in field.validation_alias.choices if isinstance(choice, str)}
        wrong = []
        for name in sorted(set(names)):
            if name.startswith("USAM_") and name not in right:
                near = difflib.get_close_matches(name, right, 1, SIMILAR)
                wrong += [f"{name}; {near[0]} is meant?"] if near else []
                if not near:
                    log.warning("the variable %s is no setting, so it does nothing (docs/backend.md has them)", name)
        if wrong:
            raise SettingsError("names of settings", ", ".join(wrong), "correct or unset it (docs/backend.md)")

    @field_validator("*", mode="before")
    @classmethod
    def _bare(cls, value: Any, about: ValidationInfo) -> Any:
        """The text itself: spaces around it are left by hand or by a file, as are quotes, which are no part of any."""
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not isinstance(text, str) or about.field_name == "auth_password":
            return value
        text = text.strip()
        if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
            raise ValueError("take away the quotes around it: they count as part of the value")
        return text

    @field_validator("data_dir", mode="after")
    @classmethod
    def _folder(cls, value: Path) -> Path:
        try:
            return value.expanduser()
        except RuntimeError as error:
            raise ValueError("whose home folder `~` means is not known") from error

    @field_validator("data_dir", "model", "heads", "device", "host", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, str) and not value.strip():
            raise ValueError("it is empty: unset it for the default")
        return value

    @field_validator("auth_password", "auth_token", "label_studio_api_key")
    @classmethod
    def _sendable(cls, value: SecretStr) -> SecretStr:
        secret = value.get_secret_value()
        if not all(" " <= sign <= "~" for sign in secret):
            raise ValueError(
                "only ASCII letters, digits, signs and spaces are possible: browsers and Label Studio send others "
                "in different encodings"
            )
        return value

    @field_validator("hosts", "allowed_hosts", "allowed_buckets", "label_studio_aliases", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("larger_model")
    @classmethod
    def _larger(cls, value: str, known: ValidationInfo) -> str:
        return next_larger(str(known.data.get("model", ""))) if value == "auto" else value

    @field_validator("label_studio_url", "label_studio_public_url")
    @classmethod
    def _url(cls, value: str) -> str:
        return http_origin(value, path=True) if value else ""

    @field_validator("label_studio_aliases")
    @classmethod
    def _aliases(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(http_origin(url) for url in value)

    @field_validator("hosts", "allowed_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if "/" in host or "@" in host or not urlsplit(f"//{host}").hostname:
                raise ValueError("list hosts as `name`, `name:port` or `[v6]:port`, without scheme or path")
        return tuple(host.lower() for host in value)

    @field_validator("allowed_buckets")
    @classmethod
    def _buckets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for bucket in value:
            parts = urlsplit(bucket)
            if parts.scheme not in BUCKET_SCHEMES or not parts.netloc or parts.path.strip("/"):
                raise ValueError("list buckets as `s3://name`, `gs://name` or `azure-blob://container`")
        return tuple(bucket.rstrip("/") for bucket in value)

    @model_validator(mode="after")
    def _auth_is_whole(self) -> Settings:
        if bool(self.auth_user) != bool(self.auth_password.get_secret_value()):
            raise ValueError("USAM_AUTH_USER and USAM_AUTH_PASSWORD go together")
        self.check_bind(self.host)
        return self

    @property
    def auth_on(self) -> bool:
        """Whether requests must carry a password or token."""
        return bool(self.auth_password.get_secret_value() or self.auth_token.get_secret_value())

    @property
    def store_url(self) -> str | URL:
        """SQLAlchemy address of the store, with its password."""
        from sqlalchemy import URL  # takes a path as it is: written out, a `?` or `%20` in it would be read as more

        return self.database_url.get_secret_value() or URL.create("sqlite", database=str(self.data_dir / "usam.db"))

    @property
    def registry_dir(self) -> Path:
        """Folder of the head-set versions. Workers and backend must see the same one."""
        return self.data_dir / "heads"

    def check_bind(self, host: str) -> None:
        """Raise `ValueError` where a bind to `host` would offer the service to others without a password."""
        if not self.auth_on and not is_loopback(host):
            raise ValueError(
                f"a bind to {host} needs USAM_AUTH_USER and USAM_AUTH_PASSWORD, or USAM_AUTH_TOKEN; "
                "without them only a loopback address may be used"
            )

    def summary(self) -> dict[str, str]:
        """Every setting by its variable's name, secrets as `set` or `not set`, passwords in URLs masked."""
        out: dict[str, str] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                secret = value.get_secret_value()
                shown = without_password(secret) if name.endswith("_url") and secret else ""
                out[_variable((name,))] = shown or ("set" if secret else "not set")
            elif isinstance(value, tuple):
                out[_variable((name,))] = ",".join(value)
            else:
                out[_variable((name,))] = without_password(value) if name.endswith("_url") and value else str(value)
        return out


def _from_old_names(environment: Mapping[str, str]) -> dict[str, str]:
    """Fields that the environment sets by a name of old alone. Raises `SettingsError` for a setting that is no more,
    unless it asks for nothing."""
    for variable, why in _GONE.items():
        value = environment.get(variable, "").strip()
        if value.strip("0.") and value:
            raise SettingsError(f"no {variable}", "one that is set", f"remove it: {why}")
        if value:
            log.warning("%s does nothing any more and can be removed: %s", variable, why)
    fields: dict[str, str] = {}
    for variable, name in _RENAMED.items():
        if variable in environment and _variable((name,)) not in environment:
            log.warning("%s is now called %s; the old name still works", variable, _variable((name,)))
            fields[name] = environment[variable]
    return fields


def next_larger(model: str) -> str:
    """The checkpoint that decodes what is too hard for this one; empty where there is none."""
    family, _, size = model.rpartition("_hiera_")
    if family and size != "large":
        return f"{family}_hiera_large"
    return {"nano-s": "nano-m", "nano-m": "nano-l"}.get(model, "")


def _variable(location: tuple[int | str, ...]) -> str:
    """The environment variable of a field, from pydantic's location of it."""
    if not location:
        return "settings"
    name = str(location[0]).upper()
    return name if name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY", "REDIS_URL") else f"USAM_{name}"
