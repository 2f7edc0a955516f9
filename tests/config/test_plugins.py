import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, ClassVar

import pytest
from annotated_types import Ge

from benchmark.api import Draws, Method, Metric, UserError
from benchmark.cli.options import items, seed_numbers
from benchmark.config import registry as plugins
from benchmark.config.suite import load_suite


@dataclass(frozen=True)
class Quiet:
    version: ClassVar[str] = "1"
    role: ClassVar[str] = "method"
    draws: ClassVar[Draws] = "prompts"
    needs: ClassVar[frozenset[str]] = frozenset()
    description: str = "does nothing"
    variant_of: str | None = None
    steps: Annotated[int, Ge(1)] = 3
    rate: float = 0.5
    trained: bool = False
    word: str | None = None
    nouns: tuple[str, ...] = ("a", "b")

    def prior(self) -> None:
        """Never called here."""

    fit = generate = prior


QUIET = Quiet()
NO_METHOD = SimpleNamespace(version="1", draws="prompts", description="lacks much", fit=print)


def offer(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    group = "dreambooth_benchmark.methods"
    found = [EntryPoint(name, value, group) for name, value in points]
    monkeypatch.setattr(plugins, "entry_points", lambda group: found)
    plugins.available.cache_clear()


@pytest.fixture(autouse=True)
def forget_what_was_offered() -> Iterator[None]:
    yield
    plugins.available.cache_clear()


def test_the_built_in_plugins_come_in_by_entry_point() -> None:
    assert set(plugins.available("methods")) >= {
        "dreambooth",
        "dreambooth-no-prior",
        "dreambooth-wrong-class",
        "dreambooth-no-class",
        "textual-inversion",
        "untuned",
        "real-images",
    }
    assert set(plugins.available("metrics")) >= {"dino", "clip_i", "clip_t", "pres", "div"}
    assert "diffusers" in plugins.available("backbones")


@pytest.mark.parametrize("name", sorted(plugins.available("methods")))
def test_every_installed_method_keeps_to_the_protocol(name: str) -> None:
    method = plugins.load_method(name)
    assert isinstance(method, Method)
    assert method.description
    assert isinstance(method.version, str)
    with pytest.raises(AttributeError):
        method.description = "changed"  # frozen


@pytest.mark.parametrize("name", sorted(plugins.available("metrics")))
def test_every_installed_metric_keeps_to_the_protocol(name: str) -> None:
    metric = plugins.load_metric(name)
    assert isinstance(metric, Metric)
    assert metric.higher_is_better in (True, False, None)


def test_every_installed_kind_keeps_to_the_protocol() -> None:
    kind = plugins.load_kind("diffusers")
    assert kind.capabilities("pocket") >= {"text-to-image", "training"}
    with pytest.raises(UserError, match=f"'{__name__}:QUIET' is no backbone: it lacks identify"):
        plugins.load_kind(f"{__name__}:QUIET")
    with pytest.raises(UserError, match=f"'{__name__}:QUIET' is no metric: it lacks label"):
        plugins.load_metric(f"{__name__}:QUIET")


def test_what_comes_with_this_package_is_told_from_what_does_not() -> None:
    assert plugins.is_ours("methods", "untuned")
    assert not plugins.is_ours("methods", "tests.toy:PAINT")
    assert not plugins.is_ours("methods", "nonesuch")


def test_plugins_are_sorted_and_loaded_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("b", f"{__name__}:QUIET"), ("a", f"{__name__}:QUIET"))
    assert list(plugins.available("methods")) == ["a", "b"]
    assert plugins.load_method("b") == QUIET


def test_two_plugins_of_one_name_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, ("a", f"{__name__}:QUIET"), ("a", "other:QUIET"))
    with pytest.raises(UserError, match="two methods are called 'a': .*QUIET and other:QUIET"):
        plugins.available("methods")
    offer(monkeypatch, ("a", f"{__name__}:QUIET"), ("a", f"{__name__}:QUIET"))
    assert list(plugins.available("methods")) == ["a"], "the same one twice is one"


