// What each part of the page says, made from the daemon's view. Text only ever becomes text: no HTML is put together.

import { forest, place, reachOf } from "/console/charts.js";

export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

export function percent(x, digits = 2) {
  if (x == null) return "unknown";
  const size = (Math.abs(x) * 100).toFixed(digits), sign = Number(size) === 0 ? "" : x > 0 ? "+" : "\u2212";
  return `${sign}${size}\u00a0%`;
}

const share = (x) => `${(x * 100).toFixed(x > 0 && x < 0.1 ? 1 : 0)}\u00a0%`;
const chance = (p) => (p == null ? "unknown" : p > 0.995 ? "over 99\u00a0%" : p < 0.005 ? "under 1\u00a0%" : `${Math.round(p * 100)}\u00a0%`);
const number = (x) => Number(x.toPrecision(4)).toString().replace("-", "\u2212");
const count = (n) => n.toLocaleString("en");

export function time(ms) {
  if (!ms) return "nothing yet";
  if (Math.abs(ms) > 8.64e15) return `${ms} ms`; // events name any time, also one that no calendar has
  const [day, clock] = new Date(ms).toISOString().split("T");
  return `${day} ${clock.slice(0, 5)}`;
}

export function span(ms) {
  const minutes = Math.round(Math.abs(ms) / 60000);
  if (minutes < 1) return "under a minute";
  if (minutes < 120) return `${minutes} min`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `${hours} h` : `${Math.round(hours / 24)} days`;
}

const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
const byRole = (view, role) => view.arms.filter((arm) => arm.role === role);
const total = (arms) => arms.reduce((sum, arm) => sum + arm.share, 0);

export const expired = (view) => view.valid_until_ms != null && view.valid_until_ms < view.now_ms;
export const expiry = (view) => (expired(view) ? `The table expired at ${time(view.valid_until_ms)} UTC: clients serve ${view.fallback}` : "");

// Exactly what live traffic gets, in one sentence. An order moves the stage at once, and the traffic at the next decision.
export function headline(view) {
  if (expired(view)) return expiry(view);
  const exploring = byRole(view, "explore"), own = view.candidate && view.arms.find((arm) => arm.arm === view.candidate.arm);
  const others = [...byRole(view, "candidate"), ...byRole(view, "promoted")].filter((arm) => arm !== own).map((arm) => `${arm.arm} still on ${share(arm.share)}`);
  const explored = exploring.length ? [`${plural(exploring.length, "vector")} explored on ${share(total(exploring))}`] : [];
  const begins = (what) => `${what} begins at the next decision; ${[...others, ...explored].join(", ") || "all traffic is on control"}`;
  const on = own && share(own.share), beside = explored.map((said) => `; ${said}`).join("");
  switch (view.stage) {
    case "explore": return exploring.length ? `Exploring ${plural(exploring.length, "vector")} on ${share(total(exploring))} of traffic${others.length ? `; ${others.join(", ")} until the next decision` : ""}` : begins("Exploring");
    case "verify": return "A/A check: every arm serves the baseline";
    case "confirm": return view.awaiting_approval ? `${view.candidate.arm} is confirmed and awaits approval` : own ? `Testing ${own.arm} on ${on} of traffic${beside}` : begins(`The test of ${view.candidate.arm}`);
    case "ramp": return own ? `Ramping up ${own.arm}: ${on} of traffic${beside}` : begins(`The ramp of ${view.candidate.arm}`);
    case "hold": return own ? `Holding ${own.arm} on ${on} of traffic` : begins(`Holding ${view.candidate.arm}`);
    case "paused": return "Paused: all traffic is on control";
    default: return "Rolled back: all traffic is on control";
  }
}

export const mood = (view) => (view.stage === "paused" || view.stage === "rolled_back" || expired(view) ? "frozen" : view.awaiting_approval ? "waits" : view.stage === "hold" ? "held" : "");

