"""`mw.push` against a stand-in of the Hub's upload API: what is sent, what is refused, and what a failure leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import modelwright as mw
import tiny_folders as tiny
from hub_upload_standin import TOKEN, Commit, Hub, Repo, lead, serve
from modelwright.checkpoint import _hub_output

NAMES = {"README.md", "config.json", "manifest.json", "model.safetensors", "recipe.yml"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two merges, `out` and `other`."""
    folder = tmp_path_factory.mktemp("made")
    for seed, name in enumerate(("a", "b")):
        tiny.model(folder / name, seed)
        (folder / name / "README.md").write_text("---\nlicense: mit\nbase_model: org/start\n---\n", encoding="utf-8")
    models = [mw.open(folder / name, label=name) for name in ("a", "b")]
    mw.merge(models, method="linear").save(folder / "out")
    mw.merge(models, method="linear", weight=[1, 3]).save(folder / "other", shard_bytes=500)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import shutil

    for name in ("out", "other"):
        shutil.copytree(made / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub, and the settings that lead to it."""
    with serve() as standin:
        lead(monkeypatch, standin, tmp_path)
        yield standin


def pushed(out: str = "out", repo: str = "org/merged", **options: Any) -> Any:
    return mw.push(out, repo, **options)


# --- what is sent ----------------------------------------------------------------------------------------------------


def test_a_new_repository(hub: Hub, here: Path) -> None:
    done = pushed()
    repo = hub.repos["org/merged"]
    assert set(repo.files) == NAMES | {".gitattributes"}
    assert repo.branches["main"][-1].oid == done.commit
    assert len(repo.branches["main"]) == 2  # one commit
    assert (done.creates, done.private, done.deleted) == ("repository", False, ())
    assert repo.files["model.safetensors"] == Path("out/model.safetensors").read_bytes()
    assert {file.name: file.fate for file in done.files} == dict.fromkeys(NAMES, "new")
    assert done.notes == ("licence: allowed, mit (every input is under mit)",)


def test_what_comes_from_the_hub_passes_verify(hub: Hub, here: Path) -> None:
    pushed()
    for name, content in hub.repos["org/merged"].files.items():
        (here / "down").mkdir(exist_ok=True)
        (here / "down" / name).write_bytes(content)
    found = mw.verify("down")
    assert found.problems == ()
    assert found.notes == ("not part of the output: .gitattributes",)


def test_the_card_names_its_place_and_the_manifest_not_this_machine(hub: Hub, here: Path) -> None:
    pushed()
    files = hub.repos["org/merged"].files
    assert 'AutoModelForCausalLM.from_pretrained("org/merged")' in files["README.md"].decode()
    assert b'from_pretrained("path/to/this/folder")' in Path("out/README.md").read_bytes()
    run = json.loads(files["manifest.json"])["run"]
    assert not {"host", "folder"} & set(run)
    assert {"host", "folder"} <= set(json.loads(Path("out/manifest.json").read_text())["run"])


def test_a_card_edited_by_hand_is_sent_as_it_is(hub: Hub, here: Path) -> None:
    with Path("out/README.md").open("a") as file:
        file.write("Mine.\n")
    mw.card("out", keep=True)
    pushed()
    assert hub.repos["org/merged"].files["README.md"] == Path("out/README.md").read_bytes()


def test_only_what_the_manifest_names_is_sent(hub: Hub, here: Path) -> None:
    Path("out/secret.txt").write_text("x")
    Path("out/.env").write_text("x")
    done = pushed()
    assert set(hub.repos["org/merged"].files) == NAMES | {".gitattributes"}
    assert "not part of the output, and not sent: .env, secret.txt" in done.notes


def test_ones_own_namespace_and_private(hub: Hub, here: Path) -> None:
    done = pushed(repo="mine", private=True)
    assert (done.repo, done.private) == ("somebody/mine", True)
    assert hub.repos["somebody/mine"].private


def test_a_branch_starts_from_main_and_leaves_it(hub: Hub, here: Path) -> None:
    pushed()
    before = len(hub.repos["org/merged"].branches["main"])
    done = pushed("other", branch="v2")
    assert (done.creates, done.overwritten) == ("branch", ())
    repo = hub.repos["org/merged"]
    assert len(repo.branches["main"]) == before
    names = set(repo.branches["v2"][-1].files)
    assert "model.safetensors.index.json" in names
    assert "model.safetensors" not in names  # main's, in one file: it would be loaded in place of the shards
    assert done.url == f"{hub.url}/org/merged/tree/v2"


def test_a_dry_run_writes_nothing(hub: Hub, here: Path) -> None:
    found = pushed(dry_run=True)
    assert hub.repos == {}
    assert found.commit is None
    assert {method for method, _, _ in hub.requests} == {"GET"}
    assert found.nbytes == sum(file.size for file in found.files)


def test_nothing_new_is_no_commit(hub: Hub, here: Path) -> None:
    pushed()
    again = pushed()
    assert again.commit is None
    assert {file.fate for file in again.files} == {"same"}
    assert len(hub.repos["org/merged"].branches["main"]) == 2


# --- overwriting -----------------------------------------------------------------------------------------------------


def test_overwriting_has_to_be_asked_for(hub: Hub, here: Path) -> None:
    pushed()
    with pytest.raises(mw.InputError) as caught:
        pushed("other")
    assert str(caught.value).startswith("'org/merged' has files that would be replaced or removed: ")
    assert "model.safetensors" in str(caught.value)
    assert len(hub.repos["org/merged"].branches["main"]) == 2
    done = pushed("other", overwrite=True)
    assert done.deleted == ("model.safetensors",)
    assert set(hub.repos["org/merged"].files) == {".gitattributes"} | {path.name for path in Path("other").iterdir()}


def test_what_others_put_there_stays(hub: Hub, here: Path) -> None:
    files = {
        "picture.png": b"x",
        "model-00001-of-00009.safetensors": b"old",
        "lora.safetensors": b"mine",
        "README.md": b"mine",
    }
    hub.repos["org/merged"] = Repo(branches={"main": [Commit(files)]})
    found = pushed(dry_run=True)
    assert found.deleted == ("model-00001-of-00009.safetensors",)
    assert found.overwritten == ("README.md", "model-00001-of-00009.safetensors")
    pushed(overwrite=True)
    assert {"picture.png", "lora.safetensors"} < set(hub.repos["org/merged"].files)


def test_somebody_writes_meanwhile(hub: Hub, here: Path) -> None:
    hub.repos["org/merged"] = Repo()
    hub.before_commit = lambda: hub.repos["org/merged"].branches["main"].append(Commit({"README.md": b"theirs"}))
    with pytest.raises(mw.RunError, match="Somebody else has changed 'org/merged' meanwhile"):
        pushed()
    assert hub.repos["org/merged"].files == {"README.md": b"theirs"}


# --- refusals --------------------------------------------------------------------------------------------------------


def refused(**options: Any) -> str:
    with pytest.raises(mw.InputError) as caught:
        pushed(**options)
    assert TOKEN not in str(caught.value)
    return str(caught.value)


def test_damage_is_not_sent_unless_wanted(hub: Hub, here: Path) -> None:
    with Path("out/config.json").open("a") as file:
        file.write(" ")
    assert refused().startswith("config.json has 178 bytes, the manifest says 177. [out]")
    assert hub.requests == []
    pushed(verify=False)
    assert hub.repos["org/merged"].files["config.json"].endswith(b" ")


def test_what_is_not_finished(hub: Hub, here: Path) -> None:
    Path("out").rename("new.partial")
    Path("new.partial/.modelwright-partial").touch()
    for name in ("new", "new.partial"):
        assert refused(out=name, verify=False) == (
            f"'{name}' is not finished: its merge is going on, or was interrupted. Run the same mw merge again: it goes on "
            "where it was."
        )
    Path("plain").mkdir()
    assert refused(out="plain").startswith("'plain' has no manifest.json")
    assert hub.requests == []


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "x/../../secret", "link"])
def test_a_manifest_that_names_other_files_of_this_machine(name: str, hub: Hub, here: Path) -> None:
    Path("secret").write_text("x")
    Path("out/x").mkdir()
    Path("out/link").symlink_to(here / "secret")
    manifest = json.loads(Path("out/manifest.json").read_text())
    manifest["files"][name] = {"bytes": 1, "xxh3_128": ["0" * 32]}
    Path("out/manifest.json").write_text(json.dumps(manifest))
    if name == "link":
        assert refused(verify=False) == "the manifest names 'link', which is not in 'out'. Do not push this folder."
    else:
        assert "is not a manifest of modelwright, or is damaged" in refused(verify=False)
    assert hub.requests == []


def test_a_file_that_is_missing(hub: Hub, here: Path) -> None:
    Path("out/config.json").unlink()
    assert refused(verify=False) == "'config.json' is missing in 'out'. Merge again."


@pytest.mark.parametrize(
    ("repo", "message"),
    [
        ("a b/x", "'a b/x' cannot be a repository (Repo id must use alphanumeric chars"),
        ("a/b/c", "'a/b/c' cannot be a repository (Repo id must be in the form 'repo_name' or 'namespace/repo_name'"),
        ("https://huggingface.co/org/x", "'https://huggingface.co/org/x' is a URL. Write the repository as owner/name"),
        ("nobody/x", "the token that is set may not write to 'nobody/x' (403 Forbidden: You don't have the rights to create"),
    ],
)  # fmt: skip
def test_names_that_cannot_be_pushed_to(repo: str, message: str, hub: Hub, here: Path) -> None:
    assert refused(repo=repo).startswith(message)
    assert hub.repos == {}


def test_a_commit_is_no_branch(hub: Hub, here: Path) -> None:
    assert refused(branch="0" * 40).endswith(
        "is no branch, and commits go to branches. Name a branch; it is made if need be."
    )


def test_private_says_nothing_about_what_is_public(hub: Hub, here: Path) -> None:
    hub.repos["org/merged"] = Repo()
    assert refused(private=True).startswith(
        "'org/merged' exists and is public, and --private (private=True) is for one"
    )
    hub.repos["org/merged"].private = True
    assert pushed(private=True).private


def test_tokens(hub: Hub, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert refused() == (
        "the Hub does not know the token that is set. Log in with a token that may write: hf auth login, or set HF_TOKEN."
    )
    monkeypatch.delenv("HF_TOKEN")
    assert refused().startswith("nobody is logged in to the Hub. Log in with")
    (here / "no-token").write_text(TOKEN)  # where hf auth login keeps it
    assert pushed().commit


def test_offline(hub: Hub, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refused() == "HF_HUB_OFFLINE is set, and pushing needs the Hub. Unset it."
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert refused() == "the Hub cannot be reached. Check the network and HF_ENDPOINT."


def test_a_card_that_the_hub_refuses(hub: Hub, here: Path) -> None:
    text = Path("out/README.md").read_text()
    Path("out/README.md").write_text(text.replace("- org/start", "- /a/path"))
    mw.card("out", keep=True)
    assert refused() == (
        'the Hub refuses the model card: Invalid metadata in README.md. - "base_model" with value "/a/path" is not valid. '
        "Mend README.md: mw card."
    )


# --- failures --------------------------------------------------------------------------------------------------------


def test_an_upload_that_fails_goes_on(hub: Hub, here: Path) -> None:
    weights = {path.name for path in Path("other").glob("*.safetensors")}
    assert len(weights) > 2
    hub.accept_puts = len(weights) - 1
    with pytest.raises(mw.RunError) as caught:
        pushed("other")
    text = str(caught.value)
    assert text.startswith("Uploading failed: Error while uploading 'model-0000")
    assert text.endswith("'org/merged' is as it was. Run the same command again: what was uploaded is not sent again.")
    assert "the store is full" in text
    assert set(hub.repos["org/merged"].files) == {".gitattributes"}
    kept, hub.accept_puts = set(hub.objects), 1_000_000
    hub.puts.clear()
    assert pushed("other").commit
    assert len(kept) == len(weights) - 1
    assert len(hub.puts) == 1
    assert not kept & set(hub.puts)


def test_the_token_goes_to_the_hub_alone_and_into_no_text(
    hub: Hub, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refused["/api/models/org/merged/commit"] = (400, f"what is {TOKEN} doing here")
    with pytest.raises(mw.RunError) as caught:
        pushed()
    assert TOKEN not in str(caught.value)
    assert "what is *** doing here" in str(caught.value)
    assert TOKEN not in "".join(capsys.readouterr())
    assert all(token in ("", TOKEN) for _, _, token in hub.requests)
    assert {token for _, path, token in hub.requests if path.startswith("/lfs/")} == {""}  # a store, not the Hub
    for content in hub.repos["org/merged"].files.values():
        assert TOKEN.encode() not in content


def test_a_repository_that_cannot_be_found_after_it_was_made(
    hub: Hub, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hub_output.HubRepo, "state", lambda self: None)
    with pytest.raises(mw.RunError, match="'org/merged' was made on the Hub, and cannot be found there"):
        pushed()


def test_names_that_licences_ask_for(hub: Hub, here: Path) -> None:
    mw.card("out")
    manifest = json.loads(Path("out/manifest.json").read_text())
    for entry in manifest["inputs"]:
        entry["licence"] = "llama3"
        entry["model"] = f"/home/me/{entry['model']}"
    Path("out/manifest.json").write_text(json.dumps(manifest))
    notes = pushed(dry_run=True, verify=False).notes
    assert "llama3 asks for a name that begins with 'Llama 3', and 'org/merged' does not" in notes
    assert "recipe, manifest and model card name folders of this machine: /home/me/a, /home/me/b" in notes
    assert len(pushed(repo="org/Llama-3-merged", dry_run=True, verify=False).notes) == len(notes) - 1