def test_an_outside_method_is_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside_for_test.py").write_text(f"from {__name__} import QUIET as MINE\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in plugins.sys.path if path])
    assert plugins.load_method("outside_for_test:MINE") == QUIET


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nonesuch",
            "unknown method 'nonesuch'; known: checkpoint, custom-diffusion, .*as module:ATTRIBUTE",
        ),
        ("no_such_module:M", "cannot import 'no_such_module'"),
        (f"{__name__}:NONE", "has no 'NONE'"),
        (".:x", "method '.:x' is no module:ATTRIBUTE, as my_package.mine:METHOD"),
        ("../x:METHOD", "is no module:ATTRIBUTE"),
        ("a/b:METHOD", "is no module:ATTRIBUTE"),
        ("tests.toy:", "is no module:ATTRIBUTE"),
        ("tests.toy:PAINT:x", "is no module:ATTRIBUTE"),
        (f"{__name__}:NO_METHOD", "is no method: it lacks role, .*generate"),
        (f"{__name__}:Quiet", "is no method but a class: give an instance of it"),
    ],
)
def test_what_is_no_method_is_named(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plugins.load_method(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ny = 1 / 0\n", "{}, line 2: ZeroDivisionError: division by zero"),
        ("x = 1\n\nx = = 2\n", "{}, line 3: SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(0)\n", "{}, line 2: SystemExit: 0"),
        ("import no_such_module\n", "{}, line 1: ModuleNotFoundError: No module named 'no_such"),
        ("raise GeneratorExit('gone')\n", "{}, line 1: GeneratorExit: gone"),
        ("import os\nos.chdir('/')\nx = y\n", "{}, line 3: NameError: name 'y' is not defined"),
    ],
)
def test_a_module_that_fails_is_named_with_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    path, here = tmp_path / "fails_for_test.py", Path.cwd()
    path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    message = f"cannot import 'fails_for_test': {message.format(path)}"
    with pytest.raises(UserError, match=message):
        plugins.load_method("fails_for_test:MINE")
    offer(monkeypatch, ("mine", "fails_for_test:MINE"))
    with pytest.raises(UserError, match=f"method 'mine': {message}"):
        plugins.load_method("mine")
    assert Path.cwd() == here


def test_a_module_that_goes_to_another_folder_takes_nobody_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for number, name in enumerate(("one:MINE", "mine")):
        module = ("one", "two")[number]
        text = f"import os\nos.chdir('/')\nfrom {__name__} import QUIET as MINE\n"
        (tmp_path / f"{module}.py").write_text(text)
        monkeypatch.delitem(sys.modules, module, raising=False)
        if number:
            offer(monkeypatch, ("mine", "two:MINE"))
        assert plugins.load_method(name) == QUIET
        assert Path.cwd() == tmp_path


def test_settings_are_the_fields_and_are_put_in_by_name() -> None:
    known = {"steps": 3, "rate": 0.5, "trained": False, "word": None, "nouns": ("a", "b")}
    assert plugins.settings_of(QUIET) == known
    changed = plugins.configure("quiet", QUIET, {"steps": 5, "rate": 1, "word": "sks"})
    assert plugins.settings_of(changed) == known | {"steps": 5, "rate": 1.0, "word": "sks"}
    assert plugins.configure("quiet", QUIET, {"nouns": ["c"]}).nouns == ("c",)
    assert QUIET.steps == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"step": 5},
            "has no setting 'step' .did you mean 'steps'.*; it has: steps, rate, .*, nouns",
        ),
        ({"variant_of": "x"}, "no setting 'variant_of'"),
        ({"description": "x"}, "no setting 'description'"),
        ({"steps": 0}, "setting 'steps' of method 'quiet' is 0: it should be at least 1$"),
        ({"steps": 0.5}, "setting 'steps' of method 'quiet' is 0.5: it should be a whole number"),
        ({"steps": True}, "is True: it should be a whole number"),
        ({"trained": 1}, "is 1: it should be true or false"),
        ({"rate": "fast"}, "is 'fast': it should be a number"),
        ({"rate": float("nan")}, "setting 'rate' of method 'quiet' is nan: it should be finite"),
        (
            {"rate": [float("nan")]},
            r"setting 'rate' of method 'quiet' is \[nan\]: it should be",
        ),
        ({"word": date(2026, 1, 1)}, "it should be a number, a string, true, false, None, or a l"),
        ({"nouns": "c"}, "setting 'nouns' of method 'quiet' is 'c': it should be a list"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plugins.configure("quiet", QUIET, settings)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"role": "method"}, "draws references, so its role should be 'upper bound'"),
        ({"role": "lower bound"}, "draws references, so its role should be 'upper bound'"),
        ({"needs": frozenset({"training"})}, "it should need nothing"),
        ({"draws": "noise"}, "draws of method .* is 'noise': it should be prompts or references"),
    ],
)
def test_only_an_upper_bound_that_needs_nothing_draws_references(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, object], message: str
) -> None:
    for key, value in {"draws": "references", "role": "upper bound", "needs": frozenset()}.items():
        monkeypatch.setattr(Quiet, key, value)
    name = f"{__name__}:QUIET"
    assert plugins.load_method(name) == QUIET
    for key, value in changed.items():
        monkeypatch.setattr(Quiet, key, value)
    with pytest.raises(UserError, match=message):
        plugins.load_method(name)


