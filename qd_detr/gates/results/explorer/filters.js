// Which samples are shown, in which order: plain functions of a run and a state.

/** Small amounts of change are rounding of the metric, no change. */
const NO_CHANGE = 1e-9;

function numericColumn(run, name) {
  return run.columns.get(name).some((v) => typeof v === "number") && run.columns.get(name).every((v) => v === null || typeof v === "number");
}

/** How a column of samples.csv is called in the table's head. */
function columnLabel(name) {
  const injection = /^layer(\d+)_attention_injection_mean$/.exec(name);
  if (injection) return say("injection_of", { layer: injection[1] });
  const effect = /^audio_effect_(.+)_(gates_off|silence)$/.exec(name);
  if (effect) return say("effect_of", { score: effect[1].replaceAll("_", " "), way: say(`short_${effect[2]}`) });
  const iou = /^first_window_iou_(gates_off|silence)$/.exec(name);
  if (iou) return say("first_iou", { way: say(`short_${iou[1]}`) });
  return { duration_s: say("length"), sound_words: say("words"), moment_length_s: say("moment_length"), audio_share: say("audio_share"), timeline_share_inside: say("inside"), ap: "AP", best_iou: "best IoU" }[name] ?? name;
}

/** The columns a newcomer sees; every other one is a tick away. */
function firstColumns(run) {
  const wanted = ["id", "query", "ap", "best_iou"];
  const names = [...run.columns.keys()];
  wanted.push(...names.filter((n) => /^audio_effect_AP_/.test(n)));
  wanted.push(...names.filter((n) => n === "audio_share" || n === "timeline_share_inside"));
  wanted.push(...names.filter((n) => /^layer\d+_attention_injection_mean$/.test(n)));
  if (!names.some((n) => n.endsWith("attention_injection_mean"))) wanted.push(...names.filter((n) => /^layer\d+_attention_abs_mean$/.test(n)));
  wanted.push("duration_s", "moment_length_s", "sound_words");
  return wanted.filter((n) => run.columns.has(n));
}

/** Mean over layers of the attention gates' injection, null where it was not measured. */
function injectionOf(run, sample) {
  const values = [...run.columns.keys()].filter((n) => /^layer\d+_attention_injection_mean$/.test(n)).map((n) => run.cell(n, sample));
  return values.length && !values.includes(null) ? values.reduce((a, b) => a + b, 0) / values.length : null;
}

/** The ready filters that this run has the columns for: {key: {about, keep(i), by(i), down}}. */
function readyFilters(run) {
  const found = {};
  const way = ["gates_off", "silence"].find((w) => run.columns.has(`audio_effect_AP_${w}`));
  if (way) {
    const effect = (i) => run.cell(`audio_effect_AP_${way}`, i);
    found.rescued = { about: say("rescued_about", { way: say(way) }), keep: (i) => effect(i) > NO_CHANGE, by: effect, down: true };
    found.harmed = { about: say("harmed_about", { way: say(way) }), keep: (i) => effect(i) !== null && effect(i) < -NO_CHANGE, by: effect, down: false };
  }
  const failing = run.columns.has("r1_iou") ? "r1_iou" : run.columns.has("ap") ? "ap" : null;
  if (failing) {
    const keep = (i) => run.cell(failing, i) !== null && run.cell(failing, i) < 0.5;
    found.fails = { about: say(failing === "ap" ? "fails_ap_about" : "fails_about"), keep, by: (i) => run.cell("ap", i), down: false };
  }
  const share = run.columns.has("audio_share");
  const audio = share ? (i) => run.cell("audio_share", i) : (i) => injectionOf(run, i);
  if (run.keys.some((_, i) => audio(i) !== null)) {
    const about = say(share ? "by_share" : "by_injection");
    found.most_audio = { about, keep: (i) => audio(i) !== null, by: audio, down: true };
    found.least_audio = { about, keep: (i) => audio(i) !== null, by: audio, down: false };
  }
  const odd = (i) => run.facts.samples[i].oddities.length > 0;
  if (run.keys.some((_, i) => odd(i))) found.odd = { about: say("odd_about"), keep: odd, by: null, down: false };
  return found;
}

/** Places of the samples that pass, in the order asked for; empty cells come last either way. */
function ordered(run, state) {
  const needle = state.text.normalize("NFC").toLowerCase().trim();
  const ready = readyFilters(run)[state.ready];
  const order = [];
  for (let i = 0; i < run.size; i++) {
    if (needle && !run.haystack[i].includes(needle)) continue;
    if (ready && !ready.keep(i)) continue;
    const inside = ({ column, low, high }) => {
      const value = run.cell(column, i);
      return typeof value === "number" && (low === null || value >= low) && (high === null || value <= high);
    };
    if (state.ranges.every(inside)) order.push(i);
  }
  const by = state.sort ? (i) => run.cell(state.sort.column, i) : ready && ready.by;
  if (!by) return order;
  const turn = (state.sort ? state.sort.down : ready.down) ? -1 : 1;
  const collator = new Intl.Collator("en", { numeric: true });
  const compare = (a, b) => {
    const [x, y] = [by(a), by(b)];
    const [noX, noY] = [x === null || x === "", y === null || y === ""];
    if (noX || noY) return noX - noY || a - b;
    const way = typeof x === "number" && typeof y === "number" ? x - y : collator.compare(x, y);
    return turn * way || a - b;
  };
  return order.sort(compare);
}
