"use strict";
// The gallery. All names come from the data as text, and go into the page as text only.
(() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const { methods, metrics, kinds, subjects, prompts, jobs, rows } = content;
  const at = (id) => document.getElementById(id);
  if (!rows.length) return;

  const gallery = at("gallery"), list = at("rows"), viewer = at("viewer");
  const choice = Object.fromEntries(["subject", "method", "kind", "metric", "order"].map((id) => [id, at(id)]));
  const BATCH = 24, AHEAD = 1500;  // rows; pixels
  let shown = [];  // the rows that are chosen, in order
  let drawn = 0;  // how many of them stand in the page
  let open = null;  // {place, column} in the viewer
  let opener = null;  // the picture above the gallery that opened it

  // An element with properties and children; strings become text.
  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }
  // Names break before a bracket and after a comma, beside hyphens, where a browser breaks them anyway.
  const named = (name) => name.split(/(?=\[)|(?<=,)/).flatMap((part, i) => (i ? [make("wbr"), part] : [part]));
  const textOf = (row) => prompts[row.prompt].template.replaceAll("{}", subjects[row.subject].noun);
  const number = (value) => value.toFixed(2);
  const scoresOf = (cell) => metrics.flatMap((m, i) => (cell[3][i] === null ? [] : [[m.name, cell[3][i], i]]));
  const columns = () => (choice.method.value === "" ? methods.map((_, i) => i) : [Number(choice.method.value)]);

  function fill(select, names) {
    names.forEach((name, i) => select.append(make("option", { value: String(i) }, name)));
  }
  fill(choice.subject, subjects.map((s) => s.name));
  fill(choice.method, methods);
  fill(choice.metric, metrics.map((m) => m.name));
  kinds.forEach((kind, i) => {
    if (prompts.some((p) => p.kind === kind)) choice.kind.append(make("option", { value: String(i) }, kind));
  });

  // A row's mean over the methods in view; null where none has the score.
  function valueOf(row, metric) {
    const values = columns().map((c) => row.cells[c]?.[3][metric]).filter((v) => typeof v === "number");
    return values.length ? values.reduce((a, b) => a + b) / values.length : null;
  }

  function choose() {
    const wanted = (select) => (select.value === "" ? null : Number(select.value));
    const subject = wanted(choice.subject), kind = wanted(choice.kind), metric = wanted(choice.metric);
    shown = rows.filter((row) =>
      (subject === null || row.subject === subject) &&
      (kind === null || prompts[row.prompt].kind === kinds[kind]) &&
      columns().some((c) => row.cells[c]));
    choice.order.disabled = metric === null;
    if (metric !== null) {
      const upwards = (choice.order.value === "worst") !== metrics[metric].lower ? 1 : -1;
      shown = shown.map((row) => [row, valueOf(row, metric)]).filter(([, value]) => value !== null)
        .sort((a, b) => upwards * (a[1] - b[1])).map(([row]) => row);
    }
    const images = shown.reduce((sum, row) => sum + columns().filter((c) => row.cells[c]).length, 0);
    at("count").textContent = `${shown.length} rows, ${images} images`;
    lay();
    list.replaceChildren();
    drawn = 0;
    drawWhatIsNear();
  }

  function lay() {
    const shownColumns = columns();
    const wide = (gallery.clientWidth - 220) / shownColumns.length > 84;
    gallery.classList.toggle("wall", shownColumns.length === 1);
    gallery.classList.toggle("stacked", !wide && shownColumns.length > 1);
    gallery.classList.toggle("few", wide && [2, 3].includes(shownColumns.length) && gallery.clientWidth > 1200);
    gallery.style.setProperty("--columns", shownColumns.length);
    at("heads").replaceChildren(make("span", {}, "prompt"), ...shownColumns.map((c) => make("span", {}, ...named(methods[c]))));
  }

  function draw() {
    const end = Math.min(shown.length, drawn + BATCH);
    for (; drawn < end; drawn++) {
      const row = shown[drawn], before = shown[drawn - 1];
      if (choice.metric.value === "" && row.subject !== before?.subject) list.append(headingOf(row));
      list.append(rowElement(row, drawn));
    }
    if (!list.querySelector(".cell[tabindex='0']")) list.querySelector(".cell")?.setAttribute("tabindex", "0");
  }

  // As far as will soon be scrolled to: thousands of rows at once would take seconds.
  function drawWhatIsNear() {
    do draw();
    while (drawn < shown.length && at("more").getBoundingClientRect().top < innerHeight + AHEAD);
  }

  function picture(source, alt) {
    const image = make("img", { loading: "lazy", decoding: "async", alt, src: source });
    image.addEventListener("load", () => image.classList.toggle("tiny", image.naturalWidth <= 96));
    return image;
  }

  function headingOf(row) {
    const subject = subjects[row.subject];
    const strip = make("div", { className: "references" });
    subject.references.forEach((source, i) => strip.append(picture(source, `${subject.name}, real image ${i + 1}`)));
    return make("li", { className: "subject" },
      make("h3", {}, subject.name, " ", make("small", {}, subject.references.length ? "real images" : "")), strip);
  }

  function rowElement(row, place) {
    const sorted = choice.metric.value !== "", subject = subjects[row.subject];
    const about = make("div", { className: "about" }, make("div", {},
      textOf(row),
      make("small", {}, `${sorted ? `${subject.name}, ` : ""}${prompts[row.prompt].kind}, image ${row.sample + 1}, seed ${row.seed}`)));
    if (sorted && subject.references.length) about.append(picture(subject.references[0], `${subject.name}, real image`));
    const item = make("li", { className: "row" }, about, ...columns().map((c) => cellElement(row, c, place)));
    return item;
  }

  function cellElement(row, column, place) {
    const cell = row.cells[column];
    if (!cell) return make("div", { className: "none" }, "none");
    const scores = scoresOf(cell), chosen = Number(choice.metric.value || -1);
    const brief = scores.filter(([, , i]) => i === chosen || i < 3 || prompts[row.prompt].kind === "prior").slice(0, 4);
    const said = scores.map(([name, value]) => `${name} ${number(value)}`).join(", ");
    const button = make("button", { type: "button", className: "cell", tabIndex: -1 },
      make("span", { className: "method" }, ...named(methods[column])),
      cell[1] ? picture(cell[1], "") : make("span", { className: "none" }, "image not here"),
      make("span", { className: "scores" }, ...brief.map(([name, value, i]) =>
        make("span", { className: i === chosen ? "sorted" : "" }, make("small", {}, name), number(value)))));
    button.setAttribute("aria-label", `${methods[column]}: ${textOf(row)}, ${subjects[row.subject].name}. ${said}`);
    button.dataset.place = place;
    button.dataset.column = column;
    return button;
  }

  // The next place with an image: `across` columns or `down` rows away.
  function step(place, column, across, down) {
    const visible = columns();
    let i = visible.indexOf(column);
    for (;;) {
      i += across;
      place += down;
      if (i < 0 || i >= visible.length) {
        i = across > 0 ? 0 : visible.length - 1;
        place += across;
      }
      if (place < 0 || place >= shown.length) return null;
      if (shown[place].cells[visible[i]]) return { place, column: visible[i] };
    }
  }
  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function buttonAt({ place, column }) {
    while (drawn <= place) draw();
    return list.querySelector(`[data-place="${place}"][data-column="${column}"]`);
  }

  function focusOn(where) {
    const button = buttonAt(where);
    list.querySelector(".cell[tabindex='0']")?.setAttribute("tabindex", "-1");
    button.setAttribute("tabindex", "0");
    button.focus();
  }

  const whereIs = (button) => ({ place: Number(button.dataset.place), column: Number(button.dataset.column) });

  list.addEventListener("click", (event) => {
    const button = event.target.closest(".cell");
    if (button) show(whereIs(button));
  });
  list.addEventListener("keydown", (event) => {
    const button = event.target.closest(".cell"), by = STEPS[event.key];
    if (!button || !by || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const { place, column } = whereIs(button), next = step(place, column, ...by);
    if (next) focusOn(next);
  });

  function pairs(list_, entries) {
    list_.replaceChildren(...entries.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  }

  function show(where) {
    open = where;
    const row = shown[where.place], cell = row.cells[where.column], job = jobs[cell[0]];
    const method = methods[where.column], subject = subjects[row.subject];
    const asked = textOf(row), { identifier } = job.settings;
    at("viewer-title").textContent = `${method}: ${asked}`;
    showLarge(cell, `${method}: ${asked}`);
    at("viewer-scores").replaceChildren(...scoresOf(cell).map(([name, value]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, value.toFixed(3)))));
    at("viewer-references").replaceChildren(...subject.references.map((source, i) => picture(source, `${subject.name}, real image ${i + 1}`)));
    pairs(at("made"), [["subject", subject.name], ["prompt", asked],
      ...(identifier ? [["identifier", identifier]] : []), ["group", prompts[row.prompt].kind],
      ["seed", String(row.seed)], ["image", `${row.sample + 1} of its prompt`],
      ...(job.command.length ? [["noise seed", row.noise]] : [])]);
    at("again").hidden = !job.command.length; // nothing of ours made it
    pairs(at("settings"), Object.entries(job.settings));
    const words = [...job.command, prompts[row.prompt].option].filter(Boolean);
    at("command").replaceChildren(...words.flatMap((part, i) => [i ? " " : "", make("span", {}, part)]));
    at("siblings").replaceChildren(...columns().filter((c) => row.cells[c]?.[1]).map((c) => {
      const button = make("button", { type: "button" }, picture(row.cells[c][1], ""), ...named(methods[c]));
      if (c === where.column) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => show({ place: where.place, column: c }));
      return button;
    }));
    at("previous").disabled = !step(where.place, where.column, -1, 0);
    at("next").disabled = !step(where.place, where.column, 1, 0);
    if (!viewer.open) viewer.showModal();
  }

  function showLarge(cell, alt) {
    const large = at("large"), [, small, full] = cell;
    at("aside").textContent = "";
    large.alt = alt;
    large.hidden = !small;
    large.onload = () => { large.classList.toggle("tiny", large.naturalWidth <= 96); };
    large.onerror = () => {
      large.onerror = null;
      large.src = small;
      at("aside").textContent = "A small copy: the full image is not beside this page.";
    };
    if (small) large.src = full ?? small;
    if (full) at("aside").replaceChildren(make("a", { href: full, target: "_blank", rel: "noopener" }, "Full image"));
  }

  document.querySelectorAll(".glimpse [data-row]").forEach((link) => link.addEventListener("click", (event) => {
    event.preventDefault();
    const row = rows[link.dataset.row], column = Number(link.dataset.column);
    if (!shown.includes(row) || !columns().includes(column)) {
      Object.values(choice).forEach((select) => { select.selectedIndex = 0; });
      choose();
    }
    opener = link;
    show({ place: shown.indexOf(row), column });
  }));

  function move(across, down) {
    const next = open && step(open.place, open.column, across, down);
    if (next) show(next);
  }
  at("previous").addEventListener("click", () => move(-1, 0));
  at("next").addEventListener("click", () => move(1, 0));
  at("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("close", () => {
    if (opener) opener.focus();
    else if (open) focusOn(open);
    open = opener = null;
  });
  viewer.addEventListener("keydown", (event) => {
    const by = STEPS[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    move(...by);
  });

  at("choices").addEventListener("change", choose);
  at("choices").addEventListener("submit", (event) => event.preventDefault());
  at("choices").addEventListener("reset", () => setTimeout(choose));
  new IntersectionObserver((seen) => {
    if (seen.some((entry) => entry.isIntersecting)) drawWhatIsNear();
  }, { rootMargin: `${AHEAD}px` }).observe(at("more"));
  addEventListener("resize", lay);
  choose();
})();
