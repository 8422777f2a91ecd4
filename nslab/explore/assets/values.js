// Numbers in the prose of a notebook. JupyterLab does not know the role {val} and shows what it asks for, "gain:.3f",
// in a span of its own; here the span gets the number. The built page has its numbers, and no notebook around them.
(() => {
  const output = document.currentScript?.closest(".ns-values");
  const notebook = output?.closest(".jp-Notebook");
  if (!notebook) return;
  const numbers = (notebook.nsNumbers ??= new Map()); // each notebook has its own names
  const published = JSON.parse(output.querySelector("script").textContent);
  for (const [asked, text] of Object.entries(published)) numbers.set(asked, text);

  const fill = () => {
    for (const span of notebook.querySelectorAll(".myst span:not([class])")) {
      if (span.childElementCount) continue;
      const asked = span.textContent === span.nsText ? span.nsAsked : span.textContent; // filled before?
      const text = numbers.get(asked);
      if (text === undefined || text === span.textContent) continue;
      span.nsAsked = asked;
      span.textContent = span.nsText = text;
    }
  };
  fill();
  notebook.nsObserver?.disconnect();
  notebook.nsObserver = new MutationObserver(fill); // text is shown again after an edit, or when it is scrolled to
  notebook.nsObserver.observe(notebook, { childList: true, characterData: true, subtree: true });
})();
