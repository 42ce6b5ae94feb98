// What is taken away: rows as CSV, strips as SVG and PNG.

const EXPORT_WIDTH = 1200;

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function csvCell(value) {
  const text = value === null ? "" : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** All columns of the samples given, as in samples.csv. */
function csvOf(run, samples) {
  const names = [...run.columns.keys()];
  const lines = [names, ...samples.map((i) => names.map((name) => run.cell(name, i)))];
  return lines.map((cells) => cells.map(csvCell).join(",") + "\n").join("");
}

/** Several strips one above the other, in the colours of paper. */
function exportPicture(parts, cursor) {
  const end = Math.max(...parts.map(({ run, sample }) => endOf(run, sample)));
  const drawn = parts.map(({ run, sample, title }) => {
    const strips = new Strips(run, sample, { width: EXPORT_WIDTH, end, colours: LIGHT, head: [title, run.cell("query", sample) || ""].filter(Boolean).map((text) => brief(text, 160)) });
    strips.setCursor(cursor);
    return strips;
  });
  const height = drawn.reduce((sum, one) => sum + one.height, 0);
  const svg = element("svg", { xmlns: SVG, width: EXPORT_WIDTH, height, viewBox: `0 0 ${EXPORT_WIDTH} ${height}` });
  let top = 0;
  for (const one of drawn) {
    one.svg.setAttribute("y", top);
    top += one.height;
    svg.append(one.svg);
  }
  return { text: new XMLSerializer().serializeToString(svg).replace(/[\0-\x08\x0b\x0c\x0e-\x1f]/g, ""), height };
}

function saveSvg(parts, cursor, name) {
  save(new Blob([exportPicture(parts, cursor).text], { type: "image/svg+xml" }), `${name}.svg`);
}

async function savePng(parts, cursor, name) {
  const { text, height } = exportPicture(parts, cursor);
  const url = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [2 * EXPORT_WIDTH, 2 * height];
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(url);
  canvas.toBlob((blob) => save(blob, `${name}.png`), "image/png");
}
