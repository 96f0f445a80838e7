// Clocks run, the list follows the store, and j, k and Enter walk it. Without this the pages work.
const two = (n) => String(n).padStart(2, "0");
function span(seconds, fine) {
  const whole = Math.max(0, Math.floor(seconds));
  const d = Math.floor(whole / 86400), h = Math.floor(whole % 86400 / 3600), m = Math.floor(whole % 3600 / 60);
  if (fine && !d) return h ? `${h}:${two(m)}:${two(whole % 60)}` : `${m}:${two(whole % 60)}`;
  if (d) return `${d} d ${h} h`;
  return h ? `${h} h ${two(m)} min` : `${m} min`;
}
function tick() {
  for (const clock of document.querySelectorAll("[data-clock]"))
    clock.textContent = span((Date.now() - Date.parse(clock.dateTime)) / 1000, clock.dataset.clock === "s");
}
function local() {
  for (const time of document.querySelectorAll("[data-at]"))
    time.textContent = new Date(time.dateTime).toLocaleString(undefined, { dateStyle: "short", timeStyle: time.dataset.at === "s" ? "medium" : "short" });
}
let at = -1;
const rows = () => [...document.querySelectorAll(".list tbody tr")].filter((row) => row.querySelector("a"));
function mark(index) {
  const all = rows();
  if (!all.length) return;
  at = Math.min(Math.max(index, 0), all.length - 1);
  all.forEach((row, n) => row.classList.toggle("at", n === at));
  all[at].scrollIntoView({ block: "nearest" });
}
document.addEventListener("keydown", (event) => {
  if (/INPUT|TEXTAREA/.test(event.target.tagName) || event.ctrlKey || event.metaKey) return;
  if (event.key === "j") mark(at + 1);
  else if (event.key === "k") mark(at - 1);
  else if (event.key === "Enter" && at >= 0) rows()[at].querySelector("a").click();
});
if (document.querySelector("[data-live]")) {
  new EventSource("/events").addEventListener("changed", async () => {
    const page = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
    document.querySelector("[data-live]").replaceWith(page.querySelector("[data-live]"));
    local(); tick();
    if (at >= 0) mark(at);
  });
}
local(); tick(); setInterval(tick, 1000);
