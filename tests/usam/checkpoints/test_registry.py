"""The registry against the sam2 package; fetching, building and loading for real, with small files."""

from __future__ import annotations

import hashlib
import pickle
import re
import shutil
import threading
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from usam.checkpoints import registry as checkpoints
from usam.checkpoints.downloads import sha256_of
from usam.errors import CheckpointError, DownloadError, HeadsError
from usam.heads.bundled import resolve_heads
from usam.heads.head_set import PUBLISHED_HEADS, HeadSet
from usam.predictor.load import load

REGISTERED = tuple(
    f"{family}_hiera_{size}" for family in ("sam2.1", "sam2") for size in ("tiny", "small", "base_plus", "large")
)


CONTENT = b"weights" * 300


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of downloads."""
    monkeypatch.setenv("USAM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def own_registry(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a registry and use it; without text, a copy of the real one."""
    folder = tmp_path / "models"
    folder.mkdir()
    real = checkpoints.models_dir() / "registry.toml"

    def write(text: str | None = None, **replaced: str) -> Path:
        text = real.read_text(encoding="utf-8") if text is None else text
        for old, new in replaced.items():
            text = text.replace(old, new)
        (folder / "registry.toml").write_text(text, encoding="utf-8")
        monkeypatch.setenv("USAM_MODELS", str(folder))
        return folder

    return write


def entry(name: str, content: bytes, address: str, family: str = "sam2.1") -> str:
    digest = hashlib.sha256(content).hexdigest()
    return (
        f'[[checkpoint]]\nname = "{name}"\nfamily = "{family}"\nfile = "{name}.pt"\naddress = "{address}"\n'
        f'sha256 = "{digest}"\nbytes = {len(content)}\nlicence = "Apache-2.0"\n'
        'config = "configs/sam2.1/sam2.1_hiera_t.yaml"\nimage_size = 1024\nwidth = 256\n'
    )


def test_the_registry_has_every_checkpoint_of_sam2_at_its_published_address() -> None:
    import sam2

    readme = metadata("sam2").get_payload()
    addresses = set(re.findall(r"https://dl\.fbaipublicfiles\.com/segment_anything_2/\S+?\.pt", str(readme)))
    known = checkpoints.registry()
    assert set(REGISTERED) <= known.keys()
    assert {known[name].url for name in REGISTERED} == addresses
    for name in REGISTERED:
        checkpoint = known[name]
        assert checkpoint.url.endswith("/" + checkpoint.file)
        assert re.fullmatch("[0-9a-f]{64}", checkpoint.sha256)
        assert (Path(sam2.__path__[0]) / checkpoint.config).is_file()
        assert checkpoint.licence == "Apache-2.0"
        assert not checkpoint.bundled
    assert len({known[name].sha256 for name in REGISTERED}) == 8


def test_the_registry_has_the_nano_family_without_downloads() -> None:
    known = checkpoints.registry()
    for name in ("nano-s", "nano-m", "nano-l"):
        assert known[name].bundled
        assert known[name].url == ""
    assert checkpoints.DEFAULT_MODEL in known


@pytest.mark.parametrize("name", ["nano-s", "nano-m", "nano-l"])
def test_the_registry_agrees_with_the_nano_models(name: str) -> None:
    checkpoint = checkpoints.find(name)
    model = checkpoints.build_model(name, weights=False)
    assert not model.training
    assert model.image_size == checkpoint.image_size
    assert model.sam_mask_decoder.transformer_dim == checkpoint.width
    if checkpoint.sha256:
        assert sha256_of(checkpoint.path) == checkpoint.sha256


def test_the_published_head_sets_name_nine_files_each() -> None:
    sets = checkpoints.published_heads()
    assert list(sets) == ["usam-heads-sam2.1", "usam-heads-sam2.0"]
    for heads in sets.values():
        assert set(heads.sha256) == set(PUBLISHED_HEADS)
        assert all(url.endswith(f"/{head}/model.pth") for head, url in heads.url.items())
        assert heads.licence == "none stated"
    assert len({digest for heads in sets.values() for digest in heads.sha256.values()}) == 18


