"""A person annotates two images in Chromium: every tool once, and a reload in between.

pip install .[test,browser]; apt-get install chromium
pytest -m browser tests/web/test_browser.py

SEGJAX_SCREENSHOTS=DIR keeps screenshots.
"""

import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from segjax.data.synthetic.photographs import load_demonstration_photograph
from segjax.images.decoding import decode_image

pytestmark = pytest.mark.browser
MOVES = 500
LATENCY = {"p50": 40.0, "p95": 100.0}  # ms, for the demo model on two cores


@pytest.fixture
def server(tmp_path):
    photograph = Image.fromarray(decode_image(load_demonstration_photograph()))
    for name in ("one.jpg", "two.jpg"):
        photograph.save(tmp_path / name, quality=95)
    command = [sys.executable, "-m", "segjax", "serve", str(tmp_path), "--classes", "face,ear"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if found := re.search(r"ready: (\S+)", line):
            yield found[1], tmp_path
            break
    process.terminate()
    process.wait(10)


@pytest.fixture
def page(server):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    playwright = pytest.importorskip("playwright.sync_api")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 700}, accept_downloads=True)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(server[0])
        page.wait_for_function("document.body.dataset.image")
        yield page
        browser.close()


def keep(page, name):
    if folder := os.environ.get("SEGJAX_SCREENSHOTS"):
        page.screenshot(path=pathlib.Path(folder) / f"{name}.png")


def wait_for_objects(page, count):
    page.wait_for_function(f"document.body.dataset.objects === '{count}'")


def answer_after(page, action):
    """Runs an action and waits for the mask that it asks for."""
    before = page.evaluate("document.body.dataset.answer || ''")
    action()
    page.wait_for_function("before => document.body.dataset.answer !== before", arg=before)


def at(page, x, y):
    """Position on the page of a share of the image."""
    script = """([x, y]) => { const v = window.segjax.view, b = v.canvas.getBoundingClientRect();
      return [b.left + (v.offset[0] + x * v.image.width * v.scale) / v.ratio,
              b.top + (v.offset[1] + y * v.image.height * v.scale) / v.ratio]; }"""
    return page.evaluate(script, [x, y])


def count_colored(page):
    """Number of pixels of the canvas that differ from those without any layer."""
    script = """() => { const v = window.segjax.view, read = () => { v.paint();
      return v.context.getImageData(0, 0, v.canvas.width, v.canvas.height).data; };
      const shown = read(), layers = v.layers; v.layers = []; const plain = read();
      v.layers = layers; let n = 0;
      for (let i = 0; i < shown.length; i += 4) n += shown[i] !== plain[i]; return n; }"""
    return page.evaluate(script)


def test_a_person_annotates_two_images(page, server):
    _, folder = server
    # Hover, click, choose another candidate, refine, name and commit
    page.mouse.move(*at(page, 0.5, 0.5))
    page.wait_for_function("document.body.dataset.previews")
    page.wait_for_timeout(100)
    assert count_colored(page) > 50
    answer_after(page, lambda: page.mouse.click(*at(page, 0.5, 0.5)))
    assert page.locator("#candidates button").count() == 3
    page.keyboard.press("2")
    keep(page, "page_click")
    answer_after(page, lambda: page.mouse.click(*at(page, 0.55, 0.55), button="right"))
    assert page.locator("#candidates button").count() == 1
    page.keyboard.press("z")
    assert page.locator("#candidates button").count() == 3
    page.fill("#annotator", "Ada")
    page.fill("#class", "face")
    page.click("#commit")
    wait_for_objects(page, 1)

    # A box, corrected by the brush and the eraser
    page.keyboard.press("Escape")
    page.click("[data-tool=box]")
    page.mouse.move(*at(page, 0.1, 0.1))
    page.mouse.down()
    page.mouse.move(*at(page, 0.3, 0.4), steps=5)
    answer_after(page, page.mouse.up)
    for tool, y in (("brush", 0.2), ("erase", 0.3)):
        page.click(f"[data-tool={tool}]")
        page.mouse.move(*at(page, 0.12, y))
        page.mouse.down()
        page.mouse.move(*at(page, 0.28, y), steps=5)
        page.mouse.up()
    page.fill("#class", "ear")
    page.click("#commit")
    wait_for_objects(page, 2)

    # Everything: a mask under the pointer becomes an object
    page.click("[data-tool=click]")
    page.click("#everything")
    page.wait_for_function("document.body.dataset.everything", timeout=120_000)
    keep(page, "page_everything")
    script = """() => { const all = window.segjax.everything(), last = all[all.length - 1];
      const i = last.mask.indexOf(1), w = window.segjax.state.image.width;
      return [(i % w + 0.5) / w, (Math.floor(i / w) + 0.5) / window.segjax.state.image.height]; }"""
    spot = at(page, *page.evaluate(script))
    page.mouse.move(*spot)
    page.mouse.click(*spot)
    page.keyboard.press("Enter")
    wait_for_objects(page, 3)
    page.check("#done")

    # The state survives a reload
    page.reload()
    page.wait_for_function("document.body.dataset.objects === '3'")
    assert page.is_checked("#done")
    assert page.locator("#objects .name").all_inner_texts()[:2] == ["face", "ear"]
    keep(page, "page_objects")
    with page.expect_download() as download:
        page.click("#coco")
    content = json.loads(pathlib.Path(download.value.path()).read_text())
    assert len(content["annotations"]) == 3
    (folder / "annotations.json").write_text(json.dumps(content))

    # The next image, a phone's width, and no error anywhere
    page.keyboard.press("n")
    page.wait_for_function("document.body.dataset.objects === '0'")
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(200)
    keep(page, "page_phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.errors == []

    from segjax.data.prepare import prepare
    from segjax.data.storage import read_info

    prepare("coco", folder, folder / "prepared")
    splits = read_info(folder / "prepared").splits
    assert sum(split["objects"] for split in splits.values()) == 3
    stored = json.loads((folder / "masks" / "one.jpg.json").read_text())["objects"]
    assert [row["annotator"] for row in stored[:2]] == ["Ada", "Ada"]
    assert [row["edited"] for row in stored] == [False, True, True]


def test_previews_follow_the_pointer(page, record_property):
    rng = random.Random(0)
    for _ in range(MOVES):
        page.mouse.move(*at(page, rng.random(), rng.random()))
        page.wait_for_timeout(15)
    page.wait_for_timeout(500)
    found = page.evaluate("window.segjax.prompts.latency()")
    print(found)
    for name in ("count", "p50", "p95"):
        record_property(name, found[name])
    assert found["count"] > MOVES / 4
    assert found["p50"] <= LATENCY["p50"] and found["p95"] <= LATENCY["p95"]
