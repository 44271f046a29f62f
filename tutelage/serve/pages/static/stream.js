// An answer that is being written. It lives on the server: whoever comes back asks for what is new.

/**
 * Follow an answer into an element until it is finished; the browser reconnects by itself where it was cut.
 * `onPiece(piece)` is called after each update. Returns a function that stops following.
 */
export function follow(id, node, setRendered, onPiece) {
  const source = new EventSource(`data/turns/${encodeURIComponent(id)}/stream?after=0`);
  const open = document.createElement("div");
  let closed = [];
  node.replaceChildren(open);
  source.onmessage = (event) => {
    const piece = JSON.parse(event.data);
    const kept = piece.after - piece.blocks.length; // fewer than before where Stop has cut the answer
    for (const block of closed.splice(kept)) block.remove();
    for (const html of piece.blocks) {
      const block = document.createElement("div");
      setRendered(block, html);
      open.before(block);
      closed.push(block);
    }
    setRendered(open, piece.open);
    if (piece.state !== "writing") source.close();
    onPiece(piece);
  };
  return () => source.close();
}