@pytest.mark.shared
def test_the_published_heads_on_disk_are_those_of_the_registry(shared: Path) -> None:
    heads = checkpoints.published_heads()["usam-heads-sam2.1"]
    for head, digest in heads.sha256.items():
        path = shared / "weights" / "usam_mlps" / "sam2.1" / head / "model.pth"
        assert sha256_of(path) == digest
        assert path.stat().st_size == heads.bytes


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(CheckpointError, match=r"did you mean 'sam2.1_hiera_tiny'\?"):
        checkpoints.checkpoint_path("sam2.1_hiera_tny")
    with pytest.raises(CheckpointError, match="usam models"):
        checkpoints.fetch("resnet")


@pytest.mark.parametrize("text", ["[[checkpoint]\n", '[[checkpoint]]\nname = "x"\n', '[[heads]]\nname = "x"\n'])
def test_a_broken_registry_is_an_error_of_ours(own_registry: Any, text: str) -> None:
    own_registry(text)
    with pytest.raises(CheckpointError, match="registry"):
        checkpoints.fetch("x")


def test_a_registry_that_is_not_there_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USAM_MODELS", str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="USAM_MODELS"):
        checkpoints.registry()


def test_fetch_puts_a_checkpoint_into_its_place(own_registry: Any, home: Path, site: Any) -> None:
    own_registry(entry("small", site.content, site.address))
    with pytest.raises(CheckpointError, match=r"usam fetch small"):
        checkpoints.verify("small")
    path = checkpoints.fetch("small")
    assert path == home / "checkpoints" / "small.pt" == checkpoints.checkpoint_path("small")
    assert checkpoints.verify("small") == path
    assert checkpoints.fetch("small") == path
    assert len(site.requests) == 1


def test_a_file_put_by_hand_is_verified(own_registry: Any, home: Path, site: Any) -> None:
    own_registry(entry("small", site.content, site.address))
    path = checkpoints.checkpoint_path("small")
    path.parent.mkdir(parents=True)
    path.write_bytes(site.content)
    assert checkpoints.fetch("small") == path
    path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="SHA-256"):
        checkpoints.verify("small")
    assert site.requests == []


def test_published_heads_need_consent_and_then_arrive_complete(own_registry: Any, home: Path, site: Any) -> None:
    site.pages = {f"/{head}/model.pth": head.encode() * 100 for head in ("iou_tiny", "task_gap")}
    hashes = {path.split("/")[1]: hashlib.sha256(content).hexdigest() for path, content in site.pages.items()}
    base = site.address.rpartition("/")[0]
    own_registry(
        f'[[heads]]\nname = "theirs"\nfamily = "sam2.1"\naddress = "{base}/{{head}}/model.pth"\n'
        'licence = "none stated"\n[heads.sha256]\n'
        + "".join(f'{head} = "{digest}"\n' for head, digest in hashes.items())
    )
    with pytest.raises(DownloadError, match=r"no licence.*--accept-no-licence"):
        checkpoints.fetch("theirs")
    assert site.requests == []
    seen: list[int] = []
    folder = checkpoints.fetch("theirs", lambda done, _total: seen.append(done), accept_no_licence=True)
    assert folder == home / "heads" / "theirs"
    assert (folder / "task_gap" / "model.pth").read_bytes() == b"task_gap" * 100
    assert checkpoints.verify("theirs") == folder
    assert seen
    assert checkpoints.published_heads()["theirs"].missing() == []
    (folder / "task_gap" / "model.pth").unlink()
    assert checkpoints.published_heads()["theirs"].missing() == ["task_gap"]
    with pytest.raises(CheckpointError, match="fetch it with: usam fetch theirs"):
        checkpoints.verify("theirs")


NOWHERE = "http://127.0.0.1:1"


