// Figures: intervals beside a guardrail, a weight between its bounds, the expected gain over time (uPlot).

const SVG = "http://www.w3.org/2000/svg";

function shape(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// One scale for all rows: the largest interval or limit, so that rows can be compared.
export function reachOf(rows) {
  const ends = rows.flatMap((row) => [row.effect.low, row.effect.high, row.limit]).filter((end) => end != null);
  return Math.max(0.005, ...ends.map(Math.abs)) * 1.08;
}

export function forest(row, reach) {
  const width = 220, middle = 13, at = (change) => width / 2 * (1 + Math.max(-1, Math.min(1, change / reach)));
  const figure = shape("svg", { class: "forest", viewBox: `0 0 ${width} 26`, preserveAspectRatio: "none", "aria-hidden": "true" });
  if (row.limit != null) {
    const limit = at(row.limit), [from, to] = row.side === "min" ? [0, limit] : [limit, width];
    figure.append(shape("rect", { class: "beyond", x: from, y: 2, width: Math.max(0, to - from), height: 22, rx: 3 }));
    figure.append(shape("line", { class: "limit", x1: limit, x2: limit, y1: 2, y2: 24 }));
  }
  figure.append(shape("line", { class: "axis", x1: 0, x2: width, y1: middle, y2: middle }));
  figure.append(shape("line", { class: "zero", x1: width / 2, x2: width / 2, y1: 4, y2: 22 }));
  if (row.effect.change != null) {
    figure.append(shape("line", { class: "reach", x1: at(row.effect.low), x2: at(row.effect.high), y1: middle, y2: middle }));
    figure.append(shape("line", { class: "point", x1: at(row.effect.change), x2: at(row.effect.change), y1: middle, y2: middle }));
  }
  return figure;
}

export function place(weight, value) {
  const scaled = (x) => (weight.scale === "log" ? Math.log(x) : x);
  const [low, high] = [scaled(weight.low), scaled(weight.high)];
  const at = (x) => 5 + 64 * (high > low ? Math.max(0, Math.min(1, (scaled(x) - low) / (high - low))) : 0.5);
  return shape("svg", { class: "place", viewBox: "0 0 74 12", "aria-hidden": "true" },
    shape("line", { class: "axis", x1: 5, x2: 69, y1: 6, y2: 6 }),
    shape("line", { class: "zero", x1: at(weight.baseline), x2: at(weight.baseline), y1: 1, y2: 11 }),
    shape("circle", { class: "mean", cx: at(value), cy: 6, r: 3.5 }));
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

let drawn = null;

// decisions: oldest first, with window_end_ms, stage, gain_mean, gain_sd, objective. The curve is broken where none was
// known, and where the objective is another from there on.
export function gainOverTime(box, decisions) {
  if (drawn) drawn.destroy();
  drawn = null;
  const known = decisions.filter((one) => one.gain_mean != null);
  if (known.length < 2) {
    box.textContent = known.length ? "One decision knew a vector that gains: the curve begins with the second." : "No vector is known to gain anything yet.";
    return;
  }
  box.textContent = "";
  const points = decisions.flatMap((one, index) => {
    const s = one.window_end_ms / 1000, another = index && JSON.stringify(one.objective) !== JSON.stringify(decisions[index - 1].objective);
    return [...(another ? [[s - 0.001, null, 0]] : []), [s, one.gain_mean, one.gain_sd]];
  });
  const line = (sds) => points.map(([, mean, sd]) => (mean == null ? null : (mean + sds * sd) * 100));
  const data = [points.map(([s]) => s), line(-1.96), line(1.96), line(0)];
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") }, font: "12px system-ui, sans-serif" };
  const accent = colour("--accent"), none = { stroke: "transparent", points: { show: false } };
  drawn = new uPlot({
    width: Math.max(240, box.clientWidth), height: 250, tzDate: (s) => uPlot.tzDate(new Date(s * 1000), "UTC"),
    cursor: { show: false }, legend: { show: false },
    scales: { y: { range: (_, low, high) => [Math.min(0, low), Math.max(0, high)] } },
    axes: [{ ...axis, space: 64, values: (_, ticks) => days(ticks) }, { ...axis, size: (_, said) => 22 + 8 * Math.max(4, ...(said ?? []).map((one) => one.length)), values: (_, ticks) => ticks.map((tick) => `${tick > 0 ? "+" : ""}${tick}%`) }],
    series: [{}, none, none, { stroke: accent, width: 2, points: { show: known.length < 40, size: 5, fill: accent } }],
    bands: [{ series: [2, 1], fill: colour("--accent-soft") }],
    hooks: { drawClear: [(plot) => zeroLine(plot)], draw: [(plot) => stageLines(plot, decisions), (plot) => ending(plot, decisions)] },
  }, data, box);
}

// The hour at every tick, the day below the first tick of it.
function days(ticks) {
  let day = "";
  return ticks.map((tick) => {
    const [date, clock] = new Date(tick * 1000).toISOString().split("T"), same = date === day;
    day = date;
    return same ? clock.slice(0, 5) : `${clock.slice(0, 5)}\n${date.slice(5)}`;
  });
}

function zeroLine(plot) {
  const { ctx, bbox } = plot, y = plot.valToPos(0, "y", true);
  ctx.save();
  ctx.strokeStyle = colour("--field");
  ctx.beginPath();
  ctx.moveTo(bbox.left, y);
  ctx.lineTo(bbox.left + bbox.width, y);
  ctx.stroke();
  ctx.restore();
}

function stageLines(plot, decisions) {
  const { ctx, bbox } = plot, scale = devicePixelRatio || 1;
  ctx.save();
  ctx.font = `${11 * scale}px system-ui, sans-serif`;
  ctx.fillStyle = colour("--soft");
  ctx.strokeStyle = colour("--field");
  ctx.setLineDash([3 * scale, 3 * scale]);
  let last = -Infinity;
  decisions.forEach((one, index) => {
    if (index && one.stage === decisions[index - 1].stage) return;
    const x = plot.valToPos(one.window_end_ms / 1000, "x", true);
    if (index) {
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    if (x - last > 40 * scale) {
      const fits = x + 4 * scale + ctx.measureText(one.stage).width < bbox.left + bbox.width;
      ctx.textAlign = fits ? "left" : "right";
      ctx.fillText(one.stage, x + (fits ? 4 : -4) * scale, bbox.top + bbox.height - 6 * scale);
      last = x;
    }
  });
  ctx.restore();
}

// Where the curve ends before the decisions do.
function ending(plot, decisions) {
  const last = decisions.findLastIndex((one) => one.gain_mean != null);
  if (last === decisions.length - 1) return;
  const { ctx, bbox } = plot, scale = devicePixelRatio || 1, lost = decisions[last + 1].window_end_ms;
  const said = `none known since ${new Date(lost).toISOString().slice(5, 16).replace("T", " ")}`, x = plot.valToPos(lost / 1000, "x", true);
  ctx.save();
  ctx.font = `${11 * scale}px system-ui, sans-serif`;
  ctx.fillStyle = colour("--soft");
  const fits = x + 4 * scale + ctx.measureText(said).width < bbox.left + bbox.width;
  ctx.textAlign = fits ? "left" : "right";
  ctx.fillText(said, x + (fits ? 4 : -4) * scale, bbox.top + 12 * scale);
  ctx.restore();
}
