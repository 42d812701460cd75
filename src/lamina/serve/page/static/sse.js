// Server-sent events out of a fetch response: unlike EventSource it takes POST, headers and an abort signal.

/** Yield `{event, data}` for every event until the stream ends. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      held += value;
      const blocks = held.replaceAll("\r\n", "\n").split("\n\n");
      held = blocks.pop();
      for (const block of blocks) yield parse(block);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  const lines = block.split("\n");
  const field = (name) => lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trimStart());
  return { event: field("event")[0] ?? "message", data: field("data").join("\n") };
}
