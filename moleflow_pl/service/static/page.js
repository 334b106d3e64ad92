"use strict";
// the reviewer's name stays in this browser
const who = document.getElementById("who");
who.value = localStorage.getItem("who") || "";
who.addEventListener("change", () => localStorage.setItem("who", who.value));

document.addEventListener("input", (event) => {
  const target = event.target.dataset.opacity;
  if (target) document.getElementById(target).style.opacity = event.target.value / 100;
});

// a key activates the element with that data-key; j and k move through the decisions
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  const named = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (named) { event.preventDefault(); named.click(); return; }
  if (event.key !== "j" && event.key !== "k") return;
  const cards = [...document.querySelectorAll(".card")];
  const next = cards.indexOf(document.activeElement) + (event.key === "j" ? 1 : -1);
  if (cards[next]) cards[next].focus();
});

// show new decisions as they arrive, unless the user has focused one in the list
const stream = document.querySelector("[data-last]");
if (stream) {
  let events, last = stream.dataset.last, missed = false;
  const busy = () => stream.contains(document.activeElement);
  const refresh = () => {
    missed = busy();
    if (!missed) document.body.dispatchEvent(new Event("recorded"));
  };
  const listen = () => {
    events = new EventSource(`/events?after=${last}`);
    events.addEventListener("recorded", (event) => { last = event.lastEventId; refresh(); });
  };
  listen();
  window.addEventListener("pagehide", () => events.close());
  window.addEventListener("pageshow", (event) => { if (event.persisted) listen(); });
  // a decision may get the focus while an answer is on its way
  stream.addEventListener("htmx:beforeSwap", (event) => {
    if (busy()) { event.detail.shouldSwap = false; missed = true; }
  });
  stream.addEventListener("focusout", () => setTimeout(() => { if (missed) refresh(); }));
}

const message = document.getElementById("message");
document.body.addEventListener("htmx:responseError", (event) => {
  let detail = event.detail.xhr.responseText;
  try { detail = JSON.parse(detail).detail; } catch { /* it is plain text */ }
  message.textContent = typeof detail === "string" && detail ? detail : "The service refused that.";
});
// keep the message until the next request
document.body.addEventListener("htmx:beforeRequest", (event) => {
  if (event.detail.requestConfig.verb !== "get") message.textContent = "";
});
document.body.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful && event.target.matches("[data-reset]")) event.target.reset();
});
document.body.addEventListener("htmx:sendError", () => { message.textContent = "The service does not answer."; });
