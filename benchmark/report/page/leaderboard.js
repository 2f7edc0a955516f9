"use strict";
// Sorting: a heading is a button; the same one again turns the order round. Rows without a value
// come last either way.
const board = document.getElementById("board");
const heads = [...board.querySelectorAll("th")];

function sortBy(column) {
  const head = heads[column];
  const rows = [...board.tBodies[0].rows];
  const numbers = head.classList.contains("number");
  const before = head.getAttribute("aria-sort");
  const descending = before ? before === "ascending" : numbers;
  const value = (row) => {
    const text = row.cells[column].dataset.value;
    return text === undefined ? null : numbers ? Number(text) : text;
  };
  const compare = (a, b) => (numbers ? a - b : a.localeCompare(b));
  rows.sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === null || b === null) return (a === null) - (b === null);
    return descending ? compare(b, a) : compare(a, b);
  });
  board.tBodies[0].append(...rows);
  for (const other of heads) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const name = head.textContent.trim();
  document.getElementById("order").textContent =
    `Sorted by ${name}, ${numbers ? (descending ? "largest" : "smallest") : descending ? "Z" : "A"} first.`;
}

heads.forEach((head, column) => {
  head.querySelector("button").addEventListener("click", () => sortBy(column));
});
