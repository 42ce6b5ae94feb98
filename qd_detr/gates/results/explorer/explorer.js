// State, its place in the address, keys, and what happens on each.

/** Characters of a sentence that are shown: laying out a million would stop the page for minutes. */
const LONGEST = 2000;
const byId = (id) => document.getElementById(id);
const KEYS = [
  ["J", "key_j"], ["K", "key_k"], [", .", "key_time"], ["G", "key_g"], ["F", "key_f"], ["T", "key_t"], ["C", "key_c"], ["R", "key_r"],
  ["V", "key_v"], ["E", "key_e"], ["S", "key_s"], ["P", "key_p"], ["L", "key_l"], ["?", "key_help"],
];

class Explorer {
  constructor(run) {
    this.runs = [run];
    this.table = new Table({
      open: (sample) => this.open(sample),
      sort: (column) => this.sort(column),
      select: () => this.drawExports(),
    });
    this.film = new Film((seconds) => this.moveCursor(seconds, { fromFilm: true }));
    this.state = readAddress(run);
    this.listen();
    this.drawAll();
  }

  get run() {
    return this.runs[0];
  }

  writeAddress() {
    clearTimeout(this.writing);
    // A browser allows some 200 changes in half a minute; a cursor makes more.
    this.writing = setTimeout(() => {
      this.written = `#${addressOf(this.run, this.state)}`;
      history.replaceState(null, "", this.written);
    }, 250);
  }

  // What is drawn.

  drawAll() {
    document.documentElement.lang = language;
    document.title = say("title");
    document.querySelectorAll("[data-text]").forEach((node) => (node.textContent = say(node.dataset.text)));
    document.querySelectorAll("[data-label]").forEach((node) => node.setAttribute("aria-label", say(node.dataset.label)));
    byId("language").textContent = say("other_language");
    byId("language").lang = language === "en" ? "ko" : "en";
    byId("about").textContent = this.run.about();
    byId("strips").setAttribute("aria-label", say("cursor"));
    byId("key-items").replaceChildren(...KEYS.flatMap(([key, text]) => [made("dt", {}, made("kbd", {}, key)), made("dd", {}, say(text))]));
    byId("search").value = this.state.text;
    drawOverview(this.run);
    this.drawFilters();
    this.drawTable();
    this.drawSample();
  }

  get columns() {
    return this.state.columns ?? firstColumns(this.run);
  }

  drawFilters() {
    const filters = readyFilters(this.run);
    if (!(this.state.ready in filters)) this.state.ready = "";
    byId("ready").replaceChildren(...Object.entries(filters).map(([key, { about }]) => {
      const button = made("button", { type: "button", "aria-pressed": String(this.state.ready === key), title: about, "data-ready": key }, say(key));
      button.addEventListener("click", () => this.setReady(key));
      return button;
    }));
    const names = [...this.run.columns.keys()];
    const numeric = names.filter((name) => numericColumn(this.run, name));
    const chosen = byId("range-column").value;
    byId("range-column").replaceChildren(...numeric.map((name) => made("option", { value: name }, columnLabel(name))));
    if (numeric.includes(chosen)) byId("range-column").value = chosen;
    const legend = byId("columns").firstElementChild;
    const ticks = names.map((name) => {
      const tick = made("input", { type: "checkbox", value: name });
      tick.checked = this.columns.includes(name);
      tick.addEventListener("change", () => {
        const kept = names.filter((n) => (n === name ? tick.checked : this.columns.includes(n)));
        this.state.columns = kept.length ? kept : ["id"];
        this.drawTable();
        this.writeAddress();
      });
      return made("label", { title: name }, tick, ` ${columnLabel(name)}`);
    });
    byId("columns").replaceChildren(legend, ...ticks);
    byId("ranges").replaceChildren(...this.state.ranges.map((range, i) => {
      const what = `${columnLabel(range.column)}: ${range.low ?? "…"} – ${range.high ?? "…"}`;
      const button = made("button", { type: "button", "aria-label": say("remove_range", { what }) }, `${what} ✕`);
      button.addEventListener("click", () => this.setRanges(this.state.ranges.filter((_, k) => k !== i)));
      return button;
    }));
  }

