// The address: #s=5364&sort=ap:desc&q=dog&... opens the page as it is now.

/** The state of the page out of its address; what does not fit this run is left out. Sets the language too. */
function readAddress(run) {
  const given = new URLSearchParams(location.hash.slice(1));
  const known = (name) => run.columns.has(name);
  const number = (text) => (!text || Number.isNaN(Number(text)) ? null : Number(text));
  language = given.get("lang") in TEXTS ? given.get("lang") : run.facts.lang;
  const [column, way] = (given.get("sort") ?? "").split(":");
  const ranges = given.getAll("range").map((range) => range.split(":")).filter(([name]) => known(name));
  return {
    sample: run.place.get(given.get("s")) ?? null,
    sort: known(column) ? { column, down: way === "desc" } : null,
    text: given.get("q") ?? "",
    ready: given.get("ready") ?? "",
    ranges: ranges.map(([name, low, high]) => ({ column: name, low: number(low), high: number(high) })),
    columns: given.has("columns") ? given.get("columns").split(",").filter(known) : null,
    pin: run.place.get(given.get("pin")) ?? null,
    beside: given.get("beside") ?? "",
    cursor: Math.max(0, number(given.get("t")) ?? 0),
  };
}

function addressOf(run, { sample, sort, text, ready, ranges, columns, pin, beside, cursor }) {
  const now = new URLSearchParams();
  if (sample !== null) now.set("s", run.keys[sample]);
  if (sort) now.set("sort", `${sort.column}:${sort.down ? "desc" : "asc"}`);
  if (text) now.set("q", text);
  if (ready) now.set("ready", ready);
  for (const { column, low, high } of ranges) now.append("range", `${column}:${low ?? ""}:${high ?? ""}`);
  if (columns) now.set("columns", columns.join(","));
  if (pin !== null) now.set("pin", run.keys[pin]);
  if (beside) now.set("beside", beside);
  if (cursor) now.set("t", String(cursor));
  now.set("lang", language);
  return now;
}