export function traffic(view) {
  const now = expired(view) ? view.arms.filter((arm) => arm.arm === view.fallback).map((arm) => ({ ...arm, share: 1 })) : view.arms;
  const groups = [["control", "control, the baseline"], ["promoted", "promoted"], ["candidate", "candidate, in its test"], ["explore", "exploring"]]
    .map(([role, name]) => ({ role, name, arms: now.filter((arm) => arm.role === role) })).filter((group) => group.arms.length);
  const bar = h("div", { class: "bar", "aria-hidden": "true" });
  for (const group of groups) {
    for (const arm of group.arms) {
      const part = h("span", { class: group.role, title: `${arm.arm}: ${share(arm.share)}` });
      part.style.flexGrow = String(Math.max(arm.share, 0.001));
      bar.append(part);
    }
  }
  const legend = h("ul", { class: "legend" }, ...groups.map((group) => h("li", {}, h("i", { class: group.role }),
    `${group.name}: ${share(total(group.arms))}`, group.role === "control" ? "" : ` (${group.arms.length === 1 ? group.arms[0].arm : plural(group.arms.length, "vector")})`)));
  return [bar, legend];
}

// What became of the rows of the newest window: whether data flows, and whether it can be believed.
export function rowsSaid(view) {
  if (!view.window) return "No event has come yet.";
  const { end_ms, accepted, misattributed, fallback, unknown_version } = view.window;
  const odd = [[misattributed, "misattributed"], [fallback, "served by the fallback"], [unknown_version, "of an unknown table"]].filter(([rows]) => rows);
  return `Window to ${time(end_ms)} UTC: ${count(accepted)} rows accepted${odd.map(([rows, what]) => `, ${count(rows)} ${what}`).join("")}.`;
}

function tile(name, figure, beside, state = "") {
  return h("div", { class: "tile" }, h("dt", {}, name), h("dd", { class: `figure ${state}` }, figure), h("dd", { class: "beside" }, beside));
}

export const range = (effect) => (effect.change == null ? "" : `${percent(effect.low)} to ${percent(effect.high)}`);

function sure(effect) {
  return effect.change == null ? "" : effect.low > 0 ? "good" : effect.high < 0 ? "bad" : "";
}

export function glance(view) {
  const { measured, pick } = view;
  const what = measured && (measured.what === "candidate" ? `${measured.arm} against control` : "exploring traffic against control");
  const margins = measured ? measured.effects.margins : [];
  const broken = margins.filter((one) => one.state === "broken"), unsure = margins.filter((one) => one.state === "unsure");
  const guard = measured && !margins.length ? ["none", "", "the study has no guardrail"]
    : !margins.length ? ["none measured", "", "no guardrail has been measured yet of what is tried now"]
    : broken.length ? [`${broken.length} of ${margins.length} broken`, "bad", broken.map((one) => one.metric).join(", ")]
    : unsure.length ? [`${margins.length - unsure.length} of ${margins.length} sure`, "warn", `not sure yet: ${unsure.map((one) => one.metric).join(", ")}`]
    : [`all ${margins.length} kept`, "good", `nearest: ${nearest(margins)}`];
  const own = atLastShare(view);
  return [
    own ?? tile("Objective, measured now", measured ? percent(measured.effects.gain.change) : "nothing yet",
      measured ? [range(measured.effects.gain), what].filter(Boolean).join("; ") : "no word yet on any vector that is tried now", measured ? sure(measured.effects.gain) : ""),
    tile("Best vector known, expected", pick ? percent(pick.gain_mean) : "none yet",
      pick ? `${percent(pick.gain_mean - 1.96 * pick.gain_sd)} to ${percent(pick.gain_mean + 1.96 * pick.gain_sd)}; keeps every guardrail: ${chance(pick.p_feasible)}` : "none is known to be better and feasible"),
    tile("Guardrails", guard[0], guard[2], guard[1]),
    fresh(view),
  ];
}