  drawTable() {
    const order = ordered(this.run, this.state);
    if (this.state.sample === null) this.state.sample = order[0] ?? 0;
    this.table.show(this.run, this.columns, order, this.state.sort, this.state.sample);
    byId("count").textContent = say("count", { shown: order.length.toLocaleString("en"), all: this.run.size.toLocaleString("en") });
    this.drawExports();
  }

  drawExports() {
    const chosen = this.table.selected.size;
    byId("export-csv").textContent = say(chosen ? "export_selected" : "export_all", { n: chosen || this.table.order.length });
  }

  /** What stands beside the sample: {run, sample, title}, or null. */
  other() {
    const { beside, pin, sample } = this.state;
    if (beside === "pin" && pin !== null) return { run: this.run, sample: pin };
    if (beside !== "run" || this.runs.length < 2) return null;
    const second = this.runs[1];
    const id = String(this.run.cell("id", sample));
    const place = second.columns.get("id").findIndex((one) => String(one) === id);
    return place < 0 ? null : { run: second, sample: place };
  }

  drawBeside() {
    const { beside, pin, sample } = this.state;
    const options = [["", say("beside_none")]];
    if (pin !== null) options.push(["pin", say("beside_pin", { id: brief(this.run.cell("id", pin), 40) })]);
    if (this.runs.length > 1) options.push(["run", say("beside_run")]);
    byId("beside").replaceChildren(...options.map(([value, text]) => made("option", { value }, text)));
    byId("beside").value = options.some(([value]) => value === beside) ? beside : "";
    byId("beside").disabled = options.length < 2;
    byId("pin").setAttribute("aria-pressed", String(pin !== null && pin === sample));
  }

  drawSample() {
    const { sample } = this.state;
    const run = this.run;
    this.drawBeside();
    this.table.setCurrent(sample);
    byId("sample-title").textContent = brief(run.cell("query", sample) || run.cell("id", sample), LONGEST);
    byId("facts").textContent = factsLine(run, sample);
    const other = this.other();
    const lacking = this.state.beside === "run" && this.runs.length > 1 && !other;
    byId("other-title").hidden = !other && !lacking;
    byId("other-title").textContent = other ? otherTitle(other, this.run) : lacking ? say("second_lacks", { id: brief(run.cell("id", sample), 80) }) : "";
    const width = Math.max(300, byId("strips").clientWidth);
    const colours = matchMedia("(prefers-color-scheme: dark)").matches && !matchMedia("print").matches ? DARK : LIGHT;
    const end = Math.max(endOf(run, sample), other ? endOf(other.run, other.sample) : 0);
    const draw = (r, s, box) => {
      const strips = new Strips(r, s, { width, end, colours });
      box.replaceChildren(strips.svg);
      return strips;
    };
    this.strips = [draw(run, sample, byId("strips"))];
    if (other) this.strips.push(draw(other.run, other.sample, byId("other-strips")));
    else byId("other-strips").replaceChildren();
    byId("strips").setAttribute("aria-valuemax", String(end));
    this.moveCursor(Math.min(this.state.cursor, end));
  }

  moveCursor(seconds, { fromFilm = false } = {}) {
    const [first] = this.strips;
    const to = Math.min(first.end, Math.max(0, seconds));
    this.state.cursor = Math.round(to * 1000) / 1000;
    const said = this.strips.flatMap((strips) => strips.setCursor(to));
    const box = byId("strips");
    box.setAttribute("aria-valuenow", String(this.state.cursor));
    const at = say("at", { time: shown(this.state.cursor, 1), clip: first.clipAt(to) });
    box.setAttribute("aria-valuetext", `${at}; ${said.join("; ")}`);
    const vid = String(this.run.cell("vid", this.state.sample) ?? "");
    if (fromFilm) this.film.link(vid, to);
    else this.film.show(vid, to);
    this.writeAddress();
  }

  // What a person does.

  open(sample) {
    this.state.sample = sample;
    this.state.cursor = 0;
    this.drawSample();
  }

  step(way) {
    const order = this.table.order;
    if (!order.length) return;
    const place = order.indexOf(this.state.sample);
    this.open(order[place < 0 ? 0 : Math.min(order.length - 1, Math.max(0, place + way))]);
  }

