"use strict";

// The page is whole without this, which sorts and filters the table, chooses charts, and follows
// the report.

const table = document.querySelector("#table");
const heads = [...table.tHead.rows[0].cells];
const filter = document.querySelector("#filter");
const shown = document.querySelector("#shown");
const pick = document.querySelector("#pick");
const state = document.querySelector("#state");
const every = document.body.dataset.every; // seconds; in a file there is none
let sortedBy = null;
let etag = `"${document.body.dataset.version}"`;

function valueOf(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = Number(text.replace(/\s%$/, ""));
  return text === "–" ? null : Number.isNaN(number) ? text : number;
}

function compare(one, other) {
  return one < other ? -1 : one > other ? 1 : 0;
}

function sort() {
  if (sortedBy === null) return;
  const { column, sign } = sortedBy;
  const rows = [...table.tBodies[0].rows].filter((row) => row.cells.length > column);
  rows.sort((a, b) => {
    const [one, other] = [valueOf(a, column), valueOf(b, column)];
    if (one === null || other === null) return (one === null) - (other === null); // always last
    return sign * compare(one, other);
  });
  table.tBodies[0].append(...rows);
}

function sortBy(column) {
  const isUp = sortedBy !== null && sortedBy.column === column && sortedBy.sign === 1;
  sortedBy = { column, sign: isUp ? -1 : 1 };
  heads.forEach((head, at) => {
    if (at === column) head.setAttribute("aria-sort", isUp ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
  sort();
}

function hide() {
  const wanted = filter.querySelector("input").value.trim();
  let left = 0;
  for (const row of table.tBodies[0].rows) {
    const [customer, hour] = row.cells;
    const fits = !wanted || customer.textContent === wanted || hour?.textContent.includes(wanted);
    row.hidden = !fits;
    left += fits;
  }
  shown.textContent = wanted ? `${left} rows fit` : "";
}

function choose() {
  const chosen = pick.querySelector("select").value;
  for (const charts of document.querySelectorAll(".charts")) {
    charts.hidden = charts.id !== `charts-${chosen}`;
  }
}

// What is open stays open, and what has the focus keeps it.
function replace(old, fresh) {
  for (const details of old.querySelectorAll("details[open]")) {
    const same = fresh.querySelector(`#${details.id}`);
    if (same) same.open = true;
  }
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const at = focused && [...old.querySelectorAll("a, summary, [tabindex]")].indexOf(focused);
  old.replaceWith(fresh);
  if (focused) fresh.querySelectorAll("a, summary, [tabindex]")[at]?.focus();
}

function show(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const old = [...document.querySelectorAll("[data-fresh]")];
  const ids = (parts) => parts.map((part) => part.id).join();
  const parts = [...fresh.querySelectorAll("[data-fresh]")];
  if (ids(old) !== ids(parts)) return location.reload(); // the first rows, say
  old.forEach((part, at) => replace(part, parts[at]));
  sort();
  hide();
}

async function follow() {
  if (!document.hidden) {
    try {
      const headers = { "If-None-Match": etag };
      const answer = await fetch(location.href, { headers, cache: "no-store" });
      if (answer.status === 200) show(await answer.text());
      else if (answer.status !== 304) throw new Error(answer.statusText);
      etag = answer.headers.get("ETag");
      say("Follows the report as it changes.");
    } catch {
      say("The processor does not answer; this may be old. Trying again.");
    }
  }
  setTimeout(follow, 1000 * Number(every));
}

function say(words) {
  if (state.textContent !== words) state.textContent = words;
}

heads.forEach((head, column) => {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  button.addEventListener("click", () => sortBy(column));
  head.append(button);
});
filter.hidden = false;
filter.addEventListener("input", hide);
if (pick) {
  pick.hidden = false;
  pick.addEventListener("change", choose);
  choose();
}
if (every) follow();
