// Starts the ES module written beside this script, inside its own figure. The same few lines serve every figure.
(() => {
  const figure = document.currentScript?.closest(".ns-module");
  if (!figure || figure.nsStarted) return;
  figure.nsStarted = true;
  const stage = figure.querySelector(".ns-stage");
  const text = (name) => figure.querySelector(name).textContent;
  const url = URL.createObjectURL(new Blob([text(".ns-source")], { type: "text/javascript" }));
  const fail = (error) => {
    const note = document.createElement("p");
    note.className = "ns-error";
    note.setAttribute("role", "alert");
    note.textContent = `This figure stopped: ${error?.message ?? error}. Reload the page to start it again.`;
    figure.querySelector(".ns-stage > .ns-error[role=alert]")?.remove();
    if (!stage.childElementCount) stage.innerHTML = text("noscript"); // what a page without scripts shows
    stage.prepend(note);
  };
  addEventListener("error", (event) => event.filename === url && fail(event.error));
  addEventListener("unhandledrejection", (event) => event.reason?.stack?.includes(url) && fail(event.reason));
  // JupyterLab takes the arrow keys and Enter from any control that does not carry this attribute itself.
  figure.addEventListener("focusin", (event) => event.target.setAttribute("data-lm-suppress-shortcuts", "true"));
  stage.replaceChildren();
  import(url)
    .then(({ compute, render }) => render({ el: stage, state: JSON.parse(text(".ns-state")), compute }))
    .catch((error) => {
      stage.replaceChildren();
      fail(error);
    })
    .finally(() => URL.revokeObjectURL(url));
})();
