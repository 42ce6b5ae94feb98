"""explorer.html in a real browser, opened from disk: its speed, its values, its keys, hostile runs, a video, exports."""

from __future__ import annotations

import base64
import csv
import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import Browser, Page
from tests.explorer_run import make_findings, write
from tests.test_explorer import HOSTILE

SHIFT = 8
IDS = "[...document.querySelectorAll('#grid-body .row')].map(row => row.children[1].textContent)"
OPEN = "explorer.run.keys[explorer.state.sample]"


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """1,550 samples of up to 75 clips and 4 layers."""
    findings = make_findings(1550)
    return findings, *write(tmp_path_factory.mktemp("full"), findings)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    findings = make_findings(30, clips=40, layers=2)
    return findings, *write(tmp_path_factory.mktemp("small"), findings)


@pytest.fixture
def page(chromium: Browser, tmp_path: Path):
    page = chromium.page()
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    yield page
    chromium.call("Target.closeTarget", targetId=page.target)


def saved(folder: Path, pattern: str, page: Page) -> Path:
    """Return a file that the page saves, as soon as it is whole."""
    for _ in range(400):
        found = [path for path in folder.glob(pattern) if path.stat().st_size]
        if found and not list(folder.glob("*.crdownload")):
            return found[0]
        page.evaluate("new Promise(done => setTimeout(done, 25))")
    raise AssertionError(f"no {pattern} was saved")


def test_a_full_split_is_usable_in_two_seconds_in_8_mb_without_a_request_or_a_word_on_the_console(full, page):
    _, path, table = full
    assert path.stat().st_size <= 8e6
    page.open(path)
    marks = dict(page.evaluate("performance.getEntriesByType('mark').map(mark => [mark.name, mark.startTime])"))
    assert 0 < marks["table"] < marks["sample"] < 2000
    assert page.evaluate("document.getElementById('grid').getAttribute('aria-rowcount')") == str(len(table.rows) + 1)
    assert page.evaluate("document.querySelectorAll('#strips svg path').length") > 10
    assert page.evaluate("document.querySelectorAll('#grid-body .row').length") < 80
    heap = {one["name"]: one["value"] for one in page.call("Performance.getMetrics")["metrics"]}["JSHeapTotalSize"]
    assert heap + page.evaluate("explorer.run.bytes.length") <= 300e6
    # A second of frames while the table is scrolled through, sorted, filtered, and the cursor moved: none may be late.
    longest = page.evaluate(
        """(async () => {
             const grid = document.getElementById('grid'), waits = [];
             let last = performance.now();
             const frame = () => new Promise(done => requestAnimationFrame(() => {
               waits.push(performance.now() - last); last = performance.now(); done(); }));
             for (let i = 0; i < 30; i++) { grid.scrollTop = i * 1400; await frame(); }
             for (let i = 0; i < 30; i++) { explorer.moveCursor(i * 5); await frame(); }
             for (let i = 0; i < 30; i++) { explorer.step(1); await frame(); }
             for (const name of ['ap', 'query', 'id']) { explorer.sort(name); await frame(); }
             for (const text of ['1', '12', '']) {
               document.getElementById('search').value = text;
               document.getElementById('search').dispatchEvent(new Event('input')); await frame(); }
             return Math.max(...waits);
           })()"""
    )
    assert longest < 1000
    assert page.requests() == []
    assert page.complaints() == []


def test_what_the_browser_reads_is_samples_csv_and_the_recorded_gates_to_float16(full, page):
    findings, path, table = full
    page.open(path)
    series = page.evaluate("explorer.run.facts.series")
    for row in np.random.default_rng(0).choice(len(table.rows), 50, replace=False).tolist():
        cells = page.evaluate(f"[...explorer.run.columns].map(([name, values]) => [name, values[{row}]])")
        for (name, value), cell in zip(cells, table.rows[row], strict=False):
            assert value == float(cell) if isinstance(value, (int, float)) else value == str(cell), name
        entry = findings.history[findings.contexts[row].sample_id]
        shown = page.evaluate(f"explorer.run.facts.series.map((_, i) => [...explorer.run.series({row}, i)])")
        for one, values in zip(series, shown, strict=True):
            kind, _, what = one["name"].partition("_")
            if what in ("gate", "injection"):
                recorded = entry[f"{kind}_gates" if what == "gate" else one["name"]][one["layer"]]
                assert values == np.float16(recorded).astype(float).ravel().tolist(), one


