// The table of samples: a grid as the ARIA pattern has it, of which only the rows in sight are there.

const ROW_HEIGHT = 28;
const ROWS_AROUND = 6;

class Table {
  /** `on` = {open(sample), sort(column), select(samples)}. */
  constructor(on) {
    this.on = on;
    this.grid = document.getElementById("grid");
    this.head = document.getElementById("grid-head");
    this.body = document.getElementById("grid-body");
    this.rows = new Map();
    this.order = [];
    this.selected = new Set();
    this.focus = { row: -1, column: 1 }; // row -1 is the head
    this.grid.addEventListener("scroll", () => requestAnimationFrame(() => this.draw()));
    new ResizeObserver(() => this.draw()).observe(this.grid);
    this.grid.addEventListener("keydown", (event) => this.key(event));
    this.grid.addEventListener("click", (event) => this.click(event));
    this.grid.addEventListener("focusin", (event) => {
      const place = this.placeOf(event.target);
      if (place) this.moveFocus(place.row, place.column, false);
    });
  }

  show(run, columns, order, sort, current) {
    const had = this.grid.contains(document.activeElement);
    if (run !== this.run || String(columns) !== String(this.columns)) this.focus.column = Math.min(this.focus.column, columns.length);
    Object.assign(this, { run, columns, order, sort, current });
    this.numeric = columns.map((name) => numericColumn(run, name));
    const widths = columns.map((name, i) => (name === "query" ? 240 : name === "id" ? 84 : this.numeric[i] ? 100 : 130));
    this.template = `38px ${columns.map((name, i) => (name === "query" ? `minmax(${widths[i]}px, 1fr)` : `${widths[i]}px`)).join(" ")}`;
    this.width = widths.reduce((sum, width) => sum + width, 38);
    this.grid.setAttribute("aria-rowcount", String(order.length + 1));
    this.grid.setAttribute("aria-colcount", String(columns.length + 1));
    this.body.style.height = `${order.length * ROW_HEIGHT}px`;
    for (const part of [this.head, this.body]) part.style.minWidth = `${this.width}px`;
    if (this.focus.row >= order.length) this.focus.row = order.length - 1;
    this.drawHead();
    this.rows.forEach((row) => row.remove());
    this.rows.clear();
    this.draw();
    if (had) this.focusCell();
  }

  drawHead() {
    const row = this.newRow(0);
    const all = this.order.length > 0 && this.order.every((i) => this.selected.has(i));
    row.append(this.newCell("columnheader", all ? "☑" : "☐", -1, 0));
    row.firstChild.setAttribute("aria-label", say("select"));
    this.columns.forEach((name, i) => {
      const cell = this.newCell("columnheader", columnLabel(name), -1, i + 1);
      cell.title = name;
      if (this.numeric[i]) cell.classList.add("number");
      const mine = this.sort && this.sort.column === name;
      cell.setAttribute("aria-sort", mine ? (this.sort.down ? "descending" : "ascending") : "none");
      row.append(cell);
    });
    this.head.replaceChildren(row);
  }

  newRow(index) {
    const row = document.createElement("div");
    row.className = "row";
    row.setAttribute("role", "row");
    row.setAttribute("aria-rowindex", String(index + 1));
    row.style.gridTemplateColumns = this.template;
    row.style.width = "100%";
    return row;
  }

  newCell(role, text, row, column) {
    const cell = document.createElement("div");
    cell.className = "cell";
    cell.setAttribute("role", role);
    cell.setAttribute("aria-colindex", String(column + 1));
    cell.tabIndex = row === this.focus.row && column === this.focus.column ? 0 : -1;
    cell.dataset.row = row;
    cell.dataset.column = column;
    cell.textContent = text;
    return cell;
  }

  /** Put the rows in sight into the page, and keep the one that has the focus. */
  draw() {
    if (!this.run) return;
    const height = this.grid.clientHeight || 400;
    const first = Math.max(0, Math.floor(this.grid.scrollTop / ROW_HEIGHT) - ROWS_AROUND);
    const last = Math.min(this.order.length, Math.ceil((this.grid.scrollTop + height) / ROW_HEIGHT) + ROWS_AROUND);
    const wanted = (index) => (index >= first && index < last) || index === this.focus.row;
    for (const [index, row] of this.rows) {
      if (!wanted(index)) {
        row.remove();
        this.rows.delete(index);
      }
    }
    for (let index = first; index < last; index++) this.drawRow(index);
    if (this.focus.row >= 0) this.drawRow(this.focus.row);
  }

