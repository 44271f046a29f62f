import { announce, attempt, call, el, fill, newKey, setRendered, t } from "./dom.js";
import { allBad, complete, drop, left, move, pick, start, tie, undo } from "./ranking.js";

const $ = (id) => document.getElementById(id);
const groups = $("groups");
let task = null;
let state = start([]);
let since = 0; // when the task was shown
let key = newKey();
let busy = false;

const number = (id) => state.answers.indexOf(id) + 1;

function show(next) {
  task = next.task;
  $("done").textContent = fill(t.ranked_so_far, { done: next.done });
  $("task").hidden = !task;
  $("empty").hidden = Boolean(task);
  if (!task) return;
  state = start(task.answers.map((answer) => answer.id));
  key = newKey();
  since = performance.now();
  $("prompt").replaceChildren(...task.prompt.map(before));
  $("answers").replaceChildren(...task.answers.map(card));
  draw();
}

/** A message of the conversation, by itself: no mark-up in it, such as a fence that an answer left open, reaches the next. */
function before(said) {
  const text = el("div", { className: "prose" });
  setRendered(text, said.html);
  return el("div", { className: "before" }, el("p", { className: "who", textContent: t[said.role] ?? said.role }), text);
}

function card(answer, index) {
  const text = el("div", { className: "prose" });
  setRendered(text, answer.html);
  const name = fill(t.answer_number, { number: index + 1 });
  const handle = el("header", { className: "handle" },
    el("h3", { textContent: name }),
    el("button", { type: "button", textContent: index + 1, className: "place", "aria-label": fill(t.place, { number: index + 1 }),
      on: { click: () => act(pick(state, answer.id)) } }));
  draggable(handle, answer.id);
  return el("article", { className: "card answer", "data-id": answer.id, "aria-label": name }, handle, text);
}

function chip(id, first, groupAt) {
  const n = number(id);
  const does = (label, sign, change, disabled) => el("button", { type: "button", textContent: sign, disabled,
    "aria-label": fill(label, { number: n }), on: { click: () => act(change(pick(state, id))) } });
  const node = el("div", { className: id === state.current ? "chip current" : "chip", "data-id": id },
    el("span", { className: "name", textContent: fill(t.answer_number, { number: n }) }),
    first ? null : el("span", { className: "tied", textContent: t.tied }),
    el("span", { className: "tools" },
      does(t.move_up, "↑", (s) => move(s, -1)), does(t.move_down, "↓", (s) => move(s, 1)),
      does(t.tie_above, "=", tie, groupAt === 0 && first)));
  draggable(node, id);
  return node;
}

function draw() {
  groups.replaceChildren(...state.groups.map((group, at) =>
    el("li", { className: "group" }, ...group.map((id, i) => chip(id, i === 0, at)))));
  for (const node of $("answers").children) {
    node.classList.toggle("placed", !left(state).includes(node.dataset.id));
    node.classList.toggle("current", node.dataset.id === state.current);
  }
  $("hint").hidden = state.groups.length > 0;
  $("left").textContent = complete(state) ? "" : fill(t.place_all, { left: left(state).length });
  $("submit").disabled = !complete(state);
  $("all-bad").setAttribute("aria-pressed", state.allBad);
}

function act(next) {
  if (next === state || busy) return; // while a request is under way, the task may be about to change
  const moved = next.current;
  state = next;
  const focused = document.activeElement?.getAttribute("aria-label");
  draw();
  if (focused) [...groups.querySelectorAll("button")].find((b) => b.getAttribute("aria-label") === focused)?.focus();
  const at = state.groups.findIndex((group) => group.includes(moved));
  if (at >= 0) announce(fill(t.placed_at, { number: number(moved), place: at + 1 }));
}

/** Send a change of the task once; the next task comes with the reply. */
async function send(path, body) {
  if (busy) return;
  busy = true;
  await attempt(async () => show(await call("POST", path, { key, ...body })));
  busy = false;
}

const submit = () => complete(state) && task && send(`data/tasks/${task.id}/ranking`, {
  groups: state.groups, all_bad: state.allBad, seconds: (performance.now() - since) / 1000,
});

