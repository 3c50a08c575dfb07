"""`segjax config`, the comments of settings, and experiments outside of the repository."""

import dataclasses
import json
import re
import sys

import pytest

from segjax.cli import main
from segjax.cli.config import describe_attributes, describe_settings, list_settings
from segjax.cli.experiments import own_experiments, read_config
from segjax.registry import EXPERIMENTS, FAMILIES, TASKS
from segjax.training.defaults import as_config, flatten_config

BUILT_IN = ("promptable", "reconstruction", "classification", "detection")
EXPERIMENT = "experiments/sam/quickstart.py"


@pytest.mark.parametrize("task", BUILT_IN)
def test_every_setting_of_a_task_has_a_comment(task):
    settings = TASKS.get(task).settings()
    comments = describe_settings(settings)
    names = set(flatten_config(as_config(settings)))
    # The model's attributes are described by the class of the model.
    names = {name for name in names if not name.startswith("model.")}
    assert not [name for name in names if not comments.get(name)]
    assert all(comments.values())  # groups have comments too


@pytest.mark.parametrize("family", ("sam", "mae", "vit", "mask_rcnn"))
def test_every_attribute_of_a_model_has_a_comment(family):
    model = next(iter(FAMILIES.get(family).sizes))
    config = as_config(TASKS.get(FAMILIES.get(family).task).settings())
    config.model = {"name": model}
    settings, groups = list_settings(config)
    attributes = {name: row for name, row in settings.items() if name.startswith("model.")}
    assert len(attributes) > 10 and groups["model"]
    assert not [name for name, row in attributes.items() if not row.comment]


def test_comments_are_read_from_docstrings_of_a_class_and_its_bases():
    @dataclasses.dataclass
    class Base:
        """A base.

        Attributes:
          first: One thing: "a" or
            "b".
          third: Overridden.
        """

    @dataclasses.dataclass
    class Derived(Base):
        """A derived class.

        Attributes:
          second: Another.

          third: Of the derived class.

        Raises:
          fourth: Not an attribute.
        """

    assert describe_attributes(Derived) == {
        "first": 'One thing: "a" or "b".',
        "second": "Another.",
        "third": "Of the derived class.",
    }


