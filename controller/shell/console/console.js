// The console: asks the daemon what the study does, shows it, and sends orders.

import { gainOverTime } from "/console/charts.js";
import * as parts from "/console/parts.js";

const ASK_MS = 2000, TOKEN = "trimtab-token";
const el = (id) => document.getElementById(id);
const { h } = parts;

const ORDERS = { // in the order of the buttons, which never change places
  pause: { word: "Pause", look: "danger", yes: "Pause the study", what: "All traffic goes to control with the next table. Nothing more is tried until somebody resumes." },
  resume: { word: "Resume", look: "", yes: "Resume", what: "The study goes on where it was, with control on all traffic until the next decision; a test begins afresh." },
  approve: { word: "Approve", look: "good", yes: "Approve the promotion", what: "The candidate is ramped up step by step; its guardrails are watched all the while." },
  reject: { word: "Reject", look: "", yes: "Reject the candidate", what: "The candidate loses its traffic with the next table, is never dealt again, and the study explores on." },
  rollback: { word: "Roll back", look: "danger", yes: "Roll back", what: "All traffic goes to control, and the candidate, if there is one, is never dealt again." },
};

const STILL_S = 30; // a loop on the wall's clock that has not moved for so long hangs: a decision takes seconds

let movedAt = performance.now();
let me = null, view = null, history = null, asked = null, lastAnswer = null, timer = null, round = 0;
const rendered = new Map();

class Refused extends Error {
  constructor(status, said) {
    super(said);
    this.status = status;
  }
}

async function ask(path, body) {
  const headers = {}, token = sessionStorage.getItem(TOKEN);
  if (token) headers.authorization = `Bearer ${token}`;
  if (body) headers["content-type"] = "application/json";
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal: AbortSignal.timeout(8000) });
  const found = await answer.json();
  if (!answer.ok) throw new Refused(answer.status, found.error ?? `status ${answer.status}`);
  return found;
}

// Replaces a part only when what it is made of has changed, so that focus, selection and scrolling stay.
function renew(id, made, basis) {
  const key = JSON.stringify(basis);
  if (rendered.get(id) === key) return false;
  rendered.set(id, key);
  const held = el(id).contains(document.activeElement) ? document.activeElement.id : "";
  el(id).replaceChildren(...made());
  if (held) hold(held);
  return true;
}

// Focus on a button made anew, or on the first that can be pressed where it no longer can.
function hold(id) {
  const own = el(id);
  (own && !own.disabled ? own : el("buttons").querySelector(":enabled"))?.focus();
}

function text(id, said) {
  if (el(id).textContent !== said) el(id).textContent = said;
}

function reveal(id, said) {
  el(id).hidden = !said;
  text(id, said);
}

function announce(said) {
  el("announce").textContent = said;
}

// One turn at a time: whoever begins another ends the one that still waits for its answers.
async function turn() {
  clearTimeout(timer);
  const own = ++round;
  try {
    const caller = me ?? await ask("/api/v1/me");
    const seen = await ask("/api/v1/study");
    const told = history?.revision === seen.history ? history : await ask("/api/v1/history");
    if (own !== round) return;
    const before = view;
    [me, view, history] = [caller, seen, told];
    lastAnswer = new Date();
    if (before?.now_ms !== view.now_ms) movedAt = performance.now();
    show();
    if (before && before.stage !== view.stage) announce(`The stage is ${view.stage} now. ${parts.headline(view)}`);
    if (before && !before.awaiting_approval && view.awaiting_approval) announce(parts.headline(view));
    connection(true, "");
  } catch (error) {
    if (own !== round) return;
    if (error instanceof Refused && error.status === 401) return signIn(error.message);
    connection(false, error instanceof Refused ? error.message : "the daemon does not answer");
  }
  timer = setTimeout(turn, ASK_MS);
}

function connection(live, why) {
  el("connection").className = `connection ${live ? "live" : "lost"}`;
  text("connection", live ? "live" : "not connected");
  const since = lastAnswer ? ` What you see is of ${lastAnswer.toISOString().slice(11, 19)} UTC.` : "";
  reveal("stale", live ? "" : `${why[0].toUpperCase()}${why.slice(1)}.${since} Traffic goes on as it is; tables that are not renewed expire to the fallback.`);
}

