import { announce, attempt, call, el, fill, newKey, person, setRendered, t } from "./dom.js";
import { follow } from "./stream.js";
import { branch, newestLeaf, versions } from "./tree.js";

const $ = (id) => document.getElementById(id);
const [turns, message, training] = [$("turns"), $("message"), $("training")];
const EMPTY = { id: null, title: "", training: true, turns: [], leaf: null };

let dialogue = EMPTY;
let streams = new Map(); // id of an answer being written -> { end, seen }
let busy = false;

// What is shown -------------------------------------------------------------------------------------------------------

async function open(id) {
  dialogue = id ? await call("GET", `data/conversations/${encodeURIComponent(id)}`) : { ...EMPTY, training: training.checked };
  draw();
}

async function reload() {
  await Promise.all([open(dialogue.id), drawList()]);
}

function draw() {
  for (const { end } of streams.values()) end();
  streams = new Map();
  const atEnd = turns.scrollHeight - turns.scrollTop - turns.clientHeight < 80;
  const path = branch(dialogue.turns, dialogue.leaf);
  const pair = openPair();
  const shown = pair.length ? path.filter((turn) => turn.parent !== pair[0].parent) : path;
  turns.replaceChildren(...shown.map(article), ...(pair.length ? [choice(pair)] : []));
  if (!turns.children.length) turns.append(el("p", { className: "welcome", textContent: t.welcome }));
  training.checked = dialogue.training;
  if (atEnd || pair.length) turns.scrollTop = turns.scrollHeight;
  drawComposer();
}

/** The two answers of the shown branch between which a choice is open. */
function openPair() {
  const leaf = dialogue.turns.find((turn) => turn.id === dialogue.leaf);
  return leaf?.comparison ? dialogue.turns.filter((turn) => turn.comparison === leaf.comparison) : [];
}

function drawComposer() {
  const writing = streams.size > 0;
  $("stop").hidden = !writing;
  $("send").hidden = writing;
  $("send").disabled = busy || openPair().length > 0;
  $("hint").textContent = openPair().length && !writing ? t.choose_first : t.message_hint;
}

async function drawList() {
  const { conversations } = await call("GET", "data/conversations");
  const rows = conversations.map(({ id, title }) => el("li", {},
    el("a", { href: `chat?c=${encodeURIComponent(id)}`, textContent: title || t.untitled, ...(id === dialogue.id && { "aria-current": "page" }) }),
    el("button", { className: "plain", type: "button", textContent: "×", "aria-label": `${t.delete}: ${title || t.untitled}`, on: { click: () => remove(id) } })));
  $("list").replaceChildren(...(rows.length ? rows : [el("li", { className: "hint", textContent: t.no_conversations })]));
}

const button = (text, click, more = {}) => el("button", { type: "button", className: "plain", textContent: text, on: { click }, ...more });

function article(turn) {
  const mine = turn.role === "user";
  const body = el("div", { className: mine ? "said" : "prose" });
  const node = el("article", { className: `turn ${turn.role}`, "data-id": turn.id, "aria-label": mine ? t.you : t.assistant },
    el("p", { className: "who", textContent: mine ? t.you : turn.model ? `${t.assistant} · ${turn.model}` : t.assistant }), body);
  if (mine) body.textContent = turn.text;
  else showAnswer(turn, body, node);
  if (turn.state !== "writing") node.append(tools(turn, node, body));
  return node;
}

function showAnswer(turn, body, node) {
  if (turn.state !== "writing") {
    setRendered(body, turn.html);
    if (turn.state !== "done") node.append(el("p", { className: "hint", textContent: t[turn.state] }));
    return;
  }
  const status = el("p", { className: "hint", textContent: t.writing });
  node.append(status);
  const stream = { seen: 0, end: follow(turn.id, body, setRendered, (piece) => {
    stream.seen = piece.seen;
    const atEnd = turns.scrollHeight - turns.scrollTop - turns.clientHeight < 200;
    if (atEnd) turns.scrollTop = turns.scrollHeight;
    if (piece.state === "writing") return;
    streams.delete(turn.id);
    if (!streams.size) attempt(reload);
  }) };
  streams.set(turn.id, stream);
}

function tools(turn, node, body) {
  const row = el("div", { className: "tools" });
  const all = versions(dialogue.turns, turn);
  if (all.length > 1) {
    const at = all.indexOf(turn);
    row.append(
      button("‹", () => show(all[at - 1]), { disabled: at === 0, "aria-label": t.previous_version }),
      el("span", { textContent: fill(t.version_of, { number: at + 1, total: all.length }) }),
      button("›", () => show(all[at + 1]), { disabled: at === all.length - 1, "aria-label": t.next_version }));
  }
  if (navigator.clipboard) row.append(button(t.copy, () => navigator.clipboard.writeText(turn.text).then(() => announce(t.copied))));
  if (turn.role === "user") row.append(button(t.edit, () => edit(turn, node, body)));
  else {
    row.append(button(t.regenerate, () => change(() => call("POST", `data/turns/${turn.id}/again`, { key: newKey() }))));
    for (const [value, label] of [["up", t.good], ["down", t.bad]]) {
      row.append(button(label, () => thumb(turn, value, node), { value, "aria-pressed": String(turn.thumb === value) }));
    }
  }
  return row;
}