  drawRow(index) {
    if (this.rows.has(index)) return;
    const sample = this.order[index];
    const row = this.newRow(index + 1);
    row.style.transform = `translateY(${index * ROW_HEIGHT}px)`;
    const chosen = this.selected.has(sample);
    row.setAttribute("aria-selected", String(chosen));
    row.append(this.newCell("gridcell", chosen ? "☑" : "☐", index, 0));
    this.columns.forEach((name, i) => {
      const value = this.run.cell(name, sample);
      const text = value === null ? "" : typeof value === "number" ? tableNumber(value) : String(value).slice(0, 300);
      const cell = this.newCell("gridcell", text, index, i + 1);
      if (this.numeric[i]) cell.classList.add("number");
      row.append(cell);
    });
    if (sample === this.current) this.markCurrent(row, true);
    this.body.append(row);
    this.rows.set(index, row);
  }

  markCurrent(row, yes) {
    row.classList.toggle("current", yes);
    if (yes) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }

  /** Show which sample is open, and bring its row into sight. */
  setCurrent(sample) {
    this.current = sample;
    for (const [index, row] of this.rows) this.markCurrent(row, this.order[index] === sample);
    const index = this.order.indexOf(sample);
    if (index < 0) return;
    if (!this.grid.contains(document.activeElement)) this.moveFocus(index, this.focus.column, false);
    this.bringIntoSight(index);
  }

  bringIntoSight(index) {
    const top = index * ROW_HEIGHT;
    const room = this.grid.clientHeight - this.head.offsetHeight - ROW_HEIGHT;
    if (top < this.grid.scrollTop) this.grid.scrollTop = top;
    else if (top > this.grid.scrollTop + room) this.grid.scrollTop = top - room;
    this.draw();
  }

  cellAt(row, column) {
    const line = row < 0 ? this.head.firstChild : this.rows.get(row);
    return line ? line.children[column] : null;
  }

  placeOf(target) {
    const cell = target.closest("[data-column]");
    return cell ? { row: Number(cell.dataset.row), column: Number(cell.dataset.column) } : null;
  }

  moveFocus(row, column, take = true) {
    const before = this.cellAt(this.focus.row, this.focus.column);
    if (before) before.tabIndex = -1;
    this.focus = { row: Math.max(-1, Math.min(this.order.length - 1, row)), column: Math.max(0, Math.min(this.columns.length, column)) };
    if (this.focus.row >= 0 && take) this.bringIntoSight(this.focus.row);
    else this.draw();
    const cell = this.cellAt(this.focus.row, this.focus.column);
    if (cell) cell.tabIndex = 0;
    if (take) this.focusCell();
  }

  focusCell() {
    if (this.focus.row >= 0) this.drawRow(this.focus.row);
    const cell = this.cellAt(this.focus.row, this.focus.column);
    if (cell) {
      cell.tabIndex = 0;
      cell.focus({ preventScroll: this.focus.row >= 0 });
    }
  }

  key(event) {
    if (event.isComposing || event.ctrlKey && !["Home", "End"].includes(event.code) || event.altKey || event.metaKey) return;
    const { row, column } = this.focus;
    const page = Math.max(1, Math.floor(this.grid.clientHeight / ROW_HEIGHT) - 2);
    const moves = {
      ArrowDown: [row + 1, column],
      ArrowUp: [row - 1, column],
      ArrowRight: [row, column + 1],
      ArrowLeft: [row, column - 1],
      PageDown: [row + page, column],
      PageUp: [Math.max(0, row - page), column],
      Home: [event.ctrlKey ? 0 : row, 0],
      End: [event.ctrlKey ? this.order.length - 1 : row, this.columns.length],
    };
    if (moves[event.code]) this.moveFocus(...moves[event.code]);
    else if (event.code === "Enter" || event.code === "NumpadEnter") this.act(row, column);
    else if (event.code === "Space") this.toggle(row);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  click(event) {
    const place = this.placeOf(event.target);
    if (!place) return;
    this.moveFocus(place.row, place.column);
    if (place.column === 0) this.toggle(place.row);
    else this.act(place.row, place.column);
  }

  act(row, column) {
    if (row >= 0) this.on.open(this.order[row]);
    else if (column > 0) this.on.sort(this.columns[column - 1]);
    else this.toggle(-1);
  }

  toggle(row) {
    const samples = row < 0 ? this.order : [this.order[row]];
    const all = samples.every((i) => this.selected.has(i));
    for (const sample of samples) all ? this.selected.delete(sample) : this.selected.add(sample);
    this.show(this.run, this.columns, this.order, this.sort, this.current);
    this.on.select(this.selected);
  }
}

/** A number as it fits a cell; the exact value is in the export and beside the strips. */
function tableNumber(value) {
  return Number.isInteger(value) ? String(value).replace("-", "−") : shown(value, Math.abs(value) >= 100 ? 1 : 3);
}