// At the first window of a share nothing is measured at it yet: then what was measured at the one before.
function atLastShare(view) {
  const last = view.steps.at(-1);
  if (!view.candidate || !last || view.measured?.what === "candidate") return null;
  const effect = { change: last.gain, low: last.gain - 1.96 * last.se, high: last.gain + 1.96 * last.se };
  return tile("Objective, measured last", percent(effect.change), `${range(effect)}; ${view.candidate.arm} at ${share(last.share)} of traffic`, sure(effect));
}

function nearest(margins) {
  const worst = margins.reduce((a, b) => (b.margin < a.margin ? b : a));
  return `${worst.metric}, ${(worst.margin * 100).toFixed(2)} pp inside`;
}

function fresh(view) {
  const late = view.now_ms - view.next_decision_ms;
  const decided = view.decided_through_ms ? `${time(view.decided_through_ms).slice(5)} UTC` : "nothing yet";
  const overdue = view.decided_through_ms && late > view.window_ms / 2;
  const next = view.watermark_ms == null ? "no event has come" : !view.decided_through_ms ? "the first window is not over yet" : overdue ? `the next is ${span(late)} overdue` : `next in ${span(late)}`;
  return tile("Decided through", decided, `${next}; ${count(view.behind)} records behind`, overdue ? "warn" : "");
}

const CHIPS = { kept: ["good", "kept"], unsure: ["warn", "not sure"], broken: ["bad", "broken"] };

export function metricRows(view) {
  if (!view.measured) return [h("tr", {}, h("td", { colspan: 3 }, "Nothing is measured yet of what is tried now."))];
  const { gain, metrics, margins } = view.measured.effects;
  const named = Object.entries(view.objective).map(([name, c]) => `${c < 0 ? "\u2212" : ""}${Math.abs(c) === 1 ? "" : `${Math.abs(c)} \u00d7 `}${name}`).join(" + ").replaceAll("+ \u2212", "\u2212 ");
  const rows = [{ name: "objective", note: named, effect: gain }];
  for (const one of metrics) {
    const own = margins.filter((margin) => margin.metric === one.metric);
    for (const margin of own.length ? own : [null]) rows.push({ name: one.metric, effect: one.effect, limit: margin?.limit, side: margin?.side, margin });
  }
  const reach = reachOf(rows);
  document.getElementById("scale-head").textContent = `Scale \u00b1${(reach * 100).toFixed(1)}\u00a0%`;
  return rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.name, ...below(row)),
    h("td", {}, percent(row.effect.change), h("div", { class: "range" }, range(row.effect))),
    h("td", { class: "figure" }, forest(row, reach))));
}

function below(row) {
  if (row.margin) return guardrail(row.margin);
  return row.note && row.note !== row.name ? [h("div", { class: "note" }, row.note)] : [];
}

function guardrail(margin) {
  const [state, word] = CHIPS[margin.state];
  const inside = margin.margin == null ? "" : margin.margin < 0 ? `, ${(-margin.margin * 100).toFixed(2)} pp beyond` : `, ${(margin.margin * 100).toFixed(2)} pp inside`;
  return [" ", h("span", { class: `chip ${state}` }, word), h("div", { class: "note" }, `${margin.side === "min" ? "at least" : "at most"} ${percent(margin.limit)}${inside}`)];
}

// What a person who answers for a promotion should have seen.
export function evidence(view) {
  if (view.measured?.what !== "candidate") return "";
  const { gain, margins } = view.measured.effects;
  const rails = margins.map((one) => `${one.metric} ${percent(one.effect.change)}, ${CHIPS[one.state][1]} (${one.side === "min" ? "at least" : "at most"} ${percent(one.limit)})`);
  return `Measured: ${percent(gain.change)} (${range(gain)}) in the objective. Guardrails: ${rails.join("; ") || "none"}.`;
}

export function metricsWhat(view) {
  const { measured } = view;
  if (!measured) return "";
  const of = measured.what === "candidate" ? `${measured.arm} against control, over its whole test` : `All exploring traffic as one, against control, over ${plural(measured.deals, "deal")} that can still change`;
  return `${of}; ${count(measured.events)} events. The red side of a row is where its guardrail is broken.`;
}

