"""Secrets of the environment are in nothing that is written, and a config without them still means the same."""

import hashlib
import io
import json
import logging
import os
import string
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from recsys_collapse.dataset import files
from recsys_collapse.runs.secrets import HIDDEN, LOOKS_SECRET, Scrubbing, scrub, scrub_tree, secrets

many = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SECRET = "hunter2-hunter2"


@pytest.fixture(autouse=True)
def environment() -> Any:
    """No secrets but those of the test. Put back at the end: hypothesis changes it many times within a test."""
    before = dict(os.environ)
    for name in before:
        if LOOKS_SECRET.search(name):
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


def put(**variables: str) -> None:
    """The only secrets, from now on."""
    for name in [name for name in os.environ if LOOKS_SECRET.search(name)]:
        del os.environ[name]
    os.environ.update(variables)


def resolved(value: Any) -> Any:
    return OmegaConf.to_container(OmegaConf.create({"root": value}), resolve=True)["root"]


# What a secret is


@pytest.mark.parametrize(
    "name",
    [
        "WANDB_API_KEY",
        "token",
        "My_Secret_2",
        "PGPASSWORD",
        "DB_PASSWD",
        "AWS_CREDENTIAL",
        "HTTP_AUTH",
        "AUTHORIZATION",
    ],
)
def test_a_name_that_looks_like_a_secret_makes_its_value_one(name: str) -> None:
    put(**{name: SECRET})
    assert scrub(f"<{SECRET}>") == f"<${{oc.env:{name}}}>"


@pytest.mark.parametrize("name", ["HOME", "GIT_AUTHOR_NAME", "USER", "PASS"])
def test_other_names_do_not(name: str) -> None:
    put()
    before = os.environ.get(name)
    os.environ[name] = SECRET
    assert before != SECRET and secrets() == {} and scrub(SECRET) == SECRET


@pytest.mark.parametrize(
    "value",
    ["", "short", "false", "12345678", "-1.5e-10", "1_000_000", "infinity", "API_KEY", "${oc.env:API_KEY}", __file__],
)
def test_what_tells_nothing_is_no_secret(value: str) -> None:
    put(API_KEY=value)
    assert secrets() == {}


@pytest.mark.parametrize(
    "value", ["123456", "0x12345", "abcdef", "/no/such/file", "relative/path", "two words", "a\nb\nc\nd"]
)
def test_what_is_long_enough_is_one(value: str) -> None:
    put(API_KEY=value)
    assert list(secrets()) == ([] if value.isdigit() else [value])


def test_a_secret_within_another_is_hidden_with_it() -> None:
    put(A_KEY="middle", B_KEY="left-middle-right", C_KEY="middle-right")
    assert scrub("left-middle-right middle-right middle") == "${oc.env:B_KEY} ${oc.env:C_KEY} ${oc.env:A_KEY}"


def test_the_first_of_two_names_is_shown() -> None:
    put(B_KEY=SECRET, A_KEY=SECRET)
    assert scrub(SECRET) == "${oc.env:A_KEY}"


def test_a_name_that_omegaconf_cannot_read_is_not_shown() -> None:
    put(**{"npm_//registry.example/:_authToken": "first-secret", "a,b}key": "second-secret"})
    assert resolved(scrub("x first-secret")) == "x first-secret"
    assert scrub("x second-secret") == f"x {HIDDEN}"


def test_what_would_put_a_secret_together_is_hidden_whole() -> None:
    put(A_KEY="abcdefgh", B_KEY="}suffix")
    assert scrub("abcdefghsuffix") == HIDDEN
    assert scrub("abcdefgh, suffix") == "${oc.env:A_KEY}, suffix"


# Trees


def test_strings_of_every_container_are_scrubbed() -> None:
    put(API_KEY=SECRET)
    pair = namedtuple("pair", "a b")
    tree = {
        f"k-{SECRET}": [f"{SECRET}x", (SECRET, 1), pair(SECRET, None), {SECRET}],
        "path": Path("/data") / SECRET,
        "other": Path("/data"),
        3: OmegaConf.create({"list": [SECRET], "number": 1.5, "true": True}),
    }
    reference = "${oc.env:API_KEY}"
    assert scrub_tree(tree) == {
        f"k-{reference}": [f"{reference}x", [reference, 1], [reference, None], [reference]],
        "path": f"/data/{reference}",
        "other": Path("/data"),
        3: {"list": [reference], "number": 1.5, "true": True},
    }
    assert tree[f"k-{SECRET}"][0] == f"{SECRET}x"


def test_what_has_no_secret_stays_as_it_is() -> None:
    put(API_KEY=SECRET)
    text, thing = "a \\ b ${c} \\${d}", object()
    assert scrub(text) is text
    assert scrub_tree([text, thing, b"x", range(2), None]) == [text, thing, b"x", range(2), None]


token = st.text(string.ascii_letters + string.digits + "-_+/=.~", min_size=8, max_size=40)
awkward = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
names = st.sampled_from(["A_KEY", "API_TOKEN", "DB_PASSWORD", "a_secret", "SSH_AUTH", "X_CREDENTIALS"])


def trees(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    text = leaves.filter(lambda leaf: isinstance(leaf, str))
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4), max_leaves=12
    )


