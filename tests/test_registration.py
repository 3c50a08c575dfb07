"""Parts from a package outside the repository: a family, a task, a source and an experiment."""

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

from segjax.registry import Registry, resolve

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent

# A model that predicts the brightness of an image, and everything to prepare, train and load it.
FILES = {
    "brightness/__init__.py": "",
    "brightness/model.py": '''
        """Predicts the mean intensity of an image by one linear layer."""

        import flax.linen as nn
        import jax.numpy as jnp

        from segjax.models.family import Family
        from segjax.models.sizes import build_from_size

        SIZES = {"brightness_small": dict(canvas=16)}


        class Brightness(nn.Module):
            canvas: int
            dtype: jnp.dtype = jnp.float32

            @nn.compact
            def __call__(self, images):
                pixels = images.astype(jnp.float32).reshape(len(images), -1) / 255
                return nn.Dense(1, name="predict")(pixels)[:, 0]


        def build(name, **overrides):
            return build_from_size(Brightness, SIZES, name, overrides)


        def init(model, key):
            image = jnp.zeros((1, model.canvas, model.canvas, 3))
            return {"constants": {}} | model.init(key, image)


        FAMILY = Family(
            title="Brightness", module=Brightness, sizes=SIZES, build=build, init=init,
            task="brightness", usage="`segjax eval` measures a brightness model",
        )
        ''',
    "brightness/task.py": '''
        """Regression of the mean intensity of an image."""

        import dataclasses

        import jax
        import jax.numpy as jnp

        from brightness.model import build
        from segjax.data.examples.crop import CropExample
        from segjax.tasks.record_task import RecordTask
        from segjax.tasks.settings import RecordSettings
        from segjax.training.defaults import LoopSettings, OptimizerSettings, as_config
        from segjax.training.sharding import place_batch, to_host


        @dataclasses.dataclass(frozen=True)
        class EvaluationSettings:
            batch_size: int = 2
            limit: int = 0


        @dataclasses.dataclass(frozen=True)
        class BrightnessSettings(LoopSettings):
            task: str = "brightness"
            total_steps: int = 2
            batch_size: int = 2
            log_every: int = 1
            model: dict = dataclasses.field(default_factory=lambda: {"name": "brightness_small"})
            optimizer: OptimizerSettings = OptimizerSettings(warmup_steps=0)
            data: RecordSettings = RecordSettings()
            eval: EvaluationSettings = EvaluationSettings()


        def get_config(variant=""):
            config = as_config(BrightnessSettings())
            if variant == "long":
                config.total_steps = 3
            return config


        class BrightnessTask(RecordTask):
            settings = BrightnessSettings
            build = staticmethod(build)

            def build_example(self, *, train):
                return CropExample(self.model.canvas, train=train)

            def loss(self, variables, batch, key, train):
                target = batch["image"].mean(axis=(1, 2, 3)) / 255
                error = (self.model.apply(variables, batch["image"]) - target) ** 2
                return (error * batch["weight"]).sum(), batch["weight"].sum(), {}

            def evaluate(self, variables, *, mesh):
                loss = weight = 0.0
                for batch in self.evaluation_batches(variables, mesh):
                    placed = place_batch(batch, mesh)
                    sums = to_host(self.loss(variables, placed, jax.random.key(0), False)[:2])
                    loss, weight = loss + float(sums[0]), weight + float(sums[1])
                return {"eval_loss": loss / weight}, {}
        ''',
    "brightness/source.py": '''
        """Reader of folders of PNG files, one folder for each split."""

        import pathlib

        from segjax.data.records import stack_objects
        from segjax.data.sources.raw import RawSource
        from segjax.data.sources.read_files import list_images, read_image


        class PngFolders(RawSource):
            splits, categories, category_ids = ("train", "val"), (), ()
            has_objects = False

            def __init__(self, raw_dir):
                self.raw_dir = pathlib.Path(raw_dir)

            def records(self, split, skipped):
                for path in list_images(self.raw_dir / split):
                    image, height, width = read_image(path)
                    yield dict(
                        image=image, image_id=path.stem, height=height, width=width,
                        objects=stack_objects([]),
                    )
        ''',
}
ENTRY_POINTS = """
    [segjax.families]
    brightness = brightness.model:FAMILY

    [segjax.tasks]
    brightness = brightness.task:BrightnessTask

    [segjax.sources]
    png_folders = brightness.source:PngFolders

    [segjax.experiments]
    brightness = brightness.task:get_config
    """
# A config file that registers the same parts by plain calls.
CONFIG_FILE = '''
    """Registers all parts, then trains the brightness model."""

    import segjax
    from brightness.task import get_config

    segjax.register_family("brightness", "brightness.model:FAMILY")
    segjax.register_task("brightness", "brightness.task:BrightnessTask")
    '''