def test_a_mirror_gives_files_by_their_names_and_is_not_trusted(
    own_registry: Any, home: Path, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, wrong = b"head" * 100, b"other" * 100
    site.content, site.pages = wrong, {"/sam2/small.pt": CONTENT, "/sam2/theirs/iou_tiny/model.pth": head}
    monkeypatch.setenv("USAM_MIRROR", site.address.rpartition("/")[0] + "/sam2/")
    own_registry(
        entry("small", CONTENT, f"{NOWHERE}/small.pt")
        + entry("missing", CONTENT[: len(wrong)], f"{NOWHERE}/missing.pt")
        + f'[[heads]]\nname = "theirs"\nfamily = "sam2.1"\naddress = "{NOWHERE}/{{head}}/model.pth"\n'
        + f'licence = "none stated"\n[heads.sha256]\niou_tiny = "{hashlib.sha256(head).hexdigest()}"\n'
    )
    assert checkpoints.fetch("small").read_bytes() == CONTENT
    folder = checkpoints.fetch("theirs", accept_no_licence=True)
    assert (folder / "iou_tiny" / "model.pth").read_bytes() == head
    with pytest.raises(DownloadError, match=r"SHA-256 .*/sam2/missing\.pt"):
        checkpoints.fetch("missing")
    assert not (home / "checkpoints" / "missing.pt").exists()


@pytest.mark.parametrize(
    "mirror",
    [
        "files.example.com",
        "ftp://files.example.com/",
        "https://",
        "https://a.example/?x=1",
        "http://[",
        "http://a:x/",
        "https://@/",
    ],
)
def test_a_mirror_that_is_no_address_is_said(
    own_registry: Any, home: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAM_MIRROR", mirror)
    own_registry(entry("small", CONTENT, f"{NOWHERE}/small.pt"))
    with pytest.raises(DownloadError, match="in USAM_MIRROR"):
        checkpoints.fetch("small")


def test_a_password_in_a_mirror_is_not_told(own_registry: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_registry(entry("small", CONTENT, f"{NOWHERE}/small.pt"))
    for mirror in (NOWHERE.replace("://", "://ann:hush@") + "/sam2", "ftp://ann:hush@files.example.com"):
        monkeypatch.setenv("USAM_MIRROR", mirror)
        with pytest.raises(DownloadError) as caught:
            checkpoints.fetch("small")
        assert "hush" not in str(caught.value)
        assert mirror.rpartition("@")[2] in str(caught.value)


def test_a_sam2_is_built_as_the_sam2_package_builds_it() -> None:
    from sam2.build_sam import build_sam2

    torch.manual_seed(0)
    theirs = build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", device="cpu")
    torch.manual_seed(0)
    ours = checkpoints.build_model("sam2.1_hiera_tiny", weights=False)
    assert not ours.training
    expected = theirs.state_dict()
    assert expected.keys() == ours.state_dict().keys()
    assert all(torch.equal(value, expected[key]) for key, value in ours.state_dict().items())
    plain = (bool, int, float, str, type(None))
    for attribute, value in vars(theirs).items():
        if isinstance(value, plain):
            assert getattr(ours, attribute) == value, attribute
    for attribute, value in vars(theirs.sam_mask_decoder).items():
        if isinstance(value, plain):
            assert getattr(ours.sam_mask_decoder, attribute) == value, attribute


def test_building_leaves_the_hydra_of_the_calling_program_alone(tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    (tmp_path / "mine.yaml").write_text("answer: 42\n")
    try:
        with initialize_config_dir(str(tmp_path), version_base="1.2"):
            models: list[Any] = []
            threads = [
                threading.Thread(
                    target=lambda: models.append(
                        checkpoints.build_model("sam2_hiera_tiny", weights=False, image_size=256)
                    )
                )
                for _ in range(2)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert [model.image_size for model in models] == [256, 256]
            assert compose("mine").answer == 42
    finally:
        GlobalHydra.instance().hydra = before


def test_an_image_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"multiple of 32, got 1000"):
        checkpoints.build_model("sam2.1_hiera_tiny", weights=False, image_size=1000)


def small_model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"0.weight": torch.zeros(2, 3)}, r"0\.bias \(2,\) in .*, got nothing of that name.*another size"),
        (
            {**small_model().state_dict(), "1.weight": torch.zeros(1, 5)},
            r"1\.weight of shape \(1, 2\) .*got \(1, 5\)",
        ),
        ({**small_model().state_dict(), "2.bias": torch.zeros(1)}, r"4 tensors .*2\.bias besides"),
    ],
)
def test_weights_of_another_model_are_named(state: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load_state(small_model(), state, Path("weights.pt"))


class Trap:
    """Says so when a pickle of it is run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("code in a checkpoint was run",))


@pytest.mark.parametrize("content", ["pickle", "nothing", "noise", "tensors of another model", "no model key"])
def test_a_checkpoint_that_is_none_is_an_error_of_ours(
    own_registry: Any, home: Path, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "file"
    if content == "pickle":
        file.write_bytes(pickle.dumps({"model": Trap()}, protocol=2))
    elif content == "nothing":
        file.write_bytes(b"")
    elif content == "noise":
        file.write_bytes(bytes(range(256)) * 10)
    elif content == "no model key":
        torch.save({"weights": {}}, file)
    else:
        torch.save({"model": small_model().state_dict()}, file)
    own_registry(entry("odd", file.read_bytes(), "http://127.0.0.1:1/odd.pt"))
    path = checkpoints.checkpoint_path("odd")
    path.parent.mkdir(parents=True)
    shutil.copy(file, path)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        checkpoints.build_model("odd", image_size=64)


def test_a_sam2_checkpoint_loads_and_predicts_at_another_image_size(own_registry: Any, home: Path) -> None:
    torch.manual_seed(1)
    model = checkpoints.build_model("sam2.1_hiera_tiny", weights=False)
    half = {key: value.half() for key, value in model.state_dict().items()}
    path = home / "checkpoints" / "mine.pt"
    path.parent.mkdir(parents=True)
    torch.save({"model": half}, path)
    own_registry(entry("mine", path.read_bytes(), ""))
    predictor = load("mine", image_size=128)
    assert predictor.checkpoint_name == "mine"
    assert not predictor.model.training
    loaded = predictor.model.state_dict()
    assert all(torch.equal(loaded[key], value.float()) for key, value in half.items())
    predictor.set_image(np.zeros((40, 60, 3), np.uint8))
    masks, ious, low_res, scores = predictor.predict(point_coords=np.array([[5.0, 5.0]]), point_labels=[1])
    assert masks.shape == (3, 40, 60)
    assert ious.shape == (3,)
    assert low_res.shape == (3, 32, 32)
    assert scores == {}


@pytest.fixture
def nano(own_registry: Any) -> Path:
    """A registry with an untrained nano-s and heads for it; returns the folder."""
    from usam.checkpoints.nano import build_nano, save_nano

    folder = own_registry()
    torch.manual_seed(2)
    digest = save_nano(build_nano("nano-s"), folder / "nano_s.safetensors")
    text = (folder / "registry.toml").read_text()
    size = (folder / "nano_s.safetensors").stat().st_size
    text = re.sub(r'(?s)(name = "nano-s".*?sha256 = )"\w*"(\nbytes = )\d+', rf'\1"{digest}"\g<2>{size}', text, count=1)
    assert digest in text
    own_registry(text)
    width = checkpoints.find("nano-s").width
    random = np.random.default_rng(3)
    layers = [
        (random.normal(0, 0.1, (outputs, inputs)), np.zeros(outputs)) for inputs, outputs in ((2 * width, 16), (16, 1))
    ]
    heads = HeadSet.from_layers(
        {"iou_nano_s": layers, "task_gap": layers},
        alignment="aligned",
        checkpoint="nano-s",
        quality="iou_nano_s",
    )
    heads.save(folder / "heads" / "nano-s")
    return folder


def test_a_nano_model_loads_with_its_own_heads(nano: Path) -> None:
    predictor = load("nano-s")
    predictor.set_image(np.zeros((33, 50, 3), np.uint8))
    masks, ious, _, scores = predictor.predict(point_coords=np.array([[5.0, 5.0]]), point_labels=[1])
    assert masks.shape == (3, 33, 50)
    assert set(scores) == {"iou_nano_s", "task_gap"}
    assert scores["task_gap"].shape == ious.shape == (3,)


def test_heads_can_be_given_or_left_out(nano: Path) -> None:
    folder = nano / "heads" / "nano-s"
    for heads in (folder, str(folder), HeadSet.load(folder)):
        assert resolve_heads("nano-s", heads).version == HeadSet.load(folder).version  # type: ignore[union-attr]
    assert resolve_heads("nano-s", None) is None
    assert checkpoints.heads_for("nano-m") is None
    with pytest.raises(HeadsError):
        load("nano-s", heads=nano / "nowhere")


def test_a_bundled_file_that_was_altered_is_refused(nano: Path) -> None:
    path = nano / "nano_s.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"SHA-256"):
        load("nano-s")
    path.unlink()
    with pytest.raises(CheckpointError, match="install usam again"):
        load("nano-s")


@pytest.mark.shared
def test_fetched_published_heads_are_found_for_their_family(home: Path, shared: Path) -> None:
    assert checkpoints.heads_for("sam2.1_hiera_tiny") is None
    folder = checkpoints.published_heads()["usam-heads-sam2.1"].path
    shutil.copytree(shared / "weights" / "usam_mlps" / "sam2.1", folder)
    assert checkpoints.heads_for("sam2.1_hiera_tiny") == folder
    assert checkpoints.heads_for("sam2_hiera_tiny") is None
    for given in ("auto", "usam-heads-sam2.1", folder):
        heads = resolve_heads("sam2.1_hiera_tiny", given)
        assert heads is not None
        assert heads.checkpoint == "sam2.1"
        assert heads.alignment == "shifted"


def test_devices_that_are_not_here_are_refused() -> None:
    assert checkpoints.pick_device("cpu").type == "cpu"
    assert checkpoints.pick_device("auto").type in ("cuda", "mps", "cpu")
    for device in ("abacus", "cuda:77", "meta"):
        with pytest.raises(CheckpointError, match="device"):
            checkpoints.pick_device(device)


def test_heads_fit_the_weights_that_a_name_stood_for_when_they_were_trained(own_registry: Any) -> None:
    """A name of ours moves to other weights with a release; what was learnt from the old ones' tokens does not."""
    layers = {"iou_own": [(np.zeros((2, 8)), np.zeros(2)), (np.zeros((1, 2)), np.zeros(1))]}

    def release(number: int, weights: str = "") -> None:
        entries = entry("ours", b"x", "") + f"release = {number}\n" + (f'weights = "{weights}"\n' if weights else "")
        if number > 1:
            entries += entry("ours-1", b"y", "") + 'release = 1\nweights = "ours"\n'
        own_registry(entries)

    release(1)
    old = HeadSet.from_layers(layers, alignment="aligned", checkpoint="ours")
    assert old.fits("ours")
    release(2, "ours-2")
    new = HeadSet.from_layers(layers, alignment="aligned", checkpoint="ours")
    assert (old.fits("ours"), old.fits("ours-1")) == (False, True)
    assert (new.fits("ours"), new.fits("ours-1")) == (True, False)
    assert checkpoints.find("ours").release == 2
    assert checkpoints.weights_of("of somebody else") == "of somebody else"


def test_a_family_fits_all_its_sizes_and_no_plain_name() -> None:
    layers = {"iou_own": [(np.zeros((2, 8)), np.zeros(2)), (np.zeros((1, 2)), np.zeros(1))]}
    family = HeadSet.from_layers(layers, alignment="aligned", checkpoint="sam2.1")
    assert family.fits("sam2.1_hiera_tiny")
    assert not family.fits("sam2_hiera_tiny")


def test_a_release_installed_under_a_process_renames_nothing_that_it_has_built(own_registry: Any) -> None:
    before = checkpoints.weights_of("nano-s")
    bundled = checkpoints.checkpoint_path("nano-s")
    folder = own_registry()
    shutil.copy(bundled, folder)
    checkpoints.build_model("nano-s")
    text = (folder / "registry.toml").read_text(encoding="utf-8")
    (folder / "registry.toml").write_text(text.replace(f'"{before}"', '"nano-s-later"'), encoding="utf-8")
    assert checkpoints.find("nano-s").weights == "nano-s-later"
    assert checkpoints.weights_of("nano-s") == before, "the model in this process is still the old one"


def test_a_user_without_a_home_folder_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("USAM_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", nowhere)
    with pytest.raises(CheckpointError, match="set USAM_HOME"):
        checkpoints.cache_dir()