@pytest.mark.parametrize(
    ("member", "value", "message"),
    [
        ("version", 1, "version of method '.*:QUIET' is 1: it should be a string"),
        ("role", "baseline", "is 'baseline': it should be method or upper bound or lower bound"),
        ("needs", ["training"], r"needs of .* is \['training'\]: it should be a frozenset of str"),
        ("needs", frozenset({1}), "it should be a frozenset of strings"),
        ("description", None, "description of .* is None: it should be a string"),
    ],
)
def test_a_member_of_another_type_is_named(
    monkeypatch: pytest.MonkeyPatch, member: str, value: object, message: str
) -> None:
    if member == "description":
        monkeypatch.setitem(globals(), "QUIET", replace(QUIET, description=value))  # type: ignore[arg-type]
    else:
        monkeypatch.setattr(Quiet, member, value)
    with pytest.raises(UserError, match=message):
        plugins.load_method(f"{__name__}:QUIET")


@pytest.mark.parametrize("value", [Path("/x"), {"a"}, float("nan"), {1: 2}, b"x"])
def test_a_setting_that_no_record_can_hold_is_named(
    monkeypatch: pytest.MonkeyPatch, value: object
) -> None:
    monkeypatch.setitem(globals(), "QUIET", replace(QUIET, word=value))  # type: ignore[arg-type]
    with pytest.raises(
        UserError, match="setting 'word' of method '.*:QUIET' is .*: it should be a"
    ):
        plugins.load_method(f"{__name__}:QUIET")


def test_a_setting_that_is_given_twice_is_refused() -> None:
    assert plugins.variant("quiet[steps=5, rate=1]") == ("quiet", {"steps": 5, "rate": 1})
    with pytest.raises(UserError, match="has the setting 'steps' twice: give it once"):
        plugins.variant("quiet[steps=5, steps=6]")


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("adapter=lokr,options={r=4,use_dora=true}", {"r": 4, "use_dora": True}),
        ("options={init=gaussian, r = 4}", {"init": "gaussian", "r": 4}),
        ("options={ init = 'a, b' }", {"init": "a, b"}),
        ("options={}", {}),
        ("options={r}", "{r}"),
        ("options={r=4", "{r=4"),
    ],
)
def test_a_setting_may_be_a_table(text: str, settings: object) -> None:
    assert plugins.variant(f"peft[{text}]")[1]["options"] == settings


def test_commas_within_brackets_and_braces_separate_nothing_outside() -> None:
    one = "peft[adapter=lokr,options={r=4,init=[1,2]}]"
    assert items(f"a, {one},b[c=1,d=2],") == ["a", one, "b[c=1,d=2]"]
    assert items("a],b}") == ["a]", "b}"]