function signIn(why) {
  clearTimeout(timer);
  round += 1;
  me = null;
  el("content").hidden = true;
  el("sign-in").hidden = false;
  el("connection").className = "connection";
  text("connection", "signed out");
  text("me", "");
  text("sign-in-why", sessionStorage.getItem(TOKEN) ? why : "This daemon asks for a token.");
  sessionStorage.removeItem(TOKEN);
  el("sign-out").hidden = true;
  el("token").focus();
}

function show() {
  el("content").hidden = false;
  el("sign-in").hidden = true;
  el("sign-out").hidden = !sessionStorage.getItem(TOKEN);
  document.title = `${view.awaiting_approval ? "Approve? " : ""}${view.stage} \u00b7 ${view.study} \u00b7 Trimtab`;
  text("study-name", view.study);
  text("me", `${me.name}, ${me.role}`);
  document.querySelector(".hero").className = `hero ${parts.mood(view)}`;
  text("stage", view.stage.replace("_", " "));
  text("stage-since", view.stage_since_ms ? `for ${parts.span(view.now_ms - view.stage_since_ms)}, since ${parts.time(view.stage_since_ms)} UTC` : "since the study began");
  text("headline", parts.headline(view));
  text("reason", `Why: ${view.reason}`);
  const last = history.decisions.at(-1);
  text("why", last ? `Last decision, window to ${parts.time(last.window_end_ms)} UTC: ${last.what}` : "No window has been decided on yet.");
  reveal("notice", view.notice);
  reveal("faults", [...(parts.expired(view) ? [`${parts.expiry(view)}, until the daemon publishes the next`] : []), ...Object.entries(view.faults).map(([part, fault]) => `${part}: ${fault}`), ...hanging()].join("; "));
  buttons();
  renew("traffic", () => parts.traffic(view), [view.arms.map((arm) => [arm.arm, arm.role, arm.share]), parts.expired(view)]);
  text("rows", parts.rowsSaid(view));
  renew("glance", () => parts.glance(view), [view.measured, view.pick, view.decided_through_ms, view.now_ms, view.behind]);
  renew("metrics", () => parts.metricRows(view), [view.measured, view.objective]);
  text("metrics-what", parts.metricsWhat(view));
  showArms();
  showHistory();
  text("foot", `Plan ${view.plan.slice(0, 12)} \u00b7 epoch ${view.epoch} \u00b7 table version ${view.version}, ${view.valid_until_ms ? `holds until ${parts.time(view.valid_until_ms)} UTC` : "does not expire"} \u00b7 sealed through ${parts.time(view.sealed_through_ms)} \u00b7 ${view.banned} vectors banned \u00b7 times are on the daemon's clock (${view.clock === "wall" ? "the wall's" : "its events'"})`);
}

function hanging() {
  const still = (performance.now() - movedAt) / 1000;
  return view.clock === "wall" && still > STILL_S ? [`the daemon's loop has not moved for ${Math.round(still)} s`] : [];
}

function showArms() {
  const segments = new Set(view.arms.flatMap((arm) => Object.keys(arm.theta)));
  segments.delete("all"); // what whoever is in no segment gets: of a vector the baseline
  const names = [...segments, "all"];
  el("segment-label").hidden = names.length < 2;
  renew("segment", () => names.map((name) => h("option", { value: name }, name === "all" ? "no segment" : name)), names);
  const segment = el("segment").value || "all";
  renew("arms", () => parts.arms(view, segment), [view.arms, segment]);
  el("served-part").hidden = !view.served.some((arm) => arm.effects);
  renew("served", () => parts.served(view), view.served);
}

function showHistory() {
  const all = document.querySelector("input[name=show]:checked").value === "all";
  renew("timeline", () => parts.timeline(history, all), [history.revision, all]);
  renew("gain-table", () => parts.gainRows(history.decisions), history.revision);
  if (rendered.get("gain") !== history.revision) {
    rendered.set("gain", history.revision);
    gainOverTime(el("gain"), history.decisions);
  }
}

