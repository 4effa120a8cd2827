from __future__ import annotations

from pathlib import Path

import pytest

from backend.addresses import without_password
from backend.errors import SettingsError
from backend.local.redis_server import RedisServer
from backend.queue import JobQueue
from backend.settings import Settings
from backend.store import Store

DOCS = Path(__file__).parents[2] / "docs" / "backend.md"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith(("USAM_", "LABEL_STUDIO_", "REDIS_")):
            monkeypatch.delenv(name)


def test_environment_is_read_and_overrides_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USAM_PORT", "1234")
    monkeypatch.setenv("USAM_MODEL", "nano-s")
    monkeypatch.setenv("USAM_ALLOWED_HOSTS", "Images.example.org, 10.0.0.1:8000")
    monkeypatch.setenv("USAM_ALLOWED_BUCKETS", "s3://pictures/,gs://more")
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://label.example.org:8080/ls/")
    monkeypatch.setenv("REDIS_URL", "redis://:secret@redis:6379/0")
    settings = Settings.from_environment(port=9, model=None)
    assert (settings.port, settings.model) == (9, "nano-s")
    assert settings.allowed_hosts == ("images.example.org", "10.0.0.1:8000")
    assert settings.allowed_buckets == ("s3://pictures", "gs://more")
    assert settings.label_studio_url == "http://label.example.org:8080/ls"
    assert settings.redis_url.get_secret_value() == "redis://:secret@redis:6379/0"
    assert str(settings.store_url) == "sqlite:///var/usam.db"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("USAM_PORT", "many", "USAM_PORT"),
        ("USAM_PORT", "70000", "USAM_PORT"),
        ("USAM_STRATEGY", "guess", "USAM_STRATEGY"),
        ("USAM_CACHE_BYTES", "-1", "USAM_CACHE_BYTES"),
        ("USAM_AUDIT_SHARE", "1.5", "USAM_AUDIT_SHARE"),
        ("USAM_ALLOWED_HOSTS", "http://example.org", "USAM_ALLOWED_HOSTS"),
        ("USAM_ALLOWED_BUCKETS", "pictures", "USAM_ALLOWED_BUCKETS"),
        ("LABEL_STUDIO_URL", "label.example.org", "LABEL_STUDIO_URL"),
        ("LABEL_STUDIO_URL", "http://me:pw@label.example.org", "LABEL_STUDIO_URL"),
        ("LABEL_STUDIO_URL", "http://h:99999", "LABEL_STUDIO_URL"),
        ("LABEL_STUDIO_URL", '"http://h"', "quotes"),
        ("USAM_DATA_DIR", "'var'", "quotes"),
        ("USAM_DATA_DIR", " ", "USAM_DATA_DIR: .* empty"),
        ("USAM_HEADS", "", "USAM_HEADS: .* empty"),
        ("USAM_AUDIT_SHARE", "10%", "USAM_AUDIT_SHARE"),
        ("USAM_CACHE_BYTES", "1GB", "USAM_CACHE_BYTES"),
        ("USAM_WAIT_SECONDS", "inf", "USAM_WAIT_SECONDS"),
        ("USAM_SYNC_SECONDS", "inf", "USAM_SYNC_SECONDS"),
        ("USAM_POLYGON_TOLERANCE", "inf", "USAM_POLYGON_TOLERANCE"),
        ("USAM_NMS_IOU", "nan", "USAM_NMS_IOU"),
        ("USAM_SEED", "-1", "USAM_SEED"),
        ("USAM_AUTH_USER", "me", "go together"),
        ("USAM_HOST", "0.0.0.0", "loopback"),
    ],
)
def test_bad_settings_are_named_without_their_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=said) as caught:
        Settings.from_environment()
    assert "pw@" not in str(caught.value)


def test_spaces_around_a_value_are_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "USAM_DATA_DIR": " ~/usam ",
        "USAM_MODEL": "nano-m\n",
        "USAM_HEADS": " auto",
        "USAM_STRATEGY": "task ",
        "USAM_LARGER_MODEL": "auto ",
        "LABEL_STUDIO_URL": " http://h:80/ ",
        "LABEL_STUDIO_API_KEY": "token\n",
        "REDIS_URL": " redis://h:1 ",
        "USAM_AUTH_USER": "ann ",
        "USAM_AUTH_PASSWORD": " secret ",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = Settings.from_environment()
    assert found.data_dir == Path.home() / "usam"
    assert (found.model, found.heads, found.strategy, found.larger_model) == ("nano-m", "auto", "task", "nano-l")
    assert (found.label_studio_url, found.label_studio_api_key.get_secret_value()) == ("http://h:80", "token")
    assert (found.redis_url.get_secret_value(), found.auth_user) == ("redis://h:1", "ann")
    assert found.auth_password.get_secret_value() == " secret ", "which may have them"


def test_open_bind_needs_credentials() -> None:
    assert Settings.from_environment(host="0.0.0.0", auth_token="t").auth_on
    assert Settings.from_environment(host="::1").auth_on is False
    with pytest.raises(ValueError, match="USAM_AUTH_TOKEN"):
        Settings.from_environment().check_bind("192.168.1.5")


def test_summary_names_every_setting_and_no_secret() -> None:
    settings = Settings.from_environment(
        auth_user="me",
        auth_password="hush-password",
        auth_token="hush-token",
        label_studio_api_key="hush-key",
        redis_url="redis://:hush-redis@redis:6379/0",
        database_url="postgresql://u:hush-db@pg/usam",
    )
    summary = settings.summary()
    text = " ".join(summary.values())
    assert "hush" not in text
    assert "hush" not in repr(settings)
    assert summary["REDIS_URL"] == "redis://***@redis:6379/0"
    assert summary["USAM_AUTH_PASSWORD"] == "set"
    assert len(summary) == len(Settings.model_fields)
    assert without_password("redis://h/0") == "redis://h/0"