def test_a_seed_is_below_two_to_the_63() -> None:
    assert seed_numbers(f"0,{2**63 - 1}") == [0, 2**63 - 1]
    for seed in (2**63, 2**64, int("9" * 4000)):
        with pytest.raises(UserError, match=f"^--seed {str(seed)[:40]} is too large: it should be"):
            seed_numbers(f"0,{seed}")
    with pytest.raises(UserError, match="is too large"):
        seed_numbers("9" * 5000)  # more digits than Python reads
    with pytest.raises(UserError, match="--seed '\u00b2' is no seed"):
        seed_numbers("\u00b2")


def test_a_variant_is_named_in_one_unicode_form() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert plugins.variant(f"quiet[word={decomposed}]") == ("quiet", {"word": composed})
    for name in (":", "..", "quiet[word=a\nb]", "quiet[word=\udcff]"):
        with pytest.raises(UserError, match="method .* has "):
            plugins.variant(name)
    assert plugins.variant(f"quiet[steps={'[' * 3000}]")[1]["steps"].startswith("[["), "a word"


@pytest.mark.parametrize(
    "setting",
    ["steps=0", "steps=-5", "learning_rate=0", "learning_rate=nan", "learning_rate=-inf",
     "prior_weight=-1", "max_grad_norm=-1", "identifier=''", "identifier=' '", "batch_size=0",
     "prior_images=0", "weight_decay=-1", "wrong_noun_live=' '", "identifier=2026-01-01"],
)  # fmt: skip
def test_what_no_training_can_mean_is_refused(setting: str) -> None:
    with pytest.raises(UserError, match=f"setting '{setting.partition('=')[0]}' of method"):
        load_suite("pocket").method(f"dreambooth[{setting}]")


def test_a_kind_of_encoder_is_checked_too() -> None:
    for name in plugins.available("encoders"):
        assert plugins.load_encoder_kind(name).version
    with pytest.raises(UserError, match="'tests.toy:Eyes' is no encoder but a class: give an inst"):
        plugins.load_encoder_kind("tests.toy:Eyes")
    with pytest.raises(
        UserError, match="is no encoder: it lacks can, files, load; see EncoderKind"
    ):
        plugins.load_encoder_kind(f"{__name__}:QUIET")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "@dataclass(frozen=True)",
            "@dataclass",
            "'beginners:METHOD' is a dataclass that can be changed: write "
            "`@dataclass(frozen=True)` above `class Mine`",
        ),
        (
            "@dataclass(frozen=True)\n",
            "",
            "'beginners:METHOD' is no dataclass, whose fields are its settings: write "
            "`@dataclass(frozen=True)` above `class Mine`",
        ),
        (
            "version: ClassVar[str]",
            "version: str",
            "'beginners:METHOD' has version as a field, which makes it a setting: write "
            "`version: ClassVar[str] = '1'`",
        ),
        (
            "role: ClassVar[str]",
            "role: str",
            "'beginners:METHOD' has role as a field, which makes it a setting: write "
            "`role: ClassVar[str] = 'method'`",
        ),
    ],
)
def test_a_method_that_is_declared_wrongly_is_told_the_line_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, message: str
) -> None:
    text = (
        "from dataclasses import dataclass\nfrom typing import ClassVar\n\n\n"
        "@dataclass(frozen=True)\nclass Mine:\n"
        '    version: ClassVar[str] = "1"\n    role: ClassVar[str] = "method"\n'
        '    draws: ClassVar[str] = "prompts"\n    needs: ClassVar[frozenset[str]] = frozenset()\n'
        '    description: str = "mine"\n    variant_of: str | None = None\n'
        "    prior = fit = generate = lambda *_: None\n\n\nMETHOD = Mine()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for content in (text, text.replace(old, new)):
        assert content == text or old in text
        (tmp_path / "beginners.py").write_text(content)
        monkeypatch.delitem(sys.modules, "beginners", raising=False)
        if content == text:
            assert plugins.load_method("beginners:METHOD").version == "1"
    with pytest.raises(UserError) as caught:
        plugins.load_method("beginners:METHOD")
    assert str(caught.value) == f"method {message}"
