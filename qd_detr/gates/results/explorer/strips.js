// One sample over time, as an SVG: what is drawn is a function of run, sample, width and colours.

const SVG = "http://www.w3.org/2000/svg";
const FONT = "system-ui, 'Noto Sans', 'Noto Sans KR', NanumGothic, sans-serif";
// As in the figures: Okabe-Ito green and a violet, viridis by layer; on dark paper the lighter ends of the same.
const LIGHT = { paper: "#ffffff", ink: "#1d1d1f", soft: "#55555c", line: "#d4d4d0", truth: "#009e73", shade: "#e3f3ee", guess: "#5a3d8a", cursor: "#c0143c", layers: [0, 0.78] };
const DARK = { paper: "#17171a", ink: "#ececee", soft: "#b2b2ba", line: "#3d3d44", truth: "#2bc79b", shade: "#17352d", guess: "#b49ae0", cursor: "#ff6b8b", layers: [0.42, 1] };
const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const DASHES = [null, "7 2", "2 2", "7 2 2 2", "11 3", "1 3"];
const MOST_GUESSES = 5;

function viridis(position) {
  const place = Math.min(0.9999, Math.max(0, position)) * (VIRIDIS.length - 1);
  const [a, b] = [VIRIDIS[Math.floor(place)], VIRIDIS[Math.floor(place) + 1]];
  const part = (hex, k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16);
  const mixed = [0, 1, 2].map((k) => Math.round(part(a, k) + (place % 1) * (part(b, k) - part(a, k))));
  return `#${mixed.map((v) => v.toString(16).padStart(2, "0")).join("")}`;
}

function layerColour(colours, layer, layers) {
  const [low, high] = colours.layers;
  return viridis(layers < 2 ? low : low + ((high - low) * layer) / (layers - 1));
}

function element(name, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

function windowText([start, end]) {
  return say("window", { start: shown(start, start % 1 ? 2 : 0), end: shown(end, end % 1 ? 2 : 0) });
}

/** What is drawn of a sample, as plain objects {title, note, rows | lines, low, high}. */
function panelsOf(run, sample) {
  const facts = run.facts.samples[sample];
  const panels = [];
  const moments = [];
  if (facts.windows) moments.push({ label: say("annotated"), windows: facts.windows, truth: true, text: facts.windows.length > 1 ? `n = ${facts.windows.length}` : facts.windows.length ? windowText(facts.windows[0]) : say("no_window") });
  (facts.predicted ?? []).slice(0, MOST_GUESSES).forEach((window, i) => {
    const text = `${windowText(window)} · ${shown(window[2], 2)}`;
    moments.push({ label: i ? String(i + 1) : `${say("predicted")} 1`, windows: [window], weight: window[2], text });
  });
  if (moments.length) panels.push({ title: say("moments"), note: "", rows: moments });
  const conditions = run.facts.conditions.map(({ name, same_as, first }) => {
    const window = first[sample];
    return {
      label: conditionWords(run.facts, name),
      windows: window ? [window] : [],
      weight: window ? window[2] : 0,
      text: window ? `${windowText(window)} · ${shown(window[2], 2)}` : say("no_window"),
      hint: same_as ? say("same_as", { name: conditionWords(run.facts, same_as) }) : "",
    };
  });
  if (run.bytes) panels.push(...seriesPanels(run, sample));
  if (conditions.length) panels.push({ title: say("conditions"), note: "", rows: conditions });
  return panels;
}

function seriesPanels(run, sample) {
  const series = run.facts.series;
  const panels = [];
  const saliency = ["annotated_saliency", "predicted_saliency"].flatMap((name) => run.layersOf(name));
  const lines = saliency.map((one) => {
    const values = run.series(sample, one.index);
    const guess = one.name === "predicted_saliency";
    const finite = values.filter(Number.isFinite);
    const [low, high] = guess ? [Math.min(...finite), Math.max(...finite)] : [0, run.facts.saliency_top];
    return { label: say(guess ? "predicted" : "annotated"), values, guess, truth: !guess, low, high: high > low ? high : low + 1 };
  }).filter((line) => line.values.some(Number.isFinite));
  if (lines.length) panels.push({ title: say("saliency"), note: say("saliency_note", { top: run.facts.saliency_top }), lines, ...(lines.find((l) => l.guess) ?? lines[0]) });
  const names = [...new Set(series.map((one) => one.name))].filter((name) => !name.endsWith("_saliency"));
  for (const name of names) {
    const layers = run.layersOf(name);
    const values = layers.map((one) => run.series(sample, one.index));
    const drawn = layers.map((one, i) => ({ layer: one.layer, of: run.facts.about.layers, label: say("layer", { layer: one.layer }), values: values[i] }));
    let [low, high] = [0, run.facts.tops[name] ?? 1];
    if (name.endsWith("_gate")) [low, high] = [-run.facts.gate_limit, run.facts.gate_limit];
    if (name.endsWith("_magnitude")) high = run.facts.gate_limit;
    if (name.endsWith("_open")) high = 1;
    if (name.endsWith("_contribution")) low = -high;
    const note = name.endsWith("_open") ? say("open_note", { limit: run.facts.open_from }) : TEXTS[language][`${name}_note`] ?? "";
    panels.push({ title: seriesTitle(name), note, lines: drawn, low, high });
  }
  return panels;
}

function endOf(run, sample) {
  const { n_clips, clip_length_s } = run.facts.samples[sample];
  return Math.max(n_clips * clip_length_s, run.cell("duration_s", sample) || 0);
}

function timeStep(end, most) {
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600];
  return steps.find((step) => end / step <= most) ?? end / 4;
}

