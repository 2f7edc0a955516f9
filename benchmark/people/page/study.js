"use strict";
// A study's questions. All names and texts come from the data as text, and go into the page as text only.
(() => {
  const { study, nouns, references, pairs, checks } = JSON.parse(document.getElementById("content").textContent);
  const at = (id) => document.getElementById(id);
  const STORE = `study-${study}`;
  const served = location.protocol.startsWith("http");

  // What has been answered so far stays in this browser, so that a page that is closed can be gone on with.
  function stored() {
    try {
      const found = JSON.parse(localStorage.getItem(STORE));
      return found && found.study === study ? found : null;
    } catch { return null; }
  }
  function keep() {
    try { localStorage.setItem(STORE, JSON.stringify(state)); } catch { /* private windows have none */ }
  }
  const below = (n) => {  // a whole number from 0 to n - 1, each as likely
    const [drawn] = crypto.getRandomValues(new Uint32Array(1));
    return Math.floor((drawn / 2 ** 32) * n);
  };
  function shuffled(list) {
    const found = [...list];
    for (let i = found.length - 1; i > 0; i--) {
      const j = below(i + 1);
      [found[i], found[j]] = [found[j], found[i]];
    }
    return found;
  }
  function fresh() {
    const person = [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
    const order = ["subject", "prompt"].flatMap((question) => shuffled([
      ...pairs.map((pair) => ({ question, item: pair.id })),
      ...checks.filter((check) => check.question === question).map((check) => ({ question, item: check.id })),
    ])).map((one) => ({ ...one, left: below(2) ? "a" : "b" }));
    return { study, person, order, answers: [] };
  }

  let state = stored() ?? fresh();
  const items = Object.fromEntries([...pairs, ...checks].map((one) => [one.id, one]));
  let began = 0;

  function show(section) {
    for (const id of ["start", "ask", "end"]) at(id).hidden = id !== section;
  }
  function ask() {
    const place = state.answers.length;
    if (place >= state.order.length) return finish();
    const { question, item, left } = state.order[place];
    const one = items[item];
    const right = left === "a" ? "b" : "a";
    show("ask");
    at("progress").max = state.order.length;
    at("progress").value = place;
    at("place").textContent = `${place + 1} of ${state.order.length}`;
    at("question").textContent = question === "subject"
      ? `Which picture shows the same ${nouns[one.subject]} as these photographs?`
      : "Which picture fits this text better?";
    at("text").hidden = question === "subject";
    at("text").textContent = one.text;
    at("references").hidden = question !== "subject";
    at("references").replaceChildren(...(question === "subject" ? references[one.subject] : []).map((source) =>
      Object.assign(document.createElement("img"), { src: source, alt: "a photograph" })));
    at("left-picture").src = one[left];
    at("right-picture").src = one[right];
    at("back").disabled = place === 0;
    at("question").focus();
    began = performance.now();
  }
  function answer(side) {
    if (at("ask").hidden) return;
    const { question, item, left } = state.order[state.answers.length];
    const right = left === "a" ? "b" : "a";
    const choice = side === "left" ? left : side === "right" ? right : null;
    const seconds = Math.round(performance.now() - began) / 1000;
    state.answers.push({ question, item, choice, left, seconds });
    keep();
    ask();
  }
  function back() {
    if (at("ask").hidden || !state.answers.length) return;
    state.answers.pop();
    keep();
    ask();
  }

  const votes = () => JSON.stringify({ format: 1, study, person: state.person, answers: state.answers });
  async function finish() {
    show("end");
    at("thanks").focus();
    if (!served) return;
    at("save").hidden = at("how").hidden = true;
    at("sent").textContent = "Sending your answers ...";
    try {
      const reply = await fetch("votes", { method: "POST", headers: { "Content-Type": "application/json" }, body: votes() });
      if (!reply.ok) throw new Error(await reply.text());
      at("sent").textContent = "Your answers were sent. You may close this page.";
    } catch (error) {
      at("sent").textContent = `Your answers could not be sent (${error.message}): save them instead.`;
      at("save").hidden = at("how").hidden = false;
    }
  }
  function save() {
    const link = Object.assign(document.createElement("a"), {
      href: URL.createObjectURL(new Blob([votes()], { type: "application/json" })),
      download: `votes-${state.person.slice(0, 8)}.json`,
    });
    link.click();
    URL.revokeObjectURL(link.href);
  }

  at("count").textContent = String(state.order.length);
  if (state.answers.length) at("begin").textContent = "Go on";
  at("begin").addEventListener("click", ask);
  at("left").addEventListener("click", () => answer("left"));
  at("right").addEventListener("click", () => answer("right"));
  at("neither").addEventListener("click", () => answer("neither"));
  at("back").addEventListener("click", back);
  at("save").addEventListener("click", save);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const does = { ArrowLeft: () => answer("left"), ArrowRight: () => answer("right"), ArrowDown: () => answer("neither"), Backspace: back }[event.key];
    if (does && !at("ask").hidden) { event.preventDefault(); does(); }
  });
})();