def pieces(values: list[str]) -> st.SearchStrategy[str]:
    """Texts with secrets, halves of secrets and what JSON, YAML and OmegaConf read in another way."""
    halves = [value[: len(value) // 2] for value in values] + [value[len(value) // 2 :] for value in values]
    some = st.sampled_from([*values, *halves, "\\", '"', "'", "\n", "$", "{", "}", "${", "é", "\u2028", " ", ": ", "#"])
    return st.lists(some | st.text(max_size=3), max_size=6).map("".join)


@many
@given(st.data(), st.dictionaries(names, token, min_size=1))
def test_no_secret_is_in_the_json_of_any_tree(data: st.DataObject, variables: dict[str, str]) -> None:
    put(**variables)
    leaves = pieces(list(variables.values())) | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
    tree = data.draw(trees(leaves))
    found = secrets()
    for ascii_only in (True, False):
        dumped = json.dumps(scrub_tree(tree), ensure_ascii=ascii_only)
        assert [value for value in found if value in dumped] == []
    assert scrub_tree(scrub_tree(tree)) == scrub_tree(tree)


@many
@given(st.data(), st.dictionaries(names, awkward, min_size=1))
def test_no_string_of_the_json_has_a_secret_of_any_characters(data: st.DataObject, variables: dict[str, str]) -> None:
    put(**variables)
    tree = data.draw(trees(pieces(list(variables.values()))))
    found, seen = secrets(), []

    def strings(value: Any) -> None:
        if isinstance(value, str):
            seen.append(value)
        for item in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []:
            strings(item)

    strings(json.loads(json.dumps(scrub_tree(tree))))
    assert [text for text in seen if any(value in text for value in found)] == []


@many
@given(st.data(), st.dictionaries(names, token, min_size=1))
def test_a_scrubbed_config_resolves_to_the_same(data: st.DataObject, variables: dict[str, str]) -> None:
    """With backslashes, escapes and interpolations beside the secrets; through YAML and JSON."""
    put(**variables)
    some = [
        *variables.values(),
        "\\",
        "\\\\",
        "${word}",
        "\\${word}",
        "$",
        "{",
        "}",
        "'",
        '"',
        " ",
        ": ",
        "#",
        "\n",
        "é",
    ]
    text = (
        st.lists(st.sampled_from(some), max_size=8)
        .map("".join)
        .filter(lambda text: "${" not in text.replace("${word}", ""))
    )
    leaves = text | st.none() | st.booleans() | st.integers()
    keys = st.sampled_from(["a", "b", "c"])
    tree = data.draw(
        st.dictionaries(
            keys,
            st.recursive(
                leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner), max_leaves=8
            ),
        )
    )
    tree["word"] = data.draw(st.sampled_from(["plain", *variables.values()]))
    expected = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    shown = scrub_tree(tree)
    yaml = OmegaConf.to_yaml(OmegaConf.create(shown))
    assert [value for value in secrets() if value in yaml] == []
    for read in (OmegaConf.create(yaml), OmegaConf.create(json.loads(json.dumps(shown)))):
        assert OmegaConf.to_container(read, resolve=True) == expected


def test_a_secret_with_interpolation_characters_comes_back_where_it_is_the_whole_value() -> None:
    put(DB_PASSWORD="a${b}\\${c}\\")
    assert resolved(scrub_tree({"a": os.environ["DB_PASSWORD"]})) == {"a": os.environ["DB_PASSWORD"]}


def test_a_path_with_a_secret_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "TICK", 0)  # what was just written is not remembered either
    put(API_KEY=SECRET)
    memo = tmp_path / "memo.json"
    for name in ("known", SECRET):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "rows.csv"
        path.write_text(name)
        assert files.content_hash(path, memo) == hashlib.sha256(name.encode()).hexdigest()
    assert [Path(name).parent.name for name in json.loads(memo.read_text())] == ["known"]


# Logs


def logged(*arguments: Any, **options: Any) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(Scrubbing())
    log = logging.Logger("test_secrets")
    log.addHandler(handler)
    log.error(*arguments, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [
        (f"x {SECRET}",),
        ("x %s", SECRET),
        ("x %(a)s", {"a": SECRET}),
        ("x %r", ValueError(SECRET)),
        (ValueError(SECRET),),
    ],
    ids=str,
)
def test_messages_and_arguments_are_scrubbed(arguments: tuple[Any, ...]) -> None:
    put(API_KEY=SECRET)
    said = logged(*arguments)
    assert SECRET not in said and "${oc.env:API_KEY}" in said


def test_percent_signs_of_a_message_stay() -> None:
    put(API_KEY="100%secret%s")
    assert logged("%s of %d%%", "100%secret%s", 3) == "${oc.env:API_KEY} of 3%\n"


def test_arguments_that_do_not_fit_are_scrubbed_too() -> None:
    put(API_KEY=SECRET)
    assert logged("x %d", SECRET) == "x %d ('${oc.env:API_KEY}',)\n"


def test_tracebacks_and_stacks_are_scrubbed() -> None:
    put(API_KEY=SECRET)
    try:
        raise KeyError(SECRET) from ValueError(f"cause {SECRET}")
    except KeyError:
        said = logged("failed", exc_info=True, stack_info=True)
    assert SECRET not in said and said.count("${oc.env:API_KEY}") == 2
    assert "Traceback" in said and "cause" in said and "Stack (most recent call last)" in said


def test_a_record_that_passes_two_handlers_is_the_same() -> None:
    put(API_KEY=SECRET)
    record = logging.makeLogRecord({"msg": "x %s \\%s", "args": (SECRET, SECRET)})
    assert Scrubbing().filter(record)
    once = record.getMessage()
    assert Scrubbing().filter(record) and record.getMessage() == once == "x ${oc.env:API_KEY} \\\\${oc.env:API_KEY}"