/** A line of steps, one per clip; clips without a value leave a gap, infinite ones stand at the edge. */
function stepPath(values, clip, x, y) {
  let path = "";
  let open = false;
  values.forEach((value, i) => {
    if (Number.isNaN(value)) {
      open = false;
      return;
    }
    path += `${open ? "L" : "M"}${x(i * clip).toFixed(1)} ${y(value).toFixed(1)}H${x((i + 1) * clip).toFixed(1)}`;
    open = true;
  });
  return path;
}

class Strips {
  /** Draw into a new SVG. `width` in pixels; `end` of the time axis in seconds; `head`: lines of text above. */
  constructor(run, sample, { width, end, colours, head = [] }) {
    Object.assign(this, { run, sample, width, end, colours });
    this.clip = run.facts.samples[sample].clip_length_s;
    this.clips = run.facts.samples[sample].n_clips;
    this.narrow = width < 640;
    this.left = this.narrow ? 40 : 178;
    this.right = width - (this.narrow ? 10 : 168);
    this.readings = [];
    this.svg = element("svg", { xmlns: SVG, width, "font-family": FONT, "font-size": 12, role: "img" });
    this.svg.append(element("rect", { width: "100%", height: "100%", fill: colours.paper }));
    this.y = 6;
    for (const line of head) this.put(8, (this.y += 16), line, { "font-weight": 600 });
    const shades = element("g");
    this.svg.append(shades);
    this.panels = panelsOf(run, sample);
    for (const panel of this.panels) this.panel(panel, shades);
    this.axis();
    this.height = Math.ceil(this.y);
    this.svg.setAttribute("height", this.height);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
    this.svg.setAttribute("aria-label", `${brief(run.cell("id", sample), 80)}: ${this.panels.map((p) => p.title).join(", ")}`);
    this.line = element("line", { y1: 4, y2: this.height - 22, stroke: colours.cursor, "stroke-width": 1.5 });
    this.svg.append(this.line);
  }

  x(seconds) {
    return this.left + ((this.right - this.left) * seconds) / this.end;
  }

  put(x, y, text, attributes = {}) {
    const made = element("text", { x, y, fill: this.colours.ink, ...attributes }, text);
    this.svg.append(made);
    return made;
  }

  panel(panel, shades) {
    const c = this.colours;
    this.y += 20;
    const title = this.put(this.narrow ? 4 : this.left, this.y, panel.title, { "font-weight": 600 });
    if (panel.note) {
      title.append(element("tspan", { "font-weight": 400, fill: c.soft, dx: 8, "font-size": 11 }, panel.note));
    }
    this.y += 6;
    if (panel.rows) this.bars(panel.rows);
    else this.lines(panel, shades);
  }

  bars(rows) {
    const c = this.colours;
    const step = this.narrow ? 30 : 18;
    for (const row of rows) {
      const top = this.y + (this.narrow ? 15 : 3);
      this.svg.append(element("line", { x1: this.left, x2: this.right, y1: top + 12.5, y2: top + 12.5, stroke: c.line }));
      for (const [start, stop] of row.windows) {
        const [from, to] = [this.x(Math.max(0, start)), this.x(Math.min(this.end, stop))];
        const look = row.truth ? { fill: c.truth } : { fill: c.guess, "fill-opacity": (0.18 + 0.82 * Math.min(1, Math.max(0, row.weight))).toFixed(2), stroke: c.guess };
        this.svg.append(element("rect", { x: from.toFixed(1), y: top, width: Math.max(1, to - from).toFixed(1), height: 12, ...look }));
      }
      const most = this.narrow ? 30 : 27;
      const label = row.label.length > most ? `${row.label.slice(0, most - 1)}…` : row.label;
      const text = this.narrow ? this.put(4, this.y + 12, label) : this.put(this.left - 8, top + 10.5, label, { "text-anchor": "end" });
      const hint = [row.label, row.hint].filter(Boolean).join(" · ");
      text.append(element("title", {}, hint));
      const value = this.narrow ? { x: this.right, y: this.y + 12, anchor: "end" } : { x: this.right + 10, y: top + 10.5, anchor: "start" };
      this.put(value.x, value.y, row.text, { "text-anchor": value.anchor, fill: c.soft, "font-size": 11 });
      this.y += step;
    }
    this.y += 4;
  }

