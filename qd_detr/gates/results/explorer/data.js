// A run out of the page's own text: base64 of deflate, once a JSON of facts, once the planes of float16.

/** Every float16 by its 16 bits. */
const HALVES = (() => {
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 0) table[bits] = sign * fraction * 2 ** -24;
    else if (exponent === 31) table[bits] = fraction ? NaN : sign * Infinity;
    else table[bits] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  return table;
})();

async function inflated(base64) {
  const text = base64.trim();
  let bytes;
  if (Uint8Array.fromBase64) bytes = Uint8Array.fromBase64(text);
  else {
    const plain = atob(text);
    bytes = new Uint8Array(plain.length);
    for (let i = 0; i < plain.length; i++) bytes[i] = plain.charCodeAt(i);
  }
  const stream = new Response(bytes).body.pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** One run: its facts, its table by columns, and after `readPlanes` the series of every sample. */
class Run {
  constructor(facts) {
    this.facts = facts;
    this.columns = new Map(facts.columns.map((column) => [column.name, column.values]));
    this.keys = this.columns.get("file_name");
    this.place = new Map(this.keys.map((key, i) => [key, i]));
    this.size = this.keys.length;
    this.starts = [];
    let start = 0;
    for (const sample of facts.samples) {
      this.starts.push(start);
      start += sample.n_clips * facts.series.length;
    }
    this.values = start;
    this.bytes = null;
    // What is searched, once: lower case, in the form that a keyboard gives.
    const searched = ["id", "vid", "query"].map((name) => this.columns.get(name));
    this.haystack = this.keys.map((_, i) => searched.map((c) => String(c[i] ?? "")).join("\n").normalize("NFC").toLowerCase());
  }

  static async read(base64) {
    return new Run(JSON.parse(new TextDecoder().decode(await inflated(base64))));
  }

  async readPlanes(base64) {
    const bytes = await inflated(base64);
    if (bytes.length !== 2 * this.values) throw new Error(`${bytes.length} bytes of ${2 * this.values}`);
    this.bytes = bytes;
  }

  /** One series of a sample, a value per clip; low bytes and high bytes lie apart, which deflates better. */
  series(sample, index) {
    const n = this.facts.samples[sample].n_clips;
    const start = this.starts[sample] + index * n;
    const values = new Float32Array(n);
    for (let i = 0; i < n; i++) values[i] = HALVES[this.bytes[start + i] | (this.bytes[this.values + start + i] << 8)];
    return values;
  }

  /** Places of a named series' layers, in their order. */
  layersOf(name) {
    return this.facts.series.map((one, index) => ({ ...one, index })).filter((one) => one.name === name);
  }

  cell(name, sample) {
    const column = this.columns.get(name);
    return column ? column[sample] : null;
  }

  about() {
    const facts = this.facts.about;
    const values = { ...facts, n: this.size.toLocaleString("en") };
    return say(facts.model ? "about" : "about_gates", values);
  }
}

/** The two texts of a run in an explorer.html, without running or building anything of it; null if it is none. */
function textsOfPage(html, run = 0) {
  const found = ["facts", "planes"].map((part) => {
    const open = `<script type="text/plain" id="run${run}-${part}">`;
    const start = html.indexOf(open);
    const end = html.indexOf("<", start + open.length);
    return start < 0 || end < 0 ? null : html.slice(start + open.length, end);
  });
  return found.includes(null) ? null : found;
}