export function arms(view, segment) {
  const weightHeads = view.weights.map((weight) => h("th", { scope: "col" }, weight.name, weight.fixed ? " (fixed)" : ""));
  const head = h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Arm"), h("th", { scope: "col", class: "number" }, "Traffic"), h("th", { scope: "col", class: "number" }, "Events"), ...weightHeads, h("th", { scope: "col" }, "Objective so far")));
  const rows = view.arms.map((arm) => {
    const theta = Object.hasOwn(arm.theta, segment) ? arm.theta[segment] : arm.theta.all;
    return h("tr", {}, h("th", { scope: "row" }, h("span", { class: `dot ${arm.role}` }), arm.arm, arm.role === "control" ? "" : h("span", { class: "note" }, ` ${arm.role}`)),
      h("td", { class: "number" }, share(arm.share)), h("td", { class: "number" }, count(arm.events)),
      ...theta.map((value, k) => h("td", {}, h("span", { class: "value" }, number(value)), view.weights[k].fixed ? null : place(view.weights[k], value))),
      h("td", {}, ...soFar(arm)));
  });
  return [head, h("tbody", {}, ...rows)];
}

function soFar(arm) {
  if (arm.role === "control") return ["what all are held against"];
  if (!arm.effects || arm.effects.gain.change == null) return ["no word yet"];
  return [percent(arm.effects.gain.change), " ", h("span", { class: "range" }, range(arm.effects.gain))];
}

export function served(view) {
  const rows = view.served.filter((arm) => arm.effects);
  const metrics = rows[0]?.effects.metrics.map((one) => one.metric) ?? [];
  const head = h("thead", {}, h("tr", {}, ...["Arm", "Objective", ...metrics].map((name) => h("th", { scope: "col" }, name))));
  const cell = (effect) => h("td", {}, percent(effect.change), h("div", { class: "range" }, range(effect)));
  return [head, h("tbody", {}, ...rows.map((arm) => h("tr", {}, h("th", { scope: "row" }, h("span", { class: `dot ${arm.role}` }), arm.arm), cell(arm.effects.gain), ...arm.effects.metrics.map((one) => cell(one.effect)))))];
}

export function gainRows(decisions) {
  return [...decisions].reverse().map((one) => h("tr", {}, h("th", { scope: "row" }, time(one.window_end_ms)), h("td", {}, one.stage),
    h("td", {}, one.gain_mean == null ? "none known" : `${percent(one.gain_mean)} (${percent(one.gain_mean - 1.96 * one.gain_sd)} to ${percent(one.gain_mean + 1.96 * one.gain_sd)})`), h("td", {}, one.p_feasible == null ? "" : chance(one.p_feasible))));
}

const KINDS = { stage_changed: ["stage", ""], guardrail_tripped: ["guardrail", "bad"], operator: ["order", "warn"], operator_refused: ["refused", "warn"], offsets_lost: ["data lost", "bad"], topic_replaced: ["data lost", "bad"], daemon_started: ["start", ""], study_started: ["start", ""], plan_changed: ["plan", "warn"], decided: ["decision", ""] };

export function timeline(history, all) {
  const shown = all ? [...history.events, ...history.decisions] : history.events;
  const sorted = shown.map((one, index) => [one, index]).sort(([a, i], [b, j]) => b.at_ms - a.at_ms || j - i).slice(0, 250);
  if (!sorted.length) return [h("li", {}, "Nothing yet.")];
  return sorted.map(([one]) => {
    const [word, state] = KINDS[one.kind] ?? [one.kind, ""];
    const what = one.kind === "decided" ? `${one.stage}, ${one.outcome}: ${one.what}` : one.what;
    return h("li", {}, h("time", {}, one.at_ms ? time(one.at_ms) : "at the start"), h("span", {}, h("span", { class: `chip ${state}` }, word)), h("span", { class: "what" }, what));
  });
}
