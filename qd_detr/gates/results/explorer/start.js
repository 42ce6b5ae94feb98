// The page begins: the table as soon as the facts are read, the strips when the planes are.

async function start() {
  const text = (run, part) => byId(`run${run}-${part}`).textContent;
  try {
    const run = await Run.read(text(0, "facts"));
    language = run.facts.lang;
    const explorer = new Explorer(run);
    explorer.tell(say("loading"));
    performance.mark("table");
    await run.readPlanes(text(0, "planes"));
    explorer.tell("");
    explorer.drawSample();
    performance.mark("sample");
    if (byId("run1-facts")) {
      const second = await Run.read(text(1, "facts"));
      await second.readPlanes(text(1, "planes"));
      explorer.runs[1] = second;
      if (!explorer.state.beside) explorer.state.beside = "run";
      explorer.drawSample();
    }
    window.explorer = explorer;
    document.documentElement.dataset.ready = "yes";
  } catch (error) {
    byId("message").textContent = say("broken", { why: error.message });
    throw error;
  }
}

start();
