// The run as a whole: the report's own findings and numbers.

function made(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function tableOf(caption, head, rows, foot = null) {
  const line = (cells, cell) => made("tr", {}, ...cells.map((text, i) => made(i ? cell : "th", { scope: i ? "col" : "row" }, text)));
  const table = made("table", {}, made("caption", {}, caption));
  table.append(made("thead", {}, made("tr", {}, ...head.map((text) => made("th", { scope: "col" }, text)))));
  table.append(made("tbody", {}, ...rows.map((cells) => {
    const row = line(cells, "td");
    row.querySelectorAll("td").forEach((td) => td.removeAttribute("scope"));
    return row;
  })));
  const box = made("div", { tabindex: "0", role: "group", "aria-label": caption }, table);
  if (foot) box.append(made("p", { class: "soft" }, foot));
  return box;
}

function intervalText(interval) {
  if (!interval || interval.low === null) return "";
  return say("from_to", { low: signed(interval.low), high: signed(interval.high) });
}

function changeText(entry) {
  if (!entry || !entry.change || entry.change.estimate === null) return "–";
  const range = intervalText(entry.change);
  return `${signed(entry.change.estimate)}${range ? ` (${range})` : ""}${entry.significant ? " *" : ""}`;
}

/** Bars of a histogram, each as high as its share of the largest. */
function histogramPicture({ counts, edges }, kind) {
  const [width, height] = [180, 30];
  const top = Math.max(...counts, 1);
  const [low, high] = [edges[0], edges[edges.length - 1]];
  const x = (value) => ((value - low) / (high - low || 1)) * width;
  let path = "";
  counts.forEach((count, i) => {
    if (count) path += `M${x(edges[i]).toFixed(1)} ${height}V${(height - (height * count) / top).toFixed(1)}H${x(edges[i + 1]).toFixed(1)}V${height}Z`;
  });
  const svg = element("svg", { width, height: height + 2, viewBox: `0 0 ${width} ${height + 2}`, role: "img", "aria-label": say("from_to", { low: shown(low, 2), high: shown(high, 2) }) });
  const bars = element("path", { d: path });
  bars.style.fill = kind === "attention" ? "var(--bar)" : "var(--bar-ffn)";
  const floor = element("line", { x1: 0, x2: width, y1: height + 0.5, y2: height + 0.5 });
  floor.style.stroke = "var(--soft)";
  svg.append(bars, floor);
  return svg;
}

function drawOverview(run) {
  const facts = run.facts;
  document.getElementById("findings").replaceChildren(...facts.findings[language].map((sentence) => made("li", {}, sentence)));
  const tables = [];
  if (facts.metrics.length) {
    const given = facts.metrics.some((one) => one.interval);
    const rows = facts.metrics.map((one) => [one.name, shown(one.value, 2), ...(given ? [intervalText(one.interval).replaceAll("+", "")] : [])]);
    tables.push(tableOf(say("metrics"), [say("metric"), say("value"), ...(given ? [say("interval")] : [])], rows));
  }
  if (facts.effects) {
    const { names, conditions } = facts.effects;
    const head = [say("condition"), ...names.map((metric) => say("change", { metric }))];
    const words = (name) => conditionWords(facts, name);
    const rows = conditions.map((one) => [one.same_as ? `${words(one.name)} (${say("same_as", { name: words(one.same_as) })})` : words(one.name), ...names.map((name) => changeText(one.metrics[name]))]);
    tables.push(tableOf(say("effects"), head, rows, say("stands")));
  }
  const rows = facts.gates.map((one) => [
    `${say("layer", { layer: one.layer })}, ${TEXTS[language][one.kind] ?? one.kind}`,
    histogramPicture(one.histogram, one.kind),
    shown(one.mean),
    shown(one.std),
    shown(one.median),
    say("from_to", { low: shown(one.min), high: shown(one.max) }),
  ]);
  tables.push(tableOf(say("gates"), ["gate", "histogram", "mean", "std", "median", "range_head"].map((key) => say(key)), rows));
  document.getElementById("tables").replaceChildren(...tables);
}