function buttons() {
  const may = me.role === "operator";
  const actions = Object.keys(ORDERS).map((name) => view.actions.find((action) => action.command === name));
  renew("buttons", () => actions.map((action) => {
    const order = ORDERS[action.command], possible = action.possible && may;
    const button = h("button", { type: "button", id: `act-${action.command}`, class: order.look, disabled: !possible, title: may ? action.because : "orders need an operator's token" }, order.word);
    button.addEventListener("click", () => confirmOrder(action.command));
    return button;
  }), [view.actions, me]);
  text("actions-note", may ? "Each asks for a reason, which enters the ledger with your name." : `You are a viewer. Orders need an operator's token${sessionStorage.getItem(TOKEN) ? "" : " (trimtab token NAME --role operator)"}.`);
}

function confirmOrder(command) {
  asked = { command, candidate: view.candidate?.arm ?? null, from: document.activeElement };
  const order = ORDERS[command], named = ["approve", "reject"].includes(command) ? ` ${asked.candidate}` : "";
  text("confirm-title", `${order.word}${named || ` study ${view.study}`}?`);
  text("confirm-what", order.what);
  text("confirm-evidence", named ? parts.evidence(view) : "");
  text("confirm-fault", "");
  text("confirm-yes", order.yes);
  el("confirm-yes").className = order.look || "primary";
  el("confirm-why").value = "";
  el("confirm").showModal();
  el("confirm-why").focus();
}

async function send(event) {
  event.preventDefault();
  const why = el("confirm-why").value.trim();
  if (!why) {
    text("confirm-fault", "A reason is needed: whoever reads the ledger a year from now will ask.");
    el("confirm-why").focus();
    return;
  }
  const own = asked, { command, candidate } = own, body = { command, why, study: view.study };
  if (["approve", "reject"].includes(command)) body.candidate = candidate;
  let order = null, fault = "";
  el("confirm-yes").disabled = true;
  try {
    order = await ask("/api/v1/orders", body);
  } catch (error) {
    fault = error instanceof Refused ? `Refused: ${error.message}` : "No answer came, so the order may have arrived or not: look whether it shows under \u201cWhat happened\u201d before you give it again.";
  } finally {
    el("confirm-yes").disabled = false;
  }
  const shown = el("confirm").open && asked === own; // else it was closed meanwhile, or asks for another order
  if (!order) return shown ? text("confirm-fault", fault) : acted(`${ORDERS[command].word}: ${fault}`);
  if (shown) el("confirm").close();
  try {
    await followed(command, order.id);
  } catch (error) {
    acted(`${ORDERS[command].word}: what became of it is not known (${error.message}); it is in the journal.`);
  }
}

async function followed(command, id) {
  acted(`${ORDERS[command].word}: safe in the journal, waiting for the daemon.`);
  for (let tries = 0; tries < 60; tries += 1) {
    const state = await ask(`/api/v1/orders/${id}`);
    if (state.applied) {
      const said = `${ORDERS[command].word}: ${state.said}`;
      reveal("acted", said);
      await turn();
      return announce(`${said}. ${parts.headline(view)}`); // both at once: what is announced last is all that is heard
    }
    await new Promise((done) => setTimeout(done, 500));
  }
}

function acted(said) {
  reveal("acted", said);
  announce(said);
}

el("confirm-form").addEventListener("submit", send);
el("confirm-no").addEventListener("click", () => el("confirm").close());
el("confirm").addEventListener("close", () => hold(`act-${asked?.command}`));
el("segment").addEventListener("change", showArms);
for (const radio of document.querySelectorAll("input[name=show]")) radio.addEventListener("change", showHistory);
el("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, el("token").value.trim());
  el("token").value = "";
  turn();
});
el("sign-out").addEventListener("click", () => {
  sessionStorage.removeItem(TOKEN);
  signIn("");
});
const redraw = () => view && history && gainOverTime(el("gain"), history.decisions);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
let resized = 0;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(redraw, 150);
});
turn();
