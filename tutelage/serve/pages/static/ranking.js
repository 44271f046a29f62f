// A ranking under way, as an immutable value: {answers, groups, current, allBad, past}. `answers` stay in the order in which they
// are shown; `groups` are best first, and those in one group are tied. Pure functions; `undo` goes back one step.

export const start = (answers) => ({ answers, groups: [], current: null, allBad: false, past: null });

const step = (state, changes) => ({ ...state, ...changes, past: state });
const without = (groups, id) => groups.map((group) => group.filter((other) => other !== id)).filter((group) => group.length);
const indexOf = (groups, id) => groups.findIndex((group) => group.includes(id));

export const left = (state) => state.answers.filter((id) => indexOf(state.groups, id) < 0);
export const complete = (state) => left(state).length === 0;

/** Place an answer next, or make it the current one if it has a place. */
export function pick(state, id) {
  if (indexOf(state.groups, id) >= 0) return { ...state, current: id };
  return step(state, { groups: [...state.groups, [id]], current: id });
}

/** Move the current answer up (-1) or down (1): out of its tie, or past its neighbour. */
export function move(state, by) {
  const at = indexOf(state.groups, state.current);
  if (at < 0) return state;
  const tied = state.groups[at].length > 1;
  const to = tied ? (by < 0 ? at : at + 1) : at + by;
  if (!tied && (to < 0 || to >= state.groups.length)) return state;
  return drop(state, state.current, to, false);
}

/** Tie the current answer with the group above it; one that is tied is set free below. */
export function tie(state) {
  const at = indexOf(state.groups, state.current);
  if (at < 0) return state;
  if (state.groups[at].length > 1) return drop(state, state.current, at + 1, false);
  return at === 0 ? state : drop(state, state.current, at - 1, true);
}

/** Put an answer into the group at `to`, or as a group of its own before it (counted without the answer itself). */
export function drop(state, id, to, into) {
  const groups = without(state.groups, id);
  if (into && groups[to]) groups[to] = [...groups[to], id];
  else groups.splice(to, 0, [id]);
  return step(state, { groups, current: id });
}

/** All are bad. They may still be ranked; those that were not are tied last. */
export function allBad(state) {
  const rest = left(state);
  const groups = !state.allBad && rest.length ? [...state.groups, rest] : state.groups;
  return step(state, { allBad: !state.allBad, groups });
}

export const undo = (state) => state.past ?? state;