function choice(pair) {
  const writing = pair.some((turn) => turn.state === "writing");
  const choose = (verdict, answer) => change(() => call("POST", `data/comparisons/${pair[0].comparison}`, { key: newKey(), answer, verdict }));
  const columns = pair.map((turn, i) => {
    const body = el("div", { className: "prose" });
    const name = fill(t.answer_number, { number: i + 1 });
    const node = el("article", { className: "turn assistant card", "data-id": turn.id, "aria-label": name }, el("p", { className: "who", textContent: name }), body);
    showAnswer(turn, body, node);
    if (!writing) node.append(button(fill(t.prefer, { number: i + 1 }), () => choose("better", turn.id), { className: "" }));
    return node;
  });
  return el("section", { className: "choice", "aria-label": t.two_answers },
    el("h2", { textContent: t.two_answers }), el("div", { className: "pair" }, ...columns),
    writing ? null : el("p", { className: "buttons" }, button(t.tie, () => choose("tie", null), { className: "" }), button(t.both_bad, () => choose("both_bad", null), { className: "" })));
}

// What people do ------------------------------------------------------------------------------------------------------

/** Ask for a change and show what became of it; one at a time. */
async function change(work) {
  if (busy) return false;
  busy = true;
  drawComposer();
  const went = await attempt(async () => {
    const reply = await work();
    if (reply?.conversation && reply.conversation !== dialogue.id) {
      dialogue = { ...dialogue, id: reply.conversation };
      history.replaceState(null, "", `chat?c=${encodeURIComponent(reply.conversation)}`);
    }
    await reload();
  });
  busy = false;
  drawComposer();
  return went;
}

const show = (turn) => change(() => call("POST", `data/conversations/${dialogue.id}`, { leaf: newestLeaf(dialogue.turns, turn.id) }));

const say = (text, parent) => change(() => call("POST", "data/say", { key: newKey(), conversation: dialogue.id, training: training.checked, parent, text }));

async function send() {
  const text = message.value.trim();
  if (!text || busy || streams.size || openPair().length) return;
  const draft = draftName();
  turns.scrollTop = turns.scrollHeight;
  if (!(await say(text, dialogue.leaf))) return; // the draft stays
  message.value = "";
  localStorage.removeItem(draft);
  grow();
}

function edit(turn, node, body) {
  const field = el("textarea", { value: turn.text, "aria-label": t.edit, rows: Math.min(10, turn.text.split("\n").length + 1) });
  const save = () => field.value.trim() && say(field.value.trim(), turn.parent);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") draw();
    if (sends(event)) { event.preventDefault(); save(); }
  });
  node.replaceChildren(field, el("p", { className: "buttons" }, button(t.save, save, { className: "main" }), button(t.cancel, draw, { className: "" })));
  field.focus();
}

async function thumb(turn, value, node) {
  const path = `data/turns/${turn.id}/thumb`;
  turn.thumb = turn.thumb === value ? "none" : value;
  for (const each of node.querySelectorAll("[aria-pressed]")) each.setAttribute("aria-pressed", String(each.value === turn.thumb));
  node.querySelector(".reason")?.remove();
  if (!(await attempt(() => call("POST", path, { key: newKey(), value: turn.thumb }))) || turn.thumb === "none") return;
  const field = el("input", { "aria-label": t.why, placeholder: t.why, maxLength: 2000 });
  const form = el("form", { className: "reason", on: { submit: (event) => {
    event.preventDefault();
    attempt(async () => {
      if (field.value.trim()) await call("POST", path, { key: newKey(), value, reason: field.value.trim() });
      form.remove();
      announce(t.thanks);
    });
  } } }, field, el("button", { textContent: t.send_reason }));
  node.append(form);
  announce(t.thanks);
}

async function stop() {
  const ending = [...streams];
  for (const [, stream] of ending) stream.end(); // what is seen now is what stays
  await attempt(() => Promise.all(ending.map(([id, { seen }]) => call("POST", `data/turns/${id}/stop`, { seen }))));
  await attempt(reload);
}

async function remove(id) {
  if (!confirm(t.delete_sure)) return;
  await attempt(async () => {
    await call("DELETE", `data/conversations/${encodeURIComponent(id)}`);
    if (id === dialogue.id) location.assign("chat");
    else await drawList();
  });
}

// The composer --------------------------------------------------------------------------------------------------------

const draftName = () => `draft:${person}:${dialogue.id ?? "new"}`;

function grow() {
  message.rows = Math.min(8, message.value.split("\n").length);
}

/** Whether a key sends. Not while an input method composes a word: there, Enter accepts it. Safari says so by 229 alone. */
const sends = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;

message.addEventListener("input", () => {
  localStorage.setItem(draftName(), message.value);
  grow();
});
message.addEventListener("keydown", (event) => {
  if (!sends(event)) return;
  event.preventDefault();
  send();
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("stop").addEventListener("click", stop);
training.addEventListener("change", () => {
  if (dialogue.id) change(() => call("POST", `data/conversations/${dialogue.id}`, { training: training.checked }));
});
$("toggle").addEventListener("click", () => {
  const open = $("sidebar").classList.toggle("open");
  $("toggle").setAttribute("aria-expanded", open);
});

attempt(async () => {
  await open(new URLSearchParams(location.search).get("c"));
  message.value ||= localStorage.getItem(draftName()) ?? ""; // what was typed while the page loaded stays
  grow();
  await drawList();
});
