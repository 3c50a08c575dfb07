// Requests to the server, and the socket for prompts. One preview is in flight, the newest one waits.

export const session = crypto.getRandomValues(new Uint32Array(4)).join("-");

export async function request(path, body, options = {}) {
  const post = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, { ...post, ...options });
  } catch {
    throw new Error("the server does not answer; nothing is lost on this page");
  }
  const text = await response.text();
  let answer;
  try { answer = JSON.parse(text); } catch { answer = { error: text }; }
  if (!response.ok) {
    const error = new Error(answer.error || `error ${response.status}`);
    error.status = response.status;
    throw error;
  }
  return answer;
}

// Calls `line` with each JSON line of a streamed answer.
export async function stream(path, body, line) {
  const response = await fetch(path, { method: "POST", body: JSON.stringify(body) });
  if (!response.ok) throw new Error((await response.json()).error);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const text of lines) if (text) line(JSON.parse(text));
  }
}

export class Prompts {
  constructor(onAnswer, onState) {
    this.onAnswer = onAnswer;
    this.onState = onState;
    this.number = 0;
    this.sent = new Map();      // number -> time
    this.preview = null;        // waits until the one in flight is answered
    this.inFlight = 0;
    this.times = [];            // round trips of previews, in ms
    this.connect();
  }

  connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}${location.pathname}api/prompts`);
    this.socket.onopen = () => this.onState(true);
    this.socket.onmessage = (event) => this.receive(JSON.parse(event.data));
    this.socket.onclose = () => {
      this.onState(false);
      this.inFlight = 0;
      this.sent.clear();
      setTimeout(() => this.connect(), 1000);
    };
  }

  // Sends a prompt. Returns its number; the answer has the same one.
  send(image, steps, hover = false) {
    const request = ++this.number;
    const message = { request, image, steps, hover };
    if (hover && this.inFlight) this.preview = message;
    else this.transmit(message);
    return request;
  }

  transmit(message) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    if (message.hover) this.inFlight = message.request;
    else this.preview = null;
    this.sent.set(message.request, performance.now());
    this.socket.send(JSON.stringify(message));
  }

  cancelPreview() {
    this.preview = null;
  }

  receive(answer) {
    const start = this.sent.get(answer.request);
    this.sent.delete(answer.request);
    // A click overtakes a preview, which the server then never answers
    if (answer.request >= this.inFlight) this.inFlight = 0;
    if (this.preview && !this.inFlight) {
      const next = this.preview;
      this.preview = null;
      this.transmit(next);
    }
    this.onAnswer(answer);
    if (answer.hover && start !== undefined) {
      this.times.push(performance.now() - start);
      if (this.times.length > 1000) this.times.shift();
    }
  }

  latency() {
    const sorted = [...this.times].sort((a, b) => a - b);
    const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
    return sorted.length ? { count: sorted.length, p50: at(0.5), p95: at(0.95) } : null;
  }
}