  sort(column) {
    const now = this.state.sort;
    const down = now && now.column === column ? !now.down : numericColumn(this.run, column);
    this.state.sort = { column, down };
    this.drawTable();
    this.writeAddress();
  }

  setReady(key) {
    this.state.ready = this.state.ready === key ? "" : key;
    this.state.sort = null;
    byId("ready").querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.ready === this.state.ready)));
    this.drawTable();
    if (this.table.order.length && this.state.ready) this.open(this.table.order[0]);
    this.writeAddress();
  }

  setRanges(ranges) {
    this.state.ranges = ranges;
    this.drawFilters();
    this.drawTable();
    this.writeAddress();
  }

  setLanguage() {
    language = language === "en" ? "ko" : "en";
    this.drawAll();
  }

  pin() {
    const { pin, sample } = this.state;
    this.state.pin = pin === sample ? null : sample;
    this.state.beside = this.state.pin === null ? "" : "pin";
    this.drawSample();
  }

  setBeside(value) {
    this.state.beside = value;
    this.drawSample();
  }

  async addRun(name, html) {
    const texts = textsOfPage(html);
    try {
      if (!texts) throw new Error("no run in it");
      const second = await Run.read(texts[0]);
      await second.readPlanes(texts[1]);
      this.runs[1] = second;
      this.tell(say("second_open", { about: second.about() }));
      this.setBeside("run");
    } catch (error) {
      this.tell(`${say("second_bad", { name })} (${error.message})`);
    }
  }

  tell(text) {
    byId("message").textContent = text;
  }

  take(files) {
    const pages = [...files].filter((file) => /\.html?$/i.test(file.name));
    for (const page of pages.slice(0, 1)) page.text().then((html) => this.addRun(page.name, html));
    this.film.take([...files].filter((file) => !pages.includes(file)));
    this.film.show(String(this.run.cell("vid", this.state.sample) ?? ""), this.state.cursor);
  }

  parts() {
    const other = this.other();
    const title = (run, sample) => nameOf(run, sample).join(" · ");
    const parts = [{ run: this.run, sample: this.state.sample, title: title(this.run, this.state.sample) }];
    if (other) parts.push({ ...other, title: title(other.run, other.sample) });
    return parts;
  }

  exportName() {
    return `gates_${this.parts().map(({ run, sample }) => run.keys[sample]).join("_and_")}`;
  }

  exportCsv() {
    const chosen = this.table.order.filter((i) => this.table.selected.has(i));
    const more = [...this.table.selected].filter((i) => !this.table.order.includes(i));
    const samples = chosen.length + more.length ? [...chosen, ...more] : this.table.order;
    save(new Blob([csvOf(this.run, samples)], { type: "text/csv" }), "samples_selected.csv");
  }

  exportSvg() {
    saveSvg(this.parts(), this.state.cursor, this.exportName());
  }

  exportPng() {
    savePng(this.parts(), this.state.cursor, this.exportName());
  }

  stepCursor(way) {
    const { clip } = this.strips[0];
    const now = this.strips[0].clipAt(this.state.cursor);
    this.moveCursor(Math.max(0, now + way) * clip);
  }

  listen() {
    const on = (id, type, action) => byId(id).addEventListener(type, action);
    on("language", "click", () => this.setLanguage());
    on("show-keys", "click", () => byId("key-list").showModal());
    on("previous", "click", () => this.step(-1));
    on("next", "click", () => this.step(1));
    on("pin", "click", () => this.pin());
    on("beside", "change", (event) => this.setBeside(event.target.value));
    on("export-csv", "click", () => this.exportCsv());
    on("export-svg", "click", () => this.exportSvg());
    on("export-png", "click", () => this.exportPng());
    on("second-run", "change", (event) => this.take(event.target.files));
    on("folder", "change", (event) => this.take(event.target.files));
    on("relative", "change", (event) => {
      if (!this.film.lookIn(event.target.value.trim())) byId("video-state").textContent = say("video_path");
      else this.film.show(String(this.run.cell("vid", this.state.sample) ?? ""), this.state.cursor);
    });
    on("search", "input", (event) => {
      this.state.text = event.target.value;
      this.drawTable();
      this.writeAddress();
    });
    on("range", "submit", (event) => {
      event.preventDefault();
      const number = (id) => (byId(id).value === "" ? null : Number(byId(id).value));
      this.setRanges([...this.state.ranges, { column: byId("range-column").value, low: number("range-low"), high: number("range-high") }]);
    });
    const pointer = (event) => {
      const box = byId("strips").getBoundingClientRect();
      const [{ left, right, end }] = this.strips;
      this.moveCursor((end * (event.clientX - box.left - left)) / (right - left));
    };
    for (const id of ["strips", "other-strips"]) {
      on(id, "pointermove", (event) => (event.pointerType === "mouse" && (!event.buttons || event.buttons === 1) ? pointer(event) : null));
      on(id, "pointerdown", pointer);
    }
    on("strips", "keydown", (event) => this.stripKey(event));
    document.addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      this.take(event.dataTransfer.files);
    });
    addEventListener("hashchange", () => {
      if (location.hash === this.written) return;
      this.state = readAddress(this.run);
      this.drawAll();
    });
    for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", () => this.drawSample());
    let width = 0;
    new ResizeObserver(([entry]) => {
      if (Math.abs(entry.contentRect.width - width) < 1) return;
      width = entry.contentRect.width;
      requestAnimationFrame(() => this.drawSample());
    }).observe(byId("strips"));
  }

  stripKey(event) {
    if (event.isComposing || event.ctrlKey || event.altKey || event.metaKey) return;
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5 };
    if (event.code in steps) this.stepCursor(steps[event.code] * (event.shiftKey ? 5 : 1));
    else if (event.code === "Home") this.moveCursor(0);
    else if (event.code === "End") this.moveCursor(this.strips[0].end);
    else return;
    event.preventDefault();
  }

  /** One key, by its place on the keyboard: with a Korean input method `event.key` would be another letter. */
  key(event) {
    const field = event.target.closest?.("input, select, textarea, [contenteditable]");
    const typing = field && field.type !== "checkbox" && field.type !== "file";
    if (event.isComposing || typing || event.ctrlKey || event.altKey || event.metaKey || byId("key-list").open || !byId("keys-on").checked) return;
    const far = event.shiftKey ? 5 : 1;
    const actions = {
      KeyJ: () => this.step(1),
      KeyK: () => this.step(-1),
      Comma: () => this.stepCursor(-far),
      Period: () => this.stepCursor(far),
      KeyG: () => this.table.focusCell(),
      KeyF: () => byId("search").focus(),
      KeyT: () => byId("strips").focus(),
      KeyC: () => this.pin(),
      KeyR: () => this.setBeside(this.state.beside === "run" ? "" : "run"),
      KeyV: () => this.film.toggle(),
      KeyE: () => this.exportCsv(),
      KeyS: () => this.exportSvg(),
      KeyP: () => this.exportPng(),
      KeyL: () => this.setLanguage(),
      Slash: () => event.shiftKey && byId("key-list").showModal(),
    };
    if (!(event.code in actions)) return;
    event.preventDefault();
    actions[event.code]();
  }
}

/** Id and video of a sample, at a length that fits a line. */
function nameOf(run, sample) {
  return ["id", "vid"].map((name) => brief(run.cell(name, sample), 120)).filter(Boolean);
}

function factsLine(run, sample) {
  const { n_clips, clip_length_s, oddities } = run.facts.samples[sample];
  const numbers = ["ap", "best_iou", ...[...run.columns.keys()].filter((n) => n.startsWith("audio_effect_AP_") || n === "audio_share")];
  const values = numbers.filter((n) => typeof run.cell(n, sample) === "number").map((n) => `${columnLabel(n)} ${tableNumber(run.cell(n, sample))}`);
  return [...nameOf(run, sample), say("clips", { n: n_clips, s: clip_length_s }), ...values, ...(run.cell("timeline_complete", sample) === 0 ? [say("incomplete")] : []), ...oddities.map((odd) => say(`odd_${odd}`))].join(" · ");
}

function otherTitle({ run, sample }, first) {
  const parts = [...nameOf(run, sample).slice(0, 1), brief(run.cell("query", sample), 300)].filter(Boolean);
  return run === first ? parts.join(" · ") : `${say("second_open", { about: run.about() })} · ${parts.join(" · ")}`;
}
