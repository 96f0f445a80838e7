// What makes the pages live: clocks, local times, changes without a reload, and the keyboard.
// Nothing here is needed to read or to sign.
"use strict";

const two = (n) => String(n).padStart(2, "0");

// The same spans as services/web/rendering.py writes.
function span(seconds, fine) {
  const s = Math.max(0, Math.floor(seconds));
  const d = Math.floor(s / 86400), h = Math.floor((s % 86400) / 3600), m = Math.floor((s % 3600) / 60);
  if (fine && !d) return h ? `${h}:${two(m)}:${two(s % 60)}` : `${m}:${two(s % 60)}`;
  if (d) return `${d} d ${h} h`;
  return h ? `${h} h ${two(m)} min` : `${m} min`;
}

// A workstation's clock may be wrong; the server's is the one that counts.
let skew = 0;

function tick() {
  const now = Date.now() + skew;
  for (const el of document.querySelectorAll("[data-clock]")) {
    const text = span((now - Date.parse(el.dateTime)) / 1000, el.dataset.clock === "s");
    if (el.textContent !== text) el.textContent = text;
  }
}

function localize(root) {
  for (const el of root.querySelectorAll("[data-at]")) {
    const at = new Date(el.dateTime);
    const time = `${two(at.getHours())}:${two(at.getMinutes())}` +
      (el.dataset.at === "s" ? `:${two(at.getSeconds())}` : "");
    const today = at.toDateString() === new Date().toDateString();
    el.textContent = today ? time : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
  }
}

// --- changes without a reload

const shown = new Map();
let fetching = false, again = false;

async function refresh() {
  if (fetching) { again = true; return; }
  fetching = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
    if (!answer.ok) return;
    const date = Date.parse(answer.headers.get("Date"));
    if (date) skew = Math.abs(date - Date.now()) > 2000 ? date - Date.now() : 0;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of fresh.querySelectorAll("[data-live]")) replace(part);
    const mine = document.querySelector("[data-report]"), theirs = fresh.querySelector("[data-report]");
    if (mine && (!theirs || theirs.dataset.version !== mine.dataset.version)) {
      mine.querySelector("[data-overtaken]").hidden = false;
    }
    document.title = fresh.title;
  } catch (error) {
    // The stream tells when the server is back.
  } finally {
    fetching = false;
    if (again) { again = false; refresh(); }
  }
}

function replace(part) {
  const old = document.getElementById(part.id);
  if (!old || shown.get(part.id) === part.innerHTML) return;
  const active = document.activeElement;
  // Never under the hands of somebody who types.
  if (old.contains(active) && active.matches("input, textarea, select")) return;
  const study = old.contains(active) ? active.dataset.study : undefined;
  const open = new Map([...old.querySelectorAll("details[id]")].map((d) => [d.id, d.open]));
  shown.set(part.id, part.innerHTML);
  const next = document.importNode(part, true);
  for (const d of next.querySelectorAll("details[id]")) if (open.has(d.id)) d.open = open.get(d.id);
  localize(next);
  old.replaceWith(next);
  remember(next);
  if (study) rows().find((r) => r.dataset.study === study)?.focus({ preventScroll: true });
  tick();
}

let stream = null, poll = null;

function live(state) {
  const el = document.querySelector("[data-link]");
  if (!el) return;
  el.classList.toggle("is-live", state);
  el.querySelector("[data-link-text]").textContent = state ? "live" : "reconnecting";
}

function connect() {
  // A hidden page gives its connection back: a browser has six to one server.
  if (document.hidden) {
    stream?.close(); stream = null;
    clearInterval(poll); poll = null;
    return;
  }
  if (stream) return;
  stream = new EventSource("/events");
  stream.addEventListener("open", () => { live(true); clearInterval(poll); poll = null; });
  stream.addEventListener("changed", refresh);
  stream.addEventListener("error", () => {
    live(false);
    poll ??= setInterval(() => {
      if (stream?.readyState === EventSource.CLOSED) { stream = null; connect(); }
    }, 5000);
  });
}

// --- the keyboard

const rows = () => [...document.querySelectorAll("a.row[data-study]")];

function go(step) {
  const all = rows();
  const at = all.indexOf(document.activeElement);
  const row = all[at < 0 ? 0 : Math.min(all.length - 1, Math.max(0, at + step))];
  row?.focus();
  row?.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea, select");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.target.closest("[data-report]")?.requestSubmit();
    return;
  }
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const study = document.querySelector("[data-study-page]");
  if (event.key === "j") go(1);
  else if (event.key === "k") go(-1);
  else if (event.key === "/") { event.preventDefault(); document.querySelector(".find input")?.focus(); }
  else if (event.key === "u" && study) location.assign("/");
  else if (event.key === "n" && study) document.querySelector("[data-next]")?.click();
});

// --- forms and the picture

// One workstation, one session: the name is kept until the tab is closed, not for the next person.
function remember(root) {
  for (const el of root.querySelectorAll("[data-remember]")) {
    if (!el.value) el.value = sessionStorage.getItem(el.dataset.remember) ?? "";
    el.addEventListener("change", () => sessionStorage.setItem(el.dataset.remember, el.value));
  }
}

for (const figure of document.querySelectorAll("[data-picture]")) {
  const image = figure.querySelector("img");
  const show = () => { if (image.naturalWidth) figure.hidden = false; };
  if (image.complete) show();
  else image.addEventListener("load", show);
}

localize(document);
remember(document);
document.querySelector("[aria-invalid]")?.focus();
tick();
setInterval(tick, 1000);
document.addEventListener("visibilitychange", () => { connect(); if (!document.hidden) refresh(); });
if (document.querySelector("[data-live]")) connect();
