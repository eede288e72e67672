// Paper is white and has nothing to click: a page is printed in its light colours, whatever the screen shows, and with
// its folded tables open.
(() => {
  const page = document.documentElement;
  let shown, folds;
  addEventListener("beforeprint", () => {
    shown = page.dataset.theme;
    page.dataset.theme = "light";
    folds = document.querySelectorAll("details.lab-fold:not([open])");
    for (const fold of folds) fold.open = true;
  });
  addEventListener("afterprint", () => {
    page.dataset.theme = shown;
    for (const fold of folds) fold.open = false;
  });
})();

// On a narrow screen the list of contents lies over the page; it goes when a section is chosen.
addEventListener("DOMContentLoaded", () => {
  const contents = document.querySelector("#pst-secondary-sidebar-modal");
  contents?.addEventListener("click", (event) => {
    if (event.target.closest('a[href^="#"]')) contents.close();
  });
});

// Every figure opens larger: a button below it shows a copy in a dialog, which Escape or a click closes.
addEventListener("DOMContentLoaded", () => {
  for (const row of document.querySelectorAll(".bd-content .lab-row")) {
    if (row.parentElement.closest(".lab-row, [data-explorer]") || row.querySelector("table, [role=table]")) continue;
    if (!row.querySelector("svg, img, canvas")) continue;
    const button = Object.assign(document.createElement("button"), {
      type: "button",
      className: "lab-enlarge",
      textContent: "Enlarge",
    });
    const shown = row.querySelector("[aria-label]")?.getAttribute("aria-label") ?? "the figure";
    button.setAttribute("aria-label", `Enlarge: ${shown.slice(0, 80)}`);
    button.addEventListener("click", () => {
      const dialog = document.createElement("dialog");
      dialog.className = "lab-zoom";
      dialog.setAttribute("aria-label", "The figure, enlarged");
      const close = Object.assign(document.createElement("button"), {
        type: "button",
        className: "lab-enlarge",
        textContent: "Close",
      });
      dialog.append(close, row.cloneNode(true));
      dialog.addEventListener("click", () => dialog.close());
      dialog.addEventListener("close", () => {
        dialog.remove();
        button.focus();
      });
      document.body.append(dialog);
      dialog.showModal();
    });
    row.after(button);
  }
});

// The name of an exercise in the title of its solution is text: a tap on the title opens the solution.
addEventListener("DOMContentLoaded", () => {
  for (const link of document.querySelectorAll(".solution.dropdown > .admonition-title a")) link.replaceWith(...link.childNodes);
});

// What a cell printed wraps where it is prose; where it has columns it keeps them, and scrolls by itself.
addEventListener("DOMContentLoaded", () => {
  for (const printed of document.querySelectorAll(".bd-article div.output[class*=highlight-] pre")) {
    const columns = printed.textContent.split("\n").filter((line) => /\S {2,}\S/.test(line)).length;
    if (columns < 2) printed.classList.add("lab-prose");
    else printed.tabIndex = 0;
  }
});

// A line of code that is too long for its column goes on four letters to the right of where it began. The text that is
// copied stays the same, letter by letter.
addEventListener("DOMContentLoaded", () => {
  for (const code of document.querySelectorAll(".bd-article div[class*=highlight-]:not(.output) > .highlight pre")) {
    const lines = [[]];
    for (const node of [...code.childNodes]) {
      node.textContent.split(/(?<=\n)/).forEach((text, i) => {
        if (i) lines.push([]);
        const part = node.cloneNode(false);
        part.textContent = text;
        lines.at(-1).push(part);
      });
      if (node.textContent.endsWith("\n")) lines.push([]);
    }
    code.replaceChildren(
      ...lines.filter((line) => line.length).map((line) => {
        const whole = Object.assign(document.createElement("span"), { className: "lab-code-line" });
        whole.append(...line);
        whole.style.setProperty("--indent", whole.textContent.search(/\S|$/) + 4);
        return whole;
      }),
    );
  }
});

// A table, formula or printed text that is wider than its column fades at the right while there is more to scroll to.
addEventListener("DOMContentLoaded", () => {
  const mark = (wide) => {
    const left = wide.scrollWidth - wide.clientWidth - wide.scrollLeft; // to scroll to, in pixels
    wide.classList.toggle("lab-goes-on", left > 4);
    wide.style.setProperty("--lab-fade", `${Math.min(left, 48)}px`);
    if (left > 4 && wide.matches("table")) wide.tabIndex = 0; // the arrow keys scroll what has the focus
  };
  const sizes = new ResizeObserver((entries) => entries.forEach((entry) => mark(entry.target)));
  const watch = (selector) => {
    for (const wide of document.querySelectorAll(`.bd-article :is(${selector})`)) {
      sizes.observe(wide);
      wide.addEventListener("scroll", () => mark(wide), { passive: true });
    }
  };
  watch("table, div.math, div.output pre");
  addEventListener("load", () => window.MathJax?.startup?.promise?.then(() => watch("mjx-container[display]")));
});
