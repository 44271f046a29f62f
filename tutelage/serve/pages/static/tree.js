// A conversation is a tree of turns; turns with one parent are versions of each other. Pure functions on the list of turns.

/** The turns from the first to the leaf. */
export function branch(turns, leaf) {
  const byId = new Map(turns.map((turn) => [turn.id, turn]));
  const path = [];
  for (let turn = byId.get(leaf); turn; turn = byId.get(turn.parent)) path.unshift(turn);
  return path;
}

/** The versions of a turn, oldest first, itself among them. */
export const versions = (turns, turn) => turns.filter((other) => other.parent === turn.parent && other.role === turn.role);

/** The leaf below a turn that follows the newest version at each step. */
export function newestLeaf(turns, id) {
  const child = turns.findLast((turn) => turn.parent === id);
  return child ? newestLeaf(turns, child.id) : id;
}
