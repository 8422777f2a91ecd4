// Sliders over frames drawn beforehand. A figure holds the lines of its first frame and, for every frame, the lines that
// differ; a step puts those lines in and hands the browser one SVG. No library, no network.
(() => {
  "use strict";

  function start(root) {
    if (root.dataset.started) return;
    root.dataset.started = "yes";
    const { controls, start: first, base, frames } = JSON.parse(root.querySelector("script").textContent);
    const stage = root.querySelector(".ns-stage");
    const spoken = root.querySelector(".ns-alt");
    const rows = [...root.querySelectorAll(".ns-control")].map((row) => ({
      input: row.querySelector("input"),
      output: row.querySelector("output"),
      play: row.querySelector("button"),
    }));
    const shown = [...base];
    let changed = []; // lines of `shown` that are not the base's

    const picture = (frame) => {
      if (frame.whole) return frame.whole;
      for (const line of changed) shown[line] = base[line];
      changed = [];
      for (let k = 0; k < frame.lines.length; k += 2) {
        shown[frame.lines[k]] = frame.lines[k + 1];
        changed.push(frame.lines[k]);
      }
      return shown.join("\n");
    };

    const show = () => {
      const began = performance.now();
      let index = 0; // mixed radix: the last control turns fastest
      rows.forEach(({ input, output }, k) => {
        const value = Number(input.value);
        index = index * controls[k].length + value;
        output.textContent = controls[k][value];
        input.setAttribute("aria-valuetext", controls[k][value]);
      });
      stage.innerHTML = picture(frames[index]);
      stage.setAttribute("aria-label", frames[index].alt);
      spoken.textContent = frames[index].alt;
      root.dataset.frame = index;
      root.dataset.stepMs = (performance.now() - began).toFixed(2);
    };

    rows.forEach(({ input, play }, k) => {
      let timer = 0;
      const rest = () => {
        clearInterval(timer);
        timer = 0;
        play.textContent = "\u25B6";
        play.setAttribute("aria-pressed", "false");
        spoken.setAttribute("aria-live", "polite");
      };
      const tick = () => {
        const last = controls[k].length - 1;
        if (Number(input.value) >= last) return rest();
        input.value = Number(input.value) + 1;
        show();
      };
      play.addEventListener("click", () => {
        if (timer) return rest();
        if (Number(input.value) >= controls[k].length - 1) input.value = 0;
        play.textContent = "\u23F8";
        play.setAttribute("aria-pressed", "true");
        spoken.setAttribute("aria-live", "off"); // a sweep is not read aloud frame by frame
        show();
        timer = setInterval(tick, 250);
      });
      input.addEventListener("input", () => {
        if (timer) rest();
        show();
      });
      input.value = first[k]; // a reload may have kept another one
      input.disabled = false;
      play.disabled = false;
      play.hidden = controls[k].length < 3;
    });
    show();
  }

  const startAll = () => document.querySelectorAll(".ns-explore").forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