def test_the_strips_say_the_exact_values_under_the_cursor(small, page):
    findings, path, _ = small
    page.open(path, "#s=1003&t=21")
    entry = findings.history[1003]
    texts = page.evaluate("explorer.strips[0].readings.map(r => [r.title, r.line.label, r.text.textContent])")
    injection = {label: text for title, label, text in texts if title == "Attention gate: injection"}
    expected = [float(np.float16(np.asarray(entry["attention_injection"][layer]).ravel()[10])) for layer in (0, 1)]
    assert [float(injection[f"layer {layer}"].replace("−", "-")) for layer in (0, 1)] == pytest.approx(
        expected, rel=1e-4
    )
    spoken = page.evaluate("document.getElementById('strips').getAttribute('aria-valuetext')")
    assert spoken.startswith("21.0 s, clip 10; ")
    assert injection["layer 1"] in spoken


def test_ready_filters_ranges_sorting_and_the_address_agree_with_the_columns(small, page):
    _, path, table = small
    effect = {str(row[0]): float(row[table.head.index("audio_effect_AP_gates_off")]) for row in table.rows}
    ap = {str(row[0]): float(row[table.head.index("ap")]) for row in table.rows}
    page.open(path, "#ready=rescued")
    order = page.evaluate("explorer.table.order.map(i => explorer.run.keys[i])")
    assert order == sorted((i for i in effect if effect[i] > 0), key=lambda i: -effect[i])
    page.open(path, "#ready=harmed&range=ap:0.2:0.7&sort=ap:asc")
    order = page.evaluate("explorer.table.order.map(i => explorer.run.keys[i])")
    assert order == sorted((i for i in effect if effect[i] < 0 and 0.2 <= ap[i] <= 0.7), key=ap.get)
    page.open(path, "#q=sentence+17&lang=ko")
    assert page.evaluate("explorer.table.order.map(i => explorer.run.keys[i])") == ["1017"]
    assert page.evaluate("document.documentElement.lang") == "ko"
    assert page.evaluate("document.querySelector('h1').textContent") == "게이트 탐색기"
    page.evaluate("explorer.sort('ap')")
    page.wait("location.hash.includes('sort=ap')")
    assert "q=sentence+17" in page.evaluate("location.hash")
    assert page.complaints() == []


def test_the_whole_walk_by_keyboard_alone_with_a_korean_input_method(small, page, tmp_path):
    _, path, table = small
    effect = {str(row[0]): float(row[table.head.index("audio_effect_AP_gates_off")]) for row in table.rows}
    best, worst = max(effect, key=effect.get), min(effect, key=effect.get)
    page.open(path)

    def tab_to(selector: str) -> None:
        for _ in range(60):
            page.press("Tab")
            if page.evaluate(f"document.activeElement.matches({json.dumps(selector)})"):
                return
        raise AssertionError(f"Tab does not lead to {selector}")

    tab_to("[data-ready=rescued]")
    page.press("Space")
    assert page.evaluate(OPEN) == best
    page.press("KeyG", key="ㅎ")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "gridcell"
    page.press("Space")
    page.press("KeyT", key="ㅅ")
    for _ in range(4):
        page.press("ArrowRight")
    page.press("Period", key=".", modifiers=SHIFT)
    assert page.evaluate("explorer.state.cursor") == 18
    page.press("KeyC", key="ㅊ")
    # A sentence is typed into the search field: while it is composed, and after, letters are letters.
    page.press("KeyF", key="ㄹ")
    page.call("Input.imeSetComposition", text="하", selectionStart=1, selectionEnd=1)
    page.press("KeyL", key="Process")
    assert page.evaluate("document.documentElement.lang") == "en"
    page.call("Input.insertText", text="하")
    page.press("KeyL", key="ㅣ")
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate(OPEN) == best
    assert page.evaluate("explorer.state.text").endswith("하")
    assert page.evaluate("explorer.table.order.length") == 0
    page.evaluate("document.activeElement.select()")
    page.press("Backspace")
    for _ in range(60):  # back, to the other ready filter
        page.press("Tab", modifiers=SHIFT)
        if page.evaluate("document.activeElement.matches('[data-ready=harmed]')"):
            break
    page.press("Enter")
    assert page.evaluate(OPEN) == worst
    assert page.evaluate("explorer.parts().map(part => part.run.keys[part.sample])") == [worst, best]
    assert page.evaluate("document.querySelectorAll('#other-strips svg').length") == 1
    page.press("KeyG", key="ㅎ")
    page.press("Space")
    page.press("KeyE", key="ㄷ")
    page.press("KeyS", key="ㄴ")
    page.press("KeyP", key="ㅔ")
    rows = list(csv.DictReader(io.StringIO(saved(tmp_path, "*.csv", page).read_text("utf-8"))))
    assert {row["id"] for row in rows} == {best, worst}
    assert {row["id"]: float(row["audio_effect_AP_gates_off"]) for row in rows} == {i: effect[i] for i in (best, worst)}
    picture = saved(tmp_path, "*.svg", page).read_text("utf-8")
    assert picture.count("<svg") == 3
    assert f"{worst} · abcdefghi" in picture
    with Image.open(saved(tmp_path, "*.png", page)) as image:
        assert image.width == 2400
        assert len(image.convert("RGB").getcolors(1 << 20)) > 10
    page.press("Slash", key="?", modifiers=SHIFT)
    assert page.evaluate("document.getElementById('key-list').open")
    page.press("KeyJ", key="ㅓ")
    page.press("Escape")
    assert page.evaluate(OPEN) == worst
    page.press("KeyJ", key="ㅓ")
    page.press("KeyJ", key="ㅓ")
    page.press("KeyK", key="ㅏ")
    order = sorted((i for i in effect if effect[i] < 0), key=effect.get)
    assert page.evaluate(OPEN) == order[1]
    assert page.complaints() == []