def test_config_prints_every_setting_with_value_comment_and_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["config", EXPERIMENT, "--config.optimizer.b1=0.5"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    settings, groups = list_settings(read_config(EXPERIMENT))
    # One line per setting and group, and the lines that continue a comment
    assert len([line for line in lines if line[:25].strip()]) == len(settings) + len(groups)
    assert max(map(len, lines)) <= 120
    flat = re.sub(r"\s+", " ", printed)
    assert '* name "sam_tiny" Name of the model.' in flat and '(default "sam_vit_b")' in flat
    assert "* b1 0.5 Decay of the first moment" in flat and "(default 0.9)" in flat
    assert " seed 0 Seed of " in flat and "* seed" not in flat
    # Attributes that the model's name implies do not count as changed.
    assert any(re.match(r" +width +128 ", line) for line in lines)
    # All comments begin in one column.
    assert (
        len(
            {
                line.index(word)
                for line in lines
                for word in ("Seed of p", "Number of tr")
                if word in line
            }
        )
        == 1
    )


def test_config_prints_changed_settings_alone_and_json(capsys):
    assert main(["config", EXPERIMENT, "--changed"]) == 0
    changed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("*")]
    assert main(["config", EXPERIMENT, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(changed) == sum(row["changed"] for row in rows.values())
    row = rows["optimizer.name"]
    assert (row["value"], row["default"], row["changed"]) == ("muon", "adamw", True)
    assert "muon" in row["comment"]
    assert rows["data.augment.scale"]["value"] == []


def test_config_refuses_an_unknown_setting_and_a_missing_file(capsys):
    assert main(["config", EXPERIMENT, "--config.sed=1"]) == 2
    assert "no key 'sed'; nearest: seed" in capsys.readouterr().err
    assert main(["config", "experiments/sam/quickstar.py"]) == 2
    assert "did you mean experiments/sam/quickstart.py" in capsys.readouterr().err


def write_experiment(folder, name, body):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(body)
    return str(folder / name)


BASE = """
from segjax.tasks.promptable.config import promptable_config
def get_config(variant=""):
    config = promptable_config()
    config.seed = {seed}
    return config
"""
DERIVED = """
from . import base
def get_config(variant=""):
    config = base.get_config()
    config.total_steps = 7
    return config
"""


def test_an_experiment_builds_on_the_file_beside_it(tmp_path):
    """Two folders may have files of the same names, and a file may change between two reads."""
    for seed, name in enumerate(("one", "two")):
        write_experiment(tmp_path / name, "base.py", BASE.format(seed=seed))
        write_experiment(tmp_path / name, "my-experiment.v2.py", DERIVED)
    read = lambda name: read_config(str(tmp_path / name / "my-experiment.v2.py"))
    assert [(read(name).seed, read(name).total_steps) for name in ("one", "two")] == [
        (0, 7),
        (1, 7),
    ]
    write_experiment(tmp_path / "one", "base.py", BASE.format(seed=30))
    assert read("one").seed == 30


def test_an_experiment_imports_modules_of_its_folder_as_a_script_does(tmp_path):
    """Two folders may have modules of the same name, and `get_config` may import too."""
    body = BASE.replace(
        "config.seed = {seed}", "import late\n    config.seed = early.SEED + late.SEED"
    )
    for folder, seed in (("one", 10), ("two", 20)):
        write_experiment(tmp_path / folder, "early.py", f"SEED = {seed}")
        write_experiment(tmp_path / folder, "late.py", f"SEED = {seed + 1}")
        write_experiment(tmp_path / folder, "mine.py", "import early\n" + body)
    before = list(sys.path)
    assert [read_config(str(tmp_path / name / "mine.py")).seed for name in ("one", "two")] == [
        21,
        41,
    ]
    assert sys.path == before and "early" not in sys.modules


def test_an_experiment_of_segjax_is_read_by_its_name_from_any_folder(tmp_path, monkeypatch, capsys):
    by_path = read_config(f"{EXPERIMENT}:debug").to_dict()
    monkeypatch.chdir(tmp_path)
    assert read_config("sam/quickstart:debug").to_dict() == by_path
    assert main(["config", "sam/quickstar"]) == 2
    assert "did you mean sam/quickstart?" in capsys.readouterr().err
    # A file takes precedence.
    (tmp_path / "sam").mkdir()
    write_experiment(tmp_path / "sam", "quickstart", BASE.format(seed=8))
    assert read_config("sam/quickstart").seed == 8


def test_train_lists_every_experiment_with_its_first_line(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--list"])
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0 and len(lines) == len(own_experiments()) >= 24
    assert all(len(line) > 40 and line[28] == " " for line in lines)
    (line,) = [line for line in lines if line.startswith("sam/quickstart ")]
    assert "Trains a tiny SAM" in line


def test_an_experiment_is_read_by_its_registered_name(tmp_path, monkeypatch, capsys):
    def get_config(variant=""):
        config = read_config(write_experiment(tmp_path, "base.py", BASE.format(seed=3)))
        config.total_steps = 5 if variant == "short" else 50
        return config

    monkeypatch.setitem(EXPERIMENTS.entries, "mine", get_config)
    assert read_config("mine").total_steps == 50
    assert main(["config", "mine:short", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert (rows["total_steps"]["value"], rows["seed"]["value"]) == (5, 3)
    assert main(["config", "mane"]) == 2
    message = capsys.readouterr().err
    assert "did you mean mine?" in message and "registered by name: mine" in message
    # A file takes precedence over a registered name.
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path, "mine", BASE.format(seed=8))
    assert read_config("mine").seed == 8


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def get_config(:", "cannot be executed: SyntaxError"),
        ("import no_such_module", "cannot be executed: ModuleNotFoundError"),
        ("def get_config(): return None", "returned NoneType"),
    ],
)
def test_a_file_that_is_no_experiment_is_one_sentence(tmp_path, source, message):
    path = tmp_path / "mine.py"
    path.write_text(source + "\n")
    with pytest.raises(ValueError, match=message):
        read_config(str(path))
    path.write_text("def get_config(): return None\n")
    with pytest.raises(ValueError, match="no variants"):
        read_config(f"{path}:tiny")