function back() {
  if (state.past) act(undo(state));
  else send("data/undo", { key: newKey() });
}

function askWhy() {
  $("skip-reason").value = "";
  $("skip-dialog").showModal();
}

$("submit").addEventListener("click", submit);
$("undo").addEventListener("click", back);
$("all-bad").addEventListener("click", () => act(allBad(state)));
$("skip").addEventListener("click", askWhy);
$("skip-cancel").addEventListener("click", () => $("skip-dialog").close());
$("skip-dialog").addEventListener("close", () => { // else the keys stay in the closed dialog; it may be open again by now
  if (!$("skip-dialog").open) $("skip-reason").blur();
});
$("skip-form").addEventListener("submit", () => {
  send(`data/tasks/${task.id}/skip`, { reason: $("skip-reason").value });
});

const KEYS = {
  ArrowUp: () => act(move(state, -1)),
  ArrowDown: () => act(move(state, 1)),
  "=": () => act(tie(state)),
  b: () => act(allBad(state)),
  s: askWhy,
  u: back,
  Enter: submit,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const field = event.target.closest("textarea, input, select, dialog");
  if (field?.getClientRects().length) return; // the focus may still be in a dialog that has just closed
  if (event.key === "Enter" && event.target.closest("button, a")) return; // its own meaning
  if (!task) return event.key === "u" ? back() : undefined;
  const picked = state.answers[Number(event.key) - 1];
  const action = picked ? () => act(pick(state, picked)) : KEYS[event.key];
  if (!action) return;
  if ((event.key === "ArrowUp" || event.key === "ArrowDown") && !state.current) return; // scrolls
  event.preventDefault();
  action();
});

// Dragging, by mouse, pen and touch alike -----------------------------------------------------------------------------

/** Where an answer dropped at this height goes: into the group whose middle it is over, or before or after it. */
function target(y, id) {
  const boxes = [...groups.children].filter((group) => group.querySelectorAll(".chip").length > 1 || !group.querySelector(`[data-id="${CSS.escape(id)}"]`));
  for (const [at, box] of boxes.entries()) {
    const { top, height } = box.getBoundingClientRect();
    if (y < top + height * 0.3) return { to: at, into: false, box, side: "before" };
    if (y < top + height * 0.7) return { to: at, into: true, box, side: "into" };
  }
  return { to: boxes.length, into: false, box: boxes.at(-1), side: "after" };
}

function draggable(handle, id) {
  handle.addEventListener("pointerdown", (down) => {
    if (down.button !== 0 || down.target.closest("button")) return;
    let ghost = null;
    const clear = () => groups.querySelectorAll("[data-drop]").forEach((box) => delete box.dataset.drop);
    const moved = (event) => {
      if (!ghost) {
        if (Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) < 6) return;
        ghost = el("div", { className: "ghost", textContent: fill(t.answer_number, { number: number(id) }) });
        document.body.append(ghost);
      }
      ghost.style.translate = `${event.clientX + 8}px ${event.clientY + 8}px`;
      clear();
      if (over(event)) {
        const { box, side } = target(event.clientY, id);
        if (box) box.dataset.drop = side;
      }
    };
    const over = (event) => {
      const { left: x, right, top, bottom } = $("ranking").getBoundingClientRect();
      return event.clientX >= x && event.clientX <= right && event.clientY >= top && event.clientY <= bottom;
    };
    const ended = (event) => {
      for (const [name, listener] of Object.entries(listeners)) window.removeEventListener(name, listener);
      clear();
      if (ghost && event.type === "pointerup" && over(event)) {
        const { to, into } = target(event.clientY, id);
        act(drop(state, id, to, into));
      }
      ghost?.remove();
    };
    const listeners = { pointermove: moved, pointerup: ended, pointercancel: ended };
    for (const [name, listener] of Object.entries(listeners)) window.addEventListener(name, listener);
    if (down.pointerType === "touch") down.target.releasePointerCapture?.(down.pointerId);
    else down.preventDefault(); // no text selection
  });
}

setInterval(() => task && !busy && call("GET", "data/task").catch(() => {}), 5 * 60 * 1000); // asking again keeps the task
attempt(async () => show(await call("GET", "data/task")));
