"""The chat template of a checkpoint: where it is found, and that copies keep it."""

from __future__ import annotations

import json
import shutil

import pytest
from helpers.checkpoint_files import IDS
from helpers.tokenizer_files import llama_folder, write

from llama_jp.checkpoint.chat_template import elyza_template, find_chat_template, find_chat_templates
from llama_jp.checkpoint.load import load_model
from llama_jp.text.tokenizer import Tokenizer

NAME = "ELYZA-japanese-Llama-2-7b-instruct"


def test_the_order_of_precedence(tmp_path):
    """Guards against another file than transformers takes, and against a name that overrules a file."""
    folder = write(tmp_path / NAME, tokenizer_config_json={})
    assert find_chat_template(folder).is_elyza and find_chat_template(folder).origin == f"the name elyza/{NAME}"
    write(folder, tokenizer_config_json={"chat_template": "b"})
    assert (find_chat_template(folder).text, find_chat_template(folder).origin) == ("b", "tokenizer_config.json")
    write(folder, chat_template_jinja="a")
    assert (find_chat_template(folder).text, find_chat_template(folder).origin) == ("a", "chat_template.jinja")


def test_additional_templates_follow_transformers(tmp_path):
    """Guards against templates that are ignored, and against tokenizer_config.json beside files, which count alone."""
    folder = write(tmp_path, tokenizer_config_json={"chat_template": "c"})
    write(folder / "additional_chat_templates", rag_jinja="r", tool_use_jinja="t", notes_txt="no template")
    with pytest.raises(ValueError, match="chat_template names rag, tool_use, but none of them is the default"):
        find_chat_template(folder)
    write(folder, chat_template_jinja="d")
    found = {name: (each.text, each.origin) for name, each in find_chat_templates(folder).items()}
    assert found == {
        "default": ("d", "chat_template.jinja"),
        "rag": ("r", "additional_chat_templates/rag.jinja"),
        "tool_use": ("t", "additional_chat_templates/tool_use.jinja"),
    }
    assert find_chat_template(folder).text == "d"
    write(folder / "additional_chat_templates", default_jinja="e")
    assert find_chat_template(folder).text == "e"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (NAME, True),
        (f"models--elyza--{NAME}/snapshots/0a1b2c", True),
        ("models--elyza--ELYZA-japanese-Llama-2-7b-fast-instruct/snapshots/0a1b2c", True),
        ("models--elyza--ELYZA-japanese-Llama-2-13b-instruct/snapshots/0a1b2c", True),
        ("models--elyza--ELYZA-japanese-Llama-2-7b/snapshots/0a1b2c", False),
        ("models--elyza--ELYZA-japanese-Llama-2-7b-fast/snapshots/0a1b2c", False),
        (f"models--someone--{NAME}/snapshots/0a1b2c", False),
        ("tiny-instruct", False),
        ("demo", False),
    ],
)
def test_names_of_folders_count_for_the_published_repositories_only(tmp_path, path, expected):
    """Guards against a fine-tune of a base model that is taken for an instruct model by its folder."""
    folder = tmp_path / path
    folder.mkdir(parents=True)
    assert (find_chat_template(folder) is not None) is expected


def test_the_name_behind_a_link_counts(tmp_path, monkeypatch):
    """Guards against "." and links, which hide the name of the folder."""
    real = tmp_path / f"models--elyza--{NAME}" / "snapshots" / "0a1b"
    real.mkdir(parents=True)
    (tmp_path / "link").symlink_to(real)
    assert find_chat_template(tmp_path / "link") is not None
    monkeypatch.chdir(real)
    assert find_chat_template(type(tmp_path)()) is not None


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (7, "chat_template is a int where text was expected"),
        (["a"], "chat_template is a list, but not of objects with a name and a template"),
        ([{"name": "a"}], "chat_template is a list, but not of objects with a name and a template"),
        (
            [{"name": "a", "template": "x"}, {"name": "b", "template": "y"}],
            "chat_template names a, b, but none .* default",
        ),
        ([{"name": "default", "template": None}], None),
    ],
)
def test_a_template_that_is_no_text_is_refused(tmp_path, value, sentence):
    """Guards against a silent choice among templates."""
    folder = write(tmp_path, tokenizer_config_json={"chat_template": value})
    if sentence is None:
        assert find_chat_template(folder) is None
        return
    with pytest.raises(ValueError, match=rf"tokenizer_config\.json: {sentence}"):
        find_chat_template(folder)


def test_a_template_file_that_is_not_utf8_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"chat_template\.jinja is not UTF-8: byte 0 is 0x8c"):
        find_chat_template(write(tmp_path, chat_template_jinja="犬".encode("shift_jis")))


def test_the_demo_carries_elyzas_template():
    """Guards against a demo that follows instructions in its own folder only."""
    tokenizer = Tokenizer.from_pretrained("demo")
    assert tokenizer.chat_template.is_elyza
    assert str(tokenizer.chat_template) == "ELYZA's instruction template (from tokenizer_config.json)"
    config = json.loads((tokenizer.folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["chat_template"] == elyza_template().text.rstrip("\n")


@pytest.mark.parametrize("source", ["published", "config", "jinja", "named", "base"])
def test_copies_carry_the_template(small, tmp_path, source):
    """Guards against a converted, quantised or saved model that has lost its template, and against one it never had."""
    folder = shutil.copytree(small, tmp_path / (NAME if source == "published" else "model"))
    llama_folder(folder)
    if source == "config":
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        write(folder, tokenizer_config_json=config | {"chat_template": "x {{ messages[0].content }}"})
    if source == "jinja":
        write(folder, chat_template_jinja="y {{ messages[0].content }}")
    if source == "named":
        write(folder, chat_template_jinja="z {{ messages[0].content }}")
        write(folder / "additional_chat_templates", rag_jinja="{{ documents }}")
    expected = Tokenizer.from_pretrained(folder).chat([{"role": "user", "content": "犬"}])
    assert (find_chat_template(folder) is None) == (source == "base")

    load_model(folder, dtype="float32").save_pretrained(tmp_path / "model-saved")
    Tokenizer.from_pretrained(folder).save_pretrained(tmp_path / "tokenizer-saved")
    for copy in ("model-saved", "tokenizer-saved"):
        templates = find_chat_templates(tmp_path / copy)
        assert (templates == {}) == (source == "base") and ("rag" in templates) == (source == "named")
        assert Tokenizer.from_pretrained(tmp_path / copy).chat([{"role": "user", "content": "犬"}]) == expected
    assert load_model(tmp_path / "model-saved", dtype="float32")(IDS).shape[:2] == IDS.shape


def test_a_quantised_model_carries_the_template(quantized_demo):
    """Guards against a certified model that continues its instructions."""
    assert all(find_chat_template(folder).is_elyza for folder in quantized_demo.values())