def test_the_grid_moves_by_arrows_and_its_head_sorts(small, page):
    _, path, _ = small
    page.open(path)
    page.press("KeyG")
    for code in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight"):
        page.press(code)
    place = "[document.activeElement.parentNode.ariaRowIndex, document.activeElement.ariaColIndex]"
    assert page.evaluate(place) == ["4", "4"]
    page.press("End", modifiers=2)
    assert page.evaluate(place)[0] == "31"
    page.press("Enter")
    assert page.evaluate(OPEN) == "1029"
    page.press("Home", modifiers=2)
    page.press("ArrowUp")
    for _ in range(3):
        page.press("ArrowRight")
    page.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-sort')") == "descending"
    page.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-sort')") == "ascending"
    values = page.evaluate("explorer.table.order.map(i => explorer.run.cell('ap', i))")
    assert values == sorted(values)


def test_a_hostile_run_does_nothing_but_show_text(page, tmp_path):
    texts = [*HOSTILE, "<b>" * 350_000]
    findings = make_findings(len(texts), clips=20, layers=1, ids=texts, texts=texts, vids=texts)
    path, _ = write(tmp_path, findings)
    before = "new Set([...document.querySelectorAll('*')].map(node => node.localName)).size"
    page.open(path)
    kinds = page.evaluate(before)
    for i, text in enumerate(texts):
        page.evaluate(f"explorer.open({i})")
        assert page.evaluate("document.getElementById('sample-title').textContent").startswith(text[:2000])
    assert page.evaluate("document.querySelectorAll('b, img, #sample-title *').length") == 0
    page.evaluate("explorer.pin()")
    page.evaluate("explorer.open(0)")
    page.evaluate("explorer.exportSvg()")
    assert "<img" not in saved(tmp_path, "*.svg", page).read_text("utf-8")
    assert page.evaluate(before) == kinds
    assert page.requests() == []
    assert page.complaints() == []
    page.open(path, "#s=%3Cimg%20src=x%3E&sort=%3C/script%3E&q=%3Cb%3E&range=x:1:2&lang=xx&columns=&t=NaN&beside=run")
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert page.complaints() == []


def test_a_second_run_dropped_on_the_page_stands_beside_the_first(small, page, tmp_path):
    _, path, _ = small
    other = make_findings(20, clips=40, layers=1, gating_type="global", seed=5)
    second, _ = write(tmp_path / "second", other)
    page.open(path, "#s=1004")
    page.choose_files("#second-run", [second])
    page.wait("explorer.strips.length === 2")
    assert page.evaluate("explorer.parts().map(part => part.run.cell('id', part.sample))") == ["1004", "1004"]
    assert "global" in page.evaluate("document.getElementById('other-title').textContent")
    page.evaluate("explorer.open(25)")
    assert page.evaluate("explorer.strips.length") == 1
    assert "1025" in page.evaluate("document.getElementById('other-title').textContent")
    wrong = tmp_path / "wrong.html"
    wrong.write_text('<script type="text/plain" id="run0-facts">AAAA</script>')
    page.choose_files("#second-run", [wrong])
    page.wait("document.getElementById('message').textContent.includes('wrong.html')")
    assert page.requests() == []