def test_docs_table_has_every_setting_with_its_default() -> None:
    text = DOCS.read_text()
    for name, default in Settings.from_environment().summary().items():
        row = next((line for line in text.splitlines() if line.startswith(f"| `{name}` ")), "")
        shown = default if default not in ("", "not set") else "none"
        assert f"| `{shown}` |" in row, f"{name} with default {shown} is missing in docs/backend.md"


@pytest.mark.parametrize(
    ("model", "larger"),
    [
        ("nano-s", "nano-m"),
        ("nano-m", "nano-l"),
        ("nano-l", ""),
        ("sam2.1_hiera_tiny", "sam2.1_hiera_large"),
        ("sam2_hiera_base_plus", "sam2_hiera_large"),
        ("sam2.1_hiera_large", ""),
    ],
)
def test_auto_names_the_next_larger_model(model: str, larger: str) -> None:
    assert Settings.from_environment(model=model, larger_model="auto").larger_model == larger
    assert Settings.from_environment(model=model).larger_model == ""
    assert Settings.from_environment(model=model, larger_model="nano-m").larger_model == "nano-m"


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hush@h:6379/0",
        "redis://me:hush@h/0",
        "rediss://me:hush@h:6380",
        "redis://h/0?password=hush",
        "redis://h/0?db=1&username=me&password=hush",
        "redis://h/0?password=a@hush",
        "redis://:hu#hush@h/0",
        "redis://:hu/hush@h/0",
        "redis://:hu?hush@h/0",
        "redis://:hu@hush@h/0",
        "redis://:hu:hush@h/0",
        "redis://:hu\\hush@h/0",
        "redis://:hu hush@h/0",
        "redis://h/0#hush",
        "redis://:hush",
        "redis:/:hush@h/0",
        "unix://me:hush@/run/redis.sock?db=0",
        "unix:///run/redis.sock?password=hush",
        "me:hush@h:6379",
        "postgresql+psycopg://u:hush@h:5432/usam?sslpassword=hush",
    ],
)
def test_no_form_of_an_address_shows_its_password(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name in ("REDIS_URL", "USAM_DATABASE_URL"):
        monkeypatch.setenv(name, url)
        summary = Settings.from_environment().summary()
        assert "hush" not in str(summary)
        assert "***" in summary[name]
        monkeypatch.delenv(name)


def test_a_misspelt_variable_is_named_with_what_was_meant(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("USAM_ALOWED_HOSTS", "hush")
    with pytest.raises(SettingsError, match="USAM_ALOWED_HOSTS; USAM_ALLOWED_HOSTS is meant") as caught:
        Settings.from_environment()
    assert "hush" not in str(caught.value)
    monkeypatch.delenv("USAM_ALOWED_HOSTS")
    monkeypatch.setenv("USAM_BENCH_TOKENS", "1")
    Settings.from_environment()
    assert "USAM_BENCH_TOKENS is no setting" in caplog.text


@pytest.mark.parametrize("name", ["USAM_AUTH_PASSWORD", "USAM_AUTH_TOKEN"])
def test_a_password_that_programs_send_differently_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("USAM_AUTH_USER", "me")
    monkeypatch.setenv("USAM_AUTH_PASSWORD", "fine")
    monkeypatch.setenv(name, "p\u00e4ss")
    with pytest.raises(SettingsError, match="only ASCII") as caught:
        Settings.from_environment()
    assert name in str(caught.value)
    assert "p\u00e4ss" not in str(caught.value)


def test_old_names_still_work_with_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("USAM_GRID_SIDE", "5")
    monkeypatch.setenv("USAM_KEEP_IOU", "0.25")
    monkeypatch.setenv("USAM_CHUNK_PROMPTS", "3")
    settings = Settings.from_environment()
    assert (settings.points_per_side, settings.pred_iou_thresh, settings.points_per_batch) == (5, 0.25, 3)
    assert "USAM_GRID_SIDE is now called USAM_POINTS_PER_SIDE" in caplog.text
    monkeypatch.setenv("USAM_POINTS_PER_SIDE", "6")
    assert Settings.from_environment().points_per_side == 6, "the new name wins"
    assert Settings.from_environment(points_per_side=7).points_per_side == 7
    monkeypatch.setenv("USAM_KEEP_IOU", "3")
    with pytest.raises(SettingsError, match="USAM_PRED_IOU_THRESH"):
        Settings.from_environment()


@pytest.mark.parametrize("variable", ["USAM_POINTS_BUDGET", "USAM_CLICK_ALTERNATIVES_BUDGET"])
def test_settings_that_are_no_more_are_refused_with_the_reason(
    variable: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(variable, "0.3")
    with pytest.raises(SettingsError, match=f"{variable}.*so "):
        Settings.from_environment()
    monkeypatch.setenv(variable, "0.0")
    Settings.from_environment()
    assert f"{variable} does nothing any more" in caplog.text


@pytest.mark.parametrize("name", ["a?b=c", "a%20b", "a#b", "a b", "ä\nö"])
def test_a_data_folder_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("USAM_DATA_DIR", str(tmp_path / name))
    settings = Settings.from_environment()
    Store(settings.store_url).close()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "usam.db").is_file()
    server = RedisServer(tmp_path / name)
    assert JobQueue(server.url).connection().connection_pool.connection_kwargs["path"] == str(server.socket)
