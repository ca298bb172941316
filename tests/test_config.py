"""Settings: TOML and command line give the same Config, and what can't be used is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from bt import config as configs
from bt import options
from bt.config import Config, ConfigError

OTHER = configs.change(
    Config(),
    {
        "seed": 7, "path": '/data/a "b" \\ ü', "spacing_mm": 2, "exclude": ["x", "y"],
        "skip_bad": True, "name": "mine.nets:unet", "learning_rate": 3e-4, "rounds": 3,
        "schedule": "sequential", "transport": "inproc",
    },
)  # fmt: skip


@pytest.mark.parametrize("config", [Config(), OTHER], ids=["defaults", "other"])
def test_toml_round_trip(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(configs.to_toml(config), encoding="utf-8")
    assert configs.read(path) == config


def test_the_defaults_are_the_papers() -> None:
    config = Config()
    assert (config.train.epochs, config.train.halve_every) == (2, 4)
    assert config.train.learning_rate is None  # 0.001 at 64 filters: see test_trainer.py
    assert (config.model.filters, config.federation.schedule) == (64, "async")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[date]\npath = 'x'", r"unknown section \[date\]; did you mean \[data\]\?$"),
        ("[x]\ny = 1", r"\[x\]; known: \[data\], \[model\], \[train\], \[federation\]$"),
        ("[train]\nepoch = 2", r"unknown setting epoch in \[train\]; did you mean epochs\?$"),
        ("[model]\nx = 2", r"unknown setting x in \[model\]; known: name, filters$"),
        ("train = 2", r"write \[train\]"),
        ("[train]\nepochs = 2.5", "epochs = 2.5: expected a whole number$"),
        ("[train]\nepochs = true", "epochs = True: expected a whole number$"),
        ("[train]\nepochs = 0", "epochs = 0: expected at least 1"),
        ("[train]\nlearning_rate = nan", "learning_rate = nan: expected a positive"),
        ("[data]\nspacing_mm = -1", "spacing_mm = -1.0: expected a positive"),
        ("[data]\nview = 'top'", "view = 'top': expected one of coronal"),
        ("[data]\nexclude = 'x'", "exclude = 'x': expected a list"),
        ("[data]\nexclude = [1]", "exclude = .*: expected a list of strings"),
        ("seed = 'x'", "seed = 'x': expected a whole number$"),
        ("seed = ", "not valid TOML"),
        ("seed = 1" + "0" * 5000, "not valid TOML"),
        ("seed = " + "[" * 5000, "not valid TOML"),
        ("seed = 9223372036854775808", "expected 0 to"),
        ("[data]\nmargin_mm = nan", "margin_mm = nan: expected at least 0"),
        ("[data]\nmargin_mm = 1" + "0" * 400, "margin_mm = 1000.*: expected a number$"),
        ("[data]\nspacing_mm = 1e300", "expected at most 100"),
        ("[data]\nspacing_mm = 1e-300", "expected at least 0.01"),
        ("[train]\nbatch_size = 1" + "0" * 30, "batch_size = 10.*: expected at most 2147483647"),
        ("[train]\nepochs = '" + "x" * 9999 + "'", "epochs = '.{79}: expected a whole number$"),
        ("[train]\nepochs = 2020-01-01", "expected a whole number$"),
        ("[data]\nspacing_mm = {a = 1}", "expected a number$"),
        ("[data]\nview = 1", "view = 1: expected text$"),
        ("[data]\nskip_bad = 1", "skip_bad = 1: expected true or false$"),
    ],
)
def test_what_cant_be_used_is_named(tmp_path: Path, text: str, names: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=names) as caught:
        configs.read(path)
    assert str(path) in str(caught.value)


def test_a_file_that_cant_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.toml"):
        with pytest.raises(ConfigError, match=f"can't read {path}"):
            configs.read(path)
    (tmp_path / "latin.toml").write_bytes(b"seed = 1 # \xff")
    with pytest.raises(ConfigError, match=r"latin\.toml"):
        configs.read(tmp_path / "latin.toml")


def test_options_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("seed = 3\n[federation]\nrounds = 5\n[train]\nepochs = 9\n")
    base = configs.change(Config(), {"rounds": 99, "filters": 8})
    given = {"config": path, "epochs": 1, "spacing": 1.5, "model": "a:b", "seed": None, "out": "x"}
    config = options.to_config(given, base)
    assert (config.seed, config.federation.rounds, config.train.epochs) == (3, 5, 1)
    assert (config.data.spacing_mm, config.model.name, config.model.filters) == (1.5, "a:b", 8)


def test_every_option_of_train_and_peer_is_a_setting(tmp_path: Path) -> None:
    for field in ("ping_timeout", "pull_timeout", "spacing"):
        assert options.to_config({field: 2.0}) != Config()
    data = options.to_config({"data": "~/scans"}).data.path
    assert data == str(Path.home() / "scans")
    with pytest.raises(ConfigError, match="unknown setting nonsense"):
        options.to_config({"nonsense": 1})


def test_differences_are_named() -> None:
    assert configs.differences(Config(), Config()) == []
    changed = configs.change(Config(), {"seed": 1, "filters": 2, "rounds": 3})
    assert configs.differences(Config(), changed) == ["seed", "filters", "rounds"]
