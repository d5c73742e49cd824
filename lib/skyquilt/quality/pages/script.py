"""Script of the quality site (LDM-151 6.2.1): sorting, filtering and paging of tables, colours of the focal
plane, layers and sources of a detector. Pages can be read without it.
"""

SCRIPT = r"""
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const element = (name, properties, ...children) => {
    const made = Object.assign(document.createElement(name), properties || {});
    made.append(...children);
    return made;
  };
  const inlined = (id) => {
    const holder = document.getElementById(id);
    return holder ? JSON.parse(holder.textContent) : null;
  };
  const shown = (value, digits) =>
    value === null || value === undefined ? "\u2013" : digits === undefined ? String(value) : value.toFixed(digits);

  // --- tables ---------------------------------------------------------------------------------------------
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.v !== undefined ? cell.dataset.v : cell.textContent.trim();
    const number = Number(text);
    return text !== "" && !Number.isNaN(number) ? number : text;
  };
  const compare = (a, b) => {
    // what is missing comes last in either order
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a < b ? -1 : a > b ? 1 : 0;
  };
  function enhance(table) {
    const body = table.tBodies[0], all = [...body.rows], size = Number(table.dataset.page || 50);
    let rows = all, page = 0;
    const status = element("span", { className: "note" });
    status.setAttribute("role", "status");
    const back = element("button", { type: "button", textContent: "Previous" });
    const next = element("button", { type: "button", textContent: "Next" });
    const filter = element("input", { type: "search", placeholder: "Filter rows" });
    filter.setAttribute("aria-label", "Filter rows of: " + (table.caption ? table.caption.textContent : "table"));
    const paging = element("span", { className: "right" }, back, " ", next);
    const draw = () => {
      const pages = Math.max(Math.ceil(rows.length / size), 1);
      page = Math.min(page, pages - 1);
      body.replaceChildren(...rows.slice(page * size, (page + 1) * size));
      const of = rows.length === all.length ? "" : " of " + all.length;
      status.textContent = rows.length + of + " rows" + (pages > 1 ? ", page " + (page + 1) + " of " + pages : "");
      back.disabled = page === 0;
      next.disabled = page === pages - 1;
      paging.hidden = pages === 1;
    };
    back.onclick = () => { page -= 1; draw(); };
    next.onclick = () => { page += 1; draw(); };
    filter.oninput = () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      rows = all.filter((row) => words.every((word) => row.textContent.toLowerCase().includes(word)));
      page = 0;
      draw();
    };
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = element("button", { type: "button" }, ...head.childNodes);
      head.replaceChildren(button);
      button.onclick = () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const sign = down ? -1 : 1;
        const sorted = (a, b) => {
          const one = keyOf(a, column), two = keyOf(b, column);
          return typeof one === typeof two ? sign * compare(one, two) : compare(one, two);
        };
        all.sort(sorted);
        rows = [...rows].sort(sorted);
        page = 0;
        draw();
      };
    });
    if (all.length > 8) {
      const tools = element("div", { className: "tools" }, filter, status, paging);
      (table.closest(".scroll") || table).before(tools);
    }
    draw();
  }

  // --- scorecard ------------------------------------------------------------------------------------------
  function verdicts(card) {
    const buttons = [...document.querySelectorAll("[data-verdict-filter]")];
    for (const button of buttons) {
      button.onclick = () => {
        const wanted = button.dataset.verdictFilter;
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
        for (const body of card.tBodies) {
          const rows = [...body.rows].filter((row) => row.dataset.verdict);
          for (const row of rows) {
            row.hidden = !(wanted === "all" || (wanted === "judged" ? row.dataset.verdict !== "info"
              : row.dataset.verdict === wanted));
          }
          body.hidden = rows.every((row) => row.hidden);
        }
      };
    }
    // what is judged comes first; the rest is a click away
    if (card.querySelector("tr[data-verdict]:not([data-verdict=info])")) {
      document.querySelector("[data-verdict-filter=judged]").click();
    }
  }

  // --- focal plane ----------------------------------------------------------------------------------------
  const STOPS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  const colour = (part) => {
    const place = Math.min(Math.max(part, 0), 1) * (STOPS.length - 1);
    const low = Math.min(Math.floor(place), STOPS.length - 2), rest = place - low;
    return STOPS[low].map((channel, i) => Math.round(channel + rest * (STOPS[low + 1][i] - channel)));
  };
  function focalPlane(data) {
    const choice = document.getElementById("figure"), scale = document.getElementById("scale");
    const update = () => {
      const figure = data.figures[choice.value];
      const values = Object.values(figure ? figure.values : {}).filter((value) => value !== null);
      const low = Math.min(...values), high = Math.max(...values), span = high - low;
      for (const shape of document.querySelectorAll("[data-detector]")) {
        const value = figure ? figure.values[shape.dataset.detector] : undefined;
        const known = value !== undefined && value !== null;
        const rgb = known ? colour(span > 0 ? (value - low) / span : 0.5) : null;
        shape.style.fill = rgb ? "rgb(" + rgb + ")" : "";
        const label = document.getElementById("name-" + shape.dataset.detector);
        const dark = rgb && 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] < 130;
        if (label) label.style.fill = dark ? "#fff" : "#1c2430";
        const title = shape.parentNode.querySelector("title");
        title.textContent = shape.dataset.title + (known ? ", " + figure.label + " " + shown(value, figure.digits) : "");
      }
      scale.hidden = !figure || !values.length;
      if (figure && values.length) {
        const ends = scale.querySelectorAll(".ends span");
        ends[0].textContent = shown(low, figure.digits);
        ends[1].textContent = shown(high, figure.digits);
      }
    };
    choice.onchange = update;
    update();
  }

  // --- a detector -----------------------------------------------------------------------------------------
  function viewer(data) {
    const stage = document.getElementById("stage"), holder = document.getElementById("viewer");
    const block = data.block, width = block * Math.ceil(data.shape[1] / block);
    const height = block * Math.ceil(data.shape[0] / block), column = {};
    data.columns.forEach((name, i) => { column[name] = i; });
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", [0, 0, width, height].join(" "));
    svg.setAttribute("preserveAspectRatio", "none");
    const marks = data.rows.map((row, i) => {
      const x = row[column.x] + 0.5, y = height - row[column.y] - 0.5;
      const mark = document.createElementNS(SVG, "ellipse");
      const least = 4 * block;
      mark.setAttribute("cx", x);
      mark.setAttribute("cy", y);
      mark.setAttribute("rx", Math.max(row[column.a], least));
      mark.setAttribute("ry", Math.max(row[column.b], least));
      // angles run from x towards y, which points up
      mark.setAttribute("transform", "rotate(" + [-row[column.angle], x, y].join(" ") + ")");
      mark.style.stroke = data.colours[row[column["class"]]];
      mark.dataset.i = i;
      return mark;
    });
    svg.append(...marks);
    stage.append(svg);

    const panel = document.getElementById("source");
    let pinned = -1, last = null, lastRow = null;
    const describe = (i) => {
      const row = data.rows[i], value = (name, digits) => shown(row[column[name]], digits);
      const flags = data.flags.filter((_, bit) => (row[column.flags] >> bit) & 1).join(", ");
      const lines = [["Source", value("id")], ["Flux", row[column.flux] === null ? "\u2013" : value("flux") + " nJy"],
        ["S/N of peak", value("snr", 1)], ["Position", value("x", 2) + ", " + value("y", 2) + " px"],
        ["RA, Dec", value("ra", 6) + ", " + value("dec", 6)], ["Class", data.classes[row[column["class"]]]],
        ["Pixel flags", flags || "none"]];
      panel.replaceChildren(...lines.flatMap(([name, text]) =>
        [element("dt", { textContent: name }), element("dd", { textContent: text })]));
      if (last) last.classList.remove("chosen");
      last = marks[i];
      last.classList.add("chosen");
    };
    const pin = (i, scroll) => {
      pinned = i;
      describe(i);
      if (scroll) {
        const at = marks[i].getBoundingClientRect(), box = holder.getBoundingClientRect();
        holder.scrollBy(at.left - box.left - box.width / 2, at.top - box.top - box.height / 2);
      }
    };
    const index = (event) => {
      const mark = event.target.closest("ellipse");
      return mark ? Number(mark.dataset.i) : -1;
    };
    svg.addEventListener("mouseover", (event) => { if (index(event) >= 0) describe(index(event)); });
    svg.addEventListener("mouseout", () => { if (pinned >= 0) describe(pinned); });
    svg.addEventListener("click", (event) => { if (index(event) >= 0) pin(index(event), false); });
    holder.addEventListener("keydown", (event) => {
      const step = { n: 1, p: -1 }[event.key];
      if (!step || !data.rows.length) return;
      pin((pinned + step + data.rows.length) % data.rows.length, true);
    });

    for (const box of document.querySelectorAll("[data-layer]")) {
      const change = () => {
        const layer = box.dataset.layer === "sources" ? svg : document.getElementById("layer-" + box.dataset.layer);
        if (box.dataset.layer === "image") layer.style.visibility = box.checked ? "" : "hidden";
        else layer.style.display = box.checked ? "" : "none";
      };
      box.onchange = change;
      change();
    }
    document.getElementById("zoom").onchange = (event) => { stage.style.width = event.target.value; };

    const body = document.querySelector("#sources tbody");
    body.append(...data.rows.map((row, i) => {
      const button = element("button", { type: "button", textContent: row[column.id] });
      const line = element("tr", {}, element("td", {}, button));
      button.onclick = () => {
        if (lastRow) lastRow.classList.remove("chosen");
        lastRow = line;
        line.classList.add("chosen");
        pin(i, true);
        holder.scrollIntoView({ block: "nearest" });
      };
      line.append(element("td", { textContent: data.classes[row[column["class"]]] }));
      for (const [name, digits] of [["x", 2], ["y", 2], ["ra", 6], ["dec", 6], ["flux"], ["snr", 1]]) {
        const cell = element("td", { className: "n", textContent: shown(row[column[name]], digits) });
        if (row[column[name]] === null) cell.dataset.v = "";
        line.append(cell);
      }
      return line;
    }));
  }

  // --- resources ------------------------------------------------------------------------------------------
  function resources(table, found) {
    const format = { cpu_seconds: 1, cpu_seconds_per_megapixel: 3, wall_seconds: 1, peak_megabytes: 0,
      megapixels: 1, jobs: 0 };
    const columns = [...table.tHead.rows[0].cells].map((cell) => cell.dataset.key);
    table.tBodies[0].replaceChildren(...found.stages.map((stage) => element("tr", {}, ...columns.map((key) =>
      element("td", { className: key in format ? "n" : "",
        textContent: shown(stage[key], typeof stage[key] === "number" ? format[key] : undefined) })))));
    document.getElementById("no-resources").hidden = true;
    table.hidden = false;
  }

  const card = document.getElementById("scorecard");
  if (card) verdicts(card);
  const plane = inlined("focal-plane");
  if (plane) focalPlane(plane);
  const detector = inlined("detector");
  if (detector) viewer(detector);
  const cost = document.getElementById("resources");
  if (cost && window.RESOURCES && Array.isArray(window.RESOURCES.stages)) resources(cost, window.RESOURCES);
  document.querySelectorAll("table.data").forEach(enhance);
})();
"""