USE = """
    import sys

    import numpy as np
    import segjax
    from segjax.cli import main

    raw, out, config = sys.argv[1:]
    if config.endswith(".py"):
        segjax.register_source("png_folders", "brightness.source:PngFolders")
    assert main(["prepare", "png_folders", raw, "--out", out + "/data"]) == 0
    run = out + "/run"
    flags = ["--config.data.source=" + out + "/data"]
    assert main(["train", "--config=" + config, "--workdir=" + run, *flags]) == 0
    assert main(["eval", "--checkpoint", run]) == 0
    model, variables = segjax.load(run)
    image = np.full((1, 16, 16, 3), 255, np.uint8)
    print("predicted", model.apply(variables, image).shape, type(model).__name__)
    assert "brightness_small" in segjax.available_models()
    """


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Returns a folder with the package and two splits of small images."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("outside")
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    for split in ("train", "val"):
        (folder / "raw" / split).mkdir(parents=True)
        for gray in (50, 100, 200):
            Image.new("RGB", (20, 24), (gray,) * 3).save(folder / "raw" / split / f"{gray}.png")
    return folder


def use(package, out, config, *paths):
    """Prepares, trains, evaluates and loads in a process of its own, and returns its output."""
    script = out / "use.py"
    script.write_text(textwrap.dedent(USE))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (*paths, package, REPOSITORY))),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
    }
    process = subprocess.run(
        [sys.executable, str(script), str(package / "raw"), str(out), config],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_entry_points_of_an_installed_package_are_found(package, tmp_path):
    # An installed package is a folder of metadata on the path.
    metadata = tmp_path / "site" / "brightness-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: brightness\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(textwrap.dedent(ENTRY_POINTS))
    output = use(package, tmp_path, "brightness:long", tmp_path / "site")
    assert "train: 3 images" in output and "eval_loss" in output
    assert "predicted (1,) Brightness" in output
    assert (tmp_path / "run" / "checkpoints" / "3").is_dir(), "the variant sets three steps"


def test_a_config_file_registers_parts_by_plain_calls(package, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(textwrap.dedent(CONFIG_FILE))
    output = use(package, tmp_path, str(config))
    assert "eval_loss" in output and "predicted (1,) Brightness" in output


def test_a_registry_resolves_references_when_they_are_used():
    registry = Registry("color", "segjax.colors_for_tests", {"pi": "math:pi"})
    registry.register("red", (255, 0, 0))
    registry.register("broken", "math:no_such_name")
    assert registry.get("pi") == pytest.approx(3.14159, abs=1e-5)
    assert registry.get("red") == (255, 0, 0)
    assert registry.names() == list(registry) == ["pi", "red", "broken"] and "red" in registry
    assert next(registry.items())[0] == "pi", "later entries are not imported yet"
    with pytest.raises(ValueError, match="'math:no_such_name' cannot be imported"):
        registry.get("broken")


def test_a_name_is_taken_once():
    registry = Registry("color", "segjax.colors_for_tests", {"red": 1})
    registry.register("red", 1)  # the same entry again: a module may be imported twice
    with pytest.raises(ValueError, match="the color 'red' is registered already, as 1"):
        registry.register("red", 2)
    registry.register("red", 2, replace=True)
    assert registry.get("red") == 2


def test_an_unknown_name_lists_the_nearest_and_all():
    registry = Registry("color", "segjax.colors_for_tests", {"red": 1, "green": 2})
    with pytest.raises(ValueError, match="unknown color 'gren'; nearest: green.*; all: red, green"):
        registry.get("gren")


@pytest.mark.parametrize("reference", ["math", "math:", ":pi", "no_such_module:name"])
def test_a_malformed_or_missing_reference_is_an_error(reference):
    with pytest.raises(ValueError, match="reference"):
        resolve(reference)


def test_a_broken_family_leaves_the_others_usable(caplog):
    """Commands for a SAM go on while a foreign family cannot be imported; one warning names it."""
    from segjax.models.build import find_family, model_sizes
    from segjax.registry import FAMILIES

    FAMILIES.register("broken", "no_such_package:FAMILY")
    FAMILIES.register("number", 3)
    try:
        assert "sam_vit_b" in model_sizes() and find_family("sam_vit_b").title == "SAM"
        assert "'broken' cannot be used" in caplog.text and "expected Family" in caplog.text
        warnings = len(caplog.records)
        model_sizes()
        assert len(caplog.records) == warnings == 2
        with pytest.raises(ValueError, match="unknown model 'other'.*no_such_package"):
            find_family("other")
    finally:
        for name in ("broken", "number"):
            del FAMILIES.entries[name], FAMILIES.broken[name]


def test_a_module_that_fails_while_it_is_imported_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "failing_module.py").write_text("def broken(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="'failing_module:X' cannot be imported: SyntaxError"):
        resolve("failing_module:X")


def test_a_config_file_may_register_its_task_twice():
    """An experiment file is executed each time that it is read."""
    registry, source = Registry("task", "none", {}), "class Mine:\n    pass\n"
    for _ in range(2):
        scope = {"__name__": "my_experiment"}
        exec(source, scope)
        registry.register("mine", scope["Mine"])
    assert registry.get("mine") is scope["Mine"]
    with pytest.raises(ValueError, match="expected a text"):
        registry.register(3, scope["Mine"])
