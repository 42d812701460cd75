// One answer from /v1/chat/completions, as it is written.

import { ApiError, send } from "./api.js";
import { events } from "./sse.js";

/**
 * Yield `{stack}`, the layers that answer, then `{text}` for each piece, then once `{tokens, finish}`.
 *
 * `messages` are OpenAI's; `settings` hold `system`, `temperature` and `maxTokens`.
 */
export async function* complete(model, messages, settings, signal) {
  const asked = settings.system ? [{ role: "system", content: settings.system }, ...messages] : messages;
  const response = await send("/v1/chat/completions", {
    model, messages: asked, stream: true, stream_options: { include_usage: true },
    temperature: settings.temperature, max_tokens: settings.maxTokens,
    ...(model.includes("+") ? { force: true } : {}), // a sum made by hand may leave out what a layer lay on
  }, signal);
  yield { stack: response.headers.get("x-lamina-stack") };
  let finish = null;
  let tokens = null;
  for await (const { data } of events(response)) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(response.status, chunk.error);
    tokens = chunk.usage?.completion_tokens ?? tokens;
    const choice = chunk.choices?.[0];
    finish = choice?.finish_reason ?? finish;
    if (choice?.delta?.content) yield { text: choice.delta.content };
  }
  yield { tokens, finish };
}