  lines(panel, shades) {
    const c = this.colours;
    const perLine = this.narrow ? 2 : 1;
    const legend = Math.ceil(panel.lines.length / perLine) * 16;
    if (this.narrow) this.legend(panel, 4, this.y, (this.width - 8) / 2, 2);
    if (this.narrow) this.y += legend;
    const height = Math.max(52, this.narrow ? 0 : legend + 6);
    const [top, bottom] = [this.y, this.y + height];
    for (const [start, stop] of this.run.facts.samples[this.sample].windows ?? []) {
      const [from, to] = [this.x(Math.max(0, start)), this.x(Math.min(this.end, stop))];
      shades.append(element("rect", { x: from.toFixed(1), y: top, width: Math.max(0, to - from).toFixed(1), height, fill: c.shade }));
      for (const x of [from, to]) shades.append(element("line", { x1: x, x2: x, y1: top, y2: bottom, stroke: c.truth, "stroke-dasharray": "2 2" }));
    }
    this.svg.append(element("path", { d: `M${this.left} ${top}V${bottom}H${this.right}`, fill: "none", stroke: c.soft, "stroke-width": 0.8 }));
    const scale = (low, high) => (value) => bottom - (height * (Math.min(high, Math.max(low, value)) - low)) / (high - low);
    for (const [value, y] of [[panel.high, top + 9], [panel.low, bottom]]) {
      this.put(this.left - 6, y, shown(value, Math.abs(value) >= 10 ? 1 : 2).replace(/\.?0+$/, ""), { "text-anchor": "end", fill: c.soft, "font-size": 10 });
    }
    if (panel.low < 0 && panel.high > 0) {
      const zero = scale(panel.low, panel.high)(0);
      this.svg.append(element("line", { x1: this.left, x2: this.right, y1: zero, y2: zero, stroke: c.line }));
    }
    for (const line of panel.lines) {
      const y = scale(line.low ?? panel.low, line.high ?? panel.high);
      const path = stepPath(line.values, this.clip, (s) => this.x(s), y);
      const look = this.look(line);
      if (line.truth) this.area(line.values, y, bottom);
      this.svg.append(element("path", { d: path, fill: "none", "stroke-width": 1.6, ...look }));
    }
    if (!this.narrow) this.legend(panel, this.right + 10, top, 158, 1);
    this.y = bottom + 8;
  }

  area(values, y, bottom) {
    let path = "";
    values.forEach((value, i) => {
      if (value > 0) path += `M${this.x(i * this.clip).toFixed(1)} ${bottom}V${y(value).toFixed(1)}H${this.x((i + 1) * this.clip).toFixed(1)}V${bottom}Z`;
    });
    this.svg.append(element("path", { d: path, fill: this.colours.truth, "fill-opacity": 0.35 }));
  }

  look(line) {
    const c = this.colours;
    if (line.truth) return { stroke: c.truth };
    if (line.guess) return { stroke: c.guess };
    const dash = DASHES[line.layer % DASHES.length];
    return { stroke: layerColour(c, line.layer, line.of), ...(dash ? { "stroke-dasharray": dash } : {}) };
  }

  legend(panel, left, top, width, perLine) {
    panel.lines.forEach((line, i) => {
      const x = left + (i % perLine) * width;
      const y = top + Math.floor(i / perLine) * 16 + 10;
      this.svg.append(element("line", { x1: x, x2: x + 22, y1: y - 4, y2: y - 4, "stroke-width": 2.4, ...this.look(line) }));
      this.put(x + 27, y, line.label, { "font-size": 11 });
      const text = this.put(x + Math.min(width, 158) - 6, y, "", { "font-size": 11, "text-anchor": "end", "font-weight": 600 });
      this.readings.push({ text, line, title: panel.title });
    });
  }

  axis() {
    const c = this.colours;
    const step = timeStep(this.end, this.narrow ? 6 : 10);
    this.y += 12;
    for (let t = 0; t <= this.end + 1e-9; t += step) {
      this.put(this.x(t), this.y, shown(t, step < 1 ? 1 : 0), { "text-anchor": "middle", fill: c.soft, "font-size": 11 });
      this.svg.append(element("line", { x1: this.x(t), x2: this.x(t), y1: this.y - 17, y2: this.y - 12, stroke: c.soft }));
    }
    this.put(this.narrow ? 4 : this.left - 12, this.y, this.narrow ? "" : say("time"), { "text-anchor": this.narrow ? "start" : "end", fill: c.soft, "font-size": 11 });
    this.y += 8;
  }

  clipAt(seconds) {
    return Math.min(this.clips - 1, Math.max(0, Math.floor(seconds / this.clip + 1e-6)));
  }

  /** Put the cursor, and beside every line its exact value there; return those values in words. */
  setCursor(seconds) {
    const x = this.x(Math.min(this.end, Math.max(0, seconds)));
    this.line.setAttribute("x1", x);
    this.line.setAttribute("x2", x);
    const clip = this.clipAt(seconds);
    const said = [];
    for (const { text, line, title } of this.readings) {
      const value = line.values[clip];
      text.textContent = exact(value);
      said.push(`${title}, ${line.label} ${text.textContent}`);
    }
    return said;
  }
}

/** A float16 so that no other reads the same: five significant digits. */
function exact(value) {
  if (Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const small = value !== 0 && Math.abs(value) < 1e-3;
  return (small ? value.toExponential(4) : String(Number(value.toPrecision(5)))).replaceAll("-", "−");
}