MAKE_VIDEO = """(async () => {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [64, 48];
  const paint = canvas.getContext('2d');
  const stream = canvas.captureStream(25), recorder = new MediaRecorder(stream, { mimeType: 'video/webm' });
  const parts = [];
  recorder.ondataavailable = event => parts.push(event.data);
  recorder.start();
  const start = performance.now();
  while (performance.now() - start < 3000) {
    paint.fillStyle = `hsl(${(performance.now() - start) / 10} 80% 50%)`;
    paint.fillRect(0, 0, 64, 48);
    await new Promise(done => setTimeout(done, 20));
  }
  await new Promise(done => { recorder.onstop = done; recorder.stop(); });
  const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
  return btoa(String.fromCharCode(...bytes));
})()"""


@pytest.fixture(scope="module")
def film(chromium):
    """Three seconds of a changing colour, as WebM."""
    page = chromium.page()
    data = base64.b64decode(page.evaluate(MAKE_VIDEO))
    chromium.call("Target.closeTarget", targetId=page.target)
    return data


def test_a_local_video_plays_beside_the_strips_and_both_follow_each_other_within_a_frame(small, page, tmp_path, film):
    findings, path, _ = small
    vid = findings.contexts[3].query.vid
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / f"{vid}.webm").write_bytes(film)
    page.open(path, "#s=1003")
    assert page.evaluate("document.getElementById('original').href").endswith("watch?v=abcdefghi03&t=60s")
    page.choose_files("#folder", [folder])
    page.wait("document.getElementById('video').readyState >= 2")
    page.evaluate("explorer.moveCursor(1.2)")
    page.wait("!document.getElementById('video').seeking")
    assert page.evaluate("document.getElementById('video').currentTime") == pytest.approx(1.2, abs=0.04)
    assert page.evaluate("document.getElementById('original').href").endswith("&t=61s")
    page.press("KeyV", key="ㅍ")
    page.wait("document.getElementById('video').currentTime > 1.6")
    page.press("KeyV", key="ㅍ")
    page.wait("document.getElementById('video').paused")
    apart = page.evaluate(
        "new Promise(done => setTimeout(() => done(explorer.state.cursor - document.getElementById('video').currentTime), 300))"
    )
    assert abs(apart) <= 0.04
    page.evaluate("explorer.open(4)")
    assert page.evaluate("document.getElementById('video').hidden")
    assert {url.split(":")[0] for url in page.requests()} <= {"data"}  # the pictures on the browser's own buttons
    assert page.complaints() == []


def test_a_video_is_found_by_a_relative_path_and_never_on_another_host(small, page, film):
    findings, path, _ = small
    videos = path.parent / "videos"
    videos.mkdir(exist_ok=True)
    (videos / f"{findings.contexts[3].query.vid}.mp4").write_bytes(film)
    page.open(path, "#s=1003")
    for bad in ("//host/share", "/etc", "file://host/x", "https://host/x", "\\\\\\\\host", "a//b", "..//host"):
        assert not page.evaluate(f"explorer.film.lookIn('{bad}')"), bad
    assert page.requests() == []
    page.evaluate(
        "(f => { f.value = 'videos'; f.dispatchEvent(new Event('change')); })(document.getElementById('relative'))"
    )
    page.wait("document.getElementById('video').readyState >= 2")
    assert {url.split(":")[0] for url in page.requests()} <= {"file", "data"}
    assert page.complaints() == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1600])
def test_no_serious_fault_of_accessibility_and_nothing_wider_than_the_screen(small, chromium, width, dark):
    spec = importlib.util.find_spec("axe_core_python")
    if spec is None:
        pytest.skip("needs axe-core-python from requirements-dev.txt")
    axe = (Path(spec.submodule_search_locations[0]) / "axe.min.js").read_text("utf-8")
    _, path, _ = small
    page = chromium.page(width, 900, dark)
    page.open(path, "#s=1003&pin=1004&beside=pin&lang=ko")
    page.evaluate("document.querySelectorAll('details').forEach(node => { node.open = true; })")
    page.evaluate(axe + ";0")
    for shown in ("page", "keys"):
        if shown == "keys":
            page.evaluate("document.getElementById('key-list').showModal()")
        found = page.evaluate("axe.run().then(result => result.violations)")
        serious = {one["id"]: one["nodes"] for one in found if one["impact"] in ("serious", "critical")}
        assert serious == {}
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    chromium.call("Target.closeTarget", targetId=page.target)


def test_printing_shows_the_sample_in_the_colours_of_paper(small, page):
    _, path, _ = small
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    page.open(path)
    assert page.evaluate("document.querySelector('#strips rect').getAttribute('fill')") == "#17171a"
    page.call("Emulation.setEmulatedMedia", media="print")
    page.wait("document.querySelector('#strips rect').getAttribute('fill') === '#ffffff'")
    assert page.evaluate("getComputedStyle(document.getElementById('grid')).display") == "none"
